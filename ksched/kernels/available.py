"""Whether Triton kernels run on a device."""

from __future__ import annotations

from types import ModuleType

import torch

from ksched.kernels.torch_internals import out_of_place

__all__ = ["triton_kernels"]


_loaded: dict[torch.device, ModuleType | None] = {}


def triton_kernels(device: torch.device) -> ModuleType | None:
    """The module `ksched.kernels.triton_kernels` if it works on a device: a CUDA or ROCm device with a working Triton.

    A first launch decides, because Triton may be installed without a C compiler or only support newer devices.
    Otherwise torch's own operations do the same work in more passes. Nothing is tried during CUDA graph capture or
    compilation.
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
        except Exception:  # whatever the error, there is a fallback
            _loaded[device] = None
        else:
            _loaded[device] = module
    return _loaded[device]
