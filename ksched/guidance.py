"""Wrappers that change a prediction, not a sampler: guidance, clipping, thresholding, inpainting.

Each takes denoisers and returns one, so all of them work with every sampler and inside one another. A denoiser is
called ``(x, sigma)``, x batch first and sigma of shape (batch,), and returns ``denoised`` or ``(denoised, uncond)``.
Guidance knows the unconditional prediction and returns the pair, which CFG++ samplers need and others leave alone.
Clipping, thresholding and inpainting do to ``uncond``, if it is there, what they do to ``denoised``: where the two are
equal they stay equal.

Sums are formed in at least float32 and returned in x's dtype; nothing is read back from the device. A wrapper holds no
state, with the one exception that `Momentum` says.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ksched.denoisers.answer import Model, answer
from ksched.denoisers.denoiser import Denoiser, Prediction
from ksched.noise.sources import Seed, SeededNoise, item_seeds
from ksched.options import Between, Option
from ksched.plan.rows import Draw
from ksched.processes import Process
from ksched.processes.agreement import check_sigma

__all__ = [
    "Momentum",
    "apg",
    "batched",
    "cfg",
    "cfg_zero_star",
    "clip",
    "dynamic_thresholding",
    "inpaint",
    "interval",
    "perp_neg",
    "rescale",
    "within",
]

PairModel: TypeAlias = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
#: A number, or a function of the sigma tensor that returns a number or one per item.
Scale: TypeAlias = float | Callable[[torch.Tensor], Any]
_Rule: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_FINITE = Between(-sys.float_info.max, sys.float_info.max)
_NOT_NEGATIVE = Between(0.0, math.inf)
_SHARE = Between(0.0, 1.0)
#: keeps a squared norm off 0
_TINY = torch.finfo(torch.float32).tiny


# Guidance


def cfg(cond: Model, uncond: Model | None, scale: Scale) -> PairModel:
    """Classifier-free guidance, ``uncond + scale * (cond - uncond)``.

    Parameters
    ----------
    cond : denoiser with the condition
    uncond : denoiser without it, or with a negative one; None if ``cond`` returns the pair itself (see `batched`)
    scale : 1 is ``cond`` exactly, 0 is ``uncond`` to rounding; a function of sigma (shape (batch,), on the device)
        returns a number or one per item

    Returns
    -------
    denoiser that returns (guided, uncond). ``uncond`` is called at scale 1 too: CFG++ samplers need it

    Raises
    ------
    TypeError, ValueError : something that cannot be called, a scale that is not finite; at a call, a prediction or
        scale of the wrong type or shape

    Notes
    -----
    Ho & Salimans 2022, arXiv:2207.12598, whose w is ``scale - 1``.
    """
    weigh = _weight("cfg", scale)

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return _towards(c, c - u, weigh(sigma, x))

    return _guided(cond, uncond, rule)


def rescale(
    cond: Model, uncond: Model | None, scale: Scale, process: Process, prediction: Prediction, *, phi: float = 0.7
) -> PairModel:
    """Guidance whose result is given back the standard deviation of the conditional network output.

    Parameters
    ----------
    cond, uncond, scale : as for `cfg`
    process : what the network was trained on
    prediction : in which output the deviations are measured, as for `Denoiser`. What the network itself predicts is the
        paper and diffusers' ``guidance_rescale``; "v_prediction" for all is ComfyUI's RescaleCFG; "sample" is x0
    phi : share of the rescaled result, 0 to 1; 0 is `cfg` exactly

    Returns
    -------
    denoiser that returns (guided, uncond)

    Raises
    ------
    TypeError, ValueError : as for `cfg`; a phi out of range; a prediction that this process cannot have

    Notes
    -----
    Lin et al. 2023, arXiv:2305.08891, section 3.4; deviations are over all axes but the batch. An item whose guided
    output is constant has nothing to rescale and stays as it is.
    """
    weigh = _weight("rescale", scale)
    phi = _number("rescale", "phi", phi, _SHARE)
    origin = _origin(process, prediction)

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        guided = _towards(c, c - u, weigh(sigma, x))
        zero = origin(x, sigma)
        # A network output is a multiple of D - zero, the same for both, and multiples cancel in the ratio.
        wanted, found = _std(c - zero), _std(guided - zero)
        ratio = torch.where(found > 0, wanted / found.clamp_min(_TINY), torch.ones_like(found))
        return guided + phi * (ratio - 1) * (guided - zero)

    return _guided(cond, uncond, rule)


@dataclass(eq=False)
class Momentum:
    """The running sum of guidance directions in one run of `apg`.

    It changes at every model call, so it belongs to one run: make a new one, and a new `apg` around it, for each. To
    resume a run elsewhere, take ``average`` along.

    Parameters
    ----------
    beta : share of the old sum that is kept, -1 to 1; negative in the paper (-0.75 to -0.5), which pushes away from
        where guidance has been going
    average : the sum so far, shape of the state; None before the first call
    """

    beta: float
    average: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.beta = _number("Momentum", "beta", self.beta, Between(-1.0, 1.0))

    def update(self, direction: torch.Tensor) -> torch.Tensor:
        """The new sum, ``direction + beta * average``.

        Raises
        ------
        ValueError : a direction of another shape than those before
        """
        if self.average is not None:
            if self.average.shape != direction.shape:
                raise ValueError(
                    f"a Momentum belongs to one run; this one has seen states of shape {tuple(self.average.shape)} and "
                    f"got {tuple(direction.shape)}. Make a new one for each run"
                )
            direction = direction + self.beta * self.average
        self.average = direction
        return direction


def apg(
    cond: Model,
    uncond: Model | None,
    scale: Scale,
    *,
    eta: float = 0.0,
    norm_threshold: float = math.inf,
    momentum: Momentum | None = None,
) -> PairModel:
    """Adaptive projected guidance: less of the direction along the conditional prediction, which oversaturates.

    Parameters
    ----------
    cond, uncond, scale : as for `cfg`
    eta : share of the parallel part that is kept; 0 in the paper, 1 keeps it all
    norm_threshold : largest norm of the direction of an item, > 0; inf is none (where peers write 0). 2.5 to 15 in the
        paper, for latents
    momentum : a new `Momentum` for each run; None is none, and then there is no state

    Returns
    -------
    denoiser that returns (guided, uncond); with eta 1, no threshold and no momentum it is `cfg` exactly

    Raises
    ------
    TypeError, ValueError : as for `cfg`; options out of range; a `Momentum` that has seen another shape

    Notes
    -----
    Sadat et al. 2024, arXiv:2410.02416, algorithm 1: ``cond + (scale - 1) * update``, on x0 predictions, norms over all
    axes but the batch. diffusers adds ``scale * update`` to ``uncond``, which is the same only without threshold,
    projection and momentum.
    """
    weigh = _weight("apg", scale)
    eta = _number("apg", "eta", eta, _FINITE)
    threshold = _number("apg", "norm_threshold", norm_threshold, Between(sys.float_info.min, math.inf))
    if momentum is not None and not isinstance(momentum, Momentum):
        raise TypeError(
            f"momentum must be a new ksched.guidance.Momentum(beta) for each run, or None; got {momentum!r}"
        )

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        update = c - u if momentum is None else momentum.update(c - u)
        if threshold < math.inf:
            update = update * (threshold / _dot(update, update).clamp_min(_TINY).sqrt()).clamp_max(1)
        return _towards(c, update - (1 - eta) * _along(update, c), weigh(sigma, x))

    return _guided(cond, uncond, rule)


def cfg_zero_star(cond: Model, uncond: Model | None, scale: Scale, process: Process) -> PairModel:
    """Guidance of flow models with the unconditional velocity scaled to fit the conditional one best.

    Parameters
    ----------
    cond, uncond, scale : as for `cfg`
    process : `Flow` or `FlowVE`

    Returns
    -------
    denoiser that returns (guided, uncond), uncond unscaled

    Raises
    ------
    TypeError, ValueError : as for `cfg`; a process that has no flow networks

    Notes
    -----
    Fan et al. 2025, arXiv:2503.18886: ``s * v_uncond + scale * (v_cond - s * v_uncond)`` with s the least-squares fit
    of v_cond by v_uncond, per item. The paper's other half, zero velocity in the first k steps, needs no wrapper: it is
    a run on ``sigmas=sampler.sigmas[k:]`` from the unchanged start noise.
    """
    weigh = _weight("cfg_zero_star", scale)
    origin = _origin(process, "flow")

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        zero = origin(x, sigma)  # velocities are one multiple of D - zero
        return _towards(c, (c - zero) - _along(c - zero, u - zero), weigh(sigma, x))

    return _guided(cond, uncond, rule)


def perp_neg(cond: Model, negative: Model, uncond: Model, scale: Scale, *, negative_scale: float = 1.0) -> PairModel:
    """Guidance away from a negative condition, but only across the positive one.

    Parameters
    ----------
    cond, uncond, scale : as for `cfg`, ``uncond`` without any condition
    negative : denoiser with what is not wanted
    negative_scale : weight of its part that is perpendicular to ``cond - uncond``; 0 is `cfg` exactly

    Returns
    -------
    denoiser that returns (guided, uncond)

    Raises
    ------
    TypeError, ValueError : as for `cfg`

    Notes
    -----
    Armandpour et al. 2023, arXiv:2304.04968: ``uncond + scale * (p - negative_scale * (n - n along p))`` with p, n the
    differences to ``uncond``; per item, so a batch is sampled as its items are alone. Three model calls.
    """
    weigh = _weight("perp_neg", scale)
    factor = _number("perp_neg", "negative_scale", negative_scale, _FINITE)
    models = {"cond": cond, "negative": negative, "uncond": uncond}
    for name, model in models.items():
        _callable(name, model)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        c, n, u = (_taken(name, answer(m, x, sigma, False)[0], x, copy=True) for name, m in models.items())
        weight = weigh(sigma, c)
        across = (n - u) - _along(n - u, c - u)
        return (_towards(c, c - u, weight) - weight * factor * across).to(x.dtype), u.to(x.dtype)

    return denoise


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
    _callable("model", model, "(x, sigma, **inputs) -> denoised")
    _check_inputs("inputs", uncond_inputs, cond_inputs)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = _joined("inputs", uncond_inputs, cond_inputs, x.shape[0])
        twice = torch.cat([x, x])
        both = _taken("model", model(twice, torch.cat([sigma, sigma]), **inputs), twice)
        uncond, cond = both.to(x.dtype).chunk(2)
        return cond, uncond

    return denoise


def within(scale: float, sigma_low: float, sigma_high: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A guidance scale for an interval of sigma, ``sigma_low < sigma <= sigma_high``, and 1 outside of it.

    Give it to guidance as ``scale``. Both denoisers are called outside of the interval too, because sigma is on the
    device.

    Raises
    ------
    TypeError, ValueError : a scale that is not finite, bounds out of order

    Notes
    -----
    Kynkäänniemi et al. 2024, arXiv:2404.07724, equation 4.
    """
    inside = _interval("within", sigma_low, sigma_high)
    scale = _number("within", "scale", scale, _FINITE)

    def scale_at(sigma: torch.Tensor) -> torch.Tensor:
        return torch.where(inside(sigma), scale, torch.ones_like(sigma))

    return scale_at


