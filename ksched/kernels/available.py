"""Whether Triton's kernels run here."""

from __future__ import annotations

from types import ModuleType

import torch

from ksched.kernels.torch_internals import out_of_place

__all__ = ["triton_kernels"]


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
