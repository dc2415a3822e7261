"""How many model calls (NFE) the handwritten-digit checkpoint needs: digits recognised, distance from the exact run.

The checkpoint draws prompted digits under guidance, from the same start noise for every method and NFE. The methods
are `tune`, from the guided model and from latents of real digits alone; `auto` with both of its ends; and three
common pairs of sampler and schedule. A classifier, fitted to real digits that the networks never saw, reads the
digits, and their latents are compared with those of a run of 200 steps. The distance of an image is the root mean
square difference of its latents, divided by the standard deviation of the latents of all 200-step runs. ``tune``
makes a plan for each NFE from start noise of its own; it sees none of the noise of the comparison.

Run from the repository root: ``python benchmarks/digits_in_few_calls.py``; about ten minutes on two cores, or two with
``--quick``.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _handwriting import judge, real
from _measure import RESULTS, facts, table, write
from diffusers.utils import logging
from digits_recognised import FOLDER, SCALE, Checkpoint, asked_for, share

import ksched
from ksched import guidance
from ksched.samplers.auto import choose
from ksched.tuning.tuner import Level

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "digits_in_few_calls.png"
CALLS, QUICK_CALLS = (4, 5, 6, 8, 10, 12, 16), (4, 8)
PAIRS = (("dpmpp_2m", "karras"), ("uni_pc", "exponential"), ("euler", "simple"))
REFERENCE: Mapping[str, Any] = {"predictor_order": 4, "start": "runge_kutta"}
REFERENCE_PAIR, REFERENCE_STEPS = ("exp_pc", "exponential"), 200
SHAPE = (4, 8, 8)
TUNE_SEED = 1_000_000  # far from the seeds of the images, which count from 0
TUNE_BATCH = 20  # prompts go by the place in a batch, so halves of the items must be whole batches
LINES = {  # colour and format by method
    "uni_pc + exponential": ("#D55E00", "^-"),
    "dpmpp_2m + karras": ("#56B4E9", "D-"),
    "euler + simple": ("#999999", "v-"),
    "auto": ("#009E73", "o-"),
    "auto, end=denoise": ("#CC79A7", "P-"),
    "tune": ("#000000", "s--"),
    "tune, from latents": ("#E69F00", "x--"),
}

Model = Callable[[torch.Tensor, torch.Tensor], Any]


def guided(checkpoint: Checkpoint, texts: Sequence[str]) -> Model:
    """The model under guidance, for states of these prompts, or of the first of them where states are fewer."""
    wanted, unwanted = (checkpoint.embedded(told).detach() for told in (texts, [""] * len(texts)))

    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        c, u = ({"encoder_hidden_states": states[: len(x)]} for states in (wanted, unwanted))
        return guidance.cfg(guidance.batched(checkpoint.denoiser, c, u), None, SCALE)(x, sigma)

    return model


@torch.enable_grad()  # level 2 goes through the model
def tuned(checkpoint: Checkpoint, calls: int, items: int, level: Level) -> ksched.Plan:
    """The plan that `tune` makes from the guided model; item n of a batch is drawn from prompt n."""
    return ksched.tune(
        guided(checkpoint, asked_for(TUNE_BATCH)[0]),
        calls,
        process=checkpoint.process,
        shape=SHAPE,
        device=checkpoint.device,
        level=level,
        items=items,
        batch=TUNE_BATCH,
        seed=TUNE_SEED,
    )


def tuned_from(latents: torch.Tensor, digits: np.ndarray, process: ksched.Process, calls: int) -> ksched.Plan:
    """The plan that `tune` makes from latents and their labels, without the model."""
    return ksched.tune(latents, calls, process=process, guidance=SCALE, labels=digits, seed=TUNE_SEED)


def sampled(sampler: ksched.Sampler, model: Model, noise: torch.Tensor) -> torch.Tensor:
    """Sample latents from noise of standard deviation 1."""
    return sampler.sample(model, noise * sampler.sigmas[0])


def spread(latents: torch.Tensor) -> float:
    """Standard deviation of all values."""
    return float(latents.std())


def distances(latents: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    """Relative distance of every image."""
    away: np.ndarray = (latents - reference).square().flatten(1).mean(1).sqrt().cpu().numpy()
    return away / spread(reference)


def result_name(level: int) -> str:
    """The file of the results; level 2 needs a GPU and has its own."""
    return "digits_in_few_calls" + ("_level_2" if level == 2 else "")


def draw(data: Mapping[str, Any], path: Path) -> None:
    """Plot both measures by NFE."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    calls = [row["calls"] for row in data["rows"]]
    for name, (colour, form) in LINES.items():
        found = [row["methods"][name] for row in data["rows"]]
        how: dict[str, Any] = {"color": colour, "label": name, "markersize": 5}
        if name == "tune":  # often one of the others, which must be seen through it
            how |= {"markersize": 9, "markerfacecolor": "none", "linewidth": 1}
        left.plot(calls, [100 * cell["right"] for cell in found], form, **how)
        right.plot(calls, [cell["mean"] for cell in found], form, **how)
    left.axhline(100 * data["reference"]["right"], color="0.6", linestyle=":", label=f"{REFERENCE_STEPS} steps")
    left.set(title="recognised as the prompted digit", ylabel="percent")
    right.set(title=f"distance to {REFERENCE_STEPS} steps", ylabel="mean relative distance", yscale="log")
    right.yaxis.set_major_locator(FixedLocator([0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]))
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.yaxis.set_minor_locator(NullLocator())
    for axes in (left, right):
        axes.set(xlabel="model calls", xscale="log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(calls, [str(n) for n in calls])
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def printed(data: Mapping[str, Any]) -> str:
    """All figures as a text table."""
    rows = [
        [name, str(row["calls"]), f"{cell['right']:.3f}", f"{cell['mean']:.4f}", f"{cell['median']:.4f}"]
        for row in data["rows"]
        for name, cell in row["methods"].items()
    ]
    return table(["method", "calls", "right", "mean distance", "median"], rows)


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads that torch may use")
    parser.add_argument("--images", type=int, default=200, help="number of digits per figure")
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS), metavar="N", help="numbers of model calls")
    parser.add_argument("--items", type=int, default=40, help="start states that tune compares on, a multiple of 40")
    parser.add_argument("--level", type=int, default=1, choices=(0, 1, 2), help="level of tune")
    parser.add_argument("--device", default="cpu", help="device of the networks")
    parser.add_argument("--quick", action="store_true", help="40 images, 4 and 8 calls")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    given = parser.parse_args()
    if given.items % (2 * TUNE_BATCH):
        parser.error(f"--items must be a multiple of {2 * TUNE_BATCH}; got {given.items}")
    if given.quick:
        given.images, given.calls = 40, list(QUICK_CALLS)
    names = ("images", "calls", "items", "level", "device")
    given.changed = [
        f"--{name} {' '.join(map(str, np.atleast_1d(getattr(given, name))))}"
        for name in names
        if getattr(given, name) != parser.get_default(name)
    ]
    return given


