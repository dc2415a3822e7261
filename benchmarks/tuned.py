"""Plans for few model calls: what `auto` and `tune` gain, and a check that no tuned plan is worse than an untuned one.

There are three parts, on the data, ranges and figures of ``accuracy.py``:

auto
    Errors of `build_sampler("auto")` on every testbed, beside the best recorded pair of ComfyUI: geometric means over
    the three main testbeds, on Stable Diffusion's range also over six.
tune
    Plans from 1000 samples of each main testbed, without calling a model, and how long that takes.
guard
    Plans made by calling the denoiser, with and without guidance, with and without noise in its answers, for many
    seeds; and plans from samples. Each runs beside all pairs that `tune` compares with, on new start states.

Everything takes about an hour with ``--workers 2`` on two cores, most of it for the last part. ``--parts auto tune``
leaves that part unchanged.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import RESULTS, facts, table, write
from _recorded import PEERS, PEERS_ON_SIX
from _testbeds import (
    HELD_OUT,
    MAIN,
    RANGES,
    Entry,
    Guided,
    Smoothed,
    built,
    geometric_mean,
    model_of,
    problem,
    score,
)

import ksched
from ksched.tuning.baselines import untuned
from ksched.types import Array

Case = Mapping[str, Any]

SEEDS = (99, 2027)
CALLS = (5, 6, 8, 10, 15, 20)
TUNED_CALLS = (6, 8, 10)
SAMPLES = 1000
WORSE = 1.05  # ratio of two errors that is more than chance
SIX = (*MAIN, "kde_digits", "cfg3_digits", "cfg6_digits")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "tuned.png"


def samples_of(testbed: str, of: str, seed: int) -> Array:
    """Data of a testbed."""
    model = model_of(testbed, of)
    model = model.mixture if isinstance(model, Guided) else model
    if not isinstance(model, Smoothed):
        drawn: Array = model.sample(SAMPLES, seed)  # type: ignore[attr-defined]
        return drawn
    rng = np.random.default_rng(seed)
    points = model.points[rng.integers(0, len(model.points), SAMPLES)]
    noised: Array = points + model.width * rng.standard_normal(points.shape)
    return noised


def errors_of(plan: ksched.Plan, testbed: str, of: str, seed: int) -> torch.Tensor:
    """Errors of a plan on a problem."""
    sampler = ksched.build_sampler(plan, process=RANGES[of].process)
    return problem(testbed, of, seed).errors(sampler)


def labelled_samples(testbed: str, of: str, seed: int) -> tuple[Array, dict[str, Any]]:
    """Data of a testbed, and the guidance arguments for `tune`."""
    model = model_of(testbed, of)
    if not isinstance(model, Guided):
        return samples_of(testbed, of, seed), {}
    mixture = model.mixture
    names = sorted(set(mixture.labels))
    shares = [float(mixture.weights[np.array(mixture.labels) == name].sum()) for name in names]
    counts = np.random.default_rng(seed).multinomial(SAMPLES, shares)
    parts = [part.sample(max(n, 1), seed + k) for k, (part, n) in enumerate(zip(model.parts, counts, strict=True))]
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return np.concatenate(parts), {"guidance": model.scale, "labels": labels}


# ---------------------------------------------------------------------------------------------------------------- auto


def auto(seeds: Sequence[int]) -> dict[str, Any]:
    """Errors of `auto`, and of the best single pair on each of the six testbeds."""
    found: dict[str, Any] = {of: {} for of in RANGES}
    for of, n in ((of, n) for of in RANGES for n in CALLS):
        where: dict[str, Any] = {"steps": n, "process": RANGES[of].process, "data_std": RANGES[of].std}
        plan = ksched.build_sampler("auto", **where).plan
        cell: dict[str, Any] = {"peer": PEERS[of, n].pairs[0]._asdict(), "seeds": {}}
        for seed in seeds:
            beds = {bed: score(errors_of(plan, bed, of, seed)) for bed in (*MAIN, *HELD_OUT)}
            means = {"main": geometric_mean(beds[bed]["mean"] for bed in MAIN)}
            means["six"] = geometric_mean(beds[bed]["mean"] for bed in SIX)
            cell["seeds"][str(seed)] = {**means, "testbeds": beds}
        if of == "sd" and n in PEERS_ON_SIX:
            cell["peer_on_six"] = {**PEERS_ON_SIX[n]._asdict(), "seeds": {str(s): _peer_on_six(n, s) for s in seeds}}
        found[of][str(n)] = cell
        print(of, n, *(f"{c['main']:.4f}" for c in cell["seeds"].values()), flush=True)
    return found


def _peer_on_six(calls: int, seed: int) -> dict[str, float]:
    """The best single pair of ComfyUI over six testbeds, in its dialect, on each of them."""
    pair, of = PEERS_ON_SIX[calls], RANGES["sd"]
    sampler = built(Entry.read(pair.sampler), Entry.read(pair.schedule), "", calls, of, "comfyui")
    assert sampler is not None
    return {bed: float(problem(bed, "sd", seed).errors(sampler).mean()) for bed in SIX}


# ---------------------------------------------------------------------------------------------------------------- tune


def tuned(seeds: Sequence[int]) -> dict[str, Any]:
    """Errors of plans tuned from samples, for as many seeds as sets of start states."""
    found: dict[str, Any] = {of: {} for of in RANGES}
    for of, n in ((of, n) for of in RANGES for n in TUNED_CALLS):
        cell: dict[str, Any] = {"peer": PEERS[of, n].pairs[0]._asdict(), "peer_10": PEERS[of, 10].pairs[0].error}
        cell["seeds"] = {}
        for seed in seeds:
            beds = {bed: _tuned(bed, of, n, seed) for bed in MAIN}
            cell["seeds"][str(seed)] = {"main": geometric_mean(beds[bed]["mean"] for bed in MAIN), "testbeds": beds}
            print(of, n, seed, f"{cell['seeds'][str(seed)]['main']:.4f}", flush=True)
        found[of][str(n)] = cell
    return found


def _tuned(testbed: str, of: str, calls: int, seed: int) -> dict[str, Any]:
    samples = samples_of(testbed, of, seed)
    start = time.perf_counter()
    plan = ksched.tune(samples, calls, process=RANGES[of].process, seed=seed)
    seconds = time.perf_counter() - start
    report = plan.report
    made = {"chosen": report["chosen"], "tuned": report["tuned"], "components": report["components"]}
    return {**score(errors_of(plan, testbed, of, seed)), "seconds": seconds, **made}


# --------------------------------------------------------------------------------------------------------------- guard


def cases(runs: int) -> Iterator[Case]:
    """The requested number of cases: twenty seeds, each with some of all combinations, drawn evenly."""
    rng = np.random.default_rng(0)
    beds, noises = (*MAIN, *HELD_OUT), (0.0, 0.0, 0.003, 0.01, 0.03)
    for run in range(runs):
        bed, of = str(rng.choice(beds)), str(rng.choice(list(RANGES)))
        noise, calls = float(rng.choice(noises)), int(rng.integers(5, 21))
        source = "samples" if noise == 0 and rng.integers(2) else "model"
        yield {"seed": run % 20, "testbed": bed, "range": of, "source": source, "noise": noise, "calls": calls}


def guard(runs: int, workers: int) -> list[dict[str, Any]]:
    """A tuned plan compared with the best pair, on new start states."""
    if workers == 1:
        return [guarded(case) for case in cases(runs)]
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return list(pool.map(guarded, cases(runs)))


def guarded(case: Case) -> dict[str, Any]:
    """A case with its outcome.

    Returns
    -------
    the case, what was chosen and its error; ``best`` of all pairs on the new start states, which `tune` cannot know,
    and the error of the pair that it held for the best. ``again``, where the plan looks worse than that pair: both
    errors on eight times as many states, since one of 256 that ends in another mode may be a tenth of a small mean
    """
    bed, of, calls, seed = case["testbed"], case["range"], case["calls"], case["seed"]
    process = RANGES[of].process
    if case["source"] == "model":
        plan = ksched.tune(_Told(bed, of, case["noise"], seed), calls, process=process, seed=seed)
    else:
        samples, how = labelled_samples(bed, of, seed)
        plan = ksched.tune(samples, calls, process=process, seed=seed, **how)
    errors = {name: _noisy_error(pair, case) for name, pair in untuned(calls, process, None)}
    best = min(errors, key=lambda name: errors[name])
    row = {**case, "chosen": plan.report["chosen"], "tuned": plan.report["tuned"], "error": _noisy_error(plan, case)}
    held = plan.report["untuned"]["name"]
    row |= {"best": best, "best_error": errors[best], "untuned_error": errors[held], "again": None}
    if row["error"] > row["untuned_error"]:
        pair = dict(untuned(calls, process, None))[held]
        row["again"] = [float(np.mean([_noisy_error(p, case, more) for more in range(1, 9)])) for p in (plan, pair)]
    print(*(f"{value:.4f}" if isinstance(value, float) else value for value in row.values()), flush=True)
    return row


class _Told:
    """The denoiser of a testbed, with float32 states and relative white noise in its answers."""

    def __init__(self, testbed: str, of: str, noise: float, seed: int) -> None:
        self.model, self.dimension = model_of(testbed, of), model_of(testbed, of).dimension
        self.size = noise * RANGES[of].std
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        denoised = self.model(x.double(), float(sigma[0]))
        if self.size:
            noise = torch.randn(denoised.shape, generator=self.generator, dtype=denoised.dtype)
            denoised = denoised + self.size * noise
        return denoised.to(x.dtype)


def _noisy_error(plan: ksched.Plan, case: Case, more: int = 0) -> float:
    """Mean error of a plan with the noise of a case, the same for every plan of that NFE, from new start states."""
    of = case["range"]
    held = problem(case["testbed"], of, 1000 * (1 + more) + case["seed"])
    sampler = ksched.build_sampler(plan, process=RANGES[of].process)
    told = _Told(case["testbed"], of, case["noise"], 7 + more)
    run = sampler.start(held.x)
    for level in sampler.plan.levels:
        run.feed(told(run.x, torch.tensor([level.label], dtype=torch.float64)))
    away = (run.x - held.truth).square().mean(1).sqrt() / held.spread
    return float(away.mean())


# ------------------------------------------------------------------------------------------------------------- results


def plot(data: Mapping[str, Any], path: Path) -> None:
    """Plot error against NFE: the best pair of ComfyUI, `auto`, and `tune`; geometric means over the main testbeds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.6), sharey=True, layout="constrained")
    titles = {"sd": "Stable Diffusion's range", "edm": "EDM's range", "flow": "flow matching"}
    for axis, of in zip(axes, RANGES, strict=True):
        lines: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
        lines["best pair in ComfyUI"] = CALLS, [PEERS[of, n].pairs[0].error for n in CALLS]
        lines["auto"] = CALLS, [_mean(data["auto"][of][str(n)]) for n in CALLS]
        if "tune" in data:
            lines["tune, from 1000 samples"] = TUNED_CALLS, [_mean(data["tune"][of][str(n)]) for n in TUNED_CALLS]
        for (name, (x, y)), style in zip(lines.items(), ("o--", "o-", "s-"), strict=False):
            axis.plot(x, y, style, label=name, markersize=4)
        axis.set(yscale="log", title=titles[of], xlabel="model calls", xticks=CALLS)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("mean relative error")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=170)


