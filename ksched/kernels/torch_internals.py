"""Information from torch beyond its public interface. Everything here has a fallback.

Each probe is tried when it is set up. If it is missing, or no longer behaves as expected, its fallback is used, which
is slower but correct. Nothing else in the package reads torch's private names, except the write counter `_version`,
which every tensor has.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.autograd import forward_ad

__all__ = ["block_of", "out_of_place", "owners_of", "writes_to"]


def _always() -> object:
    """Fallback if it cannot be known whether values are tracked: assume that they are."""
    return _always


def _unknown(block: int) -> int:
    """Fallback if owners cannot be counted: a number that never repeats, so that memory is never reused."""
    return 0


def block_of(tensor: torch.Tensor) -> int:
    """The memory block of a tensor, for `owners_of`; 0 if torch does not tell."""
    return int(getattr(tensor.untyped_storage(), "_cdata", 0))


def _find_owners_of() -> Callable[[int], int]:
    """A function that counts a memory block's owners: tensors, plus one for torch once Python has seen the block."""
    count: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)
    try:
        assert count is not None
        tensor = torch.empty(1, device="cpu")
        block = block_of(tensor)
        alone = count(block)
        view = tensor.detach()
        shared = count(block)
        del view
        works = bool(block) and shared == alone + 1 and count(block) == alone
    except Exception:  # whatever the error, there is a fallback
        return _unknown
    return count if works else _unknown


def _find_forward_ad() -> Any:
    """The object with the level of forward-mode differentiation, below 0 outside it, as ``_current_level``."""
    plain = SimpleNamespace(_current_level=0)
    return forward_ad if isinstance(getattr(forward_ad, "_current_level", None), int) else plain


def _find_transform() -> Callable[[], object]:
    """A function that returns the active `torch.func` transform, or None."""
    functions: Any = getattr(torch._C, "_functorch", None)
    peek: Callable[[], object] | None = getattr(functions, "peek_interpreter_stack", None)
    return _always if peek is None else peek


owners_of = _find_owners_of()
_forward_ad, _transform = _find_forward_ad(), _find_transform()

_PLAIN = (torch.Tensor, torch.nn.Parameter)
# looked up once, because every step calls them
_is_compiling, _is_grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled


def out_of_place(*tensors: torch.Tensor) -> bool:
    """Whether results must be new tensors, because gradients, a transform or a compiler track every value."""
    if _forward_ad._current_level >= 0 or _transform() is not None or _is_compiling():
        return True
    recording = _is_grad_enabled()
    for tensor in tensors:  # noqa: SIM110 - any() costs more than all the rest
        if type(tensor) not in _PLAIN or (recording and tensor.requires_grad):
            return True
    return False


def writes_to(tensor: torch.Tensor) -> int:
    """Write counter, by torch, of a tensor and its views; 0 if it has none."""
    try:
        return tensor._version
    except RuntimeError:  # made in inference mode
        return 0
