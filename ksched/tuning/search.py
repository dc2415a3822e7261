"""The course of tuning, for samples and denoisers alike: rank the untuned pairs, fit plans, accept or refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ksched.execution.loop import progress_bar
from ksched.execution.threads import one_thread
from ksched.plan.plan import Plan
from ksched.sampler import build_sampler
from ksched.samplers.auto import AutoEnd
from ksched.samplers.linear_multistep import Table, ratio
from ksched.schedules.grid import Grid
from ksched.tuning.baselines import shipped
from ksched.tuning.canonical_plan import canonical, flow_level, linear_of, table_of
from ksched.tuning.fit import Free, Linear, OnGrid, Problem, fit
from ksched.tuning.job import Job
from ksched.tuning.least_squares import least_squares
from ksched.tuning.reference_mixtures import SMALL, SMALLEST, zoo
from ksched.tuning.trial import Trial, objection, typical
from ksched.types import Array

__all__ = ["ERROR", "ITERATIONS", "TRAJECTORIES", "Source", "Tuning"]


TRAJECTORIES = 96  # runs that a table is fitted to


ERROR = 0.001  # relative error assumed for every model, so that plans tolerate it


ITERATIONS = {"surrogate": 80, "model": 60, "grid": 60}


ROUNDS = 6  # of a fit of free rows through a model, at most


#: Runs of a surrogate that free rows are fitted to, iterations, and the least number of steps. Free rows are fitted to
#: nothing else: with a share of other models they lose most of what they gain. In fewer steps they rely most on what
#: the surrogate predicts far from its data, and a network predicts something else there: on the checkpoint of digits at
#: four calls such plans have twice the error of means; from six on, the same.
FREED_WITH, _FREED, _FREED_FROM = 192, 40, 6


_CALLS = 8 * 80  # calls times iterations of a fit to a surrogate, so that more calls take no longer


MORE_ITERATIONS = 30  # with the worst items first, if the first fit is not good enough


TAIL = 2.0  # weight of the worst items in that fit


_FINALISTS = 5  # untuned pairs that are also judged on the held-out items


#: Share of other models among the runs that a plan is fitted to: half where the runs are of one Gaussian, which knows
#: nothing of modes, or few; a tenth where they are of a surrogate that predicts samples better than one Gaussian does.
#: Over eight families of data the error at 6 to 10 calls is a seventh less with a tenth than with half.
_OTHERS, _SOME, _OTHERS_SEED = 0.5, 0.1, 7


_FEW = 6  # with so few calls a mixture says least, and fits are fast enough for more of the other models


#: For free rows. They are made for one model and would lose accuracy on the others, which are guided differently; so
#: the others have no share here.
_RIDGE_FREED = 1e-6


@dataclass(frozen=True)
class Source:
    """A denoiser or samples, as `Tuning` reads them.

    Attributes
    ----------
    data_std : float
        Standard deviation of the data.
    first, low : float
        Ratio of noise to signal of the first and of the lowest level, divided by the std of the data.
    judges : tuple of Problem
        Two problems: one to choose plans on, one held out.
    fitted : callable
        Makes fitted plans for a `Tuning`, one at a time: name and plan.
    facts : callable
        What the report says about the source; called when the report is written.
    """

    data_std: float
    first: float
    low: float
    judges: tuple[Problem, Problem]
    fitted: Callable[[Tuning], Iterator[tuple[str, Plan]]]
    facts: Callable[[], dict[str, Any]]


@dataclass
class Tuning:
    """The course of one call of `tune`."""

    job: Job
    source: Source
    best_untuned: Trial | None = field(default=None, init=False)
    trials: list[Trial] = field(default_factory=list, init=False)

    def plan(self) -> Plan:
        """The chosen plan, with its report."""
        judges = self.source.judges
        plans = self.job.untuned()
        if not plans:
            raise ValueError(f"no pair of sampler and schedule can be built for {self.job.steps} steps on this process")
        ranked = sorted(plans, key=lambda name: typical(self._errors(plans[name], judges[0])))
        plain = [self._tried(name, plans[name], judges) for name in ranked[:_FINALISTS]]
        best = min(plain, key=lambda trial: trial.typical)
        self.best_untuned = best
        tuned: list[Trial] = []
        job = self.job
        if job.sampler is None:
            ready = shipped(job.steps, job.process, self.source.data_std, job.end, job.consistent)
            tuned = [self._tried(name, plan, judges, shipped=True) for name, plan in ready]
        self.trials = tuned
        if job.level > 0 and job.steps > 1:
            for name, plan in self.source.fitted(self):
                tuned.append(self._tried(name, plan, judges))
        accepted = None
        for trial in sorted(tuned, key=lambda trial: trial.score):
            trial.why_not = objection(trial, best) if accepted is None else "another one is better"
            if not trial.why_not and accepted is None:
                accepted = trial
        # nothing fitted is clearly better: of what was not fitted here, `auto` among it, the best
        chosen = accepted or min([best, *(t for t in tuned if t.shipped)], key=lambda trial: trial.typical)
        return replace(chosen.plan, report=self._report(chosen, best, plain, tuned))

    @property
    def best(self) -> Trial:
        """The best plan so far, on the items that plans are chosen on."""
        assert self.best_untuned is not None
        return min([*self.trials, self.best_untuned], key=lambda trial: typical(trial.chosen_on))

    def accepts(self, trial: Trial) -> bool:
        """Whether a fitted plan is better than the best untuned pair."""
        assert self.best_untuned is not None
        return not objection(trial, self.best_untuned)

    @property
    def enough(self) -> bool:
        """Whether some fitted plan is accepted."""
        return any(self.accepts(trial) for trial in self.trials if not trial.shipped)

    def _tried(self, name: str, plan: Plan, judges: tuple[Problem, Problem], shipped: bool = False) -> Trial:
        return Trial(name, plan, self._errors(plan, judges[0]), self._errors(plan, judges[1]), shipped)

    def _errors(self, plan: Plan, judge: Problem) -> torch.Tensor:
        levels, rows = (torch.from_numpy(array) for array in canonical(plan, self.source.data_std))
        with torch.no_grad():
            return judge.errors(levels, rows).double().flatten().nan_to_num(nan=1e9, posinf=1e9)

    def _report(self, chosen: Trial, best: Trial, plain: list[Trial], tuned: list[Trial]) -> dict[str, Any]:
        job = self.job
        if chosen.shipped and chosen.why_not:
            why = f"{chosen.name} has a lower typical error than {best.name}, and no tuned plan was clearly better"
        elif chosen is not best:
            why = f"{chosen.name} has a lower mean, 90th-percentile and worst error than {best.name}"
        elif tuned:
            nearest = min(tuned, key=lambda trial: trial.score)
            why = f"no tuned plan was better than {best.name}; {nearest.name}: {nearest.why_not}"
        else:
            why = f"{best.name} is the best of the untuned pairs; no plan was fitted"
        compared = [*sorted(tuned, key=lambda t: t.held_out.mean()), *sorted(plain, key=lambda t: t.held_out.mean())]
        return {
            "made_by": "ksched.tune",
            "chosen": chosen.name,
            "tuned": chosen is not best,
            "why": why,
            "steps": job.steps,
            "level": job.level,
            "seed": job.seed,
            "process": repr(job.process),
            "data_std": float(f"{self.source.data_std:.6g}"),
            **({"sampler": job.sampler, "options": dict(job.options)} if job.sampler else {}),
            **self.source.facts(),
            "errors": chosen.figures,
            "untuned": {"name": best.name, **best.figures},
            "compared": [
                {"name": t.name, **t.figures, **({"refused": t.why_not} if t.why_not else {})} for t in compared
            ],
        }

    # parts

    def family(self, end: AutoEnd) -> Free | OnGrid:
        """The methods to fit."""
        if self.job.sampler is None:
            return Free(self.job.steps, self.source.first, self.source.low, end)
        return OnGrid(self.on_levels, self.source.data_std, self.job.steps, self.source.first, self.source.low)

    def on_levels(self, levels: Sequence[float]) -> Plan:
        """The fixed sampler on levels given as noise-to-signal ratios, divided by the std of the data."""
        assert self.job.sampler is not None
        sigmas = Table(tuple(levels), tuple((0.0,) * i for i in range(len(levels) - 1))).sigmas(
            self.job.process, self.source.data_std
        )
        return build_sampler(self.job.sampler, sigmas=sigmas, process=self.job.process, **self.job.options).plan

    def fits(
        self,
        problem: Problem,
        end: AutoEnd,
        has_modes: bool,
        told: Callable[[float], object],
        freed_with: Callable[[], Problem] | None = None,
    ) -> Iterator[tuple[str, Plan]]:
        """Plans fitted to runs of a surrogate, until one is accepted.

        The first is fitted to the mean error. The next, from there, has free rows, if ``freed_with`` makes the runs to
        fit them to. The last weighs the worst items more.
        """
        share = _SOME if has_modes else _OTHERS
        with one_thread():
            plan = self.improved(self.starts(end), problem, end, self.iterations, told, share)
        yield f"fitted to a mixture ({end})", plan
        if freed_with is not None and has_modes and self.job.frees and self.job.steps >= _FREED_FROM:
            with one_thread():
                freed = self.freed(plan, freed_with(), told)
            yield "fitted to a mixture (free rows)", freed
        if self.enough and self.job.level < 2:
            return
        with one_thread():
            plan = self.improved(plan, replace(problem, tail=TAIL), end, MORE_ITERATIONS, told, share)
        yield f"fitted to a mixture ({end}, worst items first)", plan

    @property
    def iterations(self) -> int:
        """Iterations of a fit to a surrogate."""
        if self.job.sampler is not None:
            return ITERATIONS["grid"]
        return min(ITERATIONS["surrogate"], max(_CALLS // self.job.steps, MORE_ITERATIONS))

    @cached_property
    def others(self) -> list[Problem]:
        """Problems of other models of all kinds.

        A mixture does not match the model exactly, nor do some of its runs stand for all of them. A plan that is also
        fitted to other models gains a little less on this one, and loses little where the mixture misleads.
        """
        kinds = SMALL if self.job.steps <= _FEW else SMALLEST
        return zoo(flow_level(self.source.first), kinds, _OTHERS_SEED, steps=100)

    def improved(
        self,
        start: Plan,
        problem: Problem,
        end: AutoEnd,
        iterations: int,
        told: Callable[[float], object],
        share: float = _OTHERS,
    ) -> Plan:
        """A plan fitted to a problem and to a share of other models, starting from another plan."""
        family = self.family(end)
        weight = share / (1 - share) / sum(other.spread.numel() for other in self.others)
        problems = [problem, *(replace(p, noise=problem.noise, tail=problem.tail, weight=weight) for p in self.others)]
        if isinstance(family, OnGrid):
            unit_std = self.source.data_std / self.job.process.noise_scale
            levels = [ratio(level) / unit_std for level in Grid.of(start.sigmas, self.job.process).levels]
            numbers = fit(family, problems, family.numbers(levels), iterations=iterations, progress=told)
            return self.on_levels(family.levels(numbers))
        numbers = fit(
            family,
            problems,
            family.numbers(table_of(start, self.source.data_std)),
            iterations=iterations,
            progress=told,
        )
        return self.job.built(family.table(numbers), self.source.data_std)

    def freed(self, start: Plan, problem: Problem, told: Callable[[float], object]) -> Plan:
        """A plan with free rows and free sigmas told to the model, fitted to runs of a surrogate from another plan.

        The result is still exact for a constant prediction, as no surrogate is quite the model.
        """
        family, numbers, levels = self._freed_from(start, problem, True)
        numbers = fit(family, [problem], numbers, iterations=_FREED, ridge=_RIDGE_FREED, progress=told)
        return self.job.built(family.table(numbers, levels), self.source.data_std)

    def freed_by_runs(
        self, start: Plan, problems: Sequence[tuple[Problem, int]], told: Callable[[float], object]
    ) -> Plan:
        """The same with no restriction, fitted to runs of a model without gradients.

        Parameters
        ----------
        problems : sequence of tuple of Problem and int
            Problems to fit to, one after the other, and the largest number of model calls for each.
        """
        family, numbers, levels = self._freed_from(start, problems[0][0], False)
        for problem, calls in problems:
            numbers = least_squares(family, problem, numbers, calls=calls, rounds=ROUNDS, progress=told)
        return self.job.built(family.table(numbers, levels), self.source.data_std)

    def _freed_from(self, start: Plan, problem: Problem, constant: bool) -> tuple[Linear, Array, tuple[float, ...]]:
        """The family of free rows, and the numbers and levels of a plan."""
        table = linear_of(start, self.source.data_std)
        family = Linear(self.job.steps, self.source.first, self.source.low, constant).conditioned([problem], table)
        return family, family.numbers(table), table.levels

    def starts(self, end: AutoEnd) -> Plan:
        """The plan of means to start from: the best untuned pair or the best shipped one with this end."""
        assert self.best_untuned is not None
        means = [trial for trial in self.trials if not trial.plan.tells_others]
        ready = [trial for trial in means if end == "integral" or trial.name == f"auto ({end})"]
        return min([*ready, self.best_untuned], key=lambda trial: typical(trial.chosen_on)).plan

    @contextmanager
    def bar(self, fits: int, *, freed: bool = False, through: bool = False) -> Iterator[Callable[[float], object]]:
        """A progress bar over the iterations of some fits, with ``freed`` also to free rows, and through the model."""
        surrogates = fits * (self.iterations + MORE_ITERATIONS + (_FREED if freed else 0))
        total = surrogates + (0 if freed or not self.job.frees else ROUNDS) + through * ITERATIONS["model"]
        bar = progress_bar(total, 0) if self.job.progress else None
        try:
            yield (lambda loss: None) if bar is None else (lambda loss: bar.update(1))
        finally:
            if bar is not None:
                bar.close()
