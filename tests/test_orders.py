"""Declared orders of convergence, measured on grids that are even in no usual variable, from exact errors."""

from __future__ import annotations

from typing import Any

import pytest
from cases import COORDINATES, SPECS

from ksched import Flow, Process, build_sampler
from ksched.analysis import measured_order
from ksched.plan import Plan
from ksched.registry import SamplerSpec
from ksched.types import Array

WITH_NOISE = [spec for spec in SPECS if spec.weak_order is not None]


def plain(spec: SamplerSpec) -> dict[str, Any]:
    """Options that switch the noise off."""
    return {"eta": 0.0} if "eta" in spec.options else {}


def noisy(spec: SamplerSpec) -> dict[str, Any]:
    """Options of the fully stochastic form."""
    return {"eta": 1.0} if "eta" in spec.options else {}


def order_of(spec: SamplerSpec, options: dict[str, Any], process: Process, **how: Any) -> float:
    def build(sigmas: Array) -> Plan:
        return build_sampler(spec.name, sigmas=sigmas, process=process, **options).plan

    return measured_order(build, process, **how)


@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize("spec", [s for s in SPECS if not s.draws or "eta" in s.options], ids=lambda s: s.name)
def test_order_is_met(spec: SamplerSpec, process: Process) -> None:
    measured = order_of(spec, plain(spec), process)
    assert measured >= spec.order - 0.15
    assert measured <= spec.order + 0.5, "a sampler better than declared is declared wrongly"


@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize("spec", WITH_NOISE, ids=lambda s: s.name)
def test_weak_order_is_met(spec: SamplerSpec, process: Process) -> None:
    assert spec.weak_order is not None
    measured = order_of(spec, noisy(spec), process, weak=True)
    assert spec.weak_order - 0.15 <= measured <= spec.weak_order + 0.5


@pytest.mark.parametrize("spec", [s for s in SPECS if not s.draws or "eta" in s.options], ids=lambda s: s.name)
def test_order_survives_a_start_from_pure_noise(spec: SamplerSpec) -> None:
    # from sigma = 1 the error of second-order log-SNR methods is O(log(n) / n^2): 1.8 between 64 and 128 steps
    assert order_of(spec, plain(spec), Flow(), sigma_max=1.0) >= spec.order - 0.25


def test_a_lost_correction_is_caught() -> None:
    def without_history(sigmas: Array) -> Plan:
        return build_sampler("uni_pc", sigmas=sigmas, order=1, corrector=False).plan

    assert measured_order(without_history, COORDINATES["ve"]) < 1.2


@pytest.mark.parametrize(("options", "order"), [({"order": 2, "lower_order_final": False}, 3), ({"order": 1}, 2)])
def test_the_corrector_gains_an_order(options: dict[str, Any], order: int) -> None:
    def build(sigmas: Array) -> Plan:
        return build_sampler("uni_pc", sigmas=sigmas, **options).plan

    assert abs(measured_order(build, COORDINATES["ve"], steps=(128, 256)) - order) < 0.15
