"""The error for features that need torch when it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["need_torch", "torch_needed"]


def need_torch(what: str) -> None:
    """Raise unless torch can be imported.

    Raises
    ------
    ImportError
        If torch is not installed; the error names the feature that needs it, and what to do.
    """
    try:
        import torch  # noqa: F401 - only to know whether it is there
    except ModuleNotFoundError as error:
        raise _told(what, error) from None


@contextmanager
def torch_needed(what: str) -> Iterator[None]:
    """A context for imports that may need torch: `need_torch`'s error if it is missing; other errors pass unchanged."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise _told(what, error) from None


def _told(what: str, error: ModuleNotFoundError) -> ImportError:
    if error.name != "torch":
        return error
    return ImportError(
        f"{what} needs torch, which is not installed: pip install torch; without it, ksched.arrays.run runs plans on "
        "NumPy, JAX and other arrays",
        name="torch",
    )
