"""How a scheduler of diffusers steps: a plan for each number of calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ksched.dialects.diffusers.literal_requests import rises, rising_plan
from ksched.dialects.diffusers.request import Request
from ksched.execution.run import Run
from ksched.names.enums import Dialect
from ksched.options import per_step, settled
from ksched.plan.plan import Plan
from ksched.plan.rows import Register
from ksched.plan.trace import trace
from ksched.processes import Level, Process
from ksched.sampler import build_sampler
from ksched.samplers.blocks.steps import FEW_STEPS, ddim
from ksched.samplers.registry import dialect_options, sampler_spec
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid

__all__ = ["Method"]


#: plans of a method that are remembered: a loop begins nearly always at the same call
_KEPT = 8


@dataclass(frozen=True)
class Method:
    """A sampler on the levels of a run, which may also begin in the middle.

    Attributes
    ----------
    sampler, process, dialect, options : as for `ksched.build_sampler`
    sigmas : levels of the whole run
    request : of a stock class, where that has something that no sampler has
    changed : those of the options that are not the class's own
    lead : levels before the first of ``sigmas``, at which the run begins with Euler steps up to that
    """

    sampler: str
    sigmas: tuple[float, ...]
    process: Process
    dialect: Dialect
    options: Mapping[str, Any]
    request: Request | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)
    lead: tuple[float, ...] = ()
    _plans: dict[Any, Plan | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def plan(self, begin: int = 0, extra: Mapping[str, Any] | None = None) -> Plan | None:
        """The plan from a model call on, None if none is left.

        Parameters
        ----------
        begin : number of the first model call, of the whole run
        extra : options that were not known before
        """
        key = begin, tuple(sorted((extra or {}).items()))
        if key not in self._plans:
            if len(self._plans) >= _KEPT:
                self._plans.clear()
            self._plans[key] = self._plan(begin, extra)
        return self._plans[key]

    def same_calls(self, begin: int, extra: Mapping[str, Any]) -> bool:
        """Whether the model is called at the levels that are known, with options that were not known before."""
        known, plan = self.plan(begin), self.plan(begin, extra)
        if known is None or plan is None:
            return known is plan
        calls, others = known.call_sigmas, plan.call_sigmas
        return len(calls) == len(others) and np.allclose(calls, others, rtol=1e-9, atol=0)

    def _plan(self, begin: int, extra: Mapping[str, Any] | None) -> Plan | None:
        options = {**self.options, **(extra or {})}
        if self.lead and begin >= len(self.lead):
            return replace(self, lead=()).plan(begin - len(self.lead), extra)
        if self.lead:
            levels = [self.process.level(sigma) for sigma in self.lead[begin:]]
            return _led(levels, self.sampler, self.sigmas, self.process, self.dialect, options)
        if self.request is not None and self.request.literal is not None:
            return self.request.literal(begin, {**self.changed, **(extra or {})})
        whole = self.whole if options == self.options else self._built(self.sigmas, options)
        if begin == 0:
            return whole
        return None if begin >= whole.nfe else self._tail(whole, begin, options)

    def share_of_state(self, run: Run) -> float | None:
        """How a prediction is corrected that was made at another state than the run's own, amid a step.

        That state is not gone on from: the next ones are formed from the prediction and from where the step began. A
        method of slopes takes the slope that was found at it.

        Returns
        -------
        how much of the difference of the two states is added to the prediction; None if the run goes on from the
        state that it was made at, as it does between steps
        """
        plan, calls = run.plan, run.nfe
        literal = self.request is not None and self.request.literal is not None  # all of it is one step, as traced
        if run.done or calls == 0 or literal or plan.call_steps[calls] != plan.call_steps[calls - 1]:
            return None
        row = [k for k, formed in enumerate(plan.rows) if formed.level is not None][calls]
        if any(register == Register("x", row) for later in plan.rows[row + 1 :] for register, _ in later.terms):
            return None
        slopes = sampler_spec(self.sampler).family == "runge_kutta"
        return -1 / plan.levels[calls].alpha if slopes else 0.0

    @cached_property
    def has_stages(self) -> bool:
        """Whether a step has several model calls."""
        literal = self.request is not None and self.request.literal is not None
        return not literal and len(set(self.whole.call_steps)) < len(self.whole.call_steps)

    @cached_property
    def whole(self) -> Plan:
        """The plan of the whole run."""
        if self.lead:
            whole = self._plan(0, None)
            assert whole is not None
            return whole
        return self._built(self.sigmas, self.options)

    def _built(self, sigmas: Sequence[float], options: Mapping[str, Any]) -> Plan:
        def plan(**more: Any) -> Plan:
            how: Any = {**options, **more}
            if rises(sigmas):
                return rising_plan(self.sampler, self.process, sigmas, how)
            return build_sampler(self.sampler, sigmas=sigmas, process=self.process, dialect=self.dialect, **how).plan

        made = plan()
        if made.rows[0].level is None:  # the loop has called the model before anything here could add noise
            made = plan(**self._quiet_start(sigmas, options))
        if made.rows[0].level is None:
            raise ValueError(f"sampler {self.sampler} changes the state before the first model call, as no loop does")
        return made

    def _quiet_start(self, sigmas: Sequence[float], options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with which no noise is added before the first model call, where the sampler has such."""
        if options.get("s_churn"):
            return {"s_tmax": min(options.get("s_tmax", math.inf), math.nextafter(sigmas[0], 0.0))}
        raised = sampler_spec(self.sampler).own_options.get("gamma_0")
        if raised is None:
            return {}
        return {raised.name: (0.0, *per_step(options.get(raised.name, raised.default), len(sigmas) - 1)[1:])}

    def _tail(self, whole: Plan, begin: int, options: Mapping[str, Any]) -> Plan:
        """The plan from a model call in the middle of a run on.

        A step that is under way goes on with steps of first order to the next one's level. The single-step solver makes
        one step of the stages that are left, as its class does.
        """
        steps, labels = whole.call_steps, [level.label for level in whole.levels]
        first = steps[begin]
        if begin > 0 and steps[begin - 1] == first:  # amid the stages of a step
            first += 1
        if self.sampler == "dpm_singlestep":  # whose stages are steps of the grid
            first += -first % int(options.get("order", 2))
        first = min(first, whole.steps)
        lead = [whole.levels[k] for k in range(begin, whole.nfe) if steps[k] < first]
        # where noise was added before the call, the step begins above its level
        called = next((labels[k] for k in range(begin, whole.nfe) if steps[k] == first), None)
        sub = self.sigmas[first:] if called is None else (called, *self.sigmas[first + 1 :])
        shorter = self._on_fewer(options, whole.steps, first)
        if whole.tells_others:  # a loop that begins here noises its state to the level that the model is told
            lead, sub = [], (*labels[begin:], whole.end.label)
        falls = all(s > t for s, t in pairwise(sub))
        for sampler, how in ((self.sampler, shorter), ("ipndm", {}), ("euler", {})) if falls else ():
            rest = None if len(sub) < 2 else replace(self, sampler=sampler, options=how, request=None)._built(sub, how)
            made = [level.label for level in lead] + ([level.label for level in rest.levels] if rest else [])
            if len(made) == len(labels) - begin and np.allclose(made, labels[begin:], rtol=1e-9, atol=0):
                own = _of_steps(options, whole.steps, max(first - len(lead), 0), first)  # of stages that are steps
                return _led(lead, sampler, sub, self.process, self.dialect, how, own)
        # calls that no shorter run makes, as after a restart: from each to the next
        return _led([*whole.levels[begin:]], "euler", self.sigmas[-1:], self.process, self.dialect, {})

    def _on_fewer(self, options: Mapping[str, Any], steps: int, first: int) -> dict[str, Any]:
        """Options that count steps, for a run that begins after the first ones."""
        how = _of_steps(options, steps, first, steps)  # one per step
        if steps >= FEW_STEPS and self.sampler in ("dpm_multistep", "deis") and how.get("lower_order_final", True):
            defaults = {**dialect_options(sampler_spec(self.sampler), self.dialect), **how}
            if defaults.get("lower_order_final"):
                how["lower_order_final"] = False  # it is long as a whole
        if how.get("first_corrected"):
            how["first_corrected"] = max(how["first_corrected"] - first, 0)
        if how.get("s_churn") and first < steps:
            churn = per_step(how["s_churn"], steps - first)
            how["s_churn"] = tuple(each * (steps - first) / steps for each in churn)
        return how


