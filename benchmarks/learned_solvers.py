"""Solvers that papers fit to a model, beside ksched's, on the same problems at equal model calls of training.

`_learned.py` implements them from their papers as options of ksched's fit: which numbers are free, and how they are
found. Each starts from `ipndm` on the papers' schedule and may spend as many model calls as ``tune(level=2)`` did at
the same NFE, where a backward pass counts as two more; GITS and OSS need fewer. The data are families with exact
denoisers (``_families.py``), which no shipped table was fitted to, and the handwritten-digit checkpoint at guidance
4. Errors are distances from where the ODE ends, divided by the spread of the ends, for start states that no fit saw.
Given are the mean, and the mean PSNR in dB, with a peak of four standard deviations of the data, as for pixels from
-1 to 1 with standard deviation 0.5.

Run from the repository root: ``python benchmarks/learned_solvers.py``; an hour on one core. ``--beds`` and
``--calls`` select parts. New figures replace the old ones in the results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from _families import FAMILIES, SEED
from _learned import BACKWARD, METHODS, Bed, Fitted
from _measure import RESULTS, facts, table, write
from _testbeds import RANGES, geometric_mean

import ksched
from ksched.plan.plan import Plan
from ksched.samplers.linear_multistep import ratio
from ksched.tuning.baselines import untuned
from ksched.tuning.canonical_plan import canonical, flow_level
from ksched.tuning.fit import Denoise, Problem, exact_ends

CALLS = (4, 5, 6, 8, 10)
DATA = ("tabular", "photo", "two_level")
ITEMS, TRUTH, TEACHER = 192, 400, 64  # start states that are judged; steps of exact runs, and of those fitted to
PEAK = 4.0  # standard deviations of the data
CHECKPOINT, IMAGES = "checkpoint", 100
REFERENCE = "dpmpp_2m"  # with karras; from pure noise, with simple
NO_COST = {"numbers": 0, "calls": 0, "seconds": 0.0}


class Model:
    """The input of `tune`: a denoiser for states of a process, which counts its calls.

    Attributes
    ----------
    calls : every item counted, a pass back as two more
    """

    def __init__(self, answer: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        self._answer, self.calls = answer, 0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> Any:
        """The predictions."""
        self.calls += len(x) * (1 + BACKWARD * (torch.is_grad_enabled() and x.requires_grad))
        return self._answer(x, sigma)


@dataclass(frozen=True, eq=False)
class Data:
    """A family of exact data on a range, as a `Bed` and for `tune`."""

    of: str
    family: str
    items: int = 128  # of tune
    batch: int = 64

    @property
    def process(self) -> ksched.Process:
        """Of the range."""
        return RANGES[self.of].process

    @property
    def data_std(self) -> float:
        """Of the range."""
        return RANGES[self.of].std

    @property
    def first(self) -> float:
        """Noise-to-signal ratio at the start of runs, divided by the std of the data."""
        return ratio(self.process.level(RANGES[self.of].start)) / self.data_std

    @property
    def low(self) -> float:
        """Lowest noise-to-signal ratio of a call, divided by the std of the data."""
        return ratio(self.process.level(self.process.sigma_min)) / self.data_std

    @cached_property
    def denoise(self) -> Denoise:
        """Exact, in flow coordinates; states have an axis of models before that of items."""
        return FAMILIES[self.family](SEED).denoise

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        return (FAMILIES[self.family](SEED).dimension,)

    def starts(self, items: int, seed: int) -> torch.Tensor:
        """As for `Bed`."""
        generator = torch.Generator().manual_seed(seed)
        return flow_level(self.first) * torch.randn(1, items, *self.shape, generator=generator, dtype=torch.float64)

    def problem(self, denoise: Denoise, start: torch.Tensor, steps: int = TEACHER) -> Problem:
        """As for `Bed`."""
        ends = exact_ends(denoise, start, flow_level(self.first), steps=steps, low=1e-5)
        return Problem.of(denoise, start, ends, models=True)

    def test(self) -> Problem:
        """The test runs for all methods."""
        return self.problem(self.denoise, self.starts(ITEMS, SEED), TRUTH)

    def answer(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Answer a call of `tune`."""
        level, process = sigma[0].double(), self.process
        alpha, noise = torch.as_tensor(process.alpha(level)), torch.as_tensor(process.noise_std(level))
        scale = alpha * self.data_std + noise
        return self.data_std * self.denoise((x / scale)[None], noise / scale)[0]


def tuned(bed: Any, calls: int, level: int) -> tuple[Plan, int]:
    """The plan of `tune` through the model, and the calls that it took."""
    model = Model(bed.answer)
    how = {"process": bed.process, "shape": bed.shape, "items": bed.items, "batch": bed.batch}
    dtype = torch.float64 if isinstance(bed, Data) else torch.float32
    plan = ksched.tune(model, calls, level=level, dtype=dtype, **how)
    return plan, model.calls


@torch.no_grad()
def figures(levels: torch.Tensor, rows: torch.Tensor, test: Problem) -> dict[str, float]:
    """Mean, median and 90th percentile of the errors, and PSNR."""
    errors = test.errors(levels, rows).double().flatten().nan_to_num(nan=1e6, posinf=1e6)
    psnr = 20 * (PEAK / errors).log10()
    found = {"mean": errors.mean(), "median": errors.median(), "p90": errors.quantile(0.9), "psnr": psnr.mean()}
    return {name: float(value) for name, value in found.items()}


