"""Error per model call (NFE): every sampler that can run without noise, every schedule, against the exact solution.

``_testbeds.py`` defines what is measured: exact denoisers of seven data sets, three ranges of sigma, and the mean
error over 256 start states. The headline figure of a pair of sampler and schedule is the geometric mean over three of
the data sets. Pairs are compared at equal NFE: a sampler with several calls per step takes fewer steps.

First all pairs run with 32 start states. Those that are far behind on one data set skip the next. The best pairs, and
pairs that people use, then run again with all 256; those are the figures. States are float32, exact solutions float64;
of 72 figures that were compared, float32 changed none by one part in a thousand. Samplers that draw noise are measured
by the distance of 2000 results from the data distribution. The errors of ComfyUI's pairs were recorded once and are in
``_recorded.py``. A pair that won there also runs here in ComfyUI's dialect, to check that the figures are comparable.

To compare a sampler of your own with the existing results, pass the file that registers it::

    python benchmarks/accuracy.py --load my_sampler.py --samplers my_sampler
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import os
import runpy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import RESULTS, facts, table, write
from _recorded import PEERS, PEERS_ON_SIX
from _testbeds import (
    BATCH,
    HELD_OUT,
    MAIN,
    RANGES,
    SEED,
    Entry,
    built,
    deterministic,
    geometric_mean,
    model_of,
    problem,
    run,
    schedules,
    score,
    sliced_wasserstein,
    stochastic,
)

import ksched
from ksched import VP, Flow
from ksched.exact.mixture import GaussianMixture
from ksched.plan.analysis import table as plan_table

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "accuracy.png"
NFES = (5, 6, 8, 10, 15, 20)
FEW = 32  # start states of the first pass
KEPT = 12  # best pairs that run with all start states
BEHIND = (5.0, 1.7)  # how far behind on one testbed, and on two, a pair may be to run on the next
#: pairs that people use, measured with all start states whatever the first pass says
USED = {
    "sd": "euler/normal euler/simple dpmpp_2m/simple dpmpp_2m/karras deis/karras ipndm/karras uni_pc/exponential "
    "exp_pc/exponential exp_pc/beta57 exp_pc:end=integral/beta57",
    "edm": "euler/karras heun/karras dpmpp_2m/karras ipndm/karras uni_pc/simple exp_pc/align_your_steps:model=sdxl "
    "exp_pc:end=integral/align_your_steps:model=sdxl",
    "flow": "euler/simple@3 euler/simple dpmpp_2m/simple@3 lms/beta sa_solver:tau=0.0/beta exp_pc/beta@3 "
    "exp_pc:end=integral/beta@3",
}
LAW_SCHEDULES, LAW_NFES, LAW_ITEMS = ("karras", "exponential", "simple"), (10, 20, 50), 2000
SIX = (*MAIN, "kde_digits", "cfg3_digits", "cfg6_digits")


@dataclass(frozen=True)
class Pair:
    """A sampler with a schedule, possibly that of a shifted process."""

    sampler: Entry
    schedule: Entry
    ending: str = ""

    @classmethod
    def read(cls, sampler: str, schedule: str) -> Pair:
        """Parse the written form; a schedule may end in "@3"."""
        name, at, shift = schedule.partition("@")
        return cls(Entry.read(sampler), Entry.read(name), at + shift)

    @property
    def names(self) -> tuple[str, str]:
        """Its parts as they are read."""
        return str(self.sampler), f"{self.schedule}{self.ending}"


@dataclass(frozen=True)
class Task:
    """All pairs at one NFE on one range."""

    of: str
    calls: int
    samplers: tuple[Entry, ...]
    schedules: tuple[Entry, ...]
    seed: int = SEED
    dialect: str = "ksched"
    few: int = FEW
    batch: int = BATCH
    kept: int = KEPT
    each: bool = False  # whether the best pair of every sampler runs with all start states


# ----------------------------------------------------------------------------------------------------------- measuring


def measured(pair: Pair, task: Task, testbeds: Iterable[str]) -> dict[str, dict[str, float]] | None:
    """Errors of a pair on testbeds, with all start states."""
    sampler = built(pair.sampler, pair.schedule, pair.ending, task.calls, RANGES[task.of], task.dialect)
    if sampler is None:
        return None
    return {
        name: score(problem(name, task.of, task.seed).errors(sampler, task.batch, torch.float32)) for name in testbeds
    }


def first_pass(task: Task) -> dict[Pair, list[float]]:
    """Mean errors of all pairs on the main testbeds with few start states; fewer testbeds for those far behind.

    Schedules that have the same levels are one, under the first of their names.
    """
    made: dict[Pair, ksched.Sampler] = {}
    known: set[tuple[Entry, bytes]] = set()
    for ending in RANGES[task.of].processes:
        for schedule in task.schedules:
            for sampler in task.samplers:
                if "start_after" in dict(sampler.options) and task.of != "flow":
                    continue  # has no effect
                found = built(sampler, schedule, ending, task.calls, RANGES[task.of], task.dialect)
                if found is not None and (key := (sampler, np.round(found.sigmas, 9).tobytes())) not in known:
                    known.add(key)
                    made[Pair(sampler, schedule, ending)] = found
    figures: dict[Pair, list[float]] = {pair: [] for pair in made}
    left = list(made)
    for k, name in enumerate(MAIN):
        for pair in left:
            mean = float(problem(name, task.of, task.seed).errors(made[pair], task.few, torch.float32).mean())
            figures[pair].append(mean if math.isfinite(mean) else math.inf)
        ranked = sorted(left, key=lambda pair: geometric_mean(figures[pair]))
        best = {group: pair for pair in reversed(ranked) for group in (pair.sampler, (pair.schedule, pair.ending))}
        if ranked and k < len(BEHIND):
            limit = BEHIND[k] * geometric_mean(figures[ranked[0]])
            keep = {*best.values(), *(pair for pair in ranked if geometric_mean(figures[pair]) <= limit)}
            left = [pair for pair in ranked if pair in keep]
    return figures


def measure(task: Task) -> dict[str, Any]:
    """Results of a task: the leaders, the best schedule of every sampler, the best sampler of every schedule."""
    figures = first_pass(task)
    whole = sorted((p for p in figures if len(figures[p]) == len(MAIN)), key=lambda pair: geometric_mean(figures[pair]))
    best_on = []
    for k in range(len(MAIN) if whole else 0):
        on_this = {pair: figures[pair][k] for pair in whole}
        best_on.append(min(on_this, key=on_this.__getitem__))
    used = [Pair.read(*names.rsplit("/", 1)) for names in USED[task.of].split()]
    used = [pair for pair in used if pair.sampler in task.samplers and pair.schedule in task.schedules]
    used += {pair.sampler: pair for pair in reversed(whole)}.values() if task.each else ()
    leaders: list[dict[str, Any]] = []
    for pair in dict.fromkeys([*whole[: task.kept], *best_on, *used]):
        found = measured(pair, task, MAIN)
        if found is not None:
            mean = geometric_mean(figure["mean"] for figure in found.values())
            leaders.append({"sampler": pair.names[0], "schedule": pair.names[1], "error": mean, "testbeds": found})
    leaders.sort(key=lambda leader: float(leader["error"]))
    return {
        "pairs": len(figures),
        "leaders": leaders,
        "hindsight": geometric_mean(min(x["testbeds"][name]["mean"] for x in leaders) for name in MAIN)
        if leaders
        else None,
        "samplers": _bests(whole, figures, lambda pair: pair.names[0], 1),
        "schedules": _bests(whole, figures, lambda pair: pair.names[1], 0),
    }


def _bests(
    ranked: Sequence[Pair], figures: Mapping[Pair, list[float]], key: Callable[[Pair], str], other: int
) -> dict[str, list[Any]]:
    """The best pair of every sampler, or of every schedule, in the first pass: name of the other half, and error."""
    return {key(p): [p.names[other], geometric_mean(figures[p])] for p in reversed(ranked)}


def checked(task: Task) -> list[dict[str, Any]]:
    """The recorded best pairs of ComfyUI, run in its dialect, to check that the errors agree."""
    found = []
    for pair in PEERS[task.of, task.calls].pairs:
        figures = measured(Pair.read(pair.sampler, pair.schedule), replace(task, dialect="comfyui"), MAIN)
        again = None if figures is None else geometric_mean(figure["mean"] for figure in figures.values())
        found.append({"sampler": pair.sampler, "schedule": pair.schedule, "recorded": pair.error, "here": again})
    return found


def on_held_out(task: Task, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Pairs on all testbeds."""
    found = []
    for names in pairs:
        figures = measured(Pair.read(*names), task, (*MAIN, *HELD_OUT))
        if figures is not None:
            six = geometric_mean(figures[name]["mean"] for name in SIX)
            found.append({"sampler": names[0], "schedule": names[1], "error": six, "testbeds": figures})
    return sorted(found, key=lambda entry: entry["error"])


