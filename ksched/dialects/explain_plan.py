"""What a plan is, in words."""

from __future__ import annotations

import math

from ksched.plan.plan import Plan

__all__ = ["plan_lines"]


_CLOSE = 1e-6  # of a result, relative to the larger of signal and noise: less is rounding


def plan_lines(plan: Plan) -> list[str]:
    """What a plan runs, what it tells the model, and whether it is exact for a constant prediction."""
    noises = f"{len(plan.draws)} noises" if plan.draws else "no noise"
    lines = [f"plan {plan.digest[:8]}: {plan.nfe} model calls in {plan.steps} steps, {noises}"]
    if "chosen" in plan.report:
        lines.append(f"  made by {plan.report.get('made_by', 'ksched.tune')}: {plan.report['chosen']}")
    lines.append(f"  sigmas: {_numbers(plan.sigmas)}")
    if plan.tells_others:
        lines.append(f"  the model is told: {_numbers(plan.call_sigmas.tolist())}")
    return [*lines, _of_a_constant(plan)]


def _numbers(values: list[float] | tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _of_a_constant(plan: Plan) -> str:
    """Whether data that is one point comes out as it is."""
    from ksched.plan.analysis import marginals

    last, std = marginals(plan)[-1], plan.noise_scale * plan.end.sigma
    found = math.sqrt(last.variance)
    allowed = max(_CLOSE, 10 * last.rounding)
    if abs(last.alpha - plan.end.alpha) <= allowed and abs(found - std) <= allowed:
        return "= exact for a constant prediction"
    return (
        f"- not exact for a constant prediction: of one x0 it makes {last.alpha:.4g} x0 and noise of std {found:.3g}; "
        f"exact is {plan.end.alpha:.4g} x0 and {std:.3g}"
    )
