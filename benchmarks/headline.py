"""The headline figures: `auto` beside pairs of sampler and schedule, at 4 to 20 model calls (NFE).

The exact data are three families that no shipped table was fitted to (``_families.py``), on three ranges of sigma;
the network is the handwritten-digit checkpoint at guidance 4. The error of a run is its distance from where the ODE
ends, divided by the spread of the ends: the mean over start states, then the geometric mean over families. PSNR is in
dB, with a peak of four standard deviations of the data, as for pixels from -1 to 1 with standard deviation 0.5.

`dpmpp_2m` runs with karras, and from pure noise with simple, as people run it. "best pair" is the best of the pairs
that `tune` compares with, for a range and NFE, over all families together. "hindsight" is the best pair of each
family, chosen after seeing its errors. You cannot know either beforehand. "saved" is how many more calls a pair takes
for the same error, interpolated from its own errors. "floor" is the error of an exact run that ends in a prediction
at the lowest sigma of training. `tune` gets a thousand samples of exact data, or the network.

Run from the repository root: ``python benchmarks/headline.py``; half an hour on one core, most of it for ``tune``.
``--parts`` selects parts. New figures replace the old ones in the results.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _families import HEADLINE, SEED
from _measure import RESULTS, facts, table, write
from _testbeds import RANGES, geometric_mean
from learned_solvers import PEAK, REFERENCE, TRUTH, Data, figures, of_plan, used

import ksched
from ksched.tuning.baselines import untuned
from ksched.tuning.canonical_plan import flow_level
from ksched.tuning.fit import Problem, exact_ends

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "headline_figures.png"
CALLS = (4, 5, 6, 8, 10, 15, 20)
MORE = (12, 30, 45)  # calls of pairs, to read off how many they need
SAMPLES = 1000
IMAGES = 40
PARTS = ("exact", "tune", "checkpoint", "tune checkpoint")

Cells = Mapping[str, dict[str, float]]


def judged(bed: Any, tests: Mapping[str, Problem], plan: ksched.Plan) -> dict[str, dict[str, float]]:
    """Figures of a plan by test."""
    return {name: figures(*of_plan(plan, bed.data_std), test) for name, test in tests.items()}


def together(cells: Cells) -> dict[str, float]:
    """Of several tests."""
    found = list(cells.values())
    return {
        "error": geometric_mean(cell["mean"] for cell in found),
        "psnr": float(np.mean([cell["psnr"] for cell in found])),
    }


def with_pairs(bed: Any, tests: Mapping[str, Problem], counts: Sequence[int]) -> dict[str, Any]:
    """Return the common choice, the best pair, and the best pair in hindsight, by NFE."""
    found: dict[str, Any] = {}
    for n in counts:
        every = {name: judged(bed, tests, plan) for name, plan in untuned(n, bed.process, None)}
        best = min(every, key=lambda name: together(every[name])["error"])
        hindsight = {t: min((cells[t] for cells in every.values()), key=lambda cell: cell["mean"]) for t in tests}
        found[str(n)] = {
            REFERENCE: together(judged(bed, tests, used(n, bed.process))),
            "best pair": {**together(every[best]), "pair": best},
            "hindsight": together(hindsight),
        }
        print(n, best, {name: f"{cell['error']:.4f}" for name, cell in found[str(n)].items()}, flush=True)
    return found


def exact(of: str) -> dict[str, Any]:
    """A range, on families of exact data."""
    beds = {family: Data(of, family) for family in HEADLINE}
    tests = {family: bed.test() for family, bed in beds.items()}
    bed = beds[HEADLINE[0]]
    cells = with_pairs(bed, tests, sorted({*CALLS, *MORE}))
    for n in CALLS:
        plan = ksched.build_sampler("auto", steps=n, process=bed.process, data_std=bed.data_std).plan
        cells[str(n)]["auto"] = together(judged(bed, tests, plan))
    floor = {}
    for family, own in beds.items():
        test, s = tests[family], flow_level(own.first)
        ends = exact_ends(own.denoise, test.start, s, steps=TRUTH, low=own.low, end="denoised")
        away = (ends - test.ends).square().mean(-1).sqrt() / test.spread
        floor[family] = {"mean": float(away.mean()), "psnr": float((20 * (PEAK / away).log10()).mean())}
    return {"calls": cells, "floor": together(floor)}


def tuned(of: str, n: int) -> dict[str, float]:
    """`tune` from samples of exact data, on a range."""
    cells = {}
    for family in HEADLINE:
        bed = Data(of, family)
        start = bed.starts(SAMPLES, SEED + 1)
        samples = bed.data_std * exact_ends(bed.denoise, start, flow_level(bed.first), steps=100, low=1e-5)[0]
        plan = ksched.tune(samples.numpy(), n, process=bed.process)
        cells[family] = figures(*of_plan(plan, bed.data_std), bed.test())
    return together(cells)


def checkpoint() -> tuple[Any, dict[str, Problem]]:
    """The network and its test runs."""
    from _digits_bed import Digits

    bed = Digits(IMAGES)
    return bed, {"digits": bed.test()}


def on_checkpoint() -> dict[str, Any]:
    """Pairs and `auto` on the network."""
    bed, tests = checkpoint()
    cells = with_pairs(bed, tests, CALLS)
    for n in MORE:
        cells[str(n)] = {REFERENCE: together(judged(bed, tests, used(n, bed.process)))}
    for n in CALLS:
        plan = ksched.build_sampler("auto", steps=n, process=bed.process, guidance=bed.scale).plan
        cells[str(n)]["auto"] = together(judged(bed, tests, plan))
    return {"calls": dict(sorted(cells.items(), key=lambda item: int(item[0]))), "scale": bed.scale, "images": IMAGES}


def tuned_checkpoint(n: int) -> dict[str, float]:
    """`tune` through the network."""
    bed, tests = checkpoint()
    how: dict[str, Any] = {"shape": bed.shape, "items": bed.items, "batch": bed.batch}
    return together(judged(bed, tests, ksched.tune(bed.answer, n, process=bed.process, **how)))


def needed(error: float, errors: Mapping[int, float]) -> float:
    """Interpolate the NFE that reaches an error, in logarithms; infinite if the largest NFE does not reach it."""
    counts = sorted(errors)
    for few, many in pairwise(counts):
        if errors[many] <= error:
            share = math.log(errors[few] / error) / math.log(errors[few] / errors[many])
            return few * (many / few) ** share  # with fewer than the first, on the line through the first two
    return math.inf


def with_savings(part: dict[str, Any]) -> None:
    """Add the NFE that `auto` and `tune` save compared with the common choice and with the best pair."""
    for against in (REFERENCE, "best pair"):
        errors = {int(n): cells[against]["error"] for n, cells in part["calls"].items() if against in cells}
        for n, cells in part["calls"].items():
            for name in ("auto", "tune"):
                if name in cells:
                    calls = needed(cells[name]["error"], errors)
                    cells[name][f"saved, {against}"] = calls - int(n) if math.isfinite(calls) else None


def draw(data: Mapping[str, Any], path: Path) -> None:
    """Error against calls: exact data, all ranges together, and the network."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    looks: dict[str, tuple[str, str, float]] = {
        REFERENCE: ("#8a8f98", "o-", 1.6),
        "hindsight": ("#E69F00", "s--", 1.6),
        "auto": ("#0072B2", "o-", 2.6),
        "tune": ("#009E73", "D-", 2.0),
    }
    words = {REFERENCE: "dpmpp_2m + karras (flow: simple)", "hindsight": "best pair in hindsight"}
    panels = {
        "exact data: 3 data sets, 3 noise ranges": [data["ranges"][of] for of in RANGES],
        "a text-to-image network, guidance 4": [data["checkpoint"]],
    }
    figure = Figure(figsize=(7, 3.7), layout="constrained", facecolor="white")
    for axes, (title, parts) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, (colour, form, width) in looks.items():
            counts = [n for n in CALLS if all(name in part["calls"][str(n)] for part in parts)]
            errors = [geometric_mean(part["calls"][str(n)][name]["error"] for part in parts) for n in counts]
            axes.plot(counts, errors, form, color=colour, linewidth=width, markersize=4.5, label=words.get(name, name))
        axes.set(xscale="log", yscale="log", xlabel="model calls (NFE)")
        axes.set_title(title, fontsize=10.5)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(CALLS, [str(n) for n in CALLS])
        ticks = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_yticks(ticks)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        low, high = axes.dataLim.intervaly
        axes.set_ylim(low / 1.2, high * 1.2)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("relative error" if axes.get_subplotspec().is_first_col() else "")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9.5, loc="outside lower center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)


