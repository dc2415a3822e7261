"""Tuning from samples: a mixture fitted to some of them is the model, and one fitted to others the judge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ksched.execution.threads import one_thread
from ksched.plan.plan import Plan
from ksched.samplers.linear_multistep import ratio
from ksched.tuning.canonical_plan import flow_level
from ksched.tuning.fit import Problem
from ksched.tuning.job import Job
from ksched.tuning.search import ERROR, TRAJECTORIES, Tuning
from ksched.tuning.surrogate import Surrogate, fit_surrogate, problem_of
from ksched.types import Array

__all__ = ["Sampled"]


_JUDGES = (16, 12, 8, 6, 4, 3, 2, 1)  # numbers of components, other ones than what is fitted to has


class Sampled(Tuning):
    """From samples, with mixtures for a model."""

    def __init__(self, job: Job, samples: Array, data_std: float | None) -> None:
        super().__init__(job)
        if job.level == 2:
            raise ValueError("level 2 goes through a model; give a denoiser, or level 1")
        if job.labels is not None and len(job.labels) != len(samples):
            raise ValueError(f"labels must be one for each of {len(samples)} samples; got {len(job.labels)}")
        self.data_std = float(samples.std()) if data_std is None else float(data_std)
        if not 0 < self.data_std < math.inf:
            raise ValueError(f"data_std must be above 0 and finite; got {self.data_std}")
        self.samples = samples / self.data_std
        ends = (job.process.level(sigma) for sigma in (job.process.sigma_max, job.process.sigma_min))
        self.first, self.low = (ratio(level) * job.process.noise_scale / self.data_std for level in ends)
        self.rng = np.random.default_rng(job.seed)
        self.found: list[Surrogate] = []

    def plan(self) -> Plan:
        """As for `Tuning`."""
        with one_thread():
            return super().plan()

    def _problem(self, samples: Array, labels: Array | None, items: int, components: Sequence[int] | None) -> Problem:
        how: dict[str, Any] = {} if components is None else {"components": components}
        surrogate = fit_surrogate(samples, self.rng, labels=labels, guidance=self.job.guidance, items=items, **how)
        self.found.append(surrogate)
        return problem_of(surrogate, flow_level(self.first), items, self.rng)

    def judges(self) -> tuple[Problem, Problem]:
        """The mixture that is fitted to, on new states, and one of another part of the samples."""
        order = self.rng.permutation(len(self.samples))
        half = len(order) * 2 // 3
        parts = [
            (self.samples[at], None if self.job.labels is None else self.job.labels[at])
            for at in (order[:half], order[half:])
        ]
        self.train = replace(self._problem(self.samples, self.job.labels, TRAJECTORIES, None), noise=ERROR)
        chosen = self.found[0].components
        most = {1: 1, 2: 3, 4: 6, 8: 6, 16: 12, 24: 16}[chosen]
        other = next(k for k in _JUDGES if k == 1 or (k <= most and 15 * k <= len(parts[1][0])))
        items = self.job.items // 2
        first = self._problem(*parts[0], items, None)
        return first, self._problem(*parts[1], items, (other,))

    def fitted(self) -> Iterator[tuple[str, Plan]]:
        """Plans fitted to the mixture."""
        with self.bar(1) as told:
            yield from self.fits(self.train, self.job.end or "integral", "a mixture", told)

    def facts(self) -> dict[str, Any]:
        """Of the samples."""
        return {
            "samples": len(self.samples),
            "components": self.found[0].components,
            "guidance": self.job.guidance,
            "held_out": f"{self.job.items - self.job.items // 2} runs of a mixture fitted to other samples",
        }