def of_plan(plan: Plan, std: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels and rows of a plan, as for `Problem.errors`."""
    levels, rows = canonical(plan, std)
    return torch.from_numpy(levels), torch.from_numpy(rows)


def used(calls: int, process: ksched.Process) -> Plan:
    """Build the common choice."""
    schedule = "simple" if process.level(process.sigma_max).alpha == 0 else "karras"
    return ksched.build_sampler(REFERENCE, schedule, calls, process=process).plan


def pairs(bed: Any, calls: int, test: Problem) -> dict[str, Any]:
    """The pair that people use, and the best of those that `tune` compares with, after seeing the errors."""
    made = dict(untuned(calls, bed.process, None))
    found = {name: figures(*of_plan(plan, bed.data_std), test) for name, plan in made.items()}
    best = min(found, key=lambda name: found[name]["mean"])
    return {
        REFERENCE: {**figures(*of_plan(used(calls, bed.process), bed.data_std), test), **NO_COST},
        "best pair": {**found[best], **NO_COST, "chosen": best},
    }


TUNE = {"tune, level 1": 1, "tune, level 2": 2}
NAMES = ("pairs", "auto", *TUNE, *METHODS)


def measured(bed: Any, calls: int, names: Sequence[str], budget: int) -> dict[str, Any]:
    """Methods at one number of calls, in the order of `NAMES`.

    Parameters
    ----------
    budget : calls of training; what ``tune(level=2)`` takes counts instead, if it is measured too
    """
    test = bed.test()
    cells: dict[str, Any] = {}
    if "pairs" in names:
        cells |= pairs(bed, calls, test)
    if "auto" in names:
        of_data = {"data_std": bed.data_std} if isinstance(bed, Data) else {"guidance": bed.scale}
        plan = ksched.build_sampler("auto", steps=calls, process=bed.process, **of_data).plan
        cells["auto"] = {**figures(*of_plan(plan, bed.data_std), test), **NO_COST}
    for name in (name for name in NAMES if name in names and name not in ("pairs", "auto")):
        began = time.perf_counter()
        if name in TUNE:
            plan, spent = tuned(bed, calls, TUNE[name])
            found = Fitted(*of_plan(plan, bed.data_std), _numbers(plan, calls), spent)
            budget = spent
        else:
            found = METHODS[name](bed, calls, budget)
        seconds = time.perf_counter() - began
        cost = {"numbers": found.numbers, "calls": found.calls, "seconds": seconds}
        cells[name] = {**figures(found.levels, found.rows, test), **cost}
    return {"budget": budget, "methods": cells}


def _numbers(plan: Plan, calls: int) -> int:
    """How many numbers a plan of `tune` has that were fitted."""
    if not plan.report["tuned"] or plan.report["chosen"].startswith("auto"):
        return 0
    free = plan.report["chosen"] in ("fitted through the model", "fitted to a mixture (free rows)")
    return calls - 1 + calls * (calls + 3) // 2 if free else calls + calls * (calls - 1) // 2


@cache
def checkpoint() -> Bed:
    """The network of handwritten digits under guidance."""
    from _digits_bed import Digits

    return Digits(IMAGES)


def summary(data: Mapping[str, Any]) -> str:
    """Geometric means of the errors over all beds, by number of calls."""
    beds = data["beds"]
    counts = sorted({int(n) for cells in beds.values() for n in cells})
    lines = []
    for name in (REFERENCE, "best pair", *METHODS, "auto", "tune, level 1", "tune, level 2"):
        line = [name]
        for n in counts:
            found = [cells[str(n)]["methods"].get(name) for cells in beds.values() if str(n) in cells]
            complete = [cell["mean"] for cell in found if cell]
            line.append(f"{geometric_mean(complete):.4f}" if len(complete) == len(found) else "")
        lines.append(line)
    return table(["error, calls", *map(str, counts)], lines)


def _read(path: Path) -> dict[str, Any]:
    """Read earlier results."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"beds": {}}
    return found


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*(f"{of} {family}" for family in DATA for of in RANGES), CHECKPOINT]
    parser.add_argument("--beds", nargs="+", choices=every, default=every, metavar="BED", help=", ".join(every))
    parser.add_argument("--calls", nargs="+", type=int, default=list(CALLS), metavar="N", help="numbers of model calls")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "--budget", type=int, default=60_000, help="model calls of training, if tune is not measured too"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write JSON."""
    given = parsed()
    torch.set_num_threads(1)
    path = given.out / "learned_solvers.json"
    for name in given.beds:
        bed = checkpoint() if name == CHECKPOINT else Data(*name.split())
        for calls in given.calls:
            known = _read(path)["beds"].get(name, {}).get(str(calls), {"budget": given.budget, "methods": {}})
            cell = measured(bed, calls, given.methods, known["budget"])
            data = {**_read(path), **facts(), "peak": PEAK, "items": ITEMS}
            data["beds"].setdefault(name, {})
            data["beds"][name][str(calls)] = {**cell, "methods": {**known["methods"], **cell["methods"]}}
            data["beds"][name] = dict(sorted(data["beds"][name].items(), key=lambda item: int(item[0])))
            write(given.out, "learned_solvers", data)
            means = {n: f"{c['mean']:.4f} ({c['calls']}, {c['seconds']:.0f} s)" for n, c in cell["methods"].items()}
            print(name, calls, means, flush=True)
    print(summary(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
