"""What free rows and told sigmas gain on the checkpoint under guidance, and how robust they are.

`tune` at levels 1 and 2, which fits free rows to 40 and to 160 runs of the network, runs beside `auto`. Measured are
the mean distance from a run of many steps, divided by the spread of its latents, and the digits recognised by a
classifier that was fitted to real digits that the networks never saw. Each plan is made once, at guidance 4, from 20
prompts and start noise of its own. It is tested on two sets of other noise, at guidance 2 and 6, with white noise of
1 % of the data in every prediction, and on prompts in words that neither training nor tuning had.

Run from the repository root: ``python benchmarks/free_rows.py``; a quarter of an hour on two cores, or two minutes with
``--quick``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _handwriting import WORDS, judge, real
from _measure import RESULTS, facts, table, write
from diffusers.utils import logging
from digits_in_few_calls import REFERENCE, REFERENCE_PAIR, SHAPE, TUNE_BATCH, TUNE_SEED, distances, sampled
from digits_recognised import FOLDER, SCALE, Checkpoint, asked_for, share

import ksched
from ksched import guidance
from ksched.tuning.tuner import Level

CALLS = (4, 6)
REFERENCE_STEPS = 64
NOISE = 0.01  # of a prediction, over the spread of the data
SECOND_SEED = 50_000
LEVELS: dict[str, Level] = {"tune": 1, "tune, level 2": 2}
METHODS = ("auto", "auto, told", *LEVELS)


class Guided:
    """The model under guidance for some prompts; item n of a batch is drawn from prompt n."""

    def __init__(self, checkpoint: Checkpoint, texts: Sequence[str], scale: float = SCALE, noise: float = 0.0) -> None:
        with torch.no_grad():
            self._wanted, self._unwanted = (checkpoint.embedded(told) for told in (texts, [""] * len(texts)))
        self._denoiser, self._scale, self._noise = checkpoint.denoiser, scale, noise
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> Any:
        c, u = ({"encoder_hidden_states": states[: len(x)]} for states in (self._wanted, self._unwanted))
        denoised, uncond = guidance.cfg(guidance.batched(self._denoiser, c, u), None, self._scale)(x, sigma)
        if self._noise:
            denoised = denoised + self._noise * torch.randn(x.shape, generator=self._generator, dtype=x.dtype)
        return denoised, uncond


def other_words(count: int) -> list[str]:
    """Prompts in words that training never saw."""
    ways = ("somebody wrote {} on paper", "figure {}", "{} in black ink")
    return [ways[i // 10 % len(ways)].format(WORDS[i % 10]) for i in range(count)]


def start_noise(count: int, first: int) -> torch.Tensor:
    """Start noise of standard deviation 1, by seed."""
    return torch.cat([torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(first + i)) for i in range(count)])


def tuned(checkpoint: Checkpoint, calls: int, items: int, level: Level) -> ksched.Plan:
    """The plan that `tune` makes through the model."""
    for parameter in checkpoint.denoiser.network.parameters():
        parameter.requires_grad_(False)
    return ksched.tune(
        Guided(checkpoint, asked_for(TUNE_BATCH)[0]),
        calls,
        process=checkpoint.process,
        shape=SHAPE,
        level=level,
        items=items,
        batch=TUNE_BATCH,
        seed=TUNE_SEED,
    )


def conditions(checkpoint: Checkpoint, images: int) -> dict[str, tuple[Guided, Guided, torch.Tensor]]:
    """The test conditions of plans: the model that runs, that of the reference, and start noise."""
    texts, words = asked_for(images)[0], other_words(images)
    plain = Guided(checkpoint, texts)
    one, two = start_noise(images, 0), start_noise(images, SECOND_SEED)
    half = images // 2
    low, high = (Guided(checkpoint, texts[:half], scale) for scale in (2.0, 6.0))
    told = Guided(checkpoint, words[:half])
    return {
        "guidance 4": (plain, plain, one),
        "other noise": (plain, plain, two),
        "guidance 2": (low, low, one[:half]),
        "guidance 6": (high, high, one[:half]),
        "1 % noise": (Guided(checkpoint, texts, noise=NOISE), plain, one),
        "other words": (told, told, one[:half]),
    }


@torch.no_grad()
def measured(given: argparse.Namespace) -> dict[str, Any]:
    """All figures, written as they are measured."""
    began = time.perf_counter()
    reader, checkpoint = judge(real()[1]), Checkpoint(FOLDER)
    exact = ksched.build_sampler(*REFERENCE_PAIR, REFERENCE_STEPS, process=checkpoint.process, **REFERENCE)

    def right(latents: torch.Tensor) -> float:
        decoded = checkpoint.decoded(latents / checkpoint.vae.config.scaling_factor)
        return share(reader, decoded, np.arange(len(latents)) % 10)

    data: dict[str, Any] = {
        **facts(torch.device("cpu")),
        "command": " ".join(["python benchmarks/free_rows.py", *given.changed]),
        "images": given.images,
        "items": given.items,
        "methods": list(METHODS),
        "plans": [],
        "rows": [],
    }
    samplers: dict[int, dict[str, ksched.Sampler]] = {}
    for calls in given.calls:
        samplers[calls] = {
            name: ksched.build_sampler("auto", steps=calls, process=checkpoint.process, **how)
            for name, how in {"auto": {}, "auto, told": {"guidance": SCALE}}.items()
        }
        for name, level in LEVELS.items():
            start = time.perf_counter()
            with torch.enable_grad():  # level 2 checks for gradients
                plan = tuned(checkpoint, calls, given.items, level)
            samplers[calls][name] = ksched.build_sampler(plan, process=checkpoint.process)
            row = {"calls": calls, "method": name, "chosen": plan.report["chosen"], "why": plan.report["why"]}
            data["plans"].append({**row, "seconds": time.perf_counter() - start, "plan": plan.to_json()})
            print(calls, name, plan.report["chosen"], plan.report["errors"], flush=True)
            write(given.out, "free_rows", data)
    for name, (model, true, noise) in conditions(checkpoint, given.images).items():
        reference = sampled(exact, true, noise)
        read = right(reference)
        for calls, known in samplers.items():
            cells = {}
            for method, sampler in known.items():
                made = sampled(sampler, model, noise)
                away = distances(made, reference)
                figures = {"mean": away.mean(), "median": np.median(away), "p90": np.quantile(away, 0.9)}
                cells[method] = {**{key: float(value) for key, value in figures.items()}, "right": right(made)}
            row = {"condition": name, "calls": calls, "images": len(noise), "reference": read, "methods": cells}
            data["rows"].append(row)
            print(name, calls, {n: f"{c['mean']:.4f} {c['right']:.3f}" for n, c in cells.items()}, flush=True)
        data["seconds"] = time.perf_counter() - began
        write(given.out, "free_rows", data)
    return data


def printed(data: dict[str, Any]) -> str:
    """All figures as a text table."""
    rows = [
        [row["condition"], str(row["calls"]), name, f"{c['mean']:.4f}", f"{c['p90']:.4f}", f"{c['right']:.3f}"]
        for row in data["rows"]
        for name, c in row["methods"].items()
    ]
    return table(["condition", "calls", "method", "mean distance", "p90", "right"], rows)


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads that torch may use")
    parser.add_argument("--images", type=int, default=200, help="number of digits per figure; half for some conditions")
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS), metavar="N", help="numbers of model calls")
    parser.add_argument("--items", type=int, default=80, help="start states that tune compares on, a multiple of 40")
    parser.add_argument("--quick", action="store_true", help="40 images, 4 calls, 40 items")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    given = parser.parse_args()
    if given.quick:
        given.images, given.calls, given.items = 40, [4], 40
    if given.items % (2 * TUNE_BATCH) or given.images % 20:
        parser.error(f"--items must be a multiple of {2 * TUNE_BATCH} and --images one of 20")
    given.changed = [
        f"--{name} {' '.join(map(str, np.atleast_1d(getattr(given, name))))}"
        for name in ("images", "calls", "items")
        if getattr(given, name) != parser.get_default(name)
    ]
    return given


def main() -> None:
    given = parsed()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    data = measured(given)
    print(f"\n{printed(data)}\n\n{data['seconds']:.0f} seconds")


if __name__ == "__main__":
    main()
