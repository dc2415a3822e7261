"""Properties of a sampler: the mean and variance of its states, and its declared order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ksched.plan.analysis import marginals, measured_order
from ksched.plan.plan import Plan
from ksched.plan.protocol import SamplerFunction
from ksched.plan.trace import TraceError, trace
from ksched.processes import VE, VP, Flow, Process
from ksched.schedules.grid import Grid
from ksched.testing.random_state import random_states, what_moved
from ksched.testing.strategies import sigma_curves, smallest_problem
from ksched.types import Array

__all__ = ["check_plan", "check_sampler"]


def _plan_problem(plan: Plan, keeps_variance: bool) -> str | None:
    for row, level, alpha, variance, rounding in marginals(plan):
        tolerance = max(1e-10, 4 * rounding)
        where = "the result" if row == len(plan.rows) - 1 else f"state x{row}"
        at = f"its level, sigma={level.label:.6g}, has"
        if not abs(alpha - level.alpha) <= tolerance:
            return f"{where} holds {alpha:.6g} of the data where {at} {level.alpha:.6g}: a coefficient is wrong"
        std, scale = plan.noise_scale * level.sigma, plan.noise_scale
        if keeps_variance and not abs(variance - std**2) <= tolerance * max(scale, std) ** 2:
            return f"{where} has noise of variance {variance:.6g} where {at} {std**2:.6g}: a coefficient is wrong"
    return None


def check_plan(plan: Plan, *, keeps_variance: bool = True) -> None:
    """Check that every state of a plan, and the result, has the mean and variance of its level for one-point data.

    Parameters
    ----------
    plan : Plan
        Plan of a sampler whose noise has unit variance (``s_noise`` = 1).
    keeps_variance : bool
        Whether to check the variance; False for a sampler that declares that it does not keep it.

    Raises
    ------
    AssertionError
        If a state is wrong; one sentence that names the first one.
    """
    if problem := _plan_problem(plan, keeps_variance):
        raise AssertionError(problem)


def _end_problem(plan: Plan) -> str | None:
    last = plan.rows[-1].terms
    if plan.end.label != 0 or (len(last) == 1 and last[0][0].kind == "D" and abs(last[0][1] - 1) <= 1e-12):
        return None
    made = " ".join(f"{value:+.6g} {register}" for register, value in last)
    return f"a step to sigma 0 must end at the denoised prediction, +1 D{plan.nfe - 1}; the result is {made}"


class _SamplerCheck(NamedTuple):
    """The properties of a sampler on one process; `problem` says what is wrong on one grid."""

    function: SamplerFunction
    options: Mapping[str, Any]
    process: Process
    ends_at_denoised: bool
    keeps_variance: bool

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", "function")

    def plan(self, sigmas: Array) -> Plan:
        return trace(self.function, Grid.of(sigmas, self.process), self.options)

    def problem(self, sigmas: Array) -> str | None:
        before = random_states()
        try:
            plan = self.plan(sigmas)
            said = _plan_problem(plan, self.keeps_variance) or (_end_problem(plan) if self.ends_at_denoised else None)
            if said is None and self.plan(sigmas) != plan:
                said = "it must be a function of its arguments; two traces gave different tables"
        except TraceError as error:
            said = str(error)
        except Exception as error:  # any error is a finding
            said = f"it raised {type(error).__name__}: {error}"
        said = what_moved(before) or said
        return said and f"{self.name} on {self.process!r}, sigmas={sigmas.tolist()}: {said}"

    def order_problem(self, order: float | None, weak_order: float | None) -> str | None:
        """A message about the declared orders; None if they are right."""
        draws = bool(self.plan(np.array([0.9, 0.5, 0.2])).draws)
        if order is not None and draws:
            return (
                f"{self.name} draws noise, so single runs have no order; declare weak_order=, or pass options that "
                "turn the noise off"
            )
        for declared, weak, word in ((order, False, "order"), (weak_order, True, "weak order")):
            if declared is None:
                continue
            measured = measured_order(self.plan, self.process, weak=weak)
            if not measured >= declared - 0.15:
                return (
                    f"{self.name} on {self.process!r}: {word} {declared:g} is declared, but {measured:.2f} is measured "
                    "on normal data between 64 and 128 steps"
                )
        return None


def check_sampler(
    function: SamplerFunction,
    *,
    options: Mapping[str, Any] | None = None,
    order: float | None = None,
    weak_order: float | None = None,
    processes: Sequence[Process] | None = None,
    ends_at_denoised: bool = True,
    keeps_variance: bool = True,
    max_examples: int = 60,
) -> None:
    """Check that your sampler is right on any grid of VE, variance-preserving and flow processes.

    The checks are: it can be traced to a table of finite numbers, the same twice; each state has the mean and variance
    of its level for one-point data; a step to sigma 0 returns the denoised prediction; and it converges with its order.

    Parameters
    ----------
    function : SamplerFunction
        ``(run, grid, x, *, options) -> x``, as for `ksched.register_sampler`.
    options : mapping or None
        Values of its keyword-only arguments.
    order : float or None
        Declared order of convergence, measured on normal data; None does not measure it.
    weak_order : float or None
        Declared order of the distribution of the results, for a sampler that draws noise.
    processes : sequence of Process or None
        Processes to try; None is VE, VP with variance-preserving states, and Flow.
    ends_at_denoised : bool
        False for a sampler that deliberately ends differently at sigma 0.
    keeps_variance : bool
        False for a sampler whose states have another variance than their levels, like those for reinforcement learning;
        their mean is checked nevertheless.
    max_examples : int
        Number of grids to draw for each process.

    Raises
    ------
    AssertionError
        If the sampler is wrong; one sentence with the process, the smallest grid that shows it, and the wrong state.

    Examples
    --------
    >>> from ksched.testing import check_sampler
    >>> def euler(run, grid, x):
    ...     for s, t in grid.steps():
    ...         x = x + (t.sigma - s.sigma) / s.sigma * (x - run.denoise(x, s))
    ...     return x
    >>> check_sampler(euler, order=1)
    Traceback (most recent call last):
    AssertionError: euler on VP...
    """
    right: list[str] = []
    for process in (VE(), VP(variance_preserving=True), Flow()) if processes is None else processes:
        check = _SamplerCheck(function, dict(options or {}), process, ends_at_denoised, keeps_variance)
        if said := smallest_problem(sigma_curves(process), check.problem, max_examples):
            if right and "a coefficient is wrong" in said:
                said += f". It is right on {right[0]}: use the alpha of the levels instead of 1"
            raise AssertionError(said)
        right.append(repr(process))
        if said := check.order_problem(order, weak_order):
            raise AssertionError(said)
