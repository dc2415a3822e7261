"""The course of tuning, the same for samples and for a model: try what there is, fit, guard."""

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
from ksched.tuning.reference_mixtures import SMALL, SMALLEST, zoo
from ksched.tuning.trial import Trial, objection, typical

__all__ = ["ERROR", "ITERATIONS", "TRAJECTORIES", "Source", "Tuning"]


TRAJECTORIES = 96  # that a table is fitted to


ERROR = 0.001  # of a model, relative to the data, that every plan is made to bear


ITERATIONS = {"surrogate": 80, "model": 60, "grid": 60}


FREE_ITERATIONS = (14, 12)  # of free rows through a model, on few runs and on more


_CALLS = 8 * 80  # of a surrogate's fit, calls times iterations: with more calls it takes no longer


MORE_ITERATIONS = 30  # with the worst items first, if that is not good enough


TAIL = 2.0  # how much the worst items count then


_FINALISTS = 5  # of the pairs that were not tuned, judged on the held-out items too


_OTHERS, _OTHERS_SEED = 0.5, 7  # share of other models in what a plan is fitted to, and which


_FEW = 6  # calls that a mixture says least of, and that are soon fitted, so that there are more of the others


#: Of free rows. They are for one model, so no others have a share: on these, which are not guided as it is, they lose.
_RIDGE_FREED = 1e-6


@dataclass(frozen=True)
class Source:
    """A model, or samples, as `Tuning` sees it.

    Attributes
    ----------
    data_std : standard deviation of the data
    first, low : noise over signal of the first level and of the lowest, over the std of the data
    judges : problems to choose plans on, and held out
    fitted : plans that are made for it, by a `Tuning`, as they are wanted: name and plan
    facts : what the report says of it, when it is written
    """

    data_std: float
    first: float
    low: float
    judges: tuple[Problem, Problem]
    fitted: Callable[[Tuning], Iterator[tuple[str, Plan]]]
    facts: Callable[[], dict[str, Any]]


