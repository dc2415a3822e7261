"""Samplers that reduce to a simpler one at some option have its table, up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import COORDINATES, SPECS
from hypothesis import given
from hypothesis import strategies as st

from ksched import Process, build_sampler
from ksched.plan.analysis import table
from ksched.samplers.registry import sampler_spec
from ksched.testing.strategies import sigma_curves

REDUCTIONS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("euler_ancestral", {"eta": 0.0}, "euler", {}),
    ("ddim", {}, "euler", {}),
    ("ddim", {"eta": 0.4}, "euler_ancestral", {"eta": 0.4}),
    ("ddpm", {}, "ddim", {"eta": 1.0}),
    ("euler", {"s_churn": 5.0, "s_tmin": 1e300}, "euler", {}),
    ("heun", {"s_churn": 5.0, "s_tmax": 0.0}, "heun", {}),
    ("dpm_2", {"s_churn": 5.0, "s_tmax": 0.0}, "dpm_2", {}),
    ("dpm_2_ancestral", {"eta": 0.0}, "dpm_2", {}),
    ("tcd", {"eta": 0.0}, "euler", {}),
    ("lms", {"order": 1}, "euler", {}),
    ("lms", {"order": 2}, "ipndm_v", {"order": 2}),
    ("lms", {"order": 4}, "ipndm_v", {}),
    ("deis", {"order": 1}, "euler", {}),
    ("deis", {"variable": "sigma"}, "lms", {"order": 3}),
    ("ipndm", {"order": 1}, "euler", {}),
    ("ipndm", {"order": 2}, "gradient_estimation", {"ge_gamma": 1.5}),
    ("gradient_estimation", {"ge_gamma": 1.0}, "euler", {}),
    ("dpmpp_2m_sde", {"eta": 0.0}, "dpmpp_2m", {}),
    ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}, "dpmpp_2m", {"solver_type": "heun"}),
    ("dpmpp_2m_sde_heun", {"solver_type": "midpoint"}, "dpmpp_2m_sde", {}),
    ("dpmpp_2m_sde_heun", {"eta": 0.0}, "res_multistep", {}),
    ("res_multistep_ancestral", {"eta": 0.0}, "res_multistep", {}),
    ("res_multistep_ancestral", {"eta": 1.0}, "dpmpp_2m_sde_heun", {"eta": 1.0}),
    ("er_sde", {"max_stage": 1, "solver_type": "ode"}, "euler", {}),
    ("er_sde", {"solver_type": "reverse_time", "eta": 0.0}, "er_sde", {"solver_type": "ode"}),
    ("er_sde", {"solver_type": "reverse_time", "max_stage": 1}, "euler_ancestral", {"eta": 1.0}),
    ("seeds_2", {"eta": 0.0}, "dpmpp_2s_ancestral", {"eta": 0.0}),
    ("seeds_2", {"eta": 0.0}, "dpmpp_sde", {"eta": 0.0}),
    ("seeds_2", {"eta": 0.0, "solver_type": "phi_2"}, "res_2s", {}),
    ("seeds_2", {"r": 1.0, "solver_type": "phi_2"}, "exp_heun_2_x0_sde", {}),
    ("exp_heun_2_x0_sde", {"eta": 0.0}, "exp_heun_2_x0", {}),
    ("exp_heun_2_x0", {}, "res_2s", {"c2": 1.0}),
    ("sa_solver", {"tau": 0.0, "predictor_order": 1, "corrector_order": 0}, "euler", {}),
    ("sa_solver", {"use_pece": True}, "sa_solver_pece", {}),
    ("uni_pc", {"order": 1, "corrector": False}, "euler", {}),
    ("uni_pc", {"order": 1, "corrector": False, "variant": "bh2"}, "euler", {}),
    ("uni_pc", {"order": 2, "corrector": False, "lower_order_final": False, "variant": "bh2"}, "dpmpp_2m", {}),
    ("uni_pc", {"variant": "bh2"}, "uni_pc_bh2", {}),
    ("exp_ab", {"order": 1}, "euler", {}),
    ("exp_ab", {"order": 2}, "res_multistep", {}),
    ("exp_ab", {"order": 2}, "dpmpp_2m", {"solver_type": "heun"}),
    ("exp_ab", {}, "dpmpp_3m_sde", {"eta": 0.0}),
    ("exp_pc", {"corrector_order": 0}, "exp_ab", {}),
    ("exp_pc", {"predictor_order": 2, "corrector_order": 0, "start": "runge_kutta"}, "res_multistep", {}),
    ("exp_pc", {"predictor_order": 1, "corrector_order": 0}, "euler", {}),
    ("dpm_multistep", {"order": 1}, "euler", {}),
    ("dpm_multistep", {"order": 2}, "dpmpp_2m", {}),
    ("dpm_multistep", {"order": 2, "eta": 0.6}, "dpmpp_2m_sde", {"eta": 0.6}),
    ("dpm_multistep", {"solver_type": "heun", "eta": 1.0}, "dpmpp_3m_sde", {}),
    ("dpm_multistep", {"solver_type": "heun", "predict": "eps"}, "deis", {}),
    ("dpm_multistep", {"predict": "eps", "eta": 1.0}, "dpm_multistep", {"eta": 1.0}),
    (
        "uni_pc_bh2",
        {"order": 2, "predict": "eps", "corrector": False, "lower_order_final": False},
        "dpm_multistep",
        {"order": 2, "predict": "eps"},
    ),
    ("dpm_singlestep", {"order": 1}, "euler", {}),
    ("pndm", {"order": 1}, "euler", {}),
    ("cfgpp_ud10_ab", {"history": 0.0, "uncond_history": 0.0, "zero": 0.0}, "euler_cfg_pp", {}),
    ("euler_ancestral_cfg_pp", {"eta": 0.0}, "euler_cfg_pp", {}),
    ("gradient_estimation_cfg_pp", {"ge_gamma": 1.0}, "euler_cfg_pp", {}),
    ("res_multistep_ancestral_cfg_pp", {"eta": 0.0}, "res_multistep_cfg_pp", {}),
    ("flow_sde", {"noise_level": 0.0}, "euler", {}),
    ("dance_sde", {"noise_level": 0.0}, "euler", {}),
    ("flow_cps", {"noise_level": 0.0}, "euler", {}),
    ("flow_cps", {"noise_level": 1.0}, "lcm", {}),
    ("af3", {"gamma_0": 0.0, "step_scale": 1.0}, "euler", {}),
    ("dpmpp_2s", {}, "dpmpp_2s_ancestral", {"eta": 0.0}),
    ("restart", {"s_min": 1.0, "s_max": 1.0, "restart_steps": 3}, "heun", {}),
]

#: these start with a step from pure noise where their simpler form has no history to begin from
LEAVE_OUT_PURE_NOISE = ("uni_pc", "deis", "er_sde")


@pytest.mark.parametrize("case", REDUCTIONS, ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}-{c[3]}")
@given(data=st.data())
def test_reduction(case: tuple[str, dict[str, Any], str, dict[str, Any]], data: st.DataObject) -> None:
    name, options, simpler, simpler_options = case
    for form, process in COORDINATES.items():
        if not sampler_spec(name).runs_on(process):
            continue
        sigmas = data.draw(sigma_curves(process), form)
        if name in LEAVE_OUT_PURE_NOISE:
            sigmas = sigmas[np.isfinite([process.level(s).lam for s in sigmas]) | (sigmas == 0)]
        got = table(build_sampler(name, sigmas=sigmas, process=process, **options).plan)
        want = table(build_sampler(simpler, sigmas=sigmas, process=process, **simpler_options).plan)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9, err_msg=form)


GUIDED = [spec.name for spec in SPECS if spec.name.endswith("_cfg_pp")]


@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize("name", GUIDED)
def test_without_guidance_cfg_pp_is_the_sampler_it_is_named_for(name: str, process: Process) -> None:
    """If both predictions are equal, the columns of D and U add up to those of the plain sampler."""
    plain = name.removesuffix("_cfg_pp")
    guided, base = (build_sampler(n, "karras", 6, process=process).plan for n in (name, plain))
    pairs, want = table(guided), table(base)
    outputs = slice(1, 1 + 2 * guided.nfe)
    merged, single = (t[:, outputs].reshape(len(t), -1, 2).sum(2) for t in (pairs, want))
    np.testing.assert_allclose(merged, single, atol=1e-12)
    np.testing.assert_allclose(np.delete(pairs, outputs, 1), np.delete(want, outputs, 1), atol=1e-12)


@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@given(data=st.data())
def test_predictor_and_corrector_are_sa_solver_where_that_lowers_no_order(
    process: Process, data: st.DataObject
) -> None:
    sigmas = data.draw(sigma_curves(process))
    sigmas = sigmas[sigmas > 0]
    for orders in ((3, 4), (2, 3), (4, 0)):
        how: dict[str, Any] = {"predictor_order": orders[0], "corrector_order": orders[1]}
        got = table(build_sampler("exp_pc", sigmas=sigmas, process=process, **how).plan)
        want = table(build_sampler("sa_solver", sigmas=sigmas, process=process, tau=0.0, **how).plan)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("orders", "single"), [((3, 0), "res_2s"), ((4, 0), "res_3s"), ((3, 4), "res_3s")])
def test_a_step_by_runge_kutta_is_that_of_the_single_step_method(orders: tuple[int, int], single: str) -> None:
    how: dict[str, Any] = {"predictor_order": orders[0], "corrector_order": orders[1], "start": "runge_kutta"}
    got, want = (
        build_sampler(name, sigmas=[4.0, 2.5], **given).plan for name, given in (("exp_pc", how), (single, {}))
    )
    np.testing.assert_allclose(table(got), table(want), rtol=1e-12)


def test_the_end_by_an_integral_is_that_of_the_line_through_two_eps() -> None:
    sigmas = (3.0, 2.0, 0.5, 0.0)
    how: dict[str, Any] = {"predictor_order": 1, "corrector_order": 0, "end": "integral"}
    states = table(build_sampler("euler", sigmas=sigmas).plan)
    eps = [(states[k] - np.eye(states.shape[1])[1 + 2 * k]) / sigmas[k] for k in range(3)]
    middle = eps[2] + (0.25 - 0.5) * (eps[1] - eps[2]) / (2.0 - 0.5)  # of the line, half way from 0.5 to 0
    want = [*states[:3], states[2] - 0.5 * middle]
    np.testing.assert_allclose(table(build_sampler("exp_pc", sigmas=sigmas, **how).plan), want, atol=1e-12)


def test_different_samplers_have_different_tables() -> None:
    heun, midpoint = (table(build_sampler(n, "karras", 5).plan) for n in ("dpmpp_2m", "uni_pc"))
    assert np.abs(heun - midpoint).max() > 0.01


def test_ddim_is_the_formula_of_the_paper() -> None:
    """Eq. 12 and 16 of arXiv:2010.02502, written in alpha-bar, against the table of one step."""
    process = COORDINATES["vp_preserving"]
    for eta in (0.0, 0.5, 1.0):
        plan = build_sampler("ddim", sigmas=[9.0, 2.0], process=process, eta=eta).plan
        before, after = (process.alpha(s) ** 2 for s in (9.0, 2.0))
        fresh = eta * ((1 - after) / (1 - before)) ** 0.5 * (1 - before / after) ** 0.5
        direction = (1 - after - fresh**2) ** 0.5  # factor of eps = (x - sqrt(before) D) / sqrt(1 - before)
        want = [direction / (1 - before) ** 0.5, after**0.5 - direction * (before / (1 - before)) ** 0.5]
        want += [0.0] + ([fresh] if eta else [])
        np.testing.assert_allclose(table(plan)[-1], want, rtol=1e-12)