def summary(data: Mapping[str, Any]) -> str:
    """Summarise the figures as text."""
    lines = []
    for name, part in [*data["ranges"].items(), ("checkpoint", data.get("checkpoint"))]:
        for n, cells in (part or {"calls": {}})["calls"].items():
            if int(n) in CALLS:
                lines.append([f"{name} {n}"])
                for key in (REFERENCE, "best pair", "hindsight", "auto", "tune"):
                    lines[-1].append(f"{cells[key]['error']:.4f}" if key in cells else "")
    return table(["", REFERENCE, "best pair", "hindsight", "auto", "tune"], lines)


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=list(PARTS), help="without any, only draw the picture"
    )
    parser.add_argument(
        "--calls", nargs="+", type=int, default=list(CALLS), metavar="N", help="numbers of calls for tune"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write JSON."""
    given = parsed()
    torch.set_num_threads(1)
    path = given.out / "headline.json"

    def put(change: Callable[[dict[str, Any]], None]) -> None:
        data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"ranges": {}}
        change(data)
        for part in [*data["ranges"].values(), *([data["checkpoint"]] if "checkpoint" in data else [])]:
            with_savings(part)
        write(given.out, "headline", {**data, **facts(), "families": list(HEADLINE), "samples": SAMPLES})

    for of in RANGES if "exact" in given.parts else ():
        found = exact(of)
        put(lambda data, of=of, found=found: data["ranges"].update({of: found}))  # type: ignore[misc]
    if "checkpoint" in given.parts:
        found = on_checkpoint()
        put(lambda data: data.update(checkpoint=found))
    for n in given.calls:
        for of in RANGES if "tune" in given.parts else ():
            cell = tuned(of, n)
            print("tune", of, n, cell, flush=True)
            put(lambda data, of=of, n=n, cell=cell: data["ranges"][of]["calls"][str(n)].update(tune=cell))  # type: ignore[misc]
        if "tune checkpoint" in given.parts:
            cell = tuned_checkpoint(n)
            print("tune checkpoint", n, cell, flush=True)
            put(lambda data, n=n, cell=cell: data["checkpoint"]["calls"][str(n)].update(tune=cell))  # type: ignore[misc]
    data = json.loads(path.read_text())
    print(summary(data))
    if importlib.util.find_spec("matplotlib") and "checkpoint" in data:
        draw(data, PICTURE if given.out == RESULTS else given.out / PICTURE.name)


if __name__ == "__main__":
    main()
