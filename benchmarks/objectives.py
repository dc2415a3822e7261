"""Whether a plan of very few calls should be fitted to the law of the results instead of to each result.

LD3 and S4S argue that a solver of few calls cannot follow the ODE of a model, and fit to a soft teacher or to samples
instead. Here one family of plans, means or free rows, is fitted twice to runs of an exact denoiser (``_families.py``):
to the distance of every result from the exact solution of the ODE ("path"), and to the energy distance (Szekely & Rizzo
2013, https://doi.org/10.1016/j.jspi.2013.03.018) between all results and exact samples ("law"). Both are measured on
other runs: the mean error, and the energy distance relative to the mean distance of two samples. "exact" is the energy
distance of exact samples from each other, which is chance.

Run from the repository root: ``python benchmarks/objectives.py``; three minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _families import FAMILIES, SEED
from _measure import RESULTS, facts, table, write
from _testbeds import RANGES
from generalisation import auto_of, start_of

from ksched.samplers.linear_multistep import ratio
from ksched.tuning.canonical_plan import canonical, flow_level, linear_of, table_of
from ksched.tuning.fit import Family, Free, Linear, Problem, exact_ends, fit
from ksched.types import Array

CASES = (("sd", "two_level"), ("sd", "roll"), ("flow", "tabular"), ("flow", "photo"))
CALLS = (2, 3, 4)
RUNS, TESTED = 400, 1500
ITERATIONS = 60
SCALE = 10.0  # of the energy distance as a loss, so that its slopes are like those of errors


@dataclass(frozen=True, eq=False)
class Law(Problem):
    """Runs that are compared with samples as a whole.

    Attributes
    ----------
    samples : Tensor
        Exact samples, shape (samples, dimension).
    """

    samples: torch.Tensor | None = None

    def energy(self, levels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Energy distance between the results and the samples, over the mean distance of two samples."""
        assert self.samples is not None
        results = self.run(levels, rows)[0][-1].flatten(0, -2)
        within = [torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (results, self.samples)]
        return (2 * torch.cdist(results, self.samples).mean() - within[0] - within[1]) / within[1]

    def means(self, levels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The energy distance, which may come out below 0 by chance, as the one error of a model."""
        return self.energy(levels, rows).abs().reshape(1)


def runs(of: str, family: str, count: int, seed: int) -> Law:
    """Runs of a family, with exact results of as many others as samples."""
    made, s = FAMILIES[family](SEED), flow_level(start_of(of))
    generator = torch.Generator().manual_seed(seed)
    start = s * torch.randn(1, 2 * count, made.dimension, generator=generator, dtype=torch.float64)
    ends = exact_ends(made.denoise, start, s, steps=100)
    path = Problem.of(made.denoise, start[:, :count], ends[:, :count], models=True, noise=0.001)
    return Law(path.denoise, path.start, path.ends, path.spread, path.noise, samples=ends[0, count:])


def fitted(family: Family, start: Array, train: Law) -> dict[str, Array]:
    """The numbers of a family, fitted to the path, and from there to the law."""
    path = Problem(train.denoise, train.start, train.ends, train.spread, train.noise)
    one = fit(family, [path], start, iterations=ITERATIONS, ridge=1e-6)
    law = fit(family, [train], one, iterations=ITERATIONS, loss_of=lambda means, _: SCALE * means.sum())
    return {"path": one, "law": law}


def measured(of: str, family: str, calls: int) -> dict[str, Any]:
    """Error and energy distance of `auto`, and of both families fitted to both."""
    train, test = runs(of, family, RUNS, 7), runs(of, family, TESTED, 8)
    process, std = RANGES[of].process, RANGES[of].std
    plan, low = auto_of(of, calls, consistent=True), ratio(process.level(process.sigma_min)) / std

    @torch.no_grad()
    def figures(levels: torch.Tensor, rows: torch.Tensor) -> dict[str, float]:
        return {"error": float(test.errors(levels, rows).mean()), "energy": float(test.energy(levels, rows))}

    assert test.samples is not None
    exact = Law(test.denoise, test.ends, test.ends, test.spread, samples=test.samples)
    levels, rows = (torch.from_numpy(array) for array in canonical(plan, std))
    nothing = torch.eye(1, dtype=torch.float64)
    found = {"exact": {"energy": float(exact.energy(levels[:0], nothing))}, "auto": figures(levels, rows)}
    means = Free(calls, start_of(of), low, "integral")
    free = Linear(calls, start_of(of), low).conditioned([train], linear_of(plan, std))
    for name, made, start in (
        ("means", means, means.numbers(table_of(plan, std))),
        ("free rows", free, free.numbers(linear_of(plan, std))),
    ):
        for objective, numbers in fitted(made, start, train).items():
            found[f"{name}, {objective}"] = figures(*made.rows(torch.from_numpy(numbers)))
    return found


def summary(data: Mapping[str, Any]) -> str:
    """Everything as a text table."""
    rows = [
        [row["of"], row["family"], str(row["calls"]), name, f"{cell.get('error', 0):.4f}", f"{cell['energy']:.5f}"]
        for row in data["rows"]
        for name, cell in row["methods"].items()
    ]
    return table(["range", "family", "calls", "plan", "error", "energy distance"], rows)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", nargs="+", type=int, default=list(CALLS), metavar="N")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data: dict[str, Any] = {**facts(), "runs": RUNS, "rows": []}
    for of, family in CASES:
        for calls in given.calls:
            row = {"of": of, "family": family, "calls": calls, "methods": measured(of, family, calls)}
            data["rows"].append(row)
            print(json.dumps(row), flush=True)
    print(summary(data))
    write(given.out, "objectives", data)


if __name__ == "__main__":
    main()
