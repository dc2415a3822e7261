"""What a plan is and costs, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ksched.plan.analysis import marginals
from ksched.plan.plan import Plan
from ksched.plan.skipping import STDS, normal_errors

__all__ = ["described"]


def described(plan: Plan) -> list[str]:
    """Size, exactness for a constant prediction, exact errors on normal data, and what skipping calls did to them."""
    report: Mapping[str, Any] | None = plan.report.get("skipped")
    noises = f", {len(plan.draws)} noises" if plan.draws else ""
    lines = [f"plan of {plan.steps} steps, {plan.nfe} model calls{noises}"]
    if report is not None:
        lines += _skipping(report)
    lines.append(f"  constant prediction: {_constant(plan)}")
    what = "error of the law" if plan.draws else "error"
    lines.append(f"  exact {what} on normal data of mean 1: {_errors(STDS, normal_errors(plan))}")
    if report is not None:
        lines.append(f"  with all {report['nfe']} model calls: {_errors(report['stds'], report['errors'])}")
    return lines


def _skipping(report: Mapping[str, Any]) -> list[str]:
    calls = ", ".join(map(str, report["calls"]))
    growth = f"up to {report['growth']:.3g} times" if report["growth"] > 1 else "once"
    return [
        f"  skipped: {len(report['calls'])} of {report['nfe']} model calls, numbers {calls}",
        f"  in their place: {_RULES[report['by']]}",
        f"  white noise in the predictions is in the skipped ones {growth}",
    ]


_RULES = {
    "reuse": "the last prediction, which is right where predictions do not change",
    "line": "the line through the last two predictions, which is right where they are linear in log(alpha / sigma)",
}


def _constant(plan: Plan) -> str:
    """Whether every state has the mean and the variance of its level, as numbers have it to rounding."""
    off, exact = 0.0, True
    for state in marginals(plan):
        std = plan.noise_scale * state.level.sigma
        apart = max(abs(state.alpha - state.level.alpha), abs(math.sqrt(state.variance) - std))
        off, exact = max(off, apart), exact and apart <= 8 * state.rounding + 1e-12 * (1 + std)
    return "exact" if exact else f"not exact, the mean or std of a state is off by {off:.3g}"


def _errors(stds: Sequence[float], errors: Sequence[float]) -> str:
    return ", ".join(f"{error:.3g} at std {std:g}" for std, error in zip(stds, errors, strict=True))
