"""How a diffusers scheduler steps: one plan for each model call at which a loop may begin."""

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


#: number of plans that a method caches; a loop nearly always begins at the same call
_KEPT = 8


@dataclass(frozen=True)
class Method:
    """A sampler on the sigmas of a run, which may also begin in the middle.

    Attributes
    ----------
    sampler, process, dialect, options : str, Process, Dialect or mapping
        As for `ksched.build_sampler`.
    sigmas : tuple of float
        Sigmas of the whole run.
    request : Request or None
        Request of a stock class, if it needs something that no sampler has.
    changed : mapping
        Options that differ from the class's own.
    lead : tuple of float
        Sigmas before the first of ``sigmas``; the run begins with Euler steps through them.
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
        """The plan from a model call on; None if no call is left.

        Parameters
        ----------
        begin : int
            Number of the first model call, counted in the whole run.
        extra : mapping or None
            Options that were not known before.
        """
        key = begin, tuple(sorted((extra or {}).items()))
        if key not in self._plans:
            if len(self._plans) >= _KEPT:
                self._plans.clear()
            self._plans[key] = self._plan(begin, extra)
        return self._plans[key]

    def same_calls(self, begin: int, extra: Mapping[str, Any]) -> bool:
        """Whether further options leave the sigmas of the model calls unchanged."""
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
        """How to correct a prediction made at another state than the run's own, within a step.

        The run does not continue from that state: later states are formed from the prediction and from the start of the
        step. A Runge-Kutta method uses the slope found at that state.

        Returns
        -------
        float or None
            Share of the difference of the two states to add to the prediction; None if the run continues from the state
            that the prediction was made at, as it does between steps.
        """
        plan, calls = run.plan, run.nfe
        literal = self.request is not None and self.request.literal is not None  # traced as a single step
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
        if made.rows[0].level is None:  # the loop calls the model before the plan can add noise
            made = plan(**self._quiet_start(sigmas, options))
        if made.rows[0].level is None:
            raise ValueError(f"sampler {self.sampler} must not change the state before the first model call of a loop")
        return made

    def _quiet_start(self, sigmas: Sequence[float], options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that prevent noise before the first model call, if the sampler has any."""
        if options.get("s_churn"):
            return {"s_tmax": min(options.get("s_tmax", math.inf), math.nextafter(sigmas[0], 0.0))}
        raised = sampler_spec(self.sampler).own_options.get("gamma_0")
        if raised is None:
            return {}
        return {raised.name: (0.0, *per_step(options.get(raised.name, raised.default), len(sigmas) - 1)[1:])}

    def _tail(self, whole: Plan, begin: int, options: Mapping[str, Any]) -> Plan:
        """The plan from a model call in the middle of a run on.

        An unfinished step continues with first-order steps to the next step's sigma. The single-step solver makes one
        step of the remaining stages, as its class does.
        """
        steps, labels = whole.call_steps, [level.label for level in whole.levels]
        first = steps[begin]
        if begin > 0 and steps[begin - 1] == first:  # between the stages of a step
            first += 1
        if self.sampler == "dpm_singlestep":  # its stages are steps of the grid
            first += -first % int(options.get("order", 2))
        first = min(first, whole.steps)
        lead = [whole.levels[k] for k in range(begin, whole.nfe) if steps[k] < first]
        # if noise was added before the call, the step begins above its sigma
        called = next((labels[k] for k in range(begin, whole.nfe) if steps[k] == first), None)
        sub = self.sigmas[first:] if called is None else (called, *self.sigmas[first + 1 :])
        shorter = self._on_fewer(options, whole.steps, first)
        if whole.tells_others:  # a loop that begins here noises its state to the sigma told to the model
            lead, sub = [], (*labels[begin:], whole.end.label)
        falls = all(s > t for s, t in pairwise(sub))
        for sampler, how in ((self.sampler, shorter), ("ipndm", {}), ("euler", {})) if falls else ():
            rest = None if len(sub) < 2 else replace(self, sampler=sampler, options=how, request=None)._built(sub, how)
            made = [level.label for level in lead] + ([level.label for level in rest.levels] if rest else [])
            if len(made) == len(labels) - begin and np.allclose(made, labels[begin:], rtol=1e-9, atol=0):
                own = _of_steps(options, whole.steps, max(first - len(lead), 0), first)  # for stages that are steps
                return _led(lead, sampler, sub, self.process, self.dialect, how, own)
        # no shorter run makes these calls, for example after a restart: step from each to the next
        return _led([*whole.levels[begin:]], "euler", self.sigmas[-1:], self.process, self.dialect, {})

    def _on_fewer(self, options: Mapping[str, Any], steps: int, first: int) -> dict[str, Any]:
        """Options that count steps, adjusted for a run that begins after the first ones."""
        how = _of_steps(options, steps, first, steps)  # one per step
        if steps >= FEW_STEPS and self.sampler in ("dpm_multistep", "deis") and how.get("lower_order_final", True):
            defaults = {**dialect_options(sampler_spec(self.sampler), self.dialect), **how}
            if defaults.get("lower_order_final"):
                how["lower_order_final"] = False  # the whole run is long enough
        if how.get("first_corrected"):
            how["first_corrected"] = max(how["first_corrected"] - first, 0)
        if how.get("s_churn") and first < steps:
            churn = per_step(how["s_churn"], steps - first)
            how["s_churn"] = tuple(each * (steps - first) / steps for each in churn)
        return how


def _of_steps(options: Mapping[str, Any], steps: int, first: int, end: int) -> dict[str, Any]:
    """Options of a run of ``steps`` steps, cut to the steps from ``first`` to ``end`` if there is one per step."""
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
    """Steps through some sigmas, of first order or as the rest of a longer step, then a sampler on the others."""
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
            x = run.keep(ddim(s, t, x, denoised) if s != t else 1.0 * x)  # a repeated call at the same sigma
        return spec(run, rest, x, **how) if len(rest) else x

    return trace(function, Grid(process, (lead[0], *rest.levels)), {})
