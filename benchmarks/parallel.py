"""Rounds, model calls and errors of `Sampler.parallel`, compared with plain runs.

The denoiser is exact, that of the handwritten digits, with 16 items. For every sampler, NFE, tolerance and memory of
Anderson acceleration, the benchmark gives rounds, rows of the model per item, and the root mean square distance of the
results from those of `Sampler.sample`, over all items and for the median item. For comparison it gives the distance of
`sample` itself from the exact solution of the ODE, and that of a sequential ``auto`` of 12 calls. Nothing is timed, so
the figures are the same on every machine.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from _measure import arguments, facts, table, write

import ksched

SAMPLERS = ("ddim", "dpmpp_2m", "heun", "uni_pc", "ipndm", "dpmpp_2m_sde")
CALLS = (30, 50, 100)
TOLERANCES = (1e-1, 1e-2, 1e-3)
MEMORIES = (0, 2)
ITEMS, WINDOW, AUTO = 16, 16, 12


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    """Root mean square distance of two batches."""
    return float((a.double() - b.double()).square().mean().sqrt())


def measured(sampler: ksched.Sampler, exact: torch.Tensor | None) -> list[dict[str, Any]]:
    """All figures of one sampler with one number of calls."""
    model = ksched.exact.digits()
    x = sampler.initial_state((ITEMS, 1, 8, 8), seed=0)
    seed = 1 if sampler.plan.draws else None
    whole = sampler.sample(model, x, seed=seed)
    rows = []
    for tolerance in TOLERANCES:
        for memory in MEMORIES:
            rounds: list[ksched.RoundInfo] = []
            found = sampler.parallel(
                model, x, window=WINDOW, tolerance=tolerance, seed=seed, anderson=memory, callback=rounds.append
            )
            rows.append(
                {
                    "sampler": str(sampler.spec.name),
                    "nfe": sampler.nfe,
                    "tolerance": tolerance,
                    "anderson": memory,
                    "rounds": len(rounds),
                    "calls": rounds[-1].calls / ITEMS,
                    "from_sample": rms(found, whole),
                    "median_from_sample": float(median(rms(a, b) for a, b in zip(found, whole, strict=True))),
                    "from_exact": None if exact is None else rms(found, exact),
                    "sample_from_exact": None if exact is None else rms(whole, exact),
                }
            )
    return rows


def main() -> None:
    options = arguments(__doc__, 0).parse_args()
    torch.set_num_threads(options.threads)
    model = ksched.exact.digits()
    rows: list[dict[str, Any]] = []
    sigmas = ksched.build_sampler("ddim", "karras", 30).sigmas
    x = ksched.build_sampler("ddim", "karras", 30).initial_state((ITEMS, 1, 8, 8), seed=0)
    exact = model.solve(x, [sigmas[0], sigmas[-1]])[-1]
    for name in SAMPLERS:
        for calls in CALLS:
            sampler = ksched.build_sampler(name, "karras", calls=calls)
            rows += measured(sampler, None if sampler.plan.draws else exact)
    auto = ksched.build_sampler("auto", calls=AUTO)
    start = auto.initial_state((ITEMS, 1, 8, 8), seed=0)
    result = auto.sample(model, start)
    plain = {"calls": AUTO, "from_exact": rms(result, model.solve(start, [auto.sigmas[0], auto.sigmas[-1]])[-1])}
    facts_ = facts()
    write(options.out, "parallel", {**facts_, "items": ITEMS, "window": WINDOW, "auto": plain, "rows": rows})
    shown = [
        [
            row["sampler"],
            str(row["nfe"]),
            f"{row['tolerance']:g}",
            str(row["anderson"]),
            str(row["rounds"]),
            f"{row['calls']:.0f}",
            f"{row['from_sample']:.1e}",
            f"{row['median_from_sample']:.1e}",
            "" if row["from_exact"] is None else f"{row['from_exact']:.1e}",
        ]
        for row in rows
    ]
    print(
        table(
            ["sampler", "calls", "tolerance", "memory", "rounds", "rows", "from sample", "median", "from exact"], shown
        )
    )
    print(f"auto, {AUTO} calls: {plain['from_exact']:.1e} from exact")


if __name__ == "__main__":
    main()
