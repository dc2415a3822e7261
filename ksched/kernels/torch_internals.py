"""What is asked of torch that its public interface does not tell. Everything here has a plain way without it.

Each probe is tried when it is looked up. If it is missing, or no longer means what it meant, its plain way is taken:
slower, and right. Nothing else in the package reads torch's private names, but for the counter of writes, `_version`,
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
    """The plain way where nobody can tell whether values are followed: assume that they are."""
    return _always


def _unknown(block: int) -> int:
    """The plain way where owners cannot be counted: never what was counted before, so that memory is never reused."""
    return 0


def block_of(tensor: torch.Tensor) -> int:
    """The memory block of a tensor, as `owners_of` takes it; 0 if torch does not tell."""
    return int(getattr(tensor.untyped_storage(), "_cdata", 0))


def _find_owners_of() -> Callable[[int], int]:
    """How many owners a memory block has: tensors, and one more for torch once Python has seen the block."""
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
    except Exception:  # whatever it is, there is a way without
        return _unknown
    return count if works else _unknown


def _find_forward_ad() -> Any:
    """What has the level of forward-mode differentiation, below 0 outside of it, as ``_current_level``."""
    plain = SimpleNamespace(_current_level=0)
    return forward_ad if isinstance(getattr(forward_ad, "_current_level", None), int) else plain


def _find_transform() -> Callable[[], object]:
    """What `torch.func` is in the middle of, None if nothing."""
    functions: Any = getattr(torch._C, "_functorch", None)
    peek: Callable[[], object] | None = getattr(functions, "peek_interpreter_stack", None)
    return _always if peek is None else peek


owners_of = _find_owners_of()
_forward_ad, _transform = _find_forward_ad(), _find_transform()

_PLAIN = (torch.Tensor, torch.nn.Parameter)
# Looked up once, since they are asked at every step.
_is_compiling, _is_grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled


def out_of_place(*tensors: torch.Tensor) -> bool:
    """Whether what is made of these must be new tensors: gradients, a transform or a compiler follow every value."""
    if _forward_ad._current_level >= 0 or _transform() is not None or _is_compiling():
        return True
    recording = _is_grad_enabled()
    for tensor in tensors:  # noqa: SIM110 - any() costs more than all the rest
        if type(tensor) not in _PLAIN or (recording and tensor.requires_grad):
            return True
    return False


def writes_to(tensor: torch.Tensor) -> int:
    """How often torch has counted a write to a tensor or a view of it; 0 where it does not count."""
    try:
        return tensor._version
    except RuntimeError:  # made in inference mode
        return 0
