"""Tuning for a denoiser: plans are judged by running the denoiser itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ksched.options import check_whole
from ksched.plan.plan import Plan
from ksched.tuning.canonical_model import Canonical
from ksched.tuning.canonical_plan import flow_level
from ksched.tuning.fit import NO_SIGNAL, Problem, exact_ends
from ksched.tuning.job import Job
from ksched.tuning.search import ERROR, ITERATIONS, TRAJECTORIES, Source, Tuning
from ksched.tuning.surrogate import fit_surrogate, problem_of

__all__ = ["of_denoiser"]


_TEACHER = 96  # steps of the reference runs


_NOISY = 0.003  # if two answers to the same question differ by more, plans with both kinds of end are fitted


#: if two answers differ by more than this, reference runs end at their last prediction: an integral has 4 to 16 times
#: the noise of the answers, and is more accurate by 0.003 at most
_INEXACT = 0.0003


#: Noise allowed in the results of reference runs. If there is more, calls at the lowest levels are repeated and
#: averaged; later steps average out noise at the others. Then the most repeats, and the share of levels.
_ENDS_NOISE, _REPEATS, _LAST = 0.004, 16, 1 / 3


_DRAWN = 512  # samples drawn from a model to fit a mixture to


_DRAWN_WITH = 24  # steps of the runs that draw them


_FITTED = 32  # least number of runs for fitting means through the model


#: At level 1, and after it at level 2: the number of drawn runs that free rows are fitted to through the model, and the
#: model calls, counted per item, that the fit may take. At level 1 these are three or four rounds at up to ten steps,
#: and one at fifteen.
_FREED_WITH = (40, 45_000), (160, 200_000)


#: Steps to their exact results. After 24 steps these are wrong by up to 2 %, and free rows reproduce such errors.
_FREED_AFTER = 64


@dataclass(frozen=True)
class _Runs:
    """Reference runs of a model.

    Attributes
    ----------
    model : Canonical
        The model, on data scaled to unit standard deviation.
    generator : Generator
        Generator of the start states.
    noise : float
        Difference between two answers of the model to the same question.
    """

    model: Canonical
    generator: torch.Generator
    noise: float

    def starts(self, items: int) -> torch.Tensor:
        """States of pure noise."""
        shape = items, math.prod(self.model.shape)
        return self.model.s * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def ends(self, start: torch.Tensor, steps: int, repeats: int = 1) -> torch.Tensor:
        """Results of the model's ODE; for a noisy model, from averaged answers at the last levels."""
        model = self.model
        last = flow_level(model.low ** (1 - _LAST) * min(model.first, NO_SIGNAL) ** _LAST)

        def mean(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            return torch.stack([model(y, s) for _ in range(repeats if s <= last else 1)]).mean(0)

        end = "denoised" if self.noise > _INEXACT else "integral"
        return exact_ends(mean, start, model.s, steps=steps, low=model.low, end=end)

    def problem(self, items: int) -> Problem:
        """New runs to fit a plan to."""
        start = self.starts(items)
        return Problem.of(self.model, start, self.ends(start, _TEACHER), noise=max(ERROR, self.noise))


def of_denoiser(
    job: Job,
    denoiser: Callable[..., Any],
    shape: tuple[int, ...],
    data_std: float | None,
    like: torch.Tensor,
    batch: int,
) -> Source:
    """A source that judges plans by running a denoiser on two sets of start states."""
    check_whole("batch", batch, 1)
    if data_std is not None and not 0 < data_std < math.inf:
        raise ValueError(f"data_std must be above 0 and finite; got {data_std}")
    model = Canonical(denoiser, job.process, shape, data_std or 1.0, like, batch)
    runs = _measured(job, model, of_unknown_std=data_std is None)
    model = runs.model
    start = runs.starts(job.items)
    ends = runs.ends(start, _TEACHER, min(max(math.ceil((runs.noise / _ENDS_NOISE) ** 2), 1), _REPEATS))
    half = job.items // 2
    one, two = (Problem.of(model, start[k], ends[k]) for k in (slice(half), slice(half, None)))

    def facts() -> dict[str, Any]:
        return {
            "shape": list(model.shape),
            "items": job.items,
            "model_calls": model.calls,
            "noise_of_the_model": float(f"{runs.noise:.3g}"),
            "held_out": f"{job.items - half} runs of the model",
        }

    def fitted(course: Tuning) -> Iterator[tuple[str, Plan]]:
        return _fitted(course, runs, ends)

    return Source(model.data_std, model.first, model.low, (one, two), fitted, facts)


def _measured(job: Job, model: Canonical, of_unknown_std: bool) -> _Runs:
    """Reference runs of a model, after measuring the std of its samples and the noise of its answers."""
    generator = torch.Generator().manual_seed(job.seed)
    unknown = _Runs(model, generator, math.inf)  # its noise is not measured yet
    pilot = unknown.ends(unknown.starts(min(job.items, 64)), _DRAWN_WITH)
    if of_unknown_std:
        std = _spread(pilot)
        if not 1e-6 < std < 1e6:
            raise ValueError(
                f"the denoiser's samples must have a std from 1e-6 to 1e6; got {std:.3g}. It is not a denoiser, or "
                "the process is wrong; ksched.check_model finds out what it predicts"
            )
        model, pilot = model.scaled(std), pilot / std
    noise = model.check(pilot, generator)
    if job.level == 2:
        model.check_gradients(pilot)
    return _Runs(model, generator, noise)


def _fitted(course: Tuning, runs: _Runs, ends: torch.Tensor) -> Iterator[tuple[str, Plan]]:
    """Plans fitted to mixtures of what the model draws, and through the model."""
    job, rng = course.job, np.random.default_rng(course.job.seed)
    start = runs.starts(_DRAWN - min(job.items, _DRAWN // 2))
    drawn = runs.ends(start, _DRAWN_WITH)
    surrogate = fit_surrogate(torch.cat([ends, drawn]).numpy(), rng, items=TRAJECTORIES)
    problem = problem_of(surrogate, runs.model.s, TRAJECTORIES, rng, max(ERROR, runs.noise))
    kinds = job.ends() if runs.noise > _NOISY else job.ends()[:1]
    with course.bar(len(kinds), through=job.level == 2) as told:
        for end in kinds:
            yield from course.fits(problem, end, surrogate.has_modes, told)
            if course.enough and job.level < 2:
                break
        if job.frees:
            results = runs.ends(start[: _FREED_WITH[job.level - 1][0]], _FREED_AFTER)
            noise = max(ERROR, runs.noise)
            seen = [
                (Problem.of(runs.model, start[:n], results[:n], noise=noise), calls)
                for n, calls in _FREED_WITH[: job.level]
            ]
            yield "fitted through the model", course.freed_by_runs(course.best.plan, seen, told)
            if course.accepts(course.trials[-1]):
                return
        if job.level == 2:
            new = runs.problem(max(job.items // 2, _FITTED))
            words = "fitted through the model" + (" (means)" if job.sampler is None else "")
            yield words, course.improved(course.best.plan, new, "integral", ITERATIONS["model"], told)


def _spread(ends: torch.Tensor) -> float:
    """Standard deviation of the values of all items, leaving out items that exploded."""
    sizes = ends.square().mean(1).sqrt()
    return ends[sizes < 4 * sizes.median()].std().item()
