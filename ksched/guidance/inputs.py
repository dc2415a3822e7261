"""Conditional and unconditional prediction in one call, for networks that take conditions as inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ksched.guidance.tensors import PairModel, check_callable, checked_prediction
from ksched.processes.agreement import mark, marks_of
from ksched.processes.host_levels import carry_joined

__all__ = ["batched"]


def batched(model: Callable[..., Any], cond_inputs: Mapping[str, Any], uncond_inputs: Mapping[str, Any]) -> PairModel:
    """Both predictions from one call of a network, on a doubled batch.

    Parameters
    ----------
    model : callable
        ``(x, sigma, **inputs) -> denoised``, such as a `Denoiser`.
    cond_inputs, uncond_inputs : mapping
        Keyword arguments of the model with and without the condition; both must have the same names. Tensors, also
        inside mappings, have a batch axis first, of the batch's length or 1, and are concatenated. All other values
        must be equal in both and are passed on.

    Returns
    -------
    callable
        Denoiser that returns (cond, uncond). Pass it to guidance as ``cond`` with ``uncond=None``.

    Raises
    ------
    TypeError, ValueError
        If names, kinds or shapes of the inputs do not match; at a call, the prediction has the wrong type or shape.

    Notes
    -----
    The unconditional half comes first, as in k-diffusion and diffusers.
    """
    check_callable("model", model, "(x, sigma, **inputs) -> denoised")
    _check_inputs("inputs", uncond_inputs, cond_inputs)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = _joined("inputs", uncond_inputs, cond_inputs, x.shape[0])
        twice = torch.cat([x, x])
        levels = torch.cat([sigma, sigma])
        mark(levels, marks_of(sigma))
        carry_joined(levels, [sigma, sigma])
        both = checked_prediction("model", model(twice, levels, **inputs), twice)
        uncond, cond = both.to(x.dtype).chunk(2)
        return cond, uncond

    return denoise


def _check_inputs(path: str, uncond: Any, cond: Any) -> None:
    """Raise an error unless the inputs of both predictions can be concatenated."""
    if isinstance(cond, torch.Tensor) and isinstance(uncond, torch.Tensor):
        if cond.ndim == 0 or cond.shape[1:] != uncond.shape[1:] or uncond.ndim == 0:
            raise ValueError(
                f"{path} must have the same shape in both, batch axis first; got {tuple(cond.shape)} and "
                f"{tuple(uncond.shape)}. Pad the shorter one, or pass cfg two denoisers"
            )
    elif isinstance(cond, Mapping) and isinstance(uncond, Mapping):
        if cond.keys() != uncond.keys():
            raise ValueError(f"{path} must have the same names in both; got {sorted(cond)} and {sorted(uncond)}")
        for name in cond:
            _check_inputs(f"{path}[{name!r}]", uncond[name], cond[name])
    elif isinstance(cond, torch.Tensor) or isinstance(uncond, torch.Tensor) or path == "inputs":
        kinds = f"{type(cond).__name__} and {type(uncond).__name__}"
        wanted = "mappings of names to values" if path == "inputs" else "tensors in both or in neither"
        raise TypeError(f"{path} must be {wanted}; got {kinds}")
    elif not (cond is uncond or cond == uncond):
        raise ValueError(f"{path} must be equal in both, as it is not a tensor; got {cond!r} and {uncond!r}")


def _joined(path: str, uncond: Any, cond: Any, batch: int) -> Any:
    """Inputs for the doubled batch, the unconditional half first."""
    if isinstance(cond, Mapping):
        return {name: _joined(f"{path}[{name!r}]", uncond[name], cond[name], batch) for name in cond}
    if not isinstance(cond, torch.Tensor):
        return cond
    for value in (uncond, cond):
        if value.shape[0] not in (1, batch):
            raise ValueError(f"{path} must have a batch axis of length {batch} or 1; got {value.shape[0]}")
    return torch.cat([value.expand(batch, *value.shape[1:]) for value in (uncond, cond)])
