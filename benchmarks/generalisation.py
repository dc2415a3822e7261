"""Whether `auto` generalises: its error on whole families of data that its tables were not fitted to.

Every family has an exact denoiser (``_families.py``). The error of a run is that of ``accuracy.py``, for 192 start
states of a seed. `auto` is compared with 16 pairs that people use (each of `SAMPLERS` with each of `SCHEDULES`), and
with all pairs that `tune` compares with, which include options and grids of ksched's own. The best of each set is
chosen for each family, range and NFE after seeing its error.

guided
    The same under classifier-free guidance (CFG): `auto` without and with the guidance scale.
checkpoint
    The handwritten-digit network at guidance 4, 60 start states; runs of 64 steps are taken as exact.

tune
    `tune` from 1000 samples of every family: its error and its seconds, beside `auto` and all pairs. Its guard should
    return nothing worse than these. Eight families, three ranges, three NFE and three seeds are 216 cases.

New figures replace those of the same ranges and NFE in the results.

Run from the repository root: ``python benchmarks/generalisation.py``; about ten minutes on one core, or twenty with
the parts "guided" and "checkpoint".
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _families import FAMILIES, GUIDED, HEADLINE, SEED, problem
from _measure import RESULTS, facts, table, write
from _testbeds import RANGES, geometric_mean

import ksched
from ksched.samplers.linear_multistep import ratio
from ksched.tuning.baselines import untuned
from ksched.tuning.canonical_plan import canonical

CALLS = (4, 6, 8, 10, 15)
TUNED_CALLS, TUNED_SEEDS, SAMPLES = (6, 8, 10), (1, 2, 3), 1000
#: what people use: every sampler with every schedule
SAMPLERS, SCHEDULES = ("dpmpp_2m", "uni_pc", "deis", "ipndm"), ("karras", "exponential", "beta", "sgm_uniform")
WORSE = 1.05  # ratio of two errors that is more than chance
PARTS = ("unguided", "guided", "checkpoint", "tune")
SCALES = (2.0, 3.5, 5.0, 7.5)


def start_of(of: str) -> float:
    """The noise-to-signal ratio at which runs on a range start, divided by the std of the data."""
    here = RANGES[of]
    return ratio(here.process.level(here.start)) / here.std


def error(plan: ksched.Plan, of: str, family: str, scale: float = 1.0, seed: int = SEED) -> float:
    """Mean error of a plan on a family."""
    levels, rows = (torch.from_numpy(array) for array in canonical(plan, RANGES[of].std))
    with torch.no_grad():
        return float(problem(family, start_of(of), scale, seed).errors(levels, rows).nan_to_num(nan=1e6).mean())


def auto_of(of: str, calls: int, **how: Any) -> ksched.Plan:
    """`auto` on a range."""
    here = RANGES[of]
    return ksched.build_sampler("auto", calls=calls, process=here.process, data_std=here.std, **how).plan


def used(of: str, calls: int) -> dict[str, ksched.Plan]:
    """Pairs that people use."""
    process = RANGES[of].process
    made = {}
    for sampler in SAMPLERS:
        for schedule in SCHEDULES:
            made[f"{sampler} + {schedule}"] = ksched.build_sampler(sampler, schedule, calls=calls, process=process).plan
    return made


def unguided(of: str, calls: int, seeds: Sequence[int], families: Sequence[str]) -> dict[str, Any]:
    """`auto` beside the best pair, by family."""
    pairs, people, cells = dict(untuned(calls, RANGES[of].process, None)), used(of, calls), {}
    for family in families:

        def mean(plan: ksched.Plan, family: str = family) -> float:
            return geometric_mean(error(plan, of, family, seed=s) for s in seeds)

        errors, theirs = ({name: mean(plan) for name, plan in of_all.items()} for of_all in (pairs, people))
        best, best_used = min(errors, key=errors.__getitem__), min(theirs, key=theirs.__getitem__)
        ours = mean(auto_of(of, calls))
        cells[family] = {"auto": ours, "pair": best, "error": errors[best], "gain": errors[best] / ours}
        cells[family] |= {"used": best_used, "gain_used": theirs[best_used] / ours}
    return {"pairs": len(pairs), "families": cells}


def tuned(of: str, calls: int, families: Sequence[str], seeds: Sequence[int] = TUNED_SEEDS) -> dict[str, Any]:
    """`tune` from samples, by family and seed."""
    here, cells = RANGES[of], {}
    pairs, people = dict(untuned(calls, here.process, None)), used(of, calls)
    for family in families:
        rows = []
        for seed in seeds:
            samples = FAMILIES[family](seed).draw(SAMPLES, np.random.default_rng(seed))
            began = time.perf_counter()
            plan = ksched.tune(here.std * samples, calls, process=here.process, seed=seed)
            seconds = time.perf_counter() - began
            found = {
                "tune": error(plan, of, family, seed=seed),
                "auto": error(auto_of(of, calls), of, family, seed=seed),
            }
            found |= {
                name: min(error(p, of, family, seed=seed) for p in plans.values())
                for name, plans in (("pair", pairs), ("used", people))
            }
            assert plan.report is not None
            rows.append({**found, "seconds": round(seconds, 1), "chosen": plan.report["chosen"]})
        cells[family] = rows
    return cells


def guarded(cells: Mapping[str, Any]) -> str:
    """Describe how `tune` compares with everything else."""
    rows = [row for of in cells.values() for by in of.values() for cases in by.values() for row in cases]
    worse = [row["tune"] / min(row["auto"], row["pair"]) for row in rows]
    within = sum(w <= WORSE for w in worse)
    parts = [
        f"tune: {len(rows)} cases, {within} within {WORSE - 1:.0%} of auto and the best pair; worst {max(worse):.2f}"
    ]
    for name, families in (("headline", HEADLINE), ("all", tuple(FAMILIES))):
        kept = [r for of in cells.values() for by in of.values() for f, rs in by.items() if f in families for r in rs]
        gain, over = (geometric_mean(r[k] / r["tune"] for r in kept) for k in ("used", "pair"))
        seconds = sorted(r["seconds"] for r in kept)
        parts.append(
            f"tune, {name}: gain {gain:.2f} over 16 pairs, {over:.2f} over all; "
            f"{seconds[len(seconds) // 2]:.1f} s, at most {seconds[-1]:.1f} s"
        )
    return "\n".join(parts)


def guided(of: str, calls: int, seeds: Sequence[int]) -> dict[str, Any]:
    """`auto` without and with the guidance scale, beside the best pair, by scale and family."""
    pairs, found = dict(untuned(calls, RANGES[of].process, None)), {}
    for scale in SCALES:
        cells = {}
        for family in GUIDED:

            def mean(plan: ksched.Plan, family: str = family, scale: float = scale) -> float:
                return geometric_mean(error(plan, of, family, scale, s) for s in seeds)

            errors = {name: mean(plan) for name, plan in pairs.items()}
            best = min(errors, key=errors.__getitem__)
            cells[family] = {"auto": mean(auto_of(of, calls)), "told": mean(auto_of(of, calls, guidance=scale))}
            cells[family] |= {"pair": best, "error": errors[best]}
        found[f"{scale:g}"] = cells
    return found


def checkpoint(calls: Sequence[int]) -> dict[str, Any]:
    """`auto` on the network under guidance, without and with the guidance scale."""
    from digits_in_few_calls import SHAPE
    from digits_in_few_calls import guided as under
    from digits_recognised import FOLDER, SCALE, Checkpoint, asked_for

    from ksched.tuning.canonical_model import Canonical
    from ksched.tuning.fit import Problem, exact_ends

    held = Checkpoint(FOLDER)
    with torch.no_grad():
        model = under(held, asked_for(20)[0])
    told = Canonical(model, held.process, SHAPE, 0.9, torch.empty(0), 20)
    generator = torch.Generator().manual_seed(8)
    start = told.s * torch.randn(60, math.prod(SHAPE), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        ends = exact_ends(told, start, told.s, steps=64, low=told.low, end="denoised")
        judge = Problem.of(told, start, ends)
        found = {}
        for n in calls:
            cell = {}
            for name, how in {"auto": {}, "told": {"guidance": SCALE}}.items():
                plan = ksched.build_sampler("auto", calls=n, process=held.process, **how).plan
                levels, rows = (torch.from_numpy(array) for array in canonical(plan, told.data_std))
                cell[name] = float(judge.errors(levels, rows).mean())
            found[str(n)] = cell
            print("checkpoint", n, cell, flush=True)
    return {"scale": SCALE, "calls": found}


def gains(
    data: Mapping[str, Any], families: Sequence[str], calls: Sequence[int], over: str = "gain"
) -> Iterator[tuple[str, int, list[float]]]:
    """Gains over the best pair, by range and number of calls."""
    for of, cells in data["unguided"].items():
        for n in calls:
            if str(n) in cells:
                yield of, n, [cells[str(n)]["families"][f][over] for f in families if f in cells[str(n)]["families"]]


def summary(data: Mapping[str, Any]) -> str:
    """A summary of the figures, as text."""
    if not data.get("unguided"):
        return guarded(data["tune"]) if data.get("tune") else ""
    shown = [f for f in FAMILIES if f in next(iter(next(iter(data["unguided"].values())).values()))["families"]]
    rows = []
    for of, n, found in gains(data, shown, CALLS):
        rows.append([f"{of} {n}", *(f"{g:.2f}" for g in found), f"{geometric_mean(found):.2f}", f"{min(found):.2f}"])
    parts = [table(["", *shown, "mean", "least"], rows)]
    for name, families in (("headline", HEADLINE), ("all", shown)):
        for over, words in (("gain_used", "16 pairs"), ("gain", "all pairs")):
            for n in CALLS:
                every = [g for _, _, found in gains(data, families, (n,), over) for g in found]
                if every:
                    behind = sum(g < 0.9 for g in every)
                    parts.append(
                        f"{name}, {n} calls, over {words}: gain {geometric_mean(every):.2f}, least {min(every):.2f}, "
                        f"more than 10 % behind in {behind} of {len(every)}"
                    )
    if data.get("tune"):
        parts.append(guarded(data["tune"]))
    return "\n".join(parts)


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["unguided"])
    parser.add_argument("--calls", nargs="+", type=int, default=list(CALLS))
    parser.add_argument("--ranges", nargs="+", choices=list(RANGES), default=list(RANGES))
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[SEED, SEED + 1])
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write JSON."""
    given = parsed()
    torch.set_num_threads(1)
    path = given.out / "generalisation.json"
    data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    data |= {**facts(), "seeds": given.seeds, "headline": list(HEADLINE)}
    makers: dict[str, Callable[[str, int], dict[str, Any]]] = {
        "unguided": lambda of, n: unguided(of, n, given.seeds, given.families),
        "guided": lambda of, n: guided(of, n, given.seeds),
        "tune": lambda of, n: tuned(of, n, given.families),
    }
    for part, of, n in ((part, of, n) for part in makers for of in given.ranges for n in given.calls):
        if part in given.parts and (part != "tune" or n in TUNED_CALLS):
            data.setdefault(part, {}).setdefault(of, {})[str(n)] = makers[part](of, n)
            print(part, of, n, flush=True)
            write(given.out, "generalisation", data)
    if "checkpoint" in given.parts:
        data["checkpoint"] = checkpoint(given.calls)
    for part in makers:  # in order, whatever was measured last
        kept = {of: data[part][of] for of in RANGES if of in data.get(part, {})}
        data[part] = {of: dict(sorted(cells.items(), key=lambda cell: int(cell[0]))) for of, cells in kept.items()}
    print(summary(data))
    write(given.out, "generalisation", data)


if __name__ == "__main__":
    main()
