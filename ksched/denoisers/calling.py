"""How to call any network: where it takes the timestep, and where the prediction is in its answer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["ask", "is_denoiser", "tensor_of", "time_name"]


_TIME_NAMES = ("timestep", "timesteps", "timestep_ratio")


def time_name(network: Callable[..., Any]) -> str | None:
    """The keyword by which a network takes its timestep; None if it is the second argument.

    Transformers of diffusers take the text second, and the timestep third or later.
    """
    while isinstance(network, functools.partial) and not network.args:
        network = network.func
    network = getattr(network, "_orig_mod", network)  # as torch.compile keeps it
    try:
        names = list(inspect.signature(network.forward if isinstance(network, torch.nn.Module) else network).parameters)
    except (TypeError, ValueError):  # built in, without a signature
        return None
    return next((name for name in names[2:] if name in _TIME_NAMES and names[1] not in _TIME_NAMES), None)


def is_denoiser(model: Any) -> bool:
    """Whether a model is one of k-diffusion's wrappers, which are denoisers already."""
    return hasattr(model, "inner_model") and hasattr(model, "sigma_to_t")


def ask(
    network: Callable[..., Any],
    name: str | None,
    shown: torch.Tensor,
    timestep: torch.Tensor,
    inputs: Mapping[str, Any],
) -> Any:
    """One call of a network, with ``name`` from `time_name`."""
    return network(shown, timestep, **inputs) if name is None else network(shown, **{name: timestep}, **inputs)


def tensor_of(answer: Any, shown: torch.Tensor) -> Any:
    """The prediction in a network's answer: ``.sample`` of an object, the first of a tuple, the first half of channels.

    If there are twice as many channels, the second half is a learned variance (Nichol & Dhariwal 2021,
    arXiv:2102.09672), which no sampler here uses. An answer that holds no tensor is returned unchanged.
    """
    if not isinstance(answer, torch.Tensor):
        found = getattr(answer, "sample", None)
        if found is None and isinstance(answer, Mapping):
            found = next(iter(answer.values()), None)
        elif found is None and isinstance(answer, tuple | list):
            found = answer[0] if answer else None
        if not isinstance(found, torch.Tensor):
            return answer
        answer = found
    shape, ours = answer.shape, shown.shape
    if shape != ours and len(shape) == len(ours) > 1 and shape == (ours[0], 2 * ours[1], *ours[2:]):
        return answer[:, : ours[1]]
    return answer
