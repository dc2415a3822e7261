"""Every name of ComfyUI, stable-diffusion.cpp, skrample, RES4LYF and SD.Next; numbers from their formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from representatives import each

from ksched import VP, Dialect, Flow, NoiseSchedule, SamplerType, build_sampler, calculate_sigmas
from ksched.dialects.peer_samplers import SAMPLER_PEERS
from ksched.dialects.peer_schedules import PEERS
from ksched.dialects.peers import find_peer, find_sampler, peer_sigmas
from ksched.plan.analysis import table
from ksched.types import Array


def words(text: str) -> list[str]:
    return text.split()


#: ComfyUI 0.36, KSAMPLER_NAMES and after them those that SAMPLER_NAMES adds
COMFYUI = words("""
    euler euler_cfg_pp euler_ancestral euler_ancestral_cfg_pp heun heunpp2 exp_heun_2_x0 exp_heun_2_x0_sde dpm_2
    dpm_2_ancestral lms dpm_fast dpm_adaptive dpmpp_2s_ancestral dpmpp_2s_ancestral_cfg_pp dpmpp_sde dpmpp_sde_gpu
    dpmpp_2m dpmpp_2m_cfg_pp dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu dpmpp_3m_sde
    dpmpp_3m_sde_gpu ddpm lcm ipndm ipndm_v deis cfgpp_ud10_ab res_multistep res_multistep_cfg_pp
    res_multistep_ancestral res_multistep_ancestral_cfg_pp gradient_estimation gradient_estimation_cfg_pp er_sde seeds_2
    seeds_3 sa_solver sa_solver_pece ddim uni_pc uni_pc_bh2
    res_2m res_3m res_2s res_3s res_5s res_6s res_2m_ode res_3m_ode res_2s_ode res_3s_ode res_5s_ode res_6s_ode deis_2m
    deis_3m deis_2m_ode deis_3m_ode
""")  # the last lines are what RES4LYF adds to the menu, with rk_beta

#: stable-diffusion.cpp, commit 97d29908: sample_method_to_str, scheduler_to_str
SD_CPP = words("""
    euler euler_a heun dpm2 dpm++2s_a dpm++2m dpm++2mv2 ipndm ipndm_v lcm ddim_trailing tcd res_multistep res_2s er_sde
    euler_cfg_pp euler_a_cfg_pp euler_ge dpm++2m_sde dpm++2m_sde_bt lms
""")
SD_CPP_SCHEDULES = words("""
    discrete karras exponential ays gits sgm_uniform simple smoothstep kl_optimal lcm bong_tangent ltx2 logit_normal
    flux2 flux beta
""")

#: skrample, commit 2213bf4e: classes of skrample.sampling and skrample.scheduling that can be chosen
SKRAMPLE = words("Euler DPM Adams UniP UniPC SPC RKUltra DynasauRK RKMoire")
SKRAMPLE_SCHEDULES = words("""
    Linear Scaled ZSNR Karras Exponential Beta Probit FlowShift Hyper Sinner NoSub NoMod FixedSchedule
