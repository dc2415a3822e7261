"""The cost of a Brownian path relative to new noise for every interval, in ksched and in k-diffusion, over a whole run.

Each figure is the time for all the noise of a run, divided by that of `SeededNoise` for the same run. They take
turns, and the fastest run of each counts. A path should cost at most 12 times as much on these grids. "first" is a
run of a new grid; in "again" the coefficients of its intervals are known from an earlier run. torchsde's
BrownianTree, which k-diffusion uses, is measured if it is installed; as it is slow, only on states of up to a million
numbers and runs of up to 20 steps. ``python benchmarks/noise.py``. Writes noise.json.
"""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

import torch
from _measure import arguments, facts, named, write

import ksched
import ksched.noise.brownian
from ksched.noise.brownian import BrownianNoise
from ksched.noise.seeded import SeededNoise
from ksched.plan.rows import Draw

LIMIT = 12.0
TREES_UP_TO, TREE_STEPS = 1_000_000, 20
LEAST_TURNS = 3
STEPS = (3, 5, 10, 20, 50, 100)
SHAPES = ((1, 4, 64, 64), (4, 4, 64, 64), (1, 16, 128, 128), (1, 16, 21, 60, 104))
GRIDS: dict[str, tuple[ksched.Process, str]] = {
    "VP, karras": (ksched.VP(), "karras"),
    "VP, simple": (ksched.VP(), "simple"),
    "Flow(3), simple": (ksched.Flow(3.0), "simple"),
}


def torchsde() -> ModuleType | None:
    """The module, if it is installed."""
    try:
        return importlib.import_module("torchsde")
    except ImportError:
        return None


def seconds_of(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def forget() -> None:
    """Clear the coefficients of the intervals; the table of normals is made once per program."""
    ksched.noise.brownian._increment.cache_clear()
    ksched.noise.brownian._clock.cache_clear()


def tree_run(library: ModuleType, draws: list[Draw], x: torch.Tensor) -> None:
    """The noise of a run from one tree per item, as k-diffusion's BrownianTreeNoiseSampler draws it."""
    low, high = draws[-1].sigma_to, draws[0].sigma_from
    trees = [library.BrownianTree(low, torch.zeros_like(item), high, entropy=i) for i, item in enumerate(x)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it rounds its ends to six decimals, and warns of ours
        for s, t, *_ in draws:
            torch.stack([tree(t, s) for tree in trees]) / math.sqrt(s - t)


def main() -> None:
    """Print the tables and write JSON."""
    given = arguments(__doc__, seconds=0.2).parse_args()
    seconds: float = given.seconds
    torch.set_num_threads(given.threads)
    library, worst = torchsde(), 0.0
    rows: list[dict[str, object]] = []
    print(f"noise of a whole run: ratio to SeededNoise; ! is above {LIMIT:.0f}; {given.threads} thread(s)")
    for title, (process, schedule) in GRIDS.items():
        print(f"\n{title:24}{'plain, us per draw':>20}{'path, first':>14}{'path, again':>14}{'torchsde':>12}")
        for shape in SHAPES:
            x = torch.zeros(shape)
            seeds = tuple(range(shape[0]))
            for steps in STEPS:
                sigmas = ksched.calculate_sigmas(schedule, steps, process).tolist()[:-1]
                draws = [Draw(s, t) for s, t in pairwise(sigmas)]

                def plain(draws: list[Draw] = draws, seeds: tuple[int, ...] = seeds, x: torch.Tensor = x) -> None:
                    source = SeededNoise(seeds)
                    for draw in draws:
                        source(draw, x)

                def path(
                    draws: list[Draw] = draws,
                    seeds: tuple[int, ...] = seeds,
                    x: torch.Tensor = x,
                    process: ksched.Process = process,
                ) -> None:
                    source = BrownianNoise(seeds, process)
                    for draw in draws:
                        source(draw, x)

                plain(), path()
                times: list[tuple[float, float, float]] = []
                while len(times) < LEAST_TURNS or sum(map(sum, times)) < seconds:
                    forget()
                    times.append((seconds_of(plain), seconds_of(path), seconds_of(path)))
                base, first, again = map(min, zip(*times, strict=True))
                worst = max(worst, first / base)
                row: dict[str, object] = {"grid": title, "shape": named(shape), "steps": steps}
                row |= {"microseconds": 1e6 * base / len(draws), "first": first / base, "again": again / base}
                tree = "-"
                if library is not None and x.numel() <= TREES_UP_TO and steps <= TREE_STEPS:
                    row["torchsde"] = seconds_of(lambda d=draws, x=x: tree_run(library, d, x)) / base
                    tree = f"{row['torchsde']:.0f}"
                rows.append(row)
                flag = " !" if first > LIMIT * base else ""
                name = f"{named(shape)}, {steps}"
                cells = f"{1e6 * base / len(draws):20.0f}{first / base:14.2f}{again / base:14.2f}"
                print(f"{name:24}{cells}{tree:>12}{flag}", flush=True)
    print(f"\nmost: {worst:.2f}")
    write(given.out, "noise", {**facts(), "limit": LIMIT, "most": worst, "rows": rows})


if __name__ == "__main__":
    main()
