"""Tuning from a denoiser, which is the judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ksched.options import check_whole
from ksched.plan.plan import Plan
from ksched.tuning.canonical_model import Canonical
from ksched.tuning.canonical_plan import flow_level
from ksched.tuning.fit import NO_SIGNAL, Problem, exact_ends
from ksched.tuning.job import Job
from ksched.tuning.search import ERROR, ITERATIONS, TRAJECTORIES, Tuning
from ksched.tuning.surrogate import fit_surrogate, problem_of
from ksched.tuning.trial import typical

__all__ = ["Modelled"]


_TEACHER = 96  # steps


_NOISY = 0.003  # two answers to one question that differ by more are of a model for which plans of both ends are fitted


#: where they differ by more, the teacher ends at its last prediction: an integral has 4 to 16 times their noise, and is
#: nearer by 0.003 at most
_INEXACT = 0.0003


#: noise that the ends of a teacher may have: by asking again, so many times at most, at this share of the levels. They
#: are the lowest; what follows averages the noise at the others.
_ENDS_NOISE, _REPEATS, _LAST = 0.004, 16, 1 / 3


_DRAWN = 512  # samples of a model, for a mixture to be fitted to


_DRAWN_WITH = 24  # steps


class Modelled(Tuning):
    """From a denoiser, which is the judge."""

    def __init__(
        self,
        job: Job,
        denoiser: Callable[..., Any],
        shape: tuple[int, ...],
        data_std: float | None,
        like: torch.Tensor,
        batch: int,
    ) -> None:
        super().__init__(job)
        check_whole("batch", batch, 1)
        if data_std is not None and not 0 < data_std < math.inf:
            raise ValueError(f"data_std must be above 0 and finite; got {data_std}")
        self.model = Canonical(denoiser, job.process, shape, data_std or 1.0, like, batch)
        self.generator = torch.Generator().manual_seed(job.seed)
        self.rng = np.random.default_rng(job.seed)
        self.measured = data_std is not None
        self.noise = 0.0

    def _starts(self, items: int) -> torch.Tensor:
        noise = torch.randn(items, math.prod(self.model.shape), generator=self.generator, dtype=torch.float64)
        return self.model.s * noise

    def _ends(self, start: torch.Tensor, steps: int, repeats: int = 1) -> torch.Tensor:
        """Where the model's ODE ends; of a noisy one, of the mean of some answers at the last levels."""
        model = self.model
        last = flow_level(model.low ** (1 - _LAST) * min(model.first, NO_SIGNAL) ** _LAST)

        def mean(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            return torch.stack([model(y, s) for _ in range(repeats if s <= last else 1)]).mean(0)

        end = "denoised" if self.noise > _INEXACT else "integral"
        return exact_ends(mean, start, model.s, steps=steps, low=model.low, end=end)

    def judges(self) -> tuple[Problem, Problem]:
        """The model itself, on two sets of start states."""
        self.noise = math.inf  # nothing is known of it yet
        pilot = self._ends(self._starts(min(self.job.items, 64)), _DRAWN_WITH)
        if not self.measured:
            std = _spread(pilot)
            if not 1e-6 < std < 1e6:
                raise ValueError(
                    f"what the denoiser samples has a std of {std:.3g}: it is no denoiser, or the process is another "
                    "one. ksched.check_model finds out what it predicts"
                )
            self.model = self.model.scaled(std)
            pilot = pilot / std
        self.data_std, self.first, self.low = self.model.data_std, self.model.first, self.model.low
        self.noise = self.model.check(pilot, self.generator)
        if self.job.level == 2:
            self.model.check_gradients(pilot)
        start = self._starts(self.job.items)
        ends = self._ends(start, _TEACHER, min(max(math.ceil((self.noise / _ENDS_NOISE) ** 2), 1), _REPEATS))
        half = self.job.items // 2
        self.all_ends = ends
        one, two = (Problem.of(self.model, start[k], ends[k]) for k in (slice(half), slice(half, None)))
        return one, two

    def fitted(self) -> Iterator[tuple[str, Plan]]:
        """Plans fitted to mixtures of what the model draws, and through the model."""
        drawn = self._ends(self._starts(_DRAWN - min(self.job.items, _DRAWN // 2)), _DRAWN_WITH)
        samples = torch.cat([self.all_ends, drawn]).numpy()
        surrogate = fit_surrogate(samples, self.rng, items=TRAJECTORIES)
        problem = problem_of(surrogate, self.model.s, TRAJECTORIES, self.rng, max(ERROR, self.noise))
        ends = self.job.ends() if self.noise > _NOISY else self.job.ends()[:1]
        with self.bar(len(ends), through=self.job.level == 2) as told:
            for end in ends:
                yield from self.fits(problem, end, "a mixture", told)
            if self.job.level == 2:
                yield "fitted through the model", self._through(told)

    def _through(self, told: Callable[[float], object]) -> Plan:
        """The best plan so far, improved on new runs of the model."""
        assert self.best_untuned is not None
        best = min([*self.trials, self.best_untuned], key=lambda trial: typical(trial.chosen_on))
        start = self._starts(max(self.job.items // 2, 32))
        problem = Problem.of(self.model, start, self._ends(start, _TEACHER), noise=max(ERROR, self.noise))
        return self.improved(best.plan, problem, "integral", ITERATIONS["model"], told)

    def facts(self) -> dict[str, Any]:
        """Of the model."""
        return {
            "shape": list(self.model.shape),
            "items": self.job.items,
            "model_calls": self.model.calls,
            "noise_of_the_model": float(f"{self.noise:.3g}"),
            "held_out": f"{self.job.items - self.job.items // 2} runs of the model",
        }


def _spread(ends: torch.Tensor) -> float:
    """Standard deviation of the values of items, without such items as exploded."""
    sizes = ends.square().mean(1).sqrt()
    return ends[sizes < 4 * sizes.median()].std().item()