def law(sampler: Entry, calls: int, names: Sequence[str], seed: int) -> dict[str, float]:
    """Distance of a sampler's results from the data distribution, by schedule; gmm_digits, range sd."""
    model = model_of("gmm_digits", "sd")
    assert isinstance(model, GaussianMixture)
    exact = torch.from_numpy(model.sample(LAW_ITEMS, seed))
    eps = torch.randn(LAW_ITEMS, model.dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = {}
    for name in names:
        made = built(sampler, Entry(name), "", calls, RANGES["sd"])
        if made is not None:
            draws = made.spec.draws != 0
            end = run(made, model, (RANGES["sd"].start * eps).float(), seed=seed if draws else None)
            found[name] = sliced_wasserstein(end, exact)
    return found


def laws(sampler: Entry, seed: int) -> dict[str, dict[str, float]]:
    """`law` by NFE; at a high NFE only the schedule that was best at a lower one."""
    found: dict[str, dict[str, float]] = {}
    names: Sequence[str] = LAW_SCHEDULES
    for calls in LAW_NFES:
        found[str(calls)] = law(sampler, calls, names, seed)
        if calls == LAW_NFES[1] and found[str(calls)]:
            names = [min(found[str(calls)], key=found[str(calls)].__getitem__)]
    return found


def floor(seed: int) -> float:
    """The distance of two exact samples from each other."""
    model = model_of("gmm_digits", "sd")
    assert isinstance(model, GaussianMixture)
    first, second = (torch.from_numpy(model.sample(LAW_ITEMS, s)) for s in (seed, seed + 1))
    return sliced_wasserstein(first, second)


def distinct(entries: Sequence[Entry]) -> dict[Entry, list[str]]:
    """Samplers with different tables, each with the other names of the same table."""
    grids = [(ksched.calculate_sigmas("karras", 14), VP()), (np.linspace(1, 0, 12) ** 1.2, Flow())]
    found: dict[tuple[bytes, ...], Entry] = {}
    same: dict[Entry, list[str]] = {}
    for entry in entries:
        key = []
        for sigmas, process in grids:
            made = ksched.build_sampler(entry.name, sigmas=sigmas, process=process, **dict(entry.options))
            key.append((np.round(plan_table(made.plan), 8) + 0.0).tobytes())
        first = found.setdefault(tuple(key), entry)
        same.setdefault(first, []).extend([] if first is entry else [str(entry)])
    return same


# ------------------------------------------------------------------------------------------------------------- running


def _begin(files: Sequence[str]) -> None:
    """Prepare a worker process: one thread, and the user's samplers registered."""
    torch.set_num_threads(1)
    for file in files:
        runpy.run_path(file)


def _truth(name: str, of: str, seed: int) -> None:
    _ = problem(name, of, seed).truth


class Workers:
    """Worker processes that measure, with progress messages."""

    def __init__(self, jobs: int, files: Sequence[str]) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork has what was registered, and could not register it again
        self._pool = concurrent.futures.ProcessPoolExecutor(jobs, spawn, initializer=_begin, initargs=(files,))
        self._start = time.perf_counter()

    def map(self, what: str, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Results of calls in order; the longest calls should come first."""
        futures = {self._pool.submit(function, *call): k for k, call in enumerate(calls)}
        results: list[Any] = [None] * len(calls)
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            results[futures[future]] = future.result()
            print(f"\r{what}: {done} of {len(calls)}, {time.perf_counter() - self._start:.0f} s ", end="", flush=True)
        print(flush=True)
        return results

    def end(self) -> None:
        """End the processes."""
        self._pool.shutdown()


def leaderboard(data: Mapping[str, Any], count: int = 3) -> str:
    """The best pairs by range and NFE, beside the best recorded one, as text."""
    rows = []
    for of, by_calls in data["ranges"].items():
        for calls, cell in by_calls.items():
            peer = PEERS.get((of, int(calls)))
            for k, leader in enumerate(cell["leaders"][:count]):
                first = [of, str(calls), f"{peer.pairs[0].error:.4f}" if peer else ""] if k == 0 else ["", "", ""]
                per = [f"{leader['testbeds'][name]['mean']:.4f}" for name in MAIN]
                rows.append([*first, f"{leader['error']:.4f}", *per, f"{leader['sampler']}/{leader['schedule']}"])
    return table(["range", "calls", "best peer", "error", *MAIN, "pair"], rows)


def standing(data: Mapping[str, Any], before: Mapping[str, Any], names: Sequence[str]) -> str:
    """The rank of samplers among the leaders of a full run, as text."""
    rows = []
    for of, by_calls in data["ranges"].items():
        for calls, cell in by_calls.items():
            others = before["ranges"].get(of, {}).get(calls, {}).get("leaders", [])
            for name in names:
                mine = next((leader for leader in cell["leaders"] if leader["sampler"] == name), None)
                if mine is None or not others:
                    continue
                place = 1 + sum(o["error"] < mine["error"] for o in others if o["sampler"] != name)
                best = others[0]
                rows.append(
                    [of, calls, name, mine["schedule"], f"{mine['error']:.4f}", str(place), f"{best['error']:.4f}"]
                )
                rows[-1].append(f"{best['sampler']}/{best['schedule']}")
    columns = ["range", "calls", "sampler", "with", "error", "place", "best", "pair"]
    return table(columns, rows) + f"\nplace: among the {KEPT} or more best pairs of the full run"


def plot(data: Mapping[str, Any], path: Path) -> None:
    """Plot error against NFE: the best pair, some common ones, the best recorded one."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    titles = {"sd": "Stable Diffusion's range", "edm": "EDM's range", "flow": "flow matching"}
    lines = {
        "euler": ("#999999", {"sd": "euler/normal", "edm": "euler/karras", "flow": "euler/simple@3"}),
        "dpmpp_2m": ("#56B4E9", {"sd": "dpmpp_2m/karras", "edm": "dpmpp_2m/karras", "flow": "dpmpp_2m/simple@3"}),
        "exp_pc": (
            "#009E73",
            {
                "sd": "exp_pc:end=integral/beta57",
                "edm": "exp_pc:end=integral/align_your_steps:model=sdxl",
                "flow": "exp_pc:end=integral/beta@3",
            },
        ),
    }
    for axes, (of, by_calls) in zip(figure.subplots(1, 3, sharey=True), data["ranges"].items(), strict=True):
        calls = [int(n) for n in by_calls]
        for name, (colour, pairs) in lines.items():
            found = [
                next((x["error"] for x in cell["leaders"] if f"{x['sampler']}/{x['schedule']}" == pairs[of]), math.nan)
                for cell in by_calls.values()
            ]
            axes.plot(calls, found, "o-", color=colour, label=name)
        peers = [PEERS[of, n].pairs[0].error if (of, n) in PEERS else math.nan for n in calls]
        axes.plot(calls, peers, "D--", color="#D55E00", label="best pair in ComfyUI")
        best = [cell["leaders"][0]["error"] for cell in by_calls.values()]
        axes.plot(calls, best, "s-", color="#000000", label="best pair here")
        axes.set(title=titles[of], xlabel="model calls", xscale="log", yscale="log", xticks=calls)
        axes.yaxis.set_major_locator(FixedLocator([0.003, 0.01, 0.03, 0.1, 0.3]))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        if of == "sd":
            axes.set_ylabel("mean relative error")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=5, columnspacing=1.2)
    figure.savefig(path, dpi=170)


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="6 and 10 calls, 32 start states, no stochastic samplers, no held-out data"
    )
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help="only these; options as name:option=value,...")
    parser.add_argument("--schedules", nargs="+", metavar="NAME", help="only these; options as for samplers")
    parser.add_argument("--nfe", nargs="+", type=int, metavar="N", help="only these numbers of model calls")
    parser.add_argument("--ranges", nargs="+", choices=list(RANGES), default=list(RANGES))
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the start states; recorded figures are for 99")
    parser.add_argument("--dialect", default="ksched", help="whose behaviour the names mean")
    parser.add_argument("--load", nargs="+", default=[], metavar="FILE", help="Python files that register samplers")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results of a full run go")
    return parser.parse_args()


