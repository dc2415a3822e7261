"""Tuning on samples: a mixture fitted to some samples replaces the model; another, fitted to the rest, judges plans."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ksched.plan.plan import Plan
from ksched.samplers.linear_multistep import ratio
from ksched.tuning.canonical_plan import flow_level
from ksched.tuning.fit import Problem
from ksched.tuning.job import Job
from ksched.tuning.search import ERROR, FREED_WITH, TRAJECTORIES, Source, Tuning
from ksched.tuning.surrogate import Surrogate, fit_surrogate, problem_of
from ksched.types import Array

__all__ = ["of_samples"]


_JUDGES = (16, 12, 8, 6, 4, 3, 2, 1)  # numbers of components of the judge, which differ from the fitted mixture's


def of_samples(job: Job, samples: Array, data_std: float | None) -> Source:
    """Make a source from two mixtures fitted to separate samples: one to choose plans on, one to judge them."""
    if job.level == 2:
        raise ValueError("level 2 needs a denoiser, since it works through the model; pass a denoiser, or level=1")
    if job.labels is not None and len(job.labels) != len(samples):
        raise ValueError(f"labels must have one entry for each of the {len(samples)} samples; got {len(job.labels)}")
    std = float(samples.std()) if data_std is None else float(data_std)
    if not 0 < std < math.inf:
        raise ValueError(f"data_std must be above 0 and finite; got {std}")
    samples = samples / std
    ends = (job.process.level(sigma) for sigma in (job.process.sigma_max, job.process.sigma_min))
    first, low = (ratio(level) * job.process.noise_scale / std for level in ends)
    rng = np.random.default_rng(job.seed)

    def mixture(
        samples: Array, labels: Array | None, items: int, components: Sequence[int] | None = None
    ) -> tuple[Surrogate, Problem]:
        how: dict[str, Any] = {} if components is None else {"components": components}
        surrogate = fit_surrogate(samples, rng, labels=labels, guidance=job.guidance, items=items, **how)
        return surrogate, problem_of(surrogate, flow_level(first), items, rng)

    order = rng.permutation(len(samples))
    half = len(order) * 2 // 3
    parts = [(samples[at], None if job.labels is None else job.labels[at]) for at in (order[:half], order[half:])]
    fitted_to, problem = mixture(samples, job.labels, TRAJECTORIES)
    train = replace(problem, noise=ERROR)
    most = {1: 1, 2: 3, 4: 6, 8: 6, 16: 12}.get(fitted_to.components, max(_JUDGES))
    other = next(k for k in _JUDGES if k == 1 or (k <= most and 15 * k <= len(parts[1][0])))
    items = job.items // 2
    chosen_on = mixture(*parts[0], items)[1]
    held_out = mixture(*parts[1], items, (other,))[1]

    def freed_with() -> Problem:
        how: dict[str, Any] = {"labels": job.labels, "guidance": job.guidance, "items": FREED_WITH}
        again = fit_surrogate(samples, np.random.default_rng(job.seed), **how) if job.guidance != 1 else fitted_to
        return problem_of(again, flow_level(first), FREED_WITH, rng, ERROR)

    def fitted(course: Tuning) -> Iterator[tuple[str, Plan]]:
        with course.bar(1, freed=job.frees) as told:
            yield from course.fits(train, job.end or "integral", fitted_to.has_modes, told, freed_with)

    facts = {
        "samples": len(samples),
        "components": fitted_to.components,
        "guidance": job.guidance,
        "held_out": f"{job.items - items} runs of a mixture fitted to other samples",
    }
    return Source(std, first, low, (chosen_on, held_out), fitted, lambda: facts)
