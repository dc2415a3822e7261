"""Whether `auto` generalises: its error on whole families of data that its tables were not fitted to.

Every family has an exact denoiser (``_families.py``). The error of a run is that of ``accuracy.py``, for 192 start
states of a seed. `auto` is compared with the pairs of sampler and schedule that `tune` compares with; the best of them
is chosen for each family, range and NFE after seeing its error.

guided
    The same under classifier-free guidance (CFG): `auto` without and with the guidance scale.
checkpoint
    The handwritten-digit network at guidance 4, 60 start states; runs of 64 steps are taken as exact.

New figures replace those of the same ranges and NFE in the results.

Run from the repository root: ``python benchmarks/generalisation.py``; about ten minutes on one core, or twenty with
the parts "guided" and "checkpoint".
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _families import FAMILIES, GUIDED, HEADLINE, SEED, problem
from _measure import RESULTS, facts, table, write
from _testbeds import RANGES, geometric_mean

import ksched
from ksched.samplers.linear_multistep import ratio
from ksched.tuning.baselines import untuned
from ksched.tuning.canonical_plan import canonical

CALLS = (4, 6, 8, 10, 15)
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


def unguided(of: str, calls: int, seeds: Sequence[int], families: Sequence[str]) -> dict[str, Any]:
    """`auto` beside the best pair, by family."""
    pairs, cells = dict(untuned(calls, RANGES[of].process, None)), {}
    for family in families:
        errors = {n: geometric_mean(error(plan, of, family, seed=s) for s in seeds) for n, plan in pairs.items()}
        best = min(errors, key=errors.__getitem__)
        ours = geometric_mean(error(auto_of(of, calls), of, family, seed=s) for s in seeds)
        cells[family] = {"auto": ours, "pair": best, "error": errors[best], "gain": errors[best] / ours}
    return {"pairs": len(pairs), "families": cells}


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
                levels, rows = (torch.from_numpy(array) for array in canonical(plan, 1.0))
                cell[name] = float(judge.errors(levels, rows).mean())
            found[str(n)] = cell
            print("checkpoint", n, cell, flush=True)
    return {"scale": SCALE, "calls": found}


def gains(
    data: Mapping[str, Any], families: Sequence[str], calls: Sequence[int]
) -> Iterator[tuple[str, int, list[float]]]:
    """Gains over the best pair, by range and number of calls."""
    for of, cells in data["unguided"].items():
        for n in calls:
            if str(n) in cells:
                yield of, n, [cells[str(n)]["families"][f]["gain"] for f in families if f in cells[str(n)]["families"]]


def summary(data: Mapping[str, Any]) -> str:
    """A summary of the figures, as text."""
    shown = [f for f in FAMILIES if f in next(iter(next(iter(data["unguided"].values())).values()))["families"]]
    rows = []
    for of, n, found in gains(data, shown, CALLS):
        rows.append([f"{of} {n}", *(f"{g:.2f}" for g in found), f"{geometric_mean(found):.2f}", f"{min(found):.2f}"])
    parts = [table(["", *shown, "mean", "least"], rows)]
    for name, families in (("headline", HEADLINE), ("all", shown)):
        for n in CALLS:
            every = [g for _, _, found in gains(data, families, (n,)) for g in found]
            if every:
                behind = sum(g < 0.9 for g in every)
                parts.append(
                    f"{name}, {n} calls: gain {geometric_mean(every):.2f}, least {min(every):.2f}, "
                    f"more than 10 % behind in {behind} of {len(every)}"
                )
    return "\n".join(parts)


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("unguided", "guided", "checkpoint"), default=["unguided"])
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
    for part, of, n in ((part, of, n) for part in ("unguided", "guided") for of in given.ranges for n in given.calls):
        if part in given.parts:
            made = unguided(of, n, given.seeds, given.families) if part == "unguided" else guided(of, n, given.seeds)
            data.setdefault(part, {}).setdefault(of, {})[str(n)] = made
            print(part, of, n, flush=True)
    if "checkpoint" in given.parts:
        data["checkpoint"] = checkpoint(given.calls)
    for part in ("unguided", "guided"):  # in order, whatever was measured last
        kept = {of: data[part][of] for of in RANGES if of in data.get(part, {})}
        data[part] = {of: dict(sorted(cells.items(), key=lambda cell: int(cell[0]))) for of, cells in kept.items()}
    print(summary(data))
    write(given.out, "generalisation", data)


if __name__ == "__main__":
    main()
