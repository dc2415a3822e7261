"""What a caller may give for a plan, and what a model may answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from ksched.plan.plan import Plan

__all__ = ["HasPlan", "Model", "answered", "plan_of"]


#: ``(x, sigma) -> denoised``, or (denoised, uncond).
Model: TypeAlias = Callable[[Any, Any], Any]


class HasPlan(Protocol):
    """What a `ksched.Sampler` is here."""

    @property
    def plan(self) -> Plan:
        """The table of numbers."""
        ...


def plan_of(what: Plan | HasPlan) -> Plan:
    """The plan itself, or that of a sampler.

    Raises
    ------
    TypeError : neither of them
    TraceError : the sampler is adaptive: it has no plan
    """
    plan = what if isinstance(what, Plan) else getattr(what, "plan", None)
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be a ksched.Plan or a ksched.Sampler; got {type(what).__name__}")
    return plan


def answered(denoise: Model, x: Any, sigma: Any, both: bool) -> tuple[Any, ...]:
    """One model call: (denoised,), or (denoised, uncond) where both are needed.

    Raises
    ------
    TypeError, ValueError : an answer without the unconditional prediction, or of another shape than the state
    """
    answer = denoise(x, sigma)
    outputs = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer,)
    if both and len(outputs) == 1:
        raise TypeError("this sampler needs (denoised, uncond) from the model; it returned denoised alone")
    shape = getattr(x, "shape", ())
    for name, value in zip(("denoised", "uncond"), outputs, strict=False):
        if getattr(value, "shape", ()) != shape:
            got = getattr(value, "shape", type(value).__name__)
            raise ValueError(f"{name} must have the state's shape {tuple(shape)}; got {got}")
    return outputs if both else outputs[:1]