""")


def names_of(program: str) -> set[str]:
    return {peer.name for peer in SAMPLER_PEERS if peer.program == program}


def test_every_sampler_of_comfyui_and_of_its_menu_with_res4lyf_parses() -> None:
    for name in COMFYUI:
        assert SamplerType.parse(name) is find_sampler("comfyui", name).sampler
    for asked, ours in {
        "res_3m": "exp_ab",
        "deis_3m": "deis",
        "dpmpp_2s": "dpmpp_2s",
        "euler_ge": "gradient_estimation",
        "fireflow": "fireflow",
        "pingpong": "lcm",
    }.items():
        assert SamplerType.parse(asked) == ours
    for asked in ("smoothstep", "logit_normal", "sway", "probit", "piecewise"):
        assert NoiseSchedule.parse(asked) in NoiseSchedule


def test_every_name_of_a_program_has_a_row() -> None:
    assert names_of("sd_cpp") == {*SD_CPP}
    assert names_of("skrample") == {*SKRAMPLE}
    # 118 methods of RES4LYF's menu, 8 more with "_ode" in ComfyUI's, and rk_beta
    assert len(names_of("res4lyf")) == 118 + 8 + 1
    assert len(names_of("sdnext")) == 116
    schedules = {program: {peer.name for peer in PEERS if peer.program is program} for program in Dialect}
    assert schedules[Dialect.SD_CPP] == {*SD_CPP_SCHEDULES}
    assert schedules[Dialect.SKRAMPLE] == {*SKRAMPLE_SCHEDULES}
    assert len(schedules[Dialect.SDNEXT]) == 11


@each("program", [Dialect.SD_CPP, Dialect.SKRAMPLE, Dialect.RES4LYF, Dialect.SDNEXT])
def test_a_name_is_ours_or_says_why_not(program: Dialect) -> None:
    """`SamplerType.parse` also refuses names without a sampler, for the same reason."""
    for peer in (peer for peer in SAMPLER_PEERS if peer.program is program and peer.sampler is None):
        with pytest.raises(ValueError, match="ksched has no sampler") as error:
            SamplerType.parse(peer.name)
        if peer.name not in ("Adams", "dpm++2mv2"):  # which other libraries have as well
            assert peer.note.replace("`", "'") in str(error.value), peer.name


def test_programs_are_named_in_their_own_spelling() -> None:
    assert Dialect.parse("stable-diffusion.cpp") is Dialect.parse("sd.cpp") is Dialect.SD_CPP
    assert Dialect.parse("SD.Next") is Dialect.SDNEXT
    assert find_sampler("SD.Next", "res-unified 3m").sampler is SamplerType.EXP_AB


def test_sd_cpp_schedules_are_its_formulas() -> None:
    """Its rules written out, at steps that it can have, on its table and on flow with shift 3."""
    table_ = VP().sigmas
    for n in (4, 20):
        u = 1 - np.arange(n) / n
        places = np.rint((u * u * (3 - 2 * u)) * 999).astype(int)
        np.testing.assert_allclose(peer_sigmas("sd_cpp", "smoothstep", n)[:-1], table_[places], rtol=1e-12)
        simple = 999 - np.floor(np.arange(n) * 1000 / n).astype(int)
        np.testing.assert_allclose(peer_sigmas("sd_cpp", "simple", n)[:-1], table_[simple], rtol=1e-12)
        lcm = (50 - np.arange(n) * 50 // n) * 20 - 1
        levels = peer_sigmas("sd_cpp", "lcm", n, VP(keep_every=20))
        np.testing.assert_allclose(levels[:-1], table_[lcm], rtol=1e-12)
        flow = (places + 1) / 1000
        np.testing.assert_allclose(
            peer_sigmas("sd_cpp", "smoothstep", n, Flow(3.0))[:-1], 3 * flow / (1 + 2 * flow), rtol=1e-12
        )
    normal = [math.inf, 0.6744897501960817, 0.0, -0.6744897501960817]  # quantiles of 1, 3/4, 1/2, 1/4
    expected = [1 / (1 + math.exp(-9)), *(1 / (1 + math.exp(-1.75 * z)) for z in normal[1:]), 0]
    np.testing.assert_allclose(peer_sigmas("sd_cpp", "logit_normal", 4, Flow()), expected, rtol=1e-12)


def test_other_schedules_are_their_formulas() -> None:
    # F5-TTS: t + s * (cos(pi / 2 * t) - 1 + t) with s = -1, and t = 1 - sigma
    t = np.linspace(0, 1, 33)
    np.testing.assert_allclose(calculate_sigmas("sway", 32, Flow()), np.cos(np.pi / 2 * t), atol=1e-15)
    even = calculate_sigmas("sway", 32, Flow(), coefficient=0.0)
    np.testing.assert_allclose(even, 1 - t, atol=1e-15)
    # skrample: sigmoid(3 * quantile(t)) of 1 - 1e-8 at most, brought to go from 1 to 0
    probit = peer_sigmas("skrample", "Probit", 4, Flow())
    z = 3 * 0.6744897501960817
    np.testing.assert_allclose(probit, [1, 1 / (1 + math.exp(-z)), 0.5, 1 / (1 + math.exp(z)), 0], rtol=1e-7)
    # ECMWF: 10 steps down from 100000 to 100, then 20 with rho 7 to 0.03
    levels = calculate_sigmas("piecewise", 30, VP(), sigma_between=100.0, high_steps=10, sigma_min=0.03, sigma_max=1e5)
    np.testing.assert_allclose(levels[:11], 1e5 * 1e-3 ** (np.arange(11) / 10), rtol=1e-12)
    share = np.linspace(1, 0, 20)
    karras = (0.03 ** (1 / 7) + share * (100 ** (1 / 7) - 0.03 ** (1 / 7))) ** 7
    np.testing.assert_allclose(levels[10:], [*karras, 0], rtol=1e-12)
    with pytest.raises(ValueError, match="sigma_between must be above"):
        calculate_sigmas("piecewise", 30, sigma_between=20.0)


def test_a_level_of_ideogram_is_one_of_the_logit_normal_law() -> None:
    wide = calculate_sigmas("ideogram4", 9, Flow(), width=1024, height=1024, std=1.2)
    np.testing.assert_allclose(wide, calculate_sigmas("logit_normal", 9, Flow(), mu=math.log(2), std=1.2), rtol=1e-14)


def test_sd_next_means_what_the_classes_of_diffusers_mean() -> None:
    """Labels by their settings: solver_order and algorithm_type of DPMSolverMultistepScheduler."""
    settings: dict[str, dict[str, Any]] = {
        "DPM++": {"order": 1},
        "DPM++ 2M": {"order": 2},
        "DPM++ 3M": {"order": 3},
        "DPM++ SDE": {"order": 1, "eta": 1.0},
        "DPM++ 2M SDE": {"order": 2, "eta": 1.0},
        "DPM++ 3M SDE": {"order": 3, "eta": 1.0},
    }
    for label, options in settings.items():
        peer = find_sampler("sdnext", label)
        assert peer.sampler is not None
        theirs = build_sampler(peer.sampler, "karras", 20, dialect=peer.dialect, **peer.options)
        ours = build_sampler("dpm_multistep", "karras", 20, dialect="diffusers", **options)
        np.testing.assert_allclose(table(theirs.plan), table(ours.plan), atol=1e-12, err_msg=label)
    assert find_peer("sdnext", "lambdas").schedule is NoiseSchedule.EXPONENTIAL


@each("process", [VP(), Flow(3.0)])
def test_gradient_estimation_with_eta_is_an_ancestral_step_along_its_slope(process: VP | Flow) -> None:
    def plan(name: str, **options: Any) -> Array:
        return table(build_sampler(name, "simple", 6, process=process, **options).plan)

    for eta in (0.3, 1.0):
        for split in ("variance", "comfyui"):
            euler = plan("euler_ancestral", eta=eta, split=split, s_noise=0.8)
            ours = plan("gradient_estimation", ge_gamma=1.0, eta=eta, split=split, s_noise=0.8)
            np.testing.assert_allclose(ours, euler, atol=1e-12)
    # half of the way down in powers of sigma is the posterior of DDPM
    np.testing.assert_allclose(plan("gradient_estimation", mu=0.5), plan("gradient_estimation", eta=1.0), atol=1e-12)
    with pytest.raises(ValueError, match="give mu or eta, not both"):
        plan("gradient_estimation", mu=0.5, eta=1.0)
