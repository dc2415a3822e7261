"""The guidance scale: a number or a function of sigma, and intervals of sigma."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from ksched.denoisers.answer import Model, answer
from ksched.guidance.tensors import FINITE, NOT_NEGATIVE, check_callable, checked_prediction, per_item
from ksched.options import Between, Option

__all__ = ["Scale", "checked_number", "interval", "scale_function", "within"]


#: A number, or a function of the sigma tensor that returns one number or one per item.
Scale: TypeAlias = float | Callable[[torch.Tensor], Any]


def within(scale: float, sigma_low: float, sigma_high: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A guidance scale that applies where ``sigma_low < sigma <= sigma_high`` and is 1 elsewhere.

    Pass it to guidance as ``scale``. Both denoisers are also called outside of the interval, because sigma is on the
    device.

    Raises
    ------
    TypeError, ValueError
        If the scale is not finite, or the bounds are out of order.

    Notes
    -----
    Kynkäänniemi et al. 2024, arXiv:2404.07724, equation 4.
    """
    inside = _interval("within", sigma_low, sigma_high)
    scale = checked_number("within", "scale", scale, FINITE)

    def scale_at(sigma: torch.Tensor) -> torch.Tensor:
        return torch.where(inside(sigma), scale, torch.ones_like(sigma))

    return scale_at


def interval(guided: Model, unguided: Model, sigma_low: float, sigma_high: float) -> Model:
    """A denoiser that uses ``guided`` where ``sigma_low < sigma <= sigma_high`` and ``unguided`` elsewhere.

    Parameters
    ----------
    guided, unguided : callable
        Denoisers.
    sigma_low, sigma_high : float
        Bounds in contract sigma, 0 <= sigma_low < sigma_high; 0 to inf is ``guided`` everywhere.

    Returns
    -------
    callable
        Denoiser that returns a pair if ``guided`` does, with ``guided``'s uncond at every sigma.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be called, or the bounds are out of order; at a call, a prediction has the wrong type or
        shape.

    Notes
    -----
    Kynkäänniemi et al. 2024, arXiv:2404.07724. Both denoisers are called at every sigma, because sigma is on the
    device. For plain guidance, `within` takes fewer calls. A run that you drive step by step takes the
    fewest, since ``run.level.label`` is on the host.
    """
    check_callable("guided", guided)
    check_callable("unguided", unguided)
    inside = _interval("interval", sigma_low, sigma_high)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        outer = checked_prediction("unguided", answer(unguided, x, sigma, False)[0], x, copy=True)
        inner, uncond = answer(guided, x, sigma, True)
        chosen = torch.where(per_item(inside(sigma), x), checked_prediction("guided", inner, x), outer).to(x.dtype)
        return chosen if uncond is None else (chosen, uncond)

    return denoise


def scale_function(owner: str, scale: Scale) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """The scale as a function of sigma and of the state that it multiplies."""
    if not callable(scale):
        number = checked_number(owner, "scale", scale, FINITE)
        return lambda sigma, x: number

    def weigh(sigma: torch.Tensor, x: torch.Tensor) -> Any:
        value: Any = scale(sigma)
        if not isinstance(value, torch.Tensor):
            return checked_number(owner, "scale(sigma)", value, FINITE)
        if value.shape not in ((), (x.shape[0],)):
            raise ValueError(
                f"{owner}: scale(sigma) must return a number or one per item, shape ({x.shape[0]},); got "
                f"{tuple(value.shape)}"
            )
        return per_item(value.to(x.dtype), x)

    return weigh


def _interval(owner: str, low: float, high: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that says where sigma lies in an interval."""
    bounds = [("sigma_low", low), ("sigma_high", high)]
    low, high = (checked_number(owner, name, value, NOT_NEGATIVE) for name, value in bounds)
    if not low < high:
        raise ValueError(f"{owner}: sigma_low must be below sigma_high; got sigma_low={low}, sigma_high={high}")
    return lambda sigma: (sigma > low) & (sigma <= high)


def checked_number(owner: str, name: str, value: Any, limits: Between) -> float:
    """The number given for an option, checked against its limits."""
    number: float = Option(name, float, None, *limits).check(owner, value)
    return number