def _of_steps(options: Mapping[str, Any], steps: int, first: int, end: int) -> dict[str, Any]:
    """Options of a run of ``steps`` steps for those from ``first`` on up to ``end``, where they are one per step."""
    return {name: each[first:end] if isinstance(each, tuple) else each for name, each in settled("", options, steps)}


def _led(
    lead: Sequence[Level],
    sampler: str,
    sigmas: Sequence[float],
    process: Process,
    dialect: Dialect,
    options: Mapping[str, Any],
    of_lead: Mapping[str, Any] | None = None,
) -> Plan:
    """Steps through some levels, of first order or as what is left of a longer one, then a sampler on the rest."""
    spec = sampler_spec(sampler)
    rest = Grid.of(sigmas, process)
    how = {**dialect_options(spec, dialect), **dict(settled(spec.name, options, len(rest)))}
    if not lead:
        return SamplerSpec.plan(spec, rest, how)

    before = [*lead, rest.levels[0]]
    stages = spec.name == "dpm_singlestep" and all(s.label > t.label for s, t in pairwise(before))
    of_stages = {
        **how,
        **(of_lead or {}),
        "order": len(lead),
        "lower_order_final": len(rest) == 0 and how.get("lower_order_final"),
    }

    def function(run: Any, grid: Grid, x: Any) -> Any:
        if stages:
            x = run.keep(spec(run, Grid(process, tuple(before)), x, **{**of_stages, "repeat_last": False}))
            return spec(run, rest, x, **how) if len(rest) else x
        for s, t in pairwise(before):
            denoised = run.denoise(x, s)
            x = run.keep(ddim(s, t, x, denoised) if s != t else 1.0 * x)  # a call at the same level once more
        return spec(run, rest, x, **how) if len(rest) else x

    return trace(function, Grid(process, (lead[0], *rest.levels)), {})
