"""What the stochastic steps of reinforcement learning do to the distribution of the results, computed exactly.

No network is used and nothing is sampled. The rules that RL programs use to step a flow model, and stochastic samplers
beside them, are tables of numbers. Measured are how much more noise a state has than its sigma says, how far the
distribution of the results is from that of the data, and how much each step explores. The data is Gaussian with mean 1
and standard deviation 0.3, 0.5, 1 and 2, and the model exact; the worst case counts. Writes policy_steps.json.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from _measure import arguments, table, write
from ksched.analysis import gaussian_error, gaussian_law, marginals

import ksched

RULES: tuple[tuple[str, dict[str, float]], ...] = (
    ("flow_sde", {"noise_level": 0.7}),
    ("dance_sde", {"noise_level": 0.3}),
    ("flow_cps", {"noise_level": 0.7}),
    ("euler_ancestral", {"eta": 1.0}),
    ("ddpm", {}),
    ("dpmpp_2m_sde", {"eta": 1.0}),
    ("dpmpp_2m_sde", {"eta": 0.7}),
    ("dpmpp_3m_sde", {"eta": 1.0}),
    ("er_sde", {"eta": 1.0}),
)
STEPS, SHIFTS = (6, 10, 16), (1.0, 3.0)
MEAN, STDS = 1.0, (0.3, 0.5, 1.0, 2.0)


def plan_of(name: str, options: dict[str, float], steps: int, shift: float) -> ksched.Plan:
    """A rule on evenly spaced levels of the flow's own time, shifted."""
    sigmas = ksched.schedules.shift(np.linspace(1, 0, steps + 1), shift)
    how: dict[str, Any] = options
    return ksched.build_sampler(name, process=ksched.Flow(), sigmas=sigmas, **how).plan


def noise_stds(plan: ksched.Plan) -> list[float]:
    """Std of the fresh noise of every noisy step."""
    each = [[value for (kind, _), value in row.terms if kind == "xi"] for row in plan.rows]
    used = [number for row in plan.rows for (kind, number), _ in row.terms if kind == "xi"]
    assert len(used) == len({*used})  # each noise must belong to one step
    return [math.hypot(*values) for values in each if values]


def entropy(plan: ksched.Plan) -> float:
    """Differential entropy of the noisy steps of a run, per number of the state, in nats."""
    return sum(0.5 * math.log(2 * math.pi * math.e * std**2) for std in noise_stds(plan))


def measured(plan: ksched.Plan) -> dict[str, Any]:
    """Measured figures of a plan."""
    states = [(math.sqrt(m.variance) / m.level.sigma, m.alpha) for m in marginals(plan) if m.level.sigma > 0]
    means = [gaussian_law(plan, MEAN, std).mean for std in STDS]
    stds = noise_stds(plan)
    return {
        "std_ratio": max((ratio for ratio, _ in states), key=lambda ratio: abs(math.log(ratio))),
        "mean": max(means, key=lambda mean: abs(mean - MEAN)),
        "w2": max(gaussian_error(plan, MEAN, std, weak=True) for std in STDS),
        "std_of_data": [math.sqrt(gaussian_law(plan, MEAN, std).variance) / std for std in STDS],
        "noisy_steps": len(stds),
        "entropy": entropy(plan),
        "noise_stds": stds,
    }


def main() -> None:
    """Measure, print and write."""
    given = arguments(__doc__, 0.0).parse_args()
    rows = []
    for name, options in RULES:
        for shift in SHIFTS:
            for steps in STEPS:
                row = {"rule": name, "options": options, "shift": shift, "steps": steps}
                rows.append({**row, **measured(plan_of(name, options, steps, shift))})
    keys = ("std_ratio", "mean", "w2", "entropy")
    lines = [
        [written(row), f"{row['shift']:g}", str(row["steps"]), *(f"{row[key]:.3f}" for key in keys)] for row in rows
    ]
    print(table(["rule", "shift", "steps", "std over its level's", "mean of 1", "W2", "entropy"], lines))
    write(given.out, "policy_steps", {"mean": MEAN, "stds": STDS, "rows": rows})


def written(row: dict[str, Any]) -> str:
    """A rule and its options."""
    return " ".join([row["rule"], *(f"{name}={value:g}" for name, value in row["options"].items())])


if __name__ == "__main__":
    main()