def interval(guided: Model, unguided: Model, sigma_low: float, sigma_high: float) -> Model:
    """One denoiser where ``sigma_low < sigma <= sigma_high``, another elsewhere.

    Parameters
    ----------
    guided, unguided : denoisers
    sigma_low, sigma_high : bounds in contract sigma, 0 <= sigma_low < sigma_high; 0 to inf is ``guided`` everywhere

    Returns
    -------
    denoiser that returns a pair if ``guided`` does, with ``guided``'s uncond at every sigma

    Raises
    ------
    TypeError, ValueError : something that cannot be called, bounds out of order; at a call, a prediction of the wrong
        type or shape

    Notes
    -----
    Kynkäänniemi et al. 2024, arXiv:2404.07724. Both are called at every sigma, because sigma is on the device: for
    plain guidance `within` takes fewer calls, and a run driven by hand, where ``run.level.label`` is on the host, the
    fewest.
    """
    _callable("guided", guided)
    _callable("unguided", unguided)
    inside = _interval("interval", sigma_low, sigma_high)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        outer = _taken("unguided", answer(unguided, x, sigma, False)[0], x, copy=True)
        inner, uncond = answer(guided, x, sigma, True)
        chosen = torch.where(_per_item(inside(sigma), x), _taken("guided", inner, x), outer).to(x.dtype)
        return chosen if uncond is None else (chosen, uncond)

    return denoise


