"""The cost of the sampler itself: time per step of every ksched sampler beside its counterparts, in one run.

A cell is a sampler on a latent size. Its contenders (see ``_peers.py``) take turns, the fastest run of each counts,
and the cost of the model calls is subtracted. The model returns one tensor that was made beforehand (``--model
static``), or makes a new one (``--model fresh``). All get the same start, model and sigmas, in float32.

* ``ratio`` is the time of the faster of k-diffusion and diffusers, as they are run, divided by ksched's. ``least``
  also counts a call of diffusers' `step` alone, without its scaling of the model's input and with the cheapest kind
  of prediction.
* ``floor`` is the memory-bound minimum: for every row of a plan, one read per term and one write, as fast as
  ``torch.add(a, b, alpha=c, out=d)`` on tensors of this size, measured in the same turns. ``x floor`` is ksched's
  time divided by it; samplers that draw noise get precomputed noise for this figure.

On the largest latent the other programs run only the compared samplers, and on the two of video no adaptive sampler
runs.

``python benchmarks/overhead.py``, ``--device cuda`` for a GPU. Writes overhead.json and its picture for the
documentation, or overhead_cuda.json.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _measure import RESULTS, SHAPES, Contender, arguments, best, facts, geometric_mean, in_turns, named, table, write
from _peers import (
    COMFY,
    DIFF,
    DIFF_STEP,
    KDIFF,
    KDIFF_GIVEN,
    KDIFF_TREE,
    OURS,
    OURS_GIVEN,
    Job,
    Programs,
    begin,
    ours,
    peer_arguments,
)

from ksched import Sampler, build_sampler
from ksched.samplers.registry import samplers
from ksched.samplers.spec import SamplerSpec

STEPS = {1_000_000: 20, 4_000_000: 10}  # by the largest state, in numbers, that runs as many
LEAST_STEPS = 5
LARGE, TREES_UP_TO = 1_000_000, 100_000
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "overhead.png"
TRIAD, TRIADS = "triad", 10
RUN = (KDIFF, KDIFF_TREE, DIFF)
LEAST = (*RUN, DIFF_STEP)
COLUMNS = (OURS, OURS_GIVEN, KDIFF, KDIFF_GIVEN, KDIFF_TREE, DIFF, DIFF_STEP, COMFY)
COMPARED = ["euler", "heun", "lms", "dpmpp_2m", "uni_pc", "deis", "euler_ancestral", "dpmpp_3m_sde"]
COMPARED_ON = tuple(named(SHAPES[i]) for i in (0, 2, 3))

Cell = dict[str, Any]


def make_job(shape: Sequence[int], sigmas: Sequence[float], kind: str, device: torch.device) -> Job:
    """The start state, and a model of the given kind."""
    generator = torch.Generator().manual_seed(0)
    start, denoised, uncond = (torch.randn(shape, generator=generator).to(device) for _ in range(3))

    def static(x: torch.Tensor, sigma: object) -> torch.Tensor:
        return denoised

    def static_both(x: torch.Tensor, sigma: object) -> tuple[torch.Tensor, torch.Tensor]:
        return denoised, uncond

    def fresh(x: torch.Tensor, sigma: object) -> torch.Tensor:
        return x * 0.5

    def fresh_both(x: torch.Tensor, sigma: object) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 0.5, x * 0.25

    model, both = (static, static_both) if kind == "static" else (fresh, fresh_both)
    return Job(start * sigmas[0], model, both, sigmas)


def triad(x: torch.Tensor) -> Contender:
    """Several sums of two tensors, written into a third."""
    a, b, c = x.clone(), x.clone(), torch.empty_like(x)

    def run() -> None:
        for _ in range(TRIADS):
            torch.add(a, b, alpha=0.5, out=c)

    return Contender(TRIAD, lambda: run)


def passes(sampler: Sampler) -> float | None:
    """Reads and writes of a whole state per step; None without a plan."""
    if sampler.spec.adaptive:
        return None
    return sum(len(row.terms) + 1 for row in sampler.plan.rows if row.terms) / sampler.steps


def measure(spec: SamplerSpec, job: Job, programs: Programs, seconds: float, model_cost: float) -> Cell:
    """The figures of one cell, in microseconds per step."""
    sampler = build_sampler(spec.name, sigmas=job.sigmas)
    trees = job.x.numel() <= TREES_UP_TO and job.x.device.type == "cpu"
    known = spec.name in COMPARED or job.steps > LEAST_STEPS
    contenders = [*ours(sampler, job), *(programs.contenders(spec.name, job, trees) if known else ())]
    times = in_turns([*contenders, triad(job.x)], seconds, job.x.device)
    floor = times.pop(TRIAD) / TRIADS / 3 * 1e6
    figures, calls = {}, {}
    for contender in contenders:
        # An adaptive sampler takes as many steps as it wants; each has as many calls.
        steps = contender.calls / int(spec.calls) if spec.adaptive else job.steps  # type: ignore[arg-type]
        figures[contender.name] = 1e6 * (times[contender.name] - contender.calls * model_cost) / steps
        calls[contender.name] = contender.calls
    cell: Cell = {
        "shape": named(job.x.shape),
        "sampler": spec.name,
        "steps": job.steps,
        "calls": calls[OURS],
        "microseconds": figures,
    }
    if other := {name: count for name, count in calls.items() if count != calls[OURS]}:
        cell["other_calls"] = other
    mine = figures[OURS]
    for title, names in {"ratio": RUN, "least": LEAST}.items():
        if peers := [figures[name] for name in names if name in figures]:
            cell[title] = min(peers) / mine
    if (moved := passes(sampler)) is not None:
        cell["floor"] = floor * moved
        cell["x floor"] = figures.get(OURS_GIVEN, mine) / cell["floor"]
    return cell


def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """A summary of the compared cells."""
    compared = [cell for cell in cells if cell["sampler"] in COMPARED and cell["shape"] in COMPARED_ON]
    made: dict[str, Any] = {"samplers": COMPARED, "shapes": COMPARED_ON, "cells": len(compared)}
    for title in ("ratio", "least"):
        if found := [cell for cell in compared if title in cell]:
            worst = min(found, key=lambda cell: cell[title])
            made[title] = {
                "geometric_mean": geometric_mean(cell[title] for cell in found),
                "worst": worst[title],
                "worst_cell": [worst["sampler"], worst["shape"]],
            }
    made["slower"] = [[c["sampler"], c["shape"], c["ratio"]] for c in cells if c.get("ratio", 1) < 1]
    return made


def text(cells: Iterable[Cell]) -> str:
    """The table of one size."""
    cells = list(cells)
    columns = [name for name in COLUMNS if any(name in cell["microseconds"] for cell in cells)]

    def number(value: float | None, digits: int = 1) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return table(
        ["sampler", *columns, "ratio", "least", "x floor"],
        [
            [
                cell["sampler"],
                *(number(cell["microseconds"].get(name)) for name in columns),
                *(number(cell.get(title)) for title in ("ratio", "least")),
                number(cell.get("x floor"), 2),
            ]
            for cell in cells
        ],
    )


def plot(data: Mapping[str, Any], path: Path) -> None:
    """Plot a panel per compared size: the time per step of every contender, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    styles = {
        OURS: ("o", "#c0392b", 70, "ksched"),
        KDIFF: ("s", "#2c6fbb", 36, "k-diffusion"),
        DIFF: ("^", "#3a8f4f", 36, "diffusers"),
        COMFY: ("D", "#8e5aa8", 26, "ComfyUI"),
    }
    by_name = {(cell["sampler"], cell["shape"]): cell for cell in data["cells"]}
    shapes = [shape for shape in COMPARED_ON if any((name, shape) in by_name for name in COMPARED)]
    figure, axes = plt.subplots(1, len(shapes), figsize=(2.9 * len(shapes), 3.6), sharey=True, squeeze=False)
    used: set[str] = set()
    for axis, shape in zip(axes[0], shapes, strict=True):
        for y, name in enumerate(COMPARED):
            cell = by_name.get((name, shape), {"microseconds": {}})
            found = {key: cell["microseconds"][key] for key in styles if key in cell["microseconds"]}
            if not found:
                continue
            axis.plot([min(found.values()), max(found.values())], [y, y], color="#cccccc", lw=1, zorder=1)
            for key, value in found.items():
                marker, color, size, label = styles[key]
                shown = None if key in used or shape != shapes[0] else label
                used |= {key} if shown else set()
                axis.scatter(value, y, marker=marker, color=color, s=size, zorder=3, label=shown)
            if "ratio" in cell:
                axis.annotate(
                    f"{cell['ratio']:.1f}x",
                    (found[OURS], y),
                    xytext=(-7, 0),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    fontsize=8,
                    color="#c0392b",
                )
        axis.set_xscale("log")
        values = [
            v
            for (_, s), c in by_name.items()
            if s == shape and c["sampler"] in COMPARED
            for k, v in c["microseconds"].items()
            if k in styles
        ]
        axis.set_xlim(min(values) / 4, max(values) * 1.5)
        axis.set_title(shape, fontsize=10)
        axis.set_xlabel("microseconds per step")
        axis.grid(axis="x", which="major", color="#e6e6e6")
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0][0].set_yticks(range(len(COMPARED)), COMPARED)
    axes[0][0].invert_yaxis()
    figure.legend(loc="upper center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main() -> None:
    """Print the tables, write JSON and the picture."""
    parser = arguments(__doc__, seconds=0.1)
    peer_arguments(parser)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--model", choices=("static", "fresh"), default="static")
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--sizes", nargs="+", type=int, choices=range(len(SHAPES)), help="only these of the five")
    parser.add_argument("--compared", action="store_true", help="only the samplers and sizes of the summary")
    given = parser.parse_args()
    if (begun := begin(given)) is None:
        return
    device, programs = begun
    warnings.filterwarnings("ignore", module="torchsde")  # it rounds the ends of its interval, and warns of that
    names = COMPARED if given.compared else given.samplers
    shapes = [SHAPES[i] for i in ((0, 2, 3) if given.compared else given.sizes or range(len(SHAPES)))]
    about = facts(device)
    print(
        f"microseconds per step, model ({given.model}) taken off; float32, {about['device']}, threads: {given.threads}"
    )
    cells: list[Cell] = []
    costs: dict[str, float] = {}
    with torch.no_grad():
        for shape in shapes:
            size = torch.Size(shape).numel()
            steps = next((count for largest, count in STEPS.items() if size <= largest), LEAST_STEPS)
            sigmas = build_sampler("euler", "karras", steps).sigmas.tolist()
            job = make_job(shape, sigmas, given.model, device)
            costs[named(shape)] = cost = best(lambda job=job: job.model(job.x, 1.0), given.seconds)
            row = [
                measure(spec, job, programs, given.seconds, cost)
                for spec in (spec for spec in samplers() if not spec.flow_only)
                if (names is None or spec.name in names) and not (spec.adaptive and size > LARGE)  # many steps
            ]
            cells += row
            print(f"\n{named(shape)}, {steps} steps; a model call costs {1e6 * cost:.2f}\n{text(row)}", flush=True)
    short = summary(cells)
    kinds = {"ratio": "as they are run", "least": "and diffusers' step alone"}
    for title, what in kinds.items():
        if title in short:
            mean, worst, cell = (short[title][key] for key in ("geometric_mean", "worst", "worst_cell"))
            print(f"\nfastest of k-diffusion and diffusers ({what}) over ksched, {short['cells']} cells:")
            print(f"geometric mean {mean:.2f}, worst {worst:.2f} ({' '.join(cell)})")
    print(f"cells where ksched is slower: {', '.join(f'{n} {s} {r:.2f}' for n, s, r in short['slower']) or 'none'}")
    data = {
        **about,
        "model": given.model,
        "seconds": given.seconds,
        "model_microseconds": {shape: 1e6 * cost for shape, cost in costs.items()},
        "summary": short,
        "cells": cells,
    }
    if given.out == RESULTS and (names is not None or len(shapes) < len(SHAPES)):
        print("only some cells were measured, so nothing is written; use --out DIR to write them")
        return
    suffix = "" if device.type == "cpu" else f"_{device.type}"
    write(given.out, f"overhead{suffix}", data)
    if device.type == "cpu" and importlib.util.find_spec("matplotlib"):
        plot(data, PICTURE if given.out == RESULTS else given.out / "overhead.png")


if __name__ == "__main__":
    main()
