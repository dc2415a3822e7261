"""Which compiled kernels run here."""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType

import torch

from ksched.kernels.torch_internals import out_of_place

__all__ = ["noise_kernels", "numba_kernels", "triton_kernels"]


_loaded: dict[torch.device, ModuleType | None] = {}


def triton_kernels(device: torch.device) -> ModuleType | None:
    """The module `ksched.kernels.triton_kernels` if a device can run it: a CUDA or ROCm device with a working Triton.

    Found out by a first launch, since Triton may be there without a C compiler or for newer devices only; torch's own
    operations then do the same work in more passes. While a CUDA graph is captured or code compiled nothing is tried.
    """
    if device.type != "cuda":
        return None
    if device not in _loaded:
        if torch.cuda.is_current_stream_capturing() or out_of_place():
            return None
        try:
            from ksched.kernels import triton_kernels as module

            trial = torch.zeros(16, device=device)
            module.combine([trial], [1.0], trial)
        except Exception:  # whatever it is, there is a way without
            _loaded[device] = None
        else:
            _loaded[device] = module
    return _loaded[device]


@cache
def numba_kernels() -> ModuleType | None:
    """The module `ksched.kernels.numba_kernels` if Numba is there and its sums are right; found out by a trial.

    Without it torch's own operations do the same work in more passes. Numba may be installed and yet not work: switched
    off by ``NUMBA_DISABLE_JIT``, or with a damaged file in its cache. That is logged.
    """
    return _tried("sums_work")


def noise_kernels() -> ModuleType | None:
    """The same module if it makes noise too; a trial of its own, since compiling takes time that not all need."""
    return None if numba_kernels() is None else _tried("noises_work")


@cache
def _tried(trial: str) -> ModuleType | None:
    """The module if a trial in it succeeds."""
    try:
        from ksched.kernels import numba_kernels as module
    except ImportError:
        return None
    except Exception as error:
        reason = repr(error)
    else:
        try:
            if getattr(module, trial)():
                return module
            reason = "its numbers are wrong"
        except Exception as error:
            reason = repr(error)
    logging.getLogger("ksched").warning("Numba does not work here, torch's operations are used instead: %s", reason)
    return None
