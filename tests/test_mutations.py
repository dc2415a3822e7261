"""Mutated tables: if any coefficient or term of a sampler's table changes, one of its proofs fails."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import SPECS, can_be_silent, no_noise, process_for
from representatives import each, short

from ksched import VE, build_sampler
from ksched.plan.analysis import gaussian_error, measured_order
from ksched.plan.plan import Plan
from ksched.plan.rows import Register, Row
from ksched.samplers.spec import SamplerSpec
from ksched.testing.samplers import check_plan
from ksched.types import Array

SIGMAS = [9.0, 4.0, 1.7, 0.8, 0.35, 0.0]
Change = Callable[[int, Row], Row]
PROVEN = [spec for spec in SPECS if spec.keeps_variance]  # of the others the whole table is: tests/test_policy_steps.py


def plan_of(spec: SamplerSpec, ends: bool = True, **options: Any) -> Plan:
    """On the levels above, or a tenth of them where there are none that high."""
    process = process_for(spec, VE())
    sigmas = [sigma / 10 if process.is_flow else sigma for sigma in (SIGMAS if ends else SIGMAS[:-1])]
    return build_sampler(spec.name, sigmas=sigmas, process=process, **options).plan


def changed(plan: Plan, row: int, terms: dict[Register, float]) -> Plan:
    """The plan with other terms in one row, and without noises that nothing uses any more."""
    rows = list(plan.rows)
    rows[row] = rows[row]._replace(terms=tuple(terms.items()))
    used = {register for r in rows for register, _ in r.terms}
    if any(Register("xi", m) not in used for m in range(len(plan.draws))):
        raise ValueError("a noise is never used")  # which a plan refuses by itself
    return dataclasses.replace(plan, rows=tuple(rows))


@each("spec", PROVEN)
def test_no_coefficient_may_change(spec: SamplerSpec) -> None:
    """Changing any coefficient by a thousandth changes the marginals."""
    plan = plan_of(spec)
    check_plan(plan)
    for k, row in enumerate(plan.rows):
        for register, value in row.terms:
            with pytest.raises(AssertionError, match="a coefficient is wrong"):
                check_plan(changed(plan, k, dict(row.terms) | {register: value * 1.001}))


@each("spec", PROVEN)
def test_no_term_may_be_left_out(spec: SamplerSpec) -> None:
    plan = plan_of(spec)
    for k, row in enumerate(plan.rows):
        for register, _ in row.terms if len(row.terms) > 1 else ():
            terms = dict(row.terms)
            del terms[register]
            with pytest.raises(
                (AssertionError, ValueError), match=r"a coefficient is wrong|never used|must be used by a row"
            ):
                check_plan(changed(plan, k, terms))


def moved(plan: Plan) -> list[tuple[int, dict[Register, float]]]:
    """Rows in which weight goes from one prediction, or slope, to an older one, so that all marginals stay."""
    slopes = [Register("x", k) for k, row in enumerate(plan.rows[1:-1], 1) if row.level is None]
    found = []
    for k, row in enumerate(plan.rows):
        terms = dict(row.terms)
        kept = [register for register in slopes if register in terms]
        outputs = sorted(register for register in terms if register.kind == "D")
        if kept and kept[0] != slopes[0] and len(outputs) < 2:
            new, old = kept[-1], slopes[slopes.index(kept[-1]) - 1]
        elif outputs and outputs[-1].number > 0 and (len(outputs) > 1 or not kept):
            new, old = outputs[-1], Register("D", outputs[-1].number - 1)
        else:
            continue
        found.append((k, terms | {new: 0.5 * terms[new], old: terms.get(old, 0.0) + 0.5 * terms[new]}))
    return found


MULTIPLE = [s for s in SPECS if s.order > 1 and can_be_silent(s) and not s.uncond]


@short(lambda spec: spec.order == 3)
@pytest.mark.parametrize("spec", MULTIPLE, ids=lambda s: s.name)
def test_weights_moved_between_predictions_cost_the_order(spec: SamplerSpec) -> None:
    """Such a table still passes the marginals; its order shows that it is wrong."""
    process = VE()

    def build(sigmas: Array) -> Plan:
        plan = build_sampler(spec.name, sigmas=sigmas, process=process, **no_noise(spec)).plan
        right = plan
        for k, terms in moved(plan):
            candidate = changed(plan, k, terms)
            with contextlib.suppress(AssertionError):  # what was moved was no slope but a corrected state
                check_plan(candidate)
                plan = candidate
        assert plan != right, "no row of this sampler mixes predictions: choose another mutation for it"
        return plan

    check_plan(build(np.array(SIGMAS)))
    assert measured_order(build, process, steps=(16, 31)) < spec.order - 0.15


@pytest.mark.parametrize("spec", [s for s in SPECS if s.weak_order is not None], ids=lambda s: s.name)
def test_less_noise_is_another_law(spec: SamplerSpec) -> None:
    """s_noise off 1 must show in the exact law of the result."""
    name = "s_noise"
    if name not in spec.own_options:
        pytest.fail("a sampler that draws noise has a factor of it")
    how: dict[str, Any] = {"eta": 1.0} if "eta" in spec.own_options else {}
    if "s_min" in spec.own_options:  # noise comes back only between levels of the run
        how |= {"s_min": SIGMAS[3], "s_max": SIGMAS[1], "restart_steps": 2}
    less: dict[str, Any] = how | {name: 0.9}
    right, wrong = (gaussian_error(plan_of(spec, ends=False, **o), weak=True) for o in (how, less))
    assert plan_of(spec, ends=False, **how).draws
    assert abs(right - wrong) > 1e-6
