"""The plans that a caller may pass, and the answers that a model may return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from ksched.plan.plan import Plan

__all__ = ["HasPlan", "Model", "answered", "plan_of"]


#: ``(x, sigma) -> denoised``, or (denoised, uncond).
Model: TypeAlias = Callable[[Any, Any], Any]


class HasPlan(Protocol):
    """An object with a plan, such as a `ksched.Sampler`."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...


def plan_of(what: Plan | HasPlan) -> Plan:
    """The plan itself, or a sampler's plan.

    Raises
    ------
    TypeError
        For anything that is neither a plan nor a sampler.
    TraceError
        The sampler is adaptive, so it has no plan.
    """
    plan = what if isinstance(what, Plan) else getattr(what, "plan", None)
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be a ksched.Plan or a ksched.Sampler; got {type(what).__name__}")
    return plan


def answered(denoise: Model, x: Any, sigma: Any, both: bool) -> tuple[Any, ...]:
    """One model call: (denoised,), or (denoised, uncond) if both are needed.

    Raises
    ------
    TypeError, ValueError
        For an answer without the unconditional prediction, or of the wrong shape.
    """
    answer = denoise(x, sigma)
    outputs = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer,)
    if both and len(outputs) == 1:
        raise TypeError("this sampler needs (denoised, uncond) from the model; it returned only denoised")
    shape = getattr(x, "shape", ())
    for name, value in zip(("denoised", "uncond"), outputs, strict=False):
        if getattr(value, "shape", ()) != shape:
            got = getattr(value, "shape", type(value).__name__)
            raise ValueError(f"{name} must have the state's shape {tuple(shape)}; got {got}")
    return outputs if both else outputs[:1]