def main() -> None:
    """Print the tables and write JSON."""
    given = parsed()
    _begin(given.load)
    same = distinct([Entry.read(name) for name in given.samplers] if given.samplers else deterministic())
    chosen = [Entry.read(name) for name in given.schedules] if given.schedules else schedules()
    calls = given.nfe or ((6, 10) if given.quick else NFES)
    full = not (given.samplers or given.schedules or given.nfe or given.quick)
    full = full and given.dialect == "ksched" and given.seed == SEED and given.ranges == list(RANGES)
    workers = Workers(given.jobs, given.load)
    solved = [(name, of) for name in (*MAIN[1:], *(HELD_OUT if full else ())) for of in given.ranges]
    truths = [(name, of, given.seed) for name, of in solved if name in MAIN or of == "sd"]
    workers.map("exact solutions", _truth, truths)

    sizes: dict[str, Any] = {"batch": FEW, "kept": 3} if given.quick else {}
    sizes["each"] = bool(given.samplers)
    tasks = [
        Task(of, n, tuple(same), tuple(chosen), given.seed, given.dialect, **sizes)
        for n in calls
        for of in given.ranges
    ]
    longest = sorted(tasks, key=lambda task: -task.calls * len(RANGES[task.of].processes))
    cells = dict(zip(longest, workers.map("pairs", measure, [(task,) for task in longest]), strict=True))
    data: dict[str, Any] = {**facts(), "seed": given.seed, "batch": BATCH, "first_pass": FEW}
    data["same"] = {str(entry): names for entry, names in same.items() if names}
    data["ranges"] = {of: {str(t.calls): cells[t] for t in tasks if t.of == of} for of in given.ranges}
    if full:
        extras(data, tasks, workers, given.seed)
    workers.end()
    print(leaderboard(data))
    path = RESULTS / "accuracy.json"
    if given.samplers and path.exists():
        print(f"\n{standing(data, json.loads(path.read_text()), [str(entry) for entry in same])}")
    if full:
        write(given.out, "accuracy", data)
        plot(data, PICTURE if given.out == RESULTS else given.out / "accuracy.png")