@dataclass
class Tuning:
    """The course that is the same for samples and for a model: try what there is, tune, guard."""

    job: Job
    source: Source
    best_untuned: Trial | None = field(default=None, init=False)
    trials: list[Trial] = field(default_factory=list, init=False)

    def plan(self) -> Plan:
        """The plan, with its report."""
        judges = self.source.judges
        plans = self.job.untuned()
        if not plans:
            raise ValueError(f"no pair of sampler and schedule can be built for {self.job.steps} steps on this process")
        ranked = sorted(plans, key=lambda name: typical(self._errors(plans[name], judges[0])))
        plain = [self._tried(name, plans[name], judges) for name in ranked[:_FINALISTS]]
        best = min(plain, key=lambda trial: trial.typical)
        self.best_untuned = best
        tuned: list[Trial] = []
        if self.job.sampler is None:
            ready = shipped(self.job.steps, self.job.process, self.source.data_std, self.job.end)
            tuned = [self._tried(name, plan, judges, shipped=True) for name, plan in ready]
        self.trials = tuned
        if self.job.level > 0 and self.job.steps > 1:
            for name, plan in self.source.fitted(self):
                tuned.append(self._tried(name, plan, judges))
                if not objection(tuned[-1], best) and self.job.level < 2:  # good enough
                    break
        accepted = None
        for trial in sorted(tuned, key=lambda trial: trial.score):
            trial.why_not = objection(trial, best) if accepted is None else "another one is better"
            if not trial.why_not and accepted is None:
                accepted = trial
        chosen = accepted or best
        return replace(chosen.plan, report=self._report(chosen, best, plain, tuned))

    def _tried(self, name: str, plan: Plan, judges: tuple[Problem, Problem], shipped: bool = False) -> Trial:
        return Trial(name, plan, self._errors(plan, judges[0]), self._errors(plan, judges[1]), shipped)

    def _errors(self, plan: Plan, judge: Problem) -> torch.Tensor:
        levels, rows = (torch.from_numpy(array) for array in canonical(plan, self.source.data_std))
        with torch.no_grad():
            return judge.errors(levels, rows).double().flatten().nan_to_num(nan=1e9, posinf=1e9)

    def _report(self, chosen: Trial, best: Trial, plain: list[Trial], tuned: list[Trial]) -> dict[str, Any]:
        job = self.job
        if chosen is not best:
            why = f"{chosen.name} is better than {best.name} in mean, 90th percentile and worst item"
        elif tuned:
            nearest = min(tuned, key=lambda trial: trial.score)
            why = f"no tuned plan was better than {best.name}; {nearest.name}: {nearest.why_not}"
        else:
            why = f"{best.name} is the best of the pairs, and nothing was tuned"
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
        """What is fitted."""
        if self.job.sampler is None:
            return Free(self.job.steps, self.source.first, self.source.low, end)
        return OnGrid(self.on_levels, self.source.data_std, self.job.steps, self.source.first, self.source.low)

    def on_levels(self, levels: Sequence[float]) -> Plan:
        """The fixed sampler on levels, noise to signal over the std of the data."""
        assert self.job.sampler is not None
        sigmas = Table(tuple(levels), tuple((0.0,) * i for i in range(len(levels) - 1))).sigmas(
            self.job.process, self.source.data_std
        )
        return build_sampler(self.job.sampler, sigmas=sigmas, process=self.job.process, **self.job.options).plan

    def fits(
        self, problem: Problem, end: AutoEnd, words: str, told: Callable[[float], object]
    ) -> Iterator[tuple[str, Plan]]:
        """Plans fitted to a problem: for the mean, and from there for the worst items too."""
        with one_thread():
            plan = self.improved(self.starts(end), problem, end, self.iterations, told)
        yield f"fitted to {words} ({end})", plan
        with one_thread():
            plan = self.improved(plan, replace(problem, tail=TAIL), end, MORE_ITERATIONS, told)
        yield f"fitted to {words} ({end}, worst items first)", plan

    @property
    def iterations(self) -> int:
        """Of a fit to a surrogate."""
        if self.job.sampler is not None:
            return ITERATIONS["grid"]
        return min(ITERATIONS["surrogate"], max(_CALLS // self.job.steps, MORE_ITERATIONS))

    @cached_property
    def others(self) -> list[Problem]:
        """Models of all kinds.

        A mixture is not quite the model, nor are some runs of it all its runs. A plan that is fitted to others as well
        gains a little less on these, and loses little where they mislead.
        """
        kinds = SMALL if self.job.steps <= _FEW else SMALLEST
        return zoo(flow_level(self.source.first), kinds, _OTHERS_SEED, steps=100)

    def improved(
        self, start: Plan, problem: Problem, end: AutoEnd, iterations: int, told: Callable[[float], object]
    ) -> Plan:
        """A plan fitted to a problem and to other models, from another one."""
        family = self.family(end)
        weight = _OTHERS / (1 - _OTHERS) / sum(other.spread.numel() for other in self.others)
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

    def freed(self, start: Plan, problems: Sequence[Problem], told: Callable[[float], object]) -> Plan:
        """A plan with free rows, and levels of their own that the model is told, fitted from another one.

        Parameters
        ----------
        problems : to fit to one after the other
        """
        std = self.source.data_std
        table = linear_of(start, std)
        family = Linear(self.job.steps, self.source.first, self.source.low).conditioned(problems[0], table)
        numbers = family.numbers(table)
        for problem, count in zip(problems, FREE_ITERATIONS, strict=True):
            numbers = fit(family, [problem], numbers, iterations=count, ridge=_RIDGE_FREED, progress=told)
        return self.job.built(family.table(numbers, table.levels), std)

    def starts(self, end: AutoEnd) -> Plan:
        """The plan to start from: the best of the shipped ones that can have that end, and the best untuned."""
        assert self.best_untuned is not None
        ready = [trial for trial in self.trials if end == "integral" or trial.name == f"auto ({end})"]
        return min([*ready, self.best_untuned], key=lambda trial: typical(trial.chosen_on)).plan

    @contextmanager
    def bar(self, fits: int, through: bool = False) -> Iterator[Callable[[float], object]]:
        """A progress bar over the iterations of so many fits, and of one through the model."""
        last = sum(FREE_ITERATIONS) if self.job.frees else ITERATIONS["model"]
        total = fits * (self.iterations + MORE_ITERATIONS) + through * last
        bar = progress_bar(total, 0) if self.job.progress else None
        try:
            yield (lambda loss: None) if bar is None else (lambda loss: bar.update(1))
        finally:
            if bar is not None:
                bar.close()