# Edits of the prediction


def clip(denoiser: Model, low: float = -1.0, high: float = 1.0) -> Model:
    """The prediction kept between two bounds, and ``uncond`` too.

    Parameters
    ----------
    denoiser : denoiser
    low, high : range of the data, low < high; for pixels, as latents have none

    Returns
    -------
    denoiser that returns what ``denoiser`` does, a pair or a tensor

    Raises
    ------
    TypeError, ValueError : something that cannot be called, bounds out of order; at a call, a prediction of the wrong
        type or shape

    Notes
    -----
    diffusers' ``clip_sample``.
    """
    low, high = (
        _number("clip", name, value, Between(-math.inf, math.inf)) for name, value in (("low", low), ("high", high))
    )
    if not low < high:
        raise ValueError(f"clip: low must be below high; got low={low}, high={high}")
    return _edited(denoiser, lambda denoised: denoised.clamp(low, high))


def dynamic_thresholding(denoiser: Model, percentile: float = 0.995, max_value: float = math.inf) -> Model:
    """The prediction clipped to its own size s and divided by it, item by item, and ``uncond`` by its own.

    Parameters
    ----------
    denoiser : denoiser
    percentile : s is this quantile of the absolute values of an item, but at least 1; 0 to 1
    max_value : largest s, above 0; one of less than 1 is s itself, as in diffusers, whose default of 1 makes it `clip`
        to [-1, 1]

    Returns
    -------
    denoiser that returns what ``denoiser`` does, a pair or a tensor, with values in [-1, 1]

    Raises
    ------
    TypeError, ValueError : something that cannot be called, options out of range; at a call, a prediction of the wrong
        type or shape

    Notes
    -----
    Saharia et al. 2022, arXiv:2205.11487, section 2.3. The quantile is interpolated linearly as by ``torch.quantile``,
    but items may be of any size.
    """
    percentile = _number("dynamic_thresholding", "percentile", percentile, _SHARE)
    max_value = _number("dynamic_thresholding", "max_value", max_value, Between(sys.float_info.min, math.inf))

    def threshold(denoised: torch.Tensor) -> torch.Tensor:
        size = _rows(denoised).abs()
        place = percentile * (size.shape[1] - 1)
        rank = math.floor(place)
        # torch.quantile refuses more than 2 ** 24 values, and sorts all of them.
        largest = size.topk(size.shape[1] - rank, dim=1).values
        below, above = largest[:, -1], largest[:, -2:][:, 0]
        s = _per_item(torch.lerp(below, above, place - rank).clamp(1, max_value), denoised)
        return denoised.clamp(-s, s) / s

    return _edited(denoiser, threshold)


