"""Steering a run by a reward: items are weighted by the rewards of their predictions, and good ones are duplicated.

The target is the sampler's own law tilted by a reward, ``p(x) exp(scale * reward(x)) / Z``. At some steps of a run each
item gets a factor. Along a path the factors multiply to ``exp(scale * reward(x))`` of its result. The items, weighted
by the products of their factors, therefore represent the target for any choice of the earlier factors: for any function
f, the mean of ``weight * f(x)`` over the items has the expectation ``Z E[f]``, and the mean weight has the expectation
Z. Good factors only reduce the variance. *Resampling* draws items with replacement in proportion to their weights and
gives every drawn item the mean weight, which changes neither expectation. While the weights are still even, resampling
does more harm than good; the weights are then carried over to the next step.

The factors are Feynman-Kac potentials of the x0 prediction's reward (FK steering: Singhal et al. 2025,
arXiv:2501.06848). Let r_k be ``scale`` times the reward at the k-th weighting, and Phi_k the log of the product of the
factors so far:

=============  ===========================  ================================
potential      log of the k-th factor       Phi_k
=============  ===========================  ================================
"difference"   r_k - r_(k-1)                r_k
"max"          largest of r_1 ... r_k       sum of these over weightings
"sum"          r_1 + ... + r_k              sum of these over weightings
=============  ===========================  ================================

At the end Phi is r of the result: the last factor corrects the excess of the others. "difference" keeps the weights
closest to their final values; start with it.

Twisted sequential Monte Carlo (TDS: Wu et al. 2023, arXiv:2306.17775) also moves the steps along the gradient of the
reward. A factor then includes the density of the sampler's step over that of the moved step: `sample` computes it for a
``proposal``, and `Particles.step` takes it as ``log_ratio``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch

from ksched.denoisers.answer import Model, answer
from ksched.execution.adaptive_run import NOT_PARTED, AdaptiveRun
from ksched.execution.run import Run
from ksched.noise.kinds import Correlated, NoiseName, kind_of
from ksched.noise.streams import Seed, item_seeds
from ksched.options import check_whole
from ksched.policy.resampling import (
    Scheme,
    drawn_of,
    effective_sample_size,
    log_mean_exp,
    log_numbers,
    normalized,
    resampled,
)
from ksched.policy.twisting import Twist
from ksched.processes import Process
from ksched.processes.agreement import check_agreement
from ksched.types import Array

__all__ = ["Particles", "Steered", "effective_sample_size", "resampled", "sample"]


Potential: TypeAlias = Literal["difference", "max", "sum"] | Callable[[Array], Array]


#: log of the product of the factors so far, from the scaled rewards of all weightings, shape (weightings, items)
_POTENTIALS: dict[str, Callable[[Array], Array]] = {
    "difference": lambda rewards: rewards[-1],
    "max": lambda rewards: np.maximum.accumulate(rewards).sum(0),
    "sum": lambda rewards: rewards.cumsum(0).sum(0),
}


class Particles:
    """The weights of the items of a steered run, for a loop of your own.

    Parameters
    ----------
    size : int
        Number of items.
    seed : int or sequence of int
        Seed of the resampling: one whole number or one per item, as for `Sampler.sample`; the same seed may be used for
        both. A group uses the seed of its first item.
    groups : int or None
        Number of groups of equal size, in order, such as the images of one prompt each; items compete only within their
        group. None means one group, and results then have no axis of groups.
    potential : str or callable
        "difference", "max" or "sum"; or a function from the scaled rewards of all weightings so far, shape (weightings,
        items), to the log of the product of all factors, shape (items,).
    ess_threshold : float
        A group is resampled when its effective sample size falls below this share of its items; 0 never resamples,
        above 1 always does.
    scheme : as for `resampled`
    scale : float
        Factor on the reward; the larger it is, the more the reward decides.

    Attributes
    ----------
    ancestors : ndarray of int64, shape (size,)
        For each item, the index of its ancestor at the start.
    effective : list
        The effective sample size at each weighting, before resampling; a list of arrays of shape (groups,), or of
        numbers.

    Raises
    ------
    TypeError, ValueError
        For groups that do not divide the items; an unknown name; a number out of range.

    Examples
    --------
    The loop of `sample`, any part of which you can replace:

    >>> import ksched, torch
    >>> model = ksched.exact.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.09)
    >>> sampler = ksched.build_sampler("er_sde", "karras", 20)
    >>> x = sampler.initial_state((1000, 1), seed=7)
    >>> run, particles = sampler.start(x, seed=7), ksched.steer.Particles(1000, seed=7)
    >>> while not run.done:
    ...     denoised = model(run.x, run.sigma)
    ...     if run.step % 4 == 3:
    ...         chosen = particles.step(2 * denoised[:, 0])
    ...         run, denoised = run.take(chosen), denoised[chosen]
    ...     run.feed(denoised)
    >>> particles.finish(2 * run.x[:, 0])
    >>> print(f"{particles.log_normalizer:.1f}")
    1.5
    """

    def __init__(
        self,
        size: int,
        *,
        seed: Seed,
        groups: int | None = None,
        potential: Potential = "difference",
        ess_threshold: float = 0.5,
        scheme: Scheme = "systematic",
        scale: float = 1.0,
    ) -> None:
        check_whole("size", size, 1)
        check_whole("groups", 1 if groups is None else groups, 1)
        self._groups = 1 if groups is None else groups
        if size % self._groups:
            raise ValueError(f"groups must divide the items evenly; got {groups} groups for {size} items")
        if not callable(potential) and potential not in _POTENTIALS:
            known = ", ".join(map(repr, _POTENTIALS))
            raise ValueError(f"potential must be one of {known}, or a function of the rewards; got {potential!r}")
        drawn_of(np.ones(1), scheme, 1, 0, 0)  # refuses an unknown scheme
        self._potential = potential if callable(potential) else _POTENTIALS[potential]
        self._threshold = _number("ess_threshold", ess_threshold, 0.0)
        self._scale = _number("scale", scale, -math.inf)
        self._scheme: Scheme = scheme
        self._seeds = item_seeds(seed, size)[:: size // self._groups]
        self._shape = (size,) if groups is None else (groups, size // groups)
        self._rewards = np.zeros((0, size))
        self._base, self._product = np.zeros(size), np.zeros(size)  # their sum is the log of the weights
        self.ancestors = np.arange(size)
        self.effective: list[Any] = []

    @property
    def log_weights(self) -> Array:
        """Logs of the weights, float64, shape (items,) or (groups, items); their mean estimates Z, not 1."""
        return (self._base + self._product).reshape(self._shape)

    @property
    def weights(self) -> Array:
        """The weights, scaled to sum 1 in each group, with the shape of `log_weights`."""
        return normalized(self.log_weights)

    @property
    def log_normalizer(self) -> Any:
        """Log of the mean weight, which estimates log Z when the run is finished; a number, or one per group."""
        found = log_mean_exp(self.log_weights)[..., 0]
        return found if found.ndim else float(found)

    def step(self, rewards: Any, log_ratio: Any = None) -> np.ndarray[Any, Any]:
        """Weight the items by the rewards of their predictions, and resample the groups that need it.

        Parameters
        ----------
        rewards : array_like or Tensor
            Reward of each item, shape (items,); -inf forbids the item.
        log_ratio : array_like, Tensor or None
            log of the density of the sampler's own steps since the last weighting over that of the steps made; None if
            the steps were the sampler's own.

        Returns
        -------
        indices of the items with which to continue, for `Run.take` and for all data that belongs to the items; items of
        a group that was not resampled keep their index

        Raises
        ------
        ValueError
            For rewards that are NaN or inf, or not one per item.
        """
        self._weigh(rewards, log_ratio)
        values = self.log_weights.reshape(self._groups, -1)
        count, chosen = values.shape[1], np.arange(values.size)
        sizes, weights, means = effective_sample_size(values), normalized(values), log_mean_exp(values)
        for group in np.flatnonzero((sizes > 0) & (sizes < self._threshold * count)):
            own = slice(group * count, (group + 1) * count)
            drawn = drawn_of(weights[group], self._scheme, count, self._seeds[group], len(self._rewards))
            chosen[own] += drawn - np.arange(count)
            self._base[own] = means[group] - self._product[chosen[own]]
        self._rewards, self._product = self._rewards[:, chosen], self._product[chosen]
        self.ancestors = self.ancestors[chosen]
        return chosen

    def finish(self, rewards: Any, log_ratio: Any = None) -> None:
        """Weight the results by their own rewards; arguments as for `step`. The weights are now those of the target."""
        self._weigh(rewards, log_ratio, last=True)

    def _weigh(self, rewards: Any, log_ratio: Any, last: bool = False) -> None:
        """Give each item its next factor."""
        found = self._of_items("rewards", rewards)
        found = np.where(np.isneginf(found), found, self._scale * np.where(np.isneginf(found), 0.0, found))
        ratio = 0.0 if log_ratio is None else self._of_items("log_ratio", log_ratio)
        self._rewards = np.concatenate([self._rewards, found[None]])
        self._product = found if last else np.asarray(self._potential(self._rewards), dtype=np.float64)
        self._base = self._base + ratio
        self.effective.append(effective_sample_size(self.log_weights))

    def _of_items(self, name: str, values: Any) -> Array:
        array = log_numbers(name, values)
        if array.shape != (self._base.size,):
            raise ValueError(f"{name} must be one number per item, shape ({self._base.size},); got {array.shape}")
        return array


def _number(name: str, value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) < math.inf:
        above = "" if least == -math.inf else f" of at least {least:g}"
        raise ValueError(f"{name} must be a finite number{above}; got {value!r}")
    return float(value)


# ------------------------------------------------------------------------------------------------ whole runs
@dataclass(frozen=True, eq=False)
class Steered:
    """The result of `sample`.

    Attributes
    ----------
    x : Tensor
        Results, as from `Sampler.sample`. With their weights they represent the target; use `resampled` for unweighted
        ones.
    rewards : ndarray
        Rewards of the results, unscaled, float64, shape (items,).
    log_weights, weights : ndarray
        Weights of the results, as in `Particles`.
    log_normalizer : float or ndarray
        Estimate of log Z, as in `Particles`; its ``exp`` is unbiased.
    effective : ndarray
        Effective sample size at each weighting, the last one of the results; shape (weightings,) or (weightings,
        groups).
    steps : tuple of int
        The steps of the weightings, without the last.
    ancestors : ndarray
        For each result, the index in ``x`` of its ancestor, shape (items,).
    """

    x: torch.Tensor
    rewards: Array
    log_weights: Array
    weights: Array
    log_normalizer: Any
    effective: Array
    steps: tuple[int, ...]
    ancestors: np.ndarray[Any, Any]


class Startable(Protocol):
    """The part of a `ksched.Sampler` that `sample` needs."""

    @property
    def process(self) -> Process: ...
    @property
    def sigmas(self) -> Array: ...
    def start(self, x: torch.Tensor, *, seed: Seed | None = None, noise: Any = None) -> Run | AdaptiveRun: ...


def sample(
    sampler: Startable,
    denoiser: Model,
    x: torch.Tensor,
    reward: Callable[[torch.Tensor], Any],
    *,
    seed: Seed,
    proposal: Model | None = None,
    every: int = 1,
    potential: Potential = "difference",
    ess_threshold: float = 0.5,
    scale: float = 1.0,
    scheme: Scheme = "systematic",
    groups: int | None = None,
    noise: NoiseName | Correlated | None = None,
) -> Steered:
    """Run a sampler to the end, steered towards ``p(x) exp(scale * reward(x))``.

    Parameters
    ----------
    sampler : Startable
        A `ksched.Sampler` that draws noise; without noise, copies of an item would stay copies.
    denoiser, x, noise : as for `Sampler.sample`; the items of x are the particles
    reward : callable
        Maps x0 predictions, and at the end the results, to one number each: batch to (batch,). -inf forbids a result.
        For a prediction, -inf may discard an item that would have recovered, and Z is then estimated too low.
    seed : as for `Sampler.sample`; a group's resampling uses the seed of its first item
    proposal : callable or None
        Twisted SMC: a model that moves the items instead, such as the denoiser plus a gradient of the reward; both are
        called. The weights compensate for it, so the target is the same; a better proposal gives more even weights.
        Where no noise is drawn, as in the step to sigma 0, the denoiser itself moves the items.
    every : int
        Weight the items at every n-th step, starting with the n-th, and at the end; steps without fresh noise after
        them are left out.
    potential, ess_threshold, scale, scheme, groups : as for `Particles`

    Returns
    -------
    the results with their weights; no gradients are recorded

    Raises
    ------
    TypeError, ValueError
        As for `Sampler.sample` and `Particles`; a sampler that is adaptive or draws no noise; a proposal together with
        noise that is correlated in space.

    Notes
    -----
    An item is resampled before its next state is formed, so copies differ from that state on. Each copy continues with
    its own noise, as in `Run.take`. A reward that is the same for all items gives the results of `Sampler.sample`.

    Examples
    --------
    >>> import ksched
    >>> model = ksched.exact.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.09)
    >>> sampler = ksched.build_sampler("er_sde", "karras", 20)
    >>> x = sampler.initial_state((1000, 1), seed=7)
    >>> result = ksched.steer.sample(sampler, model, x, lambda x0: x0[:, 0], scale=2, seed=7)
    >>> print(f"{result.weights @ result.x[:, 0].double().numpy():.1f}")  # the tilt has the mean 1.145
    1.1
    """
    for model in (denoiser,) if proposal is None else (denoiser, proposal):
        check_agreement(model, sampler.process, sampler.sigmas)
    check_whole("every", every, 1)
    if proposal is not None and isinstance(kind_of(noise), Correlated):
        raise ValueError(f"proposal needs independent noise for its weights; leave out noise={noise!r}")
    run = sampler.start(x, seed=seed, noise=noise)
    particles = Particles(
        len(x),
        seed=seed,
        groups=groups,
        potential=potential,
        ess_threshold=ess_threshold,
        scheme=scheme,
        scale=scale,
    )
    if not isinstance(run, Run):
        raise TypeError(NOT_PARTED)
    mover = _Mover(denoiser) if proposal is None else Twist(run.plan, denoiser, proposal)
    weighed = _weighed(run, every)
    steps = []
    with torch.no_grad():
        while not run.done:
            predicted, denoised, uncond = mover.ask(run)
            if run.nfe in weighed:
                steps.append(run.step)
                chosen = particles.step(reward(predicted), mover.ratio())
                if (chosen != np.arange(len(chosen))).any():
                    run.take(chosen)
                    mover.take(chosen)
                    denoised, uncond = denoised[chosen], None if uncond is None else uncond[chosen]
            run.feed(denoised, uncond)
            mover.fed(run)
        rewards = log_numbers("rewards", reward(run.x))
        particles.finish(rewards, mover.ratio())
    return Steered(
        run.x,
        rewards,
        particles.log_weights,
        particles.weights,
        particles.log_normalizer,
        np.array(particles.effective),
        tuple(steps),
        particles.ancestors,
    )


class _Mover:
    """A model that moves the items itself, with the interface of `Twist`."""

    def __init__(self, denoiser: Model) -> None:
        self._denoiser = denoiser

    def ask(self, run: Run) -> tuple[Any, Any, Any]:
        denoised, uncond = answer(self._denoiser, run.x, run.sigma, run.needs_uncond)
        return denoised, denoised, uncond

    def take(self, chosen: Any) -> None: ...

    def fed(self, run: Run) -> None: ...

    def ratio(self) -> None:
        return None


def _weighed(run: Run, every: int) -> set[int]:
    """The model calls at which items are weighted: the first call of a step, if fresh noise follows."""
    noisy = [call for call, segment in enumerate(run.registers.layout.segments) if segment.draws]
    if not noisy:
        raise ValueError(
            "steering needs a sampler that draws noise, such as dpmpp_2m_sde or euler_ancestral; without noise, copies "
            "of "
            "an item would stay copies"
        )
    steps = run.plan.call_steps
    first = [call for call in range(noisy[-1] + 1) if not call or steps[call] != steps[call - 1]]
    return {call for call in first if steps[call] and steps[call] % every == 0}
