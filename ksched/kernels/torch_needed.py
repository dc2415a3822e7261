"""What is said where torch is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["torch_needed"]


@contextmanager
def torch_needed(what: str) -> Iterator[None]:
    """For imports that end at torch: an error that names what needs it, and what to do.

    Raises
    ------
    ImportError : torch is not installed; another module that is missing is told as ever
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"{what} needs torch, which is not installed: pip install torch; without it, ksched.arrays.run runs plans "
            "on NumPy, JAX and other arrays",
            name="torch",
        ) from None
