"""Description of a plan and its cost, in words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ksched.plan.analysis import gaussian_errors, marginals
from ksched.plan.plan import Plan
from ksched.plan.skipping import answers_of

__all__ = ["described"]

_CLOSE = 1e-6  # relative to the larger of signal and noise of a state; below this it is rounding
_STDS = (0.3, 0.5, 1.0, 2.0)  # standard deviations of the normal data


def described(plan: Plan) -> list[str]:
    """Size and origin, levels, exactness for a constant prediction, errors on normal data, and skipped calls."""
    noises = f", {len(plan.draws)} noises" if plan.draws else ""
    lines = [f"plan of {plan.steps} steps, {plan.nfe} model calls{noises}"]
    if "chosen" in plan.report:
        lines.append(f"  made by {plan.report.get('made_by', 'ksched.tune')}: {plan.report['chosen']}")
    lines.append(f"  sigmas: {_numbers(plan.sigmas)}")
    if plan.tells_others:
        lines.append(f"  sigmas given to the model: {_numbers(plan.call_sigmas.tolist())}")
    what = "error of the law" if plan.draws else "error"
    exactness = [f"  {_constant(plan)}", f"  exact {what} on normal data of mean 1: {_errors(plan)}"]
    report: Mapping[str, Any] | None = plan.report.get("skipped")
    if report is None:
        return lines + exactness
    whole = Plan.from_json(json.dumps(report["whole"]))
    return lines + _skipping(report, whole) + [*exactness, f"  with all {whole.nfe} model calls: {_errors(whole)}"]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _skipping(report: Mapping[str, Any], whole: Plan) -> list[str]:
    calls = report["calls"]
    answers = answers_of(whole.levels, set(calls), report["by"])
    growth = max(math.hypot(*answers[call].values()) for call in calls)
    often = f"up to {growth:.3g} times as large" if growth > 1 else "as large"
    return [
        f"  skipped: {len(calls)} of {whole.nfe} model calls, numbers {', '.join(map(str, calls))}",
        f"  replaced by: {_RULES[report['by']]}",
        f"  independent errors of the predictions become {often} in the skipped ones",
    ]


_RULES = {
    "reuse": "the last prediction, which is exact where predictions are constant",
    "line": "the line through the last two predictions, which is exact where they are linear in log(alpha / sigma)",
}


def _constant(plan: Plan) -> str:
    """Whether one-point data comes out unchanged, from states with the noise of their levels."""
    # leave out states whose model call uses another level: they are scaled for that level
    states = [state for state in marginals(plan) if plan.rows[state.row].state_level is None]
    off, loose = 0.0, 0.0
    for state in states:
        std = plan.noise_scale * state.level.sigma
        off = max(abs(state.alpha - state.level.alpha), abs(math.sqrt(state.variance) - std))
        off = 0.0 if off <= max(_CLOSE * (1 + std), 10 * state.rounding) else off
        loose = max(loose, off)
    if off:  # the result is the last state
        end, std = plan.end, plan.noise_scale * plan.end.sigma
        return (
            f"- not exact for a constant prediction: from one x0 it makes {states[-1].alpha:.4g} x0 and noise of std "
            f"{math.sqrt(states[-1].variance):.3g}; exact is {end.alpha:.4g} x0 and {std:.3g}"
        )
    if loose:
        return f"- not exact for a constant prediction: the mean or std of a state is off by {loose:.3g}"
    return "= exact for a constant prediction"


def _errors(plan: Plan) -> str:
    errors = gaussian_errors(plan, [1.0] * len(_STDS), _STDS, weak=bool(plan.draws))
    return ", ".join(f"{error:.3g} at std {std:g}" for std, error in zip(_STDS, errors, strict=True))