def inpaint(
    denoiser: Model,
    mask: torch.Tensor | Callable[[torch.Tensor], torch.Tensor],
    original: torch.Tensor,
    process: Process,
    *,
    noise: torch.Tensor | Seed,
) -> Model:
    """Only the masked part sampled, around what is given for the rest.

    Before a call the rest of x is replaced by ``original`` noised to sigma, after it the rest of the prediction by
    ``original``. A run to sigma 0 therefore returns ``original`` where the mask is 0: bit for bit with a sampler whose
    last step returns the prediction, as all but `cfgpp_ud10_ab` do, and to rounding with that.

    Parameters
    ----------
    denoiser : denoiser
    mask : 1 where to sample, 0 where to keep, anything between for a soft edge; of ``original``'s rank, each axis of
        its length or 1. A function of sigma (shape (batch,), on the device) returns such a mask: differential diffusion
    original : x0, of the state's shape and on its device
    process : the sampler's
    noise : unit-variance noise of ``original``'s shape, best that of the start state; or a seed, as for
        `ksched.Sampler.sample`. One draw serves the whole run

    Returns
    -------
    denoiser that returns what ``denoiser`` does, a pair or a tensor; ``original`` is put into ``uncond`` too

    Raises
    ------
    TypeError, ValueError : arguments of the wrong type or shape, a mask outside [0, 1]; at a call, x of another shape
        or device than ``original``, or a prediction or mask of the wrong type or shape

    Notes
    -----
    Equals ComfyUI's masked sampling.
    """
    _callable("denoiser", denoiser)
    if not isinstance(process, Process):
        raise TypeError(f"process must be a ksched process such as VP() or Flow(); got {process!r}")
    if not isinstance(original, torch.Tensor) or not original.is_floating_point() or original.ndim == 0:
        raise TypeError("original must be a floating-point tensor, batch first; got " + _described(original))
    mask_at = _mask_function(mask, original)
    if isinstance(noise, torch.Tensor):
        eps = noise.to(original.device)
    else:
        eps = SeededNoise(item_seeds(noise, original.shape[0]))(Draw(math.inf, math.inf), original.float())
    if eps.shape != original.shape:
        raise ValueError(f"noise must have original's shape {tuple(original.shape)}; got {tuple(eps.shape)}")

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        if x.shape != original.shape or x.device != original.device:
            raise ValueError(
                f"original must have the state's shape {tuple(x.shape)} and be on its device {x.device}; got "
                f"{tuple(original.shape)} on {original.device}"
            )
        if not torch.compiler.is_compiling():
            check_sigma(process, sigma, "the inpainting")
        kind = _compute(x)
        share, clean = mask_at(sigma).to(kind), original.to(kind)
        noised = process.add_noise(clean, eps.to(kind), sigma.to(kind))
        seen = _mixed(noised, x.to(kind), share).to(x.dtype)
        return _edited(denoiser, lambda denoised: _mixed(clean, denoised, share))(seen, sigma)

    return denoise


