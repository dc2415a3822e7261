"""Errors of plans that skip model calls, compared with fewer steps and ``auto`` at the same NFE.

The denoiser is exact, that of the handwritten digits. A run of 20 calls keeps 10 or 7 of them: the first two and the
last two, where step caches never skip, and evenly spaced ones between them. The error of each of 48 start states is
the root mean square distance from the exact solution of the probability-flow ODE, divided by the spread of these
solutions; a figure is the mean. Nothing is timed, so the figures are the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from _measure import arguments, facts, table, write

import ksched

PAIRS = (("euler", "karras"), ("dpmpp_2m", "karras"), ("uni_pc", "exponential"), ("dpmpp_2m", "simple"))
CALLS, KEPT = 20, (10, 7)
ITEMS, SEED = 48, 1
COLUMNS = ("whole", "reuse", "line", "own grid", "auto")


def mask(calls: int, kept: int) -> str:
    """Which calls are made: the first and last ones, and evenly spaced ones between them."""
    made = sorted({0, 1, calls - 2, calls - 1, *np.linspace(0, calls - 1, kept - 2).round().astype(int).tolist()})
    while len(made) > kept:
        made.pop(len(made) // 2)
    return ",".join(str(int(call in made)) for call in range(calls))


def main() -> None:
    options = arguments(__doc__, 0).parse_args()
    torch.set_num_threads(options.threads)
    model, process = ksched.exact.digits(), ksched.VP()
    x = torch.randn(ITEMS, 64, generator=torch.Generator().manual_seed(SEED)).double() * process.sigma_max
    truth = model.solve(x, [process.sigma_max, 0.0])[-1]
    spread = (truth - truth.mean(0)).square().mean().sqrt()

    def error(sampler: ksched.Sampler) -> float:
        return float((sampler.sample(model, x) - truth).square().mean(1).sqrt().mean() / spread)

    rows: list[dict[str, Any]] = []
    for kept in KEPT:
        made = mask(CALLS, kept)
        for pair in PAIRS:
            whole = ksched.build_sampler(*pair, CALLS)
            samplers = {
                "whole": whole,
                "reuse": ksched.build_sampler(whole.plan.skip(made, by="reuse")),
                "line": ksched.build_sampler(whole.plan.skip(made, by="line")),
                "own grid": ksched.build_sampler(*pair, kept),
                "auto": ksched.build_sampler("auto", steps=kept),
            }
            assert {sampler.nfe for name, sampler in samplers.items() if name != "whole"} == {kept}
            errors = {name: error(sampler) for name, sampler in samplers.items()}
            rows.append({"sampler": pair[0], "schedule": pair[1], "kept": kept, "mask": made, "errors": errors})
    write(options.out, "skipping", {**facts(), "calls": CALLS, "items": ITEMS, "rows": rows})
    lines = [
        [f"{row['sampler']} {row['schedule']}", str(row["kept"]), *(f"{row['errors'][name]:.4f}" for name in COLUMNS)]
        for row in rows
    ]
    print(table(["pair", "calls", *COLUMNS], lines))


if __name__ == "__main__":
    main()