def _mean(cell: Mapping[str, Any]) -> float:
    return geometric_mean(found["main"] for found in cell["seeds"].values())


def summary(data: Mapping[str, Any]) -> str:
    """A summary of the figures, as text."""
    parts = []
    for part in ("auto", "tune"):
        cells_of: Mapping[str, Any] = data.get(part, {})
        rows = [
            [f"{part} {of} {n}", f"{cell['peer']['error']:.4f}", *_figures(cell)]
            for of, cells in cells_of.items()
            for n, cell in cells.items()
        ]
        if rows:
            seeds = next(iter(next(iter(data[part].values())).values()))["seeds"]
            parts.append(table(["", "best pair", *(f"seed {seed}" for seed in seeds), "gain"], rows))
    if rows := data.get("guard"):
        accepted = sum(row["tuned"] for row in rows)
        parts.append(f"guard: {len(rows)} cases, {accepted} tuned plans accepted")
        for words, key in (("the pair held for the best", "untuned_error"), ("the best of all pairs", "best_error")):
            ratios = [row["error"] / row[key] for row in rows]
            parts[-1] += f"; beside {words}: {sum(ratio > WORSE for ratio in ratios)} more than {WORSE - 1:.0%} worse, "
            parts[-1] += f"worst {max(ratios):.3f}, geometric mean {geometric_mean(ratios):.3f}"
        again = [ours / theirs for ours, theirs in (row["again"] for row in rows if row["again"])]
        parts[-1] += f"; {len(again)} measured again: {sum(ratio > WORSE for ratio in again)} more than "
        parts[-1] += f"{WORSE - 1:.0%} worse, worst {max(again, default=0):.3f}"
    return "\n\n".join(parts)


def _figures(cell: Mapping[str, Any]) -> list[str]:
    means = [found["main"] for found in cell["seeds"].values()]
    return [*(f"{mean:.4f}" for mean in means), f"{cell['peer']['error'] / max(means):.2f}"]


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("auto", "tune", "guard"), default=("auto", "tune", "guard"))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="seeds of start states, samples and tuning")
    parser.add_argument("--runs", type=int, default=200, help="cases of the guard")
    parser.add_argument("--workers", type=int, default=1, help="processes for the guard")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write JSON."""
    given = parsed()
    torch.set_num_threads(given.threads)
    made: Mapping[str, Callable[[], Any]] = {
        "auto": lambda: auto(given.seeds),
        "tune": lambda: tuned(given.seeds),
        "guard": lambda: guard(given.runs, given.workers),
    }
    parts = {part: made[part]() for part in given.parts}
    print(summary({**parts}))
    path = given.out / "tuned.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    data = {**before, **facts(), "seeds": list(given.seeds), "samples": SAMPLES, **parts}
    write(given.out, "tuned", data)
    if "auto" in data:
        plot(data, PICTURE if given.out == RESULTS else given.out / "tuned.png")


if __name__ == "__main__":
    main()