@torch.no_grad()
def measured(given: argparse.Namespace) -> dict[str, Any]:
    """All figures, written as they are measured."""
    began, busy = time.perf_counter(), time.process_time()
    train, held = real()
    reader = judge(held)
    checkpoint = Checkpoint(FOLDER, given.device)
    texts, digits = asked_for(given.images)
    model = guided(checkpoint, texts)
    noise = torch.cat([torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(len(texts))])
    noise = noise.to(given.device)

    def right(latents: torch.Tensor) -> float:
        return share(reader, checkpoint.decoded(latents / checkpoint.vae.config.scaling_factor), digits)

    exact = ksched.build_sampler(*REFERENCE_PAIR, REFERENCE_STEPS, process=checkpoint.process, **REFERENCE)
    reference = sampled(exact, model, noise)
    latents = checkpoint.vae.encode(train.images.expand(-1, 3, -1, -1).to(given.device)).latent_dist.mean
    latents = latents * checkpoint.vae.config.scaling_factor
    data: dict[str, Any] = {
        **facts(torch.device(given.device)),
        "command": " ".join(["python benchmarks/digits_in_few_calls.py", *given.changed]),
        "images": given.images,
        "scale": SCALE,
        "std": {
            "latents of real digits": spread(latents),
            "pixels of real digits": spread(train.images),
            "latents of the reference": spread(reference),
        },
        "reference": {
            "sampler": REFERENCE_PAIR[0],
            "schedule": REFERENCE_PAIR[1],
            "steps": REFERENCE_STEPS,
            "options": REFERENCE,
            "calls": exact.nfe,
            "right": right(reference),
        },
        "tune": {"items": given.items, "level": given.level, "batch": TUNE_BATCH, "seed": TUNE_SEED, "seconds": 0.0},
        "methods": ["auto", "auto, end=denoise", "tune", "tune, from latents", *(" + ".join(pair) for pair in PAIRS)],
        "rows": [],
    }
    print(f"reference: {exact.nfe} calls, right {data['reference']['right']:.3f}; std {data['std']}", flush=True)
    for calls in given.calls:
        start = time.perf_counter()
        plan = tuned(checkpoint, calls, given.items, given.level)
        data["tune"]["seconds"] += time.perf_counter() - start
        samplers = [
            ksched.build_sampler("auto", steps=calls, process=checkpoint.process),
            ksched.build_sampler("auto", steps=calls, process=checkpoint.process, end="denoised"),
            ksched.build_sampler(plan),
            ksched.build_sampler(tuned_from(latents, train.labels, checkpoint.process, calls)),
            *(ksched.build_sampler(*pair, calls, process=checkpoint.process) for pair in PAIRS),
        ]
        cells, known = {}, {}
        for name, sampler in zip(data["methods"], samplers, strict=True):
            assert sampler.nfe == calls
            if sampler.plan not in known:  # tune may choose what is there already
                made = sampled(sampler, model, noise)
                away = distances(made, reference)
                known[sampler.plan] = {
                    "right": right(made),
                    "mean": float(away.mean()),
                    "median": float(np.median(away)),
                    "worst": float(away.max()),
                }
            cells[name] = known[sampler.plan]
        report = plan.report
        data["rows"].append(
            {
                "calls": calls,
                "methods": cells,
                "auto is": choose(calls, checkpoint.process).name,
                "tune chose": report["chosen"],
                "why": report["why"],
                "expected": report["errors"],
                "model calls": report["model_calls"],
            }
        )
        print(calls, report["chosen"], {n: f"{c['right']:.3f} {c['mean']:.4f}" for n, c in cells.items()}, flush=True)
        data["seconds"] = time.perf_counter() - began
        data["processor seconds"] = (
            time.process_time() - busy
        )  # CPU time of all threads, which other load does not change
        write(given.out, result_name(given.level), data)
    return data


def main() -> None:
    given = parsed()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    data = measured(given)
    print(f"\n{printed(data)}\n\n{data['seconds']:.0f} seconds")
    if importlib.util.find_spec("matplotlib") and given.level < 2:
        draw(data, PICTURE if given.out == RESULTS else given.out / PICTURE.name)


if __name__ == "__main__":
    main()