# What they share


def _compute(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _guided(cond: Model, uncond: Model | None, rule: _Rule) -> PairModel:
    """A denoiser that returns (what the rule makes of the two predictions, uncond)."""
    _callable("cond", cond)
    if uncond is not None:
        _callable("uncond", uncond)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = answer(cond, x, sigma, both=uncond is None)
        if uncond is None and second is None:
            raise TypeError("cond must return (cond, uncond) where uncond is None; it returned one prediction")
        # A copy if another call follows: captured networks return the same buffer every time.
        c = _taken("cond", first, x, copy=uncond is not None)
        if uncond is not None:
            second = answer(uncond, x, sigma, both=False)[0]
        u = _taken("uncond", second, x)
        return rule(x.to(c.dtype), sigma, c, u).to(x.dtype), u.to(x.dtype)

    return denoise


def _edited(denoiser: Model, edit: Callable[[torch.Tensor], torch.Tensor]) -> Model:
    """A denoiser with every prediction edited, a pair or one."""
    _callable("denoiser", denoiser)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        first, second = answer(denoiser, x, sigma, both=True)
        denoised = edit(_taken("denoiser", first, x)).to(x.dtype)
        return denoised if second is None else (denoised, edit(_taken("uncond", second, x)).to(x.dtype))

    return denoise


def _towards(cond: torch.Tensor, direction: torch.Tensor, scale: Any) -> torch.Tensor:
    """``cond`` moved on by scale - 1 directions: at scale 1 it is ``cond`` bit for bit."""
    guided: torch.Tensor = cond + (scale - 1) * direction
    return guided


def _along(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The part of ``a`` along ``b``, item by item; 0 where b is 0."""
    return _dot(a, b) / _dot(b, b).clamp_min(_TINY) * b


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _per_item((_rows(a) * _rows(b)).sum(1), a)


def _std(a: torch.Tensor) -> torch.Tensor:
    return _per_item(_rows(a).std(1, correction=0), a)


def _mixed(kept: torch.Tensor, sampled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The blend of two states; where the mask is 0 it is ``kept`` itself, whatever the other holds."""
    return torch.where(mask > 0, torch.lerp(kept, sampled, mask), kept)


def _origin(process: Process, prediction: Prediction) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The x0 prediction that a network output of 0 stands for; an output is a multiple of the distance to it."""
    Denoiser(torch.zeros_like, process, prediction)  # refuses what the process cannot have

    def origin(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        # `Denoiser` with its output at 0, without its walk of the training table for the timestep.
        sigma = _per_item(sigma.to(x.dtype), x)
        a, s = process.alpha(sigma), process.noise_std(sigma)
        if prediction == "sample":
            return torch.zeros_like(x)
        if prediction == "epsilon":
            return x / a
        if prediction == "flow":
            return x / (a + s / process.noise_scale)
        data = process.sigma_data
        gain: torch.Tensor = a * data**2 / process.input_norm(sigma) ** 2
        return gain * x

    return origin


def _rows(x: torch.Tensor) -> torch.Tensor:
    """One row of values per item, shape (batch, values)."""
    return x[..., None].flatten(1)


def _per_item(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Numbers of shape (batch,) or () made to multiply a state."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def _weight(owner: str, scale: Scale) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """The scale as a function of sigma and the state it multiplies."""
    if not callable(scale):
        number = _number(owner, "scale", scale, _FINITE)
        return lambda sigma, x: number

    def weigh(sigma: torch.Tensor, x: torch.Tensor) -> Any:
        value: Any = scale(sigma)
        if not isinstance(value, torch.Tensor):
            return _number(owner, "scale(sigma)", value, _FINITE)
        if value.shape not in ((), (x.shape[0],)):
            raise ValueError(
                f"{owner}: scale(sigma) must return a number or one per item, shape ({x.shape[0]},); got "
                f"{tuple(value.shape)}"
            )
        return _per_item(value.to(x.dtype), x)

    return weigh


def _interval(owner: str, low: float, high: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Whether sigma lies in an interval."""
    bounds = [("sigma_low", low), ("sigma_high", high)]
    low, high = (_number(owner, name, value, _NOT_NEGATIVE) for name, value in bounds)
    if not low < high:
        raise ValueError(f"{owner}: sigma_low must be below sigma_high; got sigma_low={low}, sigma_high={high}")
    return lambda sigma: (sigma > low) & (sigma <= high)


def _number(owner: str, name: str, value: Any, limits: Between) -> float:
    number: float = Option(name, float, None, *limits).check(owner, value)
    return number


def _callable(name: str, value: Any, form: str = "(x, sigma) -> denoised") -> None:
    if not callable(value):
        raise TypeError(f"{name} must be callable, {form}; got {type(value).__name__}")


def _taken(name: str, value: Any, x: torch.Tensor, copy: bool = False) -> torch.Tensor:
    """A prediction, checked, in the dtype of sums."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must return a tensor; got {type(value).__name__}")
    if value.shape != x.shape:
        raise ValueError(f"{name} must return the state's shape {tuple(x.shape)}; got {tuple(value.shape)}")
    return value.to(_compute(x), copy=copy)


def _mask_function(mask: Any, original: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The mask as a function of sigma, checked."""
    if not isinstance(mask, torch.Tensor):
        if not callable(mask):
            raise TypeError(f"mask must be a tensor, or a function sigma -> tensor; got {type(mask).__name__}")
        return lambda sigma: _fitting(mask(sigma), original)
    fixed = _fitting(mask, original).to(original.device)
    if not bool(((fixed >= 0) & (fixed <= 1)).all()):
        raise ValueError(f"mask must lie in [0, 1], 1 where to sample; got {fixed.min()} to {fixed.max()}")
    return lambda sigma: fixed


def _fitting(mask: Any, original: torch.Tensor) -> torch.Tensor:
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"mask(sigma) must return a tensor; got {type(mask).__name__}")
    if mask.ndim != original.ndim or any(m not in (1, n) for m, n in zip(mask.shape, original.shape, strict=True)):
        raise ValueError(
            f"mask must have the rank of original, {tuple(original.shape)}, each axis of its length or 1; got "
            f"{tuple(mask.shape)}. Give it the missing axes, as in mask[None, None]"
        )
    return mask


def _described(value: Any) -> str:
    return f"{value.dtype} of rank {value.ndim}" if isinstance(value, torch.Tensor) else type(value).__name__


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
