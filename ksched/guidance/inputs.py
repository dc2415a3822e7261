"""Two predictions from one batch, where a network takes conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ksched.guidance.tensors import PairModel, check_callable, checked_prediction
from ksched.processes.agreement import mark, marks_of
from ksched.processes.host_levels import carry_joined

__all__ = ["batched"]


def batched(model: Callable[..., Any], cond_inputs: Mapping[str, Any], uncond_inputs: Mapping[str, Any]) -> PairModel:
    """One call of a network for both predictions, on a doubled batch.

    Parameters
    ----------
    model : ``(x, sigma, **inputs) -> denoised``, such as a `Denoiser`
    cond_inputs, uncond_inputs : its keyword arguments with and without the condition, of the same names. Tensors have
        the batch axis first, of the batch's length or 1, and are joined, also inside mappings; everything else must be
        equal in both and is handed on

    Returns
    -------
    denoiser that returns (cond, uncond), to be given to guidance as ``cond`` with ``uncond=None``

    Raises
    ------
    TypeError, ValueError : inputs whose names, kinds or shapes do not fit together; at a call, a prediction of the
        wrong type or shape

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
    """Raise unless the inputs of both predictions can be joined."""
    if isinstance(cond, torch.Tensor) and isinstance(uncond, torch.Tensor):
        if cond.ndim == 0 or cond.shape[1:] != uncond.shape[1:] or uncond.ndim == 0:
            raise ValueError(
                f"{path} must have one shape in both, batch axis first; got {tuple(cond.shape)} and "
                f"{tuple(uncond.shape)}. Pad the shorter one, or give cfg two denoisers"
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
        raise ValueError(f"{path} is no tensor, so it must be equal in both; got {cond!r} and {uncond!r}")


def _joined(path: str, uncond: Any, cond: Any, batch: int) -> Any:
    """Inputs for the doubled batch, the unconditional half first."""
    if isinstance(cond, Mapping):
        return {name: _joined(f"{path}[{name!r}]", uncond[name], cond[name], batch) for name in cond}
    if not isinstance(cond, torch.Tensor):
        return cond
    for value in (uncond, cond):
        if value.shape[0] not in (1, batch):
            raise ValueError(f"{path} must be for a batch of {batch} or 1; got {value.shape[0]}")
    return torch.cat([value.expand(batch, *value.shape[1:]) for value in (uncond, cond)])
