"""The tables of `build_sampler("auto")`: fitted to synthetic mixtures, no model and no data in sight.

    python benchmarks/fit_auto_plans.py               every table, about half an hour on two cores
    python benchmarks/fit_auto_plans.py sd integral   those of a range and an end

What is in the file already is kept and gone on from: take the file away to begin anew.

A *zoo* of synthetic mixtures, a third of them under guidance, stands in for the models to come (`ksched.tuning.zoo`).
The loss is that of `ksched.tuning.fit`: the mean log of the mean error of every member.

The testbeds of ``accuracy.py`` are not in the zoo. What kinds of members there are was chosen with their errors in
sight, which flatters these a little.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ksched
from ksched import EDM, VP, Flow
from ksched.samplers.linear_multistep import Table
from ksched.tuning.canonical_plan import flow_level, table_of
from ksched.tuning.fit import Free, Problem, fit
from ksched.tuning.reference_mixtures import LARGE, zoo

SEED = 2026
#: numbers of calls by how the run ends; and such that are near the one below, from which they start
CALLS = {"integral": (*range(1, 9), 10, 12, 15), "denoised": (1, 2, 3, 4, 5, 6, 8, 10)}
BETWEEN = {"integral": (13, 14, 16, 17, 18, 19, 20), "denoised": ()}
ITERATIONS = 110  # half of it from 11 calls on, a quarter for what is between
BOTH = 6  # calls up to which a fit is started from a known method too
OUT = Path(ksched.__file__).parent / "data" / "auto_plans.json"

#: first level, and the lowest allowed one, over the standard deviation of the data
RANGES = {
    "sd": (VP().sigma_max, VP().sigma_min),
    "edm": (EDM().sigma_max / 0.5, EDM().sigma_min / 0.5),
    "flow": (math.inf, 1e-3),
}
#: by how the run ends, the error of a network that is assumed, relative to the data
NOISE = {"integral": 0.002, "denoised": 0.02}


# ------------------------------------------------------------------------------------------------------------- fitting


@cache
def problems_of(of: str) -> list[Problem]:
    """Of a range."""
    return zoo(flow_level(RANGES[of][0]), LARGE, SEED)


def start_of(of: str, calls: int) -> Table:
    """Where a fit starts: a predictor of order 2 with a corrector of order 3, which is safe under guidance too."""
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


def made(of: str, end: str, calls: int, last: Table | None) -> Table:
    """One table, from the one of fewer calls or from a known method, whichever ends better."""
    first, low = RANGES[of]
    if calls == 1:  # one prediction is all there is
        return Table((first, 0.0), ((),))
    problems = [replace(p, noise=NOISE[end]) for p in problems_of(of)]
    family = Free(calls, first, low, end)
    starts = [start_of(of, calls)] if last is None or last.calls == 1 or (calls <= BOTH and end == "integral") else []
    starts += [last.stretched(calls)] if last is not None and last.calls > 1 else []
    found: list[tuple[float, Table]] = []
    for start in starts:
        losses = [math.inf]
        numbers = fit(family, problems, family.numbers(start), iterations=_iterations(calls), progress=losses.append)
        found.append((losses[-1], family.table(numbers)))
    return _rounded(min(found, key=lambda pair: pair[0])[1])


def _iterations(calls: int) -> int:
    if calls <= 10:
        return ITERATIONS
    return ITERATIONS // (2 if calls in CALLS["integral"] else 4)


def _rounded(table: Table) -> Table:
    """With the digits that the file has."""

    def digits(value: float) -> float:
        return float(f"{value:.7g}")

    weights = tuple(tuple(map(digits, row)) for row in table.weights)
    return Table((table.levels[0], *map(digits, table.levels[1:])), weights)


def _chain(job: tuple[str, str]) -> Iterator[dict[str, Any]]:
    """All tables of a range and an end that are not in the file, each from the last."""
    torch.set_num_threads(1)
    of, end = job
    there = {calls: Table.from_dict(t) for (*key, calls), t in _in_file().items() if (of, end) == tuple(key)}
    for calls in (*CALLS[end], *BETWEEN[end]):
        if calls not in there:
            below = max((c for c in CALLS[end] if c < calls), default=0)
            there[calls] = made(of, end, calls, there.get(below))
            yield {"range": of, "end": end, "calls": calls, **there[calls].to_dict()}


def _in_file() -> dict[tuple[str, str, int], dict[str, Any]]:
    found = json.loads(OUT.read_text())["tables"] if OUT.exists() else []
    return {(t["range"], t["end"], t["calls"]): t for t in found}


def _put(job: tuple[str, str], queue: Any) -> None:
    try:
        for table in _chain(job):
            queue.put(table)
    finally:
        queue.put(None)


def main() -> None:
    """Make the tables that are asked for, and write each as soon as it is there."""
    names = [a for a in sys.argv[1:] if a in RANGES] or list(RANGES)
    ends = [a for a in sys.argv[1:] if a in NOISE] or list(NOISE)
    jobs = [(of, end) for end in ends for of in names]
    tables = _in_file()
    with multiprocessing.Manager() as manager, ProcessPoolExecutor(2) as pool:
        queue = manager.Queue()
        running = [pool.submit(_put, job, queue) for job in jobs]
        left = len(jobs)
        while left:
            table = queue.get()
            if table is None:
                left -= 1
                continue
            tables[table["range"], table["end"], table["calls"]] = table
            print(table["range"], table["end"], table["calls"], flush=True)
            head = {"format": "ksched-auto-plans", "version": 1, "made_by": "benchmarks/fit_auto_plans.py"}
            head |= {"seed": SEED, "date": datetime.now(UTC).date().isoformat(), "ranges": _ranges()}
            lines = ",\n  ".join(json.dumps(tables[key]) for key in sorted(tables))
            OUT.write_text(json.dumps(head)[:-1] + ',\n "tables": [\n  ' + lines + "\n ]}\n")
        for job in running:
            job.result()


def _ranges() -> dict[str, Any]:
    """First and lowest level of every range, for JSON, which has no infinity."""
    return {name: ["inf" if math.isinf(first) else first, low] for name, (first, low) in RANGES.items()}


if __name__ == "__main__":
    main()
