"""What a plan is and costs, in words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ksched.plan.analysis import gaussian_errors, marginals
from ksched.plan.plan import Plan
from ksched.plan.skipping import answers_of

__all__ = ["described"]

_STDS = (0.3, 0.5, 1.0, 2.0)  # of normal data


def described(plan: Plan) -> list[str]:
    """Size, exactness for a constant prediction, exact errors on normal data, and what skipping calls did to them."""
    report: Mapping[str, Any] | None = plan.report.get("skipped")
    noises = f", {len(plan.draws)} noises" if plan.draws else ""
    lines = [f"plan of {plan.steps} steps, {plan.nfe} model calls{noises}"]
    what = "error of the law" if plan.draws else "error"
    exactness = [
        f"  constant prediction: {_constant(plan)}",
        f"  exact {what} on normal data of mean 1: {_errors(plan)}",
    ]
    if report is None:
        return lines + exactness
    whole = Plan.from_json(json.dumps(report["whole"]))
    return lines + _skipping(report, whole) + [*exactness, f"  with all {whole.nfe} model calls: {_errors(whole)}"]


def _skipping(report: Mapping[str, Any], whole: Plan) -> list[str]:
    calls = report["calls"]
    answers = answers_of(whole.levels, set(calls), report["by"])
    growth = max(math.hypot(*answers[call].values()) for call in calls)
    often = f"up to {growth:.3g} times as large" if growth > 1 else "as large"
    return [
        f"  skipped: {len(calls)} of {whole.nfe} model calls, numbers {', '.join(map(str, calls))}",
        f"  in their place: {_RULES[report['by']]}",
        f"  independent errors of the predictions are {often} in those that are skipped",
    ]


_RULES = {
    "reuse": "the last prediction, which is right where predictions do not change",
    "line": "the line through the last two predictions, which is right where they are linear in log(alpha / sigma)",
}


def _constant(plan: Plan) -> str:
    """Whether every state has the mean and the std of its level, but for rounding."""
    off, exact = 0.0, True
    for state in marginals(plan):
        std = plan.noise_scale * state.level.sigma
        apart = max(abs(state.alpha - state.level.alpha), abs(math.sqrt(state.variance) - std))
        off, exact = max(off, apart), exact and apart <= 8 * state.rounding + 1e-12 * (1 + std)
    return "exact" if exact else f"not exact, the mean or std of a state is off by {off:.3g}"


def _errors(plan: Plan) -> str:
    errors = gaussian_errors(plan, [1.0] * len(_STDS), _STDS, weak=bool(plan.draws))
    return ", ".join(f"{error:.3g} at std {std:g}" for std, error in zip(_STDS, errors, strict=True))
