"""Fits the tables of `build_sampler("auto")` to synthetic mixtures, without any model or real data.

    python benchmarks/fit_auto_plans.py                all missing tables, about an hour and a half on one core
    python benchmarks/fit_auto_plans.py sd 6 8         those of a range and of some numbers of calls
    python benchmarks/fit_auto_plans.py guidance       those for a given guidance scale
    python benchmarks/fit_auto_plans.py denoised       those that end with the last prediction
    python benchmarks/fit_auto_plans.py freed          those of free rows, from the tables of means

A table that was fitted to the current zoo stays as it is. Any other table is the baseline for its successor: with and
without guidance, the new table must not be worse on the kinds of data that both know. To start over, delete the file.
It is written after every table, whole or not at all, so you can interrupt the command and run it again.

Tables of means are fitted first. In those of free rows the states need not be means of predictions, and the model
receives levels other than theirs; only the result is a mean. Each starts from the table of means for the same number
of calls, and must not lose to it on data like the testbeds or under guidance.

A *zoo* of synthetic mixtures stands in for the models to come (`ksched.tuning.reference_mixtures.WIDE`). The error of
a member says more about the member than about the table. The loss therefore uses the ratio of that error to the error
of the best pair of sampler and schedule on the same member: the mean of its logarithm, and its worst value.

No testbed of ``accuracy.py`` and no family of ``generalisation.py`` is in the zoo. But the kinds of members were
chosen after seeing the errors on the former, and the weight of the worst value after seeing the errors on the latter,
at six calls on one range. That flatters both a little.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _testbeds import RANGES as TESTED

import ksched
from ksched import EDM, VP, Flow
from ksched.plan.trace import trace
from ksched.samplers.auto import choose
from ksched.samplers.linear_multistep import Table
from ksched.samplers.linear_table import LinearTable
from ksched.schedules.grid import Grid
from ksched.tuning.baselines import untuned
from ksched.tuning.canonical_plan import canonical, flow_level, linear_of, table_of
from ksched.tuning.fit import Family, Free, Linear, Problem, fit
from ksched.tuning.reference_mixtures import GUIDED, WIDE, Kind, zoo
from ksched.types import Array

SEED = 2027
ZOO = "wider"
#: numbers of calls by how the run ends, those with the most to gain first
CALLS = {
    "integral": (6, 8, 10, 4, 5, 7, 12, 15, 20, 3, 9, 2, 11, 13, 14, 16, 17, 18, 19, 1),
    "denoised": (6, 8, 10, 4, 5, 3, 2, 1),
}
#: scales of guidance that there are tables for, and the calls of these
SCALES, GUIDED_CALLS = (4.0, 7.0, 2.0), (4, 6, 5, 8, 10)
#: calls of tables of free rows; and, with a scale, the scales and calls. Above, those of means are better
FREED_CALLS = (8, 10, 6, 5, 4)
FREED_SCALES, FREED_GUIDED_CALLS = (4.0, 2.0), (4, 6)
AROUND = 1.25  # scales of a zoo are so far above and below
OUT = Path(ksched.__file__).parent / "data" / "auto_plans.json"

#: first level, and the lowest allowed one, over the standard deviation of the data
RANGES = {
    "sd": (VP().sigma_max, VP().sigma_min),
    "edm": (EDM().sigma_max / 0.5, EDM().sigma_min / 0.5),
    "flow": (math.inf, 1e-3),
}
#: by how the run ends, the error of a network that is assumed, relative to the data
NOISE = {"integral": 0.002, "denoised": 0.02}
SOLVED = (0.001, 0.002)  # errors below which there is little to gain, or to lose
WORST, SHARPNESS = 0.25, 4.0  # share of the worst members in the loss, and which count as such
REWARDED = {"mixture": 1.5, "spectra": 1.5}  # weights of shapes in what is gained; 1 for others
#: weights of shapes in what must not be lost: those like the testbeds of ``accuracy.py``, and by range those under
#: guidance, which EDM's models are hardly used with
KEPT, KEPT_GUIDED = {"spectra": 5.0, "mixture": 3.0, "scales": 3.0, "cloud": 1.0}, {"sd": 1.0, "edm": 0.5, "flow": 1.0}
#: costs of a loss, one fit after the other: a fit with the last one alone does not get away from the table before
COSTS = (1.0, 3.0)
ITERATIONS = 160  # of L-BFGS
#: of the way from the table before to the new one. The rest of it often does not carry over to other data; the file
#: says how far each table went, from 0.5 to 1, which was chosen on the testbeds and on the held-out families
PART = 0.5
#: the same for free rows, for iterations after each of the costs of a loss; and runs of guided members, in multiples
FREED_PART, FREED_ITERATIONS, FREED_COSTS, FREED_RUNS = 0.8, 90, (1.0, 3.0, 10.0), 2
#: for free rows of a given scale: what they are fitted to, iterations, and part of the way. Few iterations and half of
#: the way, because exact mixtures part more sharply under guidance than a trained network does: all of it is nearer on
#: them, and further off on the checkpoint of digits
FREED_GUIDED = (
    Kind(6, 24, 8, guided=True, items=32),
    Kind(4, 64, 10, guided=True, items=32),
    Kind(3, 256, 10, guided=True, items=24),
    Kind(4, 200, 300, "cloud", guided=True, items=24),
)
GUIDED_ITERATIONS, GUIDED_PART = 8, 0.5
SOFT = 0.05  # how round the step from no loss to a loss is


@dataclass(frozen=True)
class Job:
    """One table."""

    of: str
    end: str
    calls: int
    guidance: float | None = None
    freed: bool = False


# ------------------------------------------------------------------------------------------------------------- fitting


@cache
def problems_of(of: str, guidance: float | None, freed: bool) -> tuple[list[Problem], Sequence[Kind]]:
    """The problems of a range, and the kind of each."""
    kinds = WIDE
    if guidance is not None:
        scales = guidance / AROUND, guidance * AROUND
        kinds = tuple(replace(kind, scales=scales) for kind in (FREED_GUIDED if freed else GUIDED))
    elif freed:
        kinds = tuple(replace(kind, items=FREED_RUNS * kind.items) if kind.guided else kind for kind in kinds)
    found = zoo(flow_level(RANGES[of][0]), kinds, SEED, dtype=torch.float64)
    return [replace(p, weight=1 / k.members) for p, k in zip(found, kinds, strict=True)], kinds


class Aim:
    """The goal of a table: better than the best pair, with or without guidance, and not worse than the table before."""

    def __init__(self, job: Job, before: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        problems, kinds = problems_of(job.of, job.guidance, job.freed)
        self.problems, self.cost = [replace(p, noise=NOISE[job.end]) for p in problems], COSTS[0]
        process, std = TESTED[job.of].process, TESTED[job.of].std
        end = "denoised" if job.end == "denoised" else None
        plans = [plan for _, plan in untuned(job.calls, process, end)]
        with torch.no_grad():
            self.pair = torch.stack([self.means(*_tensors(canonical(plan, std))) for plan in plans]).amin(0)
            self.before = None if before is None else self.means(*before)
        self.starts = list(_tables_of(plans, std, RANGES[job.of][1]))
        counts, told = [k.members for k in kinds], job.guidance is not None
        self.rewarded = _each([REWARDED.get(k.of, 1.0) * (told or not k.guided) for k in kinds], counts)
        guided = 1.0 if told else KEPT_GUIDED[job.of]
        self.kept = _each([guided if k.guided else KEPT.get(k.of, 0.0) for k in kinds], counts)

    def means(self, levels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Mean errors of all members."""
        return torch.cat([problem.means(levels, rows) for problem in self.problems])

    def __call__(self, means: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The loss."""
        gained, lost = SOLVED
        share = weights * self.rewarded
        share = share[self.rewarded > 0] / share.sum()
        behind = ((means + gained) / (self.pair + gained)).log()[self.rewarded > 0]
        worst = torch.logsumexp(SHARPNESS * behind + share.log(), 0) / SHARPNESS
        total = (1 - WORST) * share @ behind + WORST * worst
        if self.before is not None:
            share = weights * self.kept
            apart = ((means + lost) / (self.before + lost)).log()
            total = total + self.cost * share @ torch.nn.functional.softplus(apart, 1 / SOFT) / share.sum()
        return total

    def of(self, family: Family, numbers: Array) -> float:
        """The loss of a table, by its numbers."""
        with torch.no_grad():
            weights = torch.cat([torch.full_like(p.spread.reshape(-1), p.weight) for p in self.problems])
            levels, rows = family.rows(torch.from_numpy(numbers))
            return float(self(self.means(levels, rows), weights / weights.sum()))


def _tables_of(plans: Sequence[ksched.Plan], std: float, low: float) -> Iterator[Table]:
    """The tables of those plans that have one, above the lowest sigma."""
    for plan in plans:
        with contextlib.suppress(ValueError):
            table = table_of(plan, std)
            yield Table((table.levels[0], *np.clip(table.levels[1:-1], low * 1.001, None).tolist(), 0.0), table.weights)


def _tensors(arrays: tuple[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])


def _each(values: Sequence[float], counts: Sequence[int]) -> torch.Tensor:
    """A value for every member, taken from its kind."""
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(torch.tensor(counts))


def start_of(of: str, calls: int) -> Table:
    """The start of a fit: a predictor of order 2 with a corrector of order 3, which is also safe under guidance."""
    first, low = RANGES[of]
    if of == "flow":
        sigmas = np.array(ksched.calculate_sigmas("beta57", calls, Flow(3.0)))
        levels = [math.inf, *(sigmas[1:-1] / (1 - sigmas[1:-1])), 0.0]
    elif of == "sd":
        levels = [first, *ksched.calculate_sigmas("beta57", calls, VP())[1:-1], 0.0]
    else:
        levels = [*np.geomspace(first, 10 * low, calls), 0.0]
    levels = [first, *np.clip(levels[1:-1], low * 1.001, None), 0.0]
    how: dict[str, Any] = {"predictor_order": 2, "corrector_order": 3, "end": "integral"}
    how |= {"start_after": 1e-4} if of == "flow" else {}
    sigmas = [flow_level(level) for level in levels]
    return table_of(ksched.build_sampler("exp_pc", sigmas=sigmas, process=Flow(), **how).plan)


def made(job: Job, known: dict[Job, Table], before: Table | None) -> Table:
    """Fit one table, starting from known ones and from the earlier one, and keep the best."""
    first, low = RANGES[job.of]
    if job.calls == 1:  # one prediction is all there is
        return Table((first, 0.0), ((),))
    family = Free(job.calls, first, low, job.end)
    aim = Aim(job, None if before is None else family.rows(torch.from_numpy(family.numbers(before))))
    starts = [start_of(job.of, job.calls), *aim.starts, *_near(job, known), *([] if before is None else [before])]
    losses = [aim.of(family, family.numbers(start)) for start in starts]
    table = starts[losses.index(min(losses))]
    for aim.cost in COSTS:
        numbers = fit(family, aim.problems, family.numbers(table), iterations=ITERATIONS, loss_of=aim)
        table = _rounded(family.table(numbers))
    found = [table] if before is None else [_between(before, table), before]
    ends = [aim.of(family, family.numbers(other)) for other in found]
    print(f"  losses: start {min(losses):.3f}; after, and before", *(f"{loss:.3f}" for loss in ends))
    return found[ends.index(min(ends))]


def freed(job: Job, means: Table, untold: LinearTable | None) -> LinearTable:
    """Fit a table of free rows, starting from a table of means; for a scale, from that of free rows without one."""
    first, low = RANGES[job.of]
    process, std = TESTED[job.of].process, TESTED[job.of].std
    grid = Grid.of(means.sigmas(process, std), process)
    table = linear_of(trace(means.run, grid, {}), std)
    problems = [replace(p, noise=NOISE[job.end], weight=1) for p in problems_of(job.of, job.guidance, job.freed)[0]]
    family = Linear(job.calls, first, low, constant=True).conditioned(problems, table)
    start = numbers = family.numbers(table)
    if job.guidance is not None:
        if untold is not None:
            table, start = untold, family.numbers(untold)
        numbers = fit(family, problems, start, iterations=GUIDED_ITERATIONS, ridge=1e-5)
        return rounded_rows(family.table((1 - GUIDED_PART) * start + GUIDED_PART * numbers, table.levels))
    of_means = Free(job.calls, first, low, job.end)
    aim = Aim(job, of_means.rows(torch.from_numpy(of_means.numbers(means))))
    for aim.cost in FREED_COSTS:
        numbers = fit(family, aim.problems, numbers, iterations=FREED_ITERATIONS, ridge=1e-5, loss_of=aim)
    print(f"  losses: means {aim.of(family, start):.3f}, free rows {aim.of(family, numbers):.3f}")
    return rounded_rows(family.table((1 - FREED_PART) * start + FREED_PART * numbers, table.levels))


def rounded_rows(table: LinearTable) -> LinearTable:
    """Rounded to the digits stored in the file; the last row stays a mean."""
    *rows, last = ([_digits(value) for value in row] for row in table.rows)
    last = [0.0, *last[1:-1], 1 - sum(last[1:-1])]
    levels, told = ((each[0], *map(_digits, each[1:])) for each in (table.levels, table.told))
    return LinearTable(levels, told, tuple(map(tuple, (*rows, last))))


def _between(before: Table, fitted: Table) -> Table:
    """A point part of the way from a table to its successor."""

    def part(a: float, b: float) -> float:
        return (1 - PART) * a + PART * b

    pairs = list(zip(before.levels, fitted.levels, strict=True))[1:-1]
    levels = [before.levels[0], *(math.exp(part(math.log(a), math.log(b))) for a, b in pairs)]
    weights = [tuple(map(part, a, b)) for a, b in zip(before.weights, fitted.weights, strict=True)]
    return _rounded(Table((*levels, 0.0), tuple(weights)))


def _near(job: Job, known: dict[Job, Table]) -> Iterator[Table]:
    """The table of the next smaller NFE, and those of other ranges, whose levels are similar."""
    first, low = RANGES[job.of]
    for other, table in known.items():
        if replace(other, of=job.of) == job and table.levels[-2] > low:
            below = [level for level in table.levels[1:] if level < (first if math.isfinite(first) else 100.0)]
            if len(below) == job.calls:
                yield Table((first, *below), table.weights)
    fewer = [
        other for other in known if replace(other, calls=0) == replace(job, calls=0) and 1 < other.calls < job.calls
    ]
    if fewer:
        yield known[max(fewer, key=lambda other: other.calls)].stretched(job.calls)


def _rounded(table: Table) -> Table:
    """Rounded to the digits stored in the file."""
    weights = tuple(tuple(map(_digits, row)) for row in table.weights)
    return Table((table.levels[0], *map(_digits, table.levels[1:])), weights)


def _digits(value: float) -> float:
    return float(f"{value:.7g}")


# ------------------------------------------------------------------------------------------------------------ the file


def _in_file() -> dict[Job, dict[str, Any]]:
    found = json.loads(OUT.read_text())["tables"] if OUT.exists() else []
    return {Job(t["range"], t["end"], t["calls"], t.get("guidance"), "rows" in t): t for t in found}


def _written(tables: dict[Job, dict[str, Any]]) -> None:
    """Write the file, whole or not at all."""
    head = {"format": "ksched-auto-plans", "version": 3, "made_by": "benchmarks/fit_auto_plans.py"}
    head |= {"seed": SEED, "date": datetime.now(UTC).date().isoformat(), "ranges": _ranges()}
    ordered = sorted(tables, key=lambda job: (job.of, job.end, job.guidance or 0.0, job.freed, job.calls))
    lines = ",\n  ".join(json.dumps(tables[job]) for job in ordered)
    part = OUT.with_suffix(".part")
    part.write_text(json.dumps(head)[:-1] + ',\n "tables": [\n  ' + lines + "\n ]}\n")
    part.rename(OUT)


def _ranges() -> dict[str, Any]:
    """First and lowest level of every range, for JSON, which cannot store infinity."""
    return {name: ["inf" if math.isinf(first) else first, low] for name, (first, low) in RANGES.items()}


def _before(job: Job, tables: dict[Job, dict[str, Any]]) -> Table | None:
    """What `auto` runs without this table."""
    if job in tables:
        return Table.from_dict(tables[job])
    if not OUT.exists():
        return None
    end: Any = job.end
    found = choose(job.calls, TESTED[job.of].process, end=end, data_std=TESTED[job.of].std, consistent=True).table
    assert not isinstance(found, LinearTable)
    return found


def jobs(words: Sequence[str]) -> Iterator[Job]:
    """The requested tables, in the order in which they are made."""
    names = [word for word in words if word in RANGES] or list(RANGES)
    counts = [int(word) for word in words if word.isdigit()]
    guided, freed = ("guidance" in words), ("freed" in words)
    ends = [word for word in words if word in CALLS] or (["integral"] if guided or freed else list(CALLS))
    scales = (FREED_SCALES if freed else SCALES) if guided else (None,)
    for end in ends:
        plain = FREED_CALLS if freed else CALLS[end]
        every = (FREED_GUIDED_CALLS if freed else GUIDED_CALLS) if guided else plain
        for scale, calls in itertools.product(scales, every):
            if calls in counts or not counts:
                yield from (Job(of, end, calls, scale, freed) for of in names)


def main() -> None:
    """Make the requested tables, and write each as soon as it is ready."""
    torch.set_num_threads(1)
    for job in jobs(sys.argv[1:]):
        tables = _in_file()
        if tables.get(job, {}).get("zoo") == ZOO:
            continue
        began = time.process_time()
        table: Table | LinearTable
        if job.freed:
            means = _before(replace(job, freed=False, guidance=None), tables)
            assert means is not None
            untold = tables.get(replace(job, guidance=None))
            table = freed(job, means, None if untold is None else LinearTable.from_dict(untold))
        else:
            fitted = {o: t for o, t in tables.items() if t.get("zoo") == ZOO and not o.freed}
            table = made(job, {o: Table.from_dict(t) for o, t in fitted.items()}, _before(job, tables))
        told = {} if job.guidance is None else {"guidance": job.guidance}
        part = PART if not job.freed else FREED_PART if job.guidance is None else GUIDED_PART
        head = {"range": job.of, "end": job.end, "calls": job.calls, **told, "zoo": ZOO, "part": part}
        _written({**_in_file(), job: {**head, **table.to_dict()}})
        print(*head.values(), f"{time.process_time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
