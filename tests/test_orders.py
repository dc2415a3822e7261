"""Declared orders of convergence, measured from exact errors, on grids that are uniform in no usual variable."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from cases import COORDINATES, SPECS, can_be_silent, no_noise, paired, process_for, quick
from representatives import in_turn, is_form, short

from ksched import Flow, Process, build_sampler
from ksched.exact.mixture import GaussianMixture
from ksched.plan.analysis import gaussian_error, measured_order, warped_sigmas
from ksched.plan.plan import Plan
from ksched.samplers.spec import SamplerSpec
from ksched.types import Array

WITH_NOISE = [spec for spec in SPECS if spec.weak_order is not None]
SILENT = [spec for spec in SPECS if spec.order and can_be_silent(spec)]


#: orders that a method of Adams has with options; the default start is of lower order than the rest
FULL = [
    ("exp_ab", {"order": 2}, 2),
    ("exp_ab", {"order": 3, "start": "runge_kutta"}, 3),
    ("exp_ab", {"order": 4, "start": "runge_kutta"}, 4),
    ("exp_pc", {"predictor_order": 1, "corrector_order": 2}, 2),
    ("exp_pc", {"predictor_order": 2, "corrector_order": 3}, 3),
    ("exp_pc", {"predictor_order": 3, "corrector_order": 3}, 3),
    ("exp_pc", {"predictor_order": 3, "corrector_order": 4, "start": "runge_kutta"}, 4),
]


def number_of(name: str, options: dict[str, Any]) -> int:
    """Which of the methods of Adams."""
    return [(of, how) for of, how, _ in FULL].index((name, options))


def steps_of(spec: SamplerSpec) -> tuple[int, int]:
    """Two numbers of steps with the same remainder modulo 3, which dpm_fast's last step depends on.

    Few for high orders, whose errors soon meet those of rounding.
    """
    return (16, 31) if spec.order > 4 else (61, 121)


def noisy(spec: SamplerSpec) -> dict[str, Any]:
    """Options of the fully stochastic form."""
    return {"eta": 1.0} if "eta" in spec.own_options else {}


def order_of(spec: SamplerSpec, options: dict[str, Any], process: Process, **how: Any) -> float:
    def build(sigmas: Array) -> Plan:
        return build_sampler(spec.name, sigmas=sigmas, process=process, **options).plan

    return measured_order(build, process, **{"steps": steps_of(spec), **how})


def another_than_flow(spec: SamplerSpec, process: Process) -> bool:
    """One of the forms that a state can have; the mixture below has Flow, on which no factor is 1."""
    return process == in_turn(SPECS.index(spec), [COORDINATES[name] for name in COORDINATES if name != "flow"])


@short(another_than_flow)
@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize("spec", SILENT, ids=lambda s: s.name)
def test_order_is_met(spec: SamplerSpec, process: Process) -> None:
    assert order_of(spec, no_noise(spec), process_for(spec, process)) >= spec.order - 0.15


MIXTURES = {
    name: GaussianMixture([0.6, 0.4], [[1.0], [-0.7]], [[0.04], [0.1225]], process=COORDINATES[name])
    for name in ("ve", "flow")
}


QUICK = {name: quick(model) for name, model in MIXTURES.items()}


@cache
def exact_run(of: str, steps: int) -> tuple[Array, torch.Tensor, torch.Tensor]:
    """Levels, start states and where the exact solution ends."""
    process, model = COORDINATES[of], MIXTURES[of]
    sigmas = warped_sigmas(process, steps)
    eps = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    x = process.add_noise(torch.zeros_like(eps), eps, float(sigmas[0]))
    return sigmas, x, model.solve(x, sigmas[[0, -1]])[-1]


def mixture_order(name: str, options: dict[str, Any], of: str, counts: tuple[int, int]) -> float:
    """Order of a sampler between two numbers of steps."""
    process, model, errors = COORDINATES[of], QUICK[of], []
    for steps in counts:
        sigmas, x, end = exact_run(of, steps)
        result = build_sampler(name, sigmas=sigmas, process=process, **options).sample(paired(model), x)
        errors.append(float((result - end).square().mean().sqrt()))
    return math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0])


@short(lambda spec, name: name == "flow" and (spec.order > 2 or is_form(spec.name)))
@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("spec", SILENT, ids=lambda s: s.name)
def test_order_is_met_on_a_mixture(spec: SamplerSpec, name: str) -> None:
    """Data for which the ODE is not linear: there all conditions of an order count, and none is met by luck."""
    counts = (100, 199) if spec.order == 4 else (40, 79) if spec.order > 4 else steps_of(spec)
    measured = mixture_order(spec.name, no_noise(spec), name, counts)
    assert measured >= spec.order - 0.25
    # a small error of the first steps may still hide behind the others: lms, deis and their like measure up to 2.4
    assert measured <= spec.order + 0.8, "a sampler better than declared is declared wrongly"


@short(lambda name, options, process: process == in_turn(number_of(name, options), COORDINATES.values()))
@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize(("name", "options", "order"), FULL, ids=lambda value: str(value))
def test_adams_methods_with_a_start_of_their_own_order_have_it(
    name: str, options: dict[str, Any], order: int, process: Process
) -> None:
    def build(sigmas: Array) -> Plan:
        return build_sampler(name, sigmas=sigmas, process=process, **options).plan

    assert abs(measured_order(build, process, steps=(128, 256)) - order) < 0.15
    if "start" in options:  # steps without a memory of their own order are what it takes
        options = {**options, "start": "adams"}
        assert measured_order(build, process, steps=(128, 256)) < order - 0.8


@pytest.mark.parametrize(("name", "options", "order"), FULL, ids=lambda value: str(value))
def test_adams_methods_have_their_order_on_a_mixture(name: str, options: dict[str, Any], order: int) -> None:
    assert mixture_order(name, options, "ve", (200, 399)) >= order - 0.25  # constants of both signs: some measure more


def test_steps_that_shrink_towards_the_start_hide_a_start_of_lower_order() -> None:
    """The first step of n is of length 1 / n ** 2: an error of second order there is one of fourth order in n."""

    def error(name: str, steps: int) -> float:
        sigmas = 10 * 0.01 ** (torch.linspace(0, 1, steps + 1, dtype=torch.float64).numpy() ** 2)
        return gaussian_error(build_sampler(name, sigmas=sigmas).plan, std=0.5)

    for name, order in (("exp_ab", 3), ("exp_pc", 4)):
        assert abs(math.log2(error(name, 320) / error(name, 640)) - order) < 0.15


@short(lambda process: process == COORDINATES["flow"])  # no factor is 1 on it
@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize("spec", WITH_NOISE, ids=lambda s: s.name)
def test_weak_order_is_met(spec: SamplerSpec, process: Process) -> None:
    assert spec.weak_order is not None
    measured = order_of(spec, noisy(spec), process_for(spec, process), weak=True)
    assert spec.weak_order - 0.15 <= measured <= spec.weak_order + 0.5


@pytest.mark.parametrize("spec", SILENT, ids=lambda s: s.name)
def test_order_survives_a_start_from_pure_noise(spec: SamplerSpec) -> None:
    # The first steps from sigma = 1 are long in log-SNR whatever the grid: the error of methods in log-SNR is
    # O(log(n) / n^2) for order 2 and O(1 / n^2) above, with constants of both signs.
    assert order_of(spec, no_noise(spec), Flow(), sigma_max=1.0, steps=(64, 127)) >= min(spec.order, 2) - 0.5


@pytest.mark.parametrize("spec", [s for s in SPECS if s.order == 0 and can_be_silent(s)], ids=lambda s: s.name)
def test_what_is_declared_not_to_converge_does_not(spec: SamplerSpec) -> None:
    assert order_of(spec, no_noise(spec), COORDINATES["ve"]) < 0.5


def test_a_lost_correction_is_caught() -> None:
    def without_history(sigmas: Array) -> Plan:
        return build_sampler("uni_pc", sigmas=sigmas, order=1, corrector=False).plan

    assert measured_order(without_history, COORDINATES["ve"]) < 1.2


@pytest.mark.parametrize(("options", "order"), [({"order": 2, "lower_order_final": False}, 3), ({"order": 1}, 2)])
def test_the_corrector_gains_an_order(options: dict[str, Any], order: int) -> None:
    def build(sigmas: Array) -> Plan:
        return build_sampler("uni_pc", sigmas=sigmas, **options).plan

    assert abs(measured_order(build, COORDINATES["ve"], steps=(128, 256)) - order) < 0.15