def extras(data: dict[str, Any], tasks: Sequence[Task], workers: Workers, seed: int) -> None:
    """The parts of a full run: recorded pairs again, held-out testbeds, stochastic samplers."""
    again = workers.map("recorded pairs again", checked, [(task,) for task in tasks])
    data["checks"] = {
        of: {str(t.calls): rows for t, rows in zip(tasks, again, strict=True) if t.of == of} for of in RANGES
    }
    some = [task for task in tasks if task.of == "sd" and task.calls in PEERS_ON_SIX]
    pairs = [
        list(dict.fromkeys((x["sampler"], x["schedule"]) for x in [*data["ranges"]["sd"][str(t.calls)]["leaders"]]))
        for t in some
    ]
    held = workers.map("held-out data", on_held_out, list(zip(some, pairs, strict=True)))
    data["held_out"] = {str(task.calls): rows for task, rows in zip(some, held, strict=True)}
    data["held_out_peers"] = {
        str(calls): {"sampler": pair.sampler, "schedule": pair.schedule, "recorded": pair.error}
        for calls, pair in PEERS_ON_SIX.items()
    }
    noisy = [*stochastic(), *map(Entry.read, ("dpmpp_2m", "exp_pc", "exp_pc:end=integral"))]
    found = workers.map("laws", laws, [(entry, seed) for entry in noisy])
    data["laws"] = {str(entry): result for entry, result in zip(noisy, found, strict=True)}
    data["law_floor"] = floor(seed)
    print(table(["sampler", *map(str, LAW_NFES)], [_law_row(name, by) for name, by in data["laws"].items()]))
    print(f"exact sample: {data['law_floor']:.4f}")


def _law_row(name: str, by_calls: Mapping[str, Mapping[str, float]]) -> list[str]:
    best = (min(by_schedule.values(), default=math.nan) for by_schedule in by_calls.values())
    return [name, *(f"{value:.4f}" for value in best)]


if __name__ == "__main__":
    main()
