"""Noise levels of diffusers' scheduler classes: parity with recorded ones (golden/README), and cases by hand."""

from __future__ import annotations

import gzip
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ksched import VP
from ksched.dialects.diffusers.level_blocks import DiffusersLevels
from ksched.dialects.diffusers.levels import diffusers_levels

GOLDEN = Path(__file__).parent / "golden" / "diffusers_schedules.json.gz"
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@cache
def recorded() -> dict[str, list[dict[str, Any]]]:
    """The recorded cases by class."""
    cases: dict[str, list[dict[str, Any]]] = {}
    for case in json.loads(gzip.decompress(GOLDEN.read_bytes()))["cases"]:
        cases.setdefault(case["scheduler"], []).append(case)
    return cases


def levels_of(case: dict[str, Any]) -> DiffusersLevels:
    given = {k: v for k, v in (case.get("set_timesteps_kwargs") or {}).items() if not k.startswith("_")}
    return diffusers_levels(case["scheduler"], case["config"], case["n"], **given)


def agree(ours: Any, theirs: Any, rtol: float, atol: float) -> bool:
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol, atol, equal_nan=True)


def difference(case: dict[str, Any], levels: DiffusersLevels) -> str:
    """What does not agree with either the float64 or the float32 record."""
    wrong = []
    for name, ours in levels._asdict().items():
        if ours is None or name not in case:
            continue
        shipped, exact = case[name], case.get(f"{name}_f64", case[name])
        if name == "timesteps" and "int" in case["timesteps_dtype"]:
            assert np.asarray(ours).dtype == np.int64
            # what is cut to a whole number moves by one with the last bit
            ok = agree(ours, exact, 0, 1) or agree(ours, shipped, 0, 1)
        else:  # a timestep that would be 0 but for rounding is a timestep of 0
            ok = agree(ours, exact, 1e-9, 1e-12) or agree(ours, shipped, 1e-5, 0)
        wrong += [] if ok else [name]
    return ", ".join(wrong)


@pytest.mark.parametrize("name", sorted(recorded()))
def test_parity(name: str) -> None:
    failed = []
    for case in recorded()[name]:
        if not case.get("error"):
            wrong = difference(case, levels_of(case))
            failed += [f"{case['id']}: {wrong}"] if wrong else []
        elif case["error"] == "ValueError":
            with pytest.raises(ValueError, match=r"must|takes|excludes|need"):
                levels_of(case)
    assert not failed, "\n".join(failed)


def test_float64_throughout() -> None:
    for name in recorded():
        levels = diffusers_levels(name, {}, 5)
        for table in levels[:2] + levels[3:]:
            assert table is None or np.asarray(table).dtype in (np.float64, np.int64), name


def test_linspace_ends_where_it_starts_with_one_step() -> None:
    levels = diffusers_levels("EulerDiscreteScheduler", SD, 1)
    assert levels.timesteps.tolist() == [0]
    assert levels.sigmas is not None
    np.testing.assert_allclose(levels.sigmas, [VP().sigma_min, 0], rtol=1e-12)


def test_leading_misses_the_top() -> None:
    config = SD | {"timestep_spacing": "leading", "steps_offset": 1}
    levels = diffusers_levels("EulerDiscreteScheduler", config, 10)
    assert levels.timesteps.tolist() == list(range(901, 0, -100))
    assert levels.sigmas is not None
    np.testing.assert_allclose(levels.sigmas[:-1], VP().sigmas[901::-100], rtol=1e-12)
    assert levels.init_noise_sigma == math.hypot(levels.sigmas[0], 1)


def test_sigma_is_interpolated_in_sigma_and_timesteps_in_its_logarithm() -> None:
    low, high = VP().sigmas[1:3]
    levels = diffusers_levels("EulerDiscreteScheduler", SD, timesteps=[1.5])
    assert levels.sigmas is not None
    np.testing.assert_allclose(levels.sigmas, [(low + high) / 2, 0], rtol=1e-12)
    levels = diffusers_levels("EulerDiscreteScheduler", SD, sigmas=[math.sqrt(low * high), 0])
    np.testing.assert_allclose(levels.timesteps, [1.5], rtol=1e-9)


@pytest.mark.parametrize("name", ["DEISMultistep", "SASolver", "DPMSolverMultistepInverse"])
def test_the_last_level_twice(name: str) -> None:
    levels = diffusers_levels(f"{name}Scheduler", {"use_flow_sigmas": True, "flow_shift": 3.0}, 10)
    assert levels.sigmas is not None
    u = 0.0999  # a tenth of the table but for its last entry
    np.testing.assert_allclose(levels.sigmas[-2:], [3 * u / (1 + 2 * u)] * 2, rtol=1e-12)


def test_one_level_too_many() -> None:
    sigmas = diffusers_levels("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, 5).sigmas
    assert sigmas is not None
    assert len(sigmas) == 7


def test_the_shift_acts_twice_on_the_lowest_level() -> None:
    sigmas = diffusers_levels("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 4).sigmas
    assert sigmas is not None
    once = 0.003 / 1.002
    np.testing.assert_allclose(sigmas[-2], 3 * once / (1 + 2 * once), rtol=1e-12)


def test_zero_terminal_snr() -> None:
    config = SD | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    for name in ("EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep"):
        sigmas = diffusers_levels(f"{name}Scheduler", config, 5).sigmas
        assert sigmas is not None
        assert sigmas[0] == math.sqrt(2**24 - 1)
    # others do not have the setting
    sigmas = diffusers_levels("HeunDiscreteScheduler", config, 5).sigmas
    assert sigmas is not None
    np.testing.assert_allclose(sigmas[0], VP().sigma_max, rtol=1e-12)


def test_second_stages() -> None:
    heun = diffusers_levels("HeunDiscreteScheduler", SD, 4)
    kdpm2 = diffusers_levels("KDPM2DiscreteScheduler", SD, 4)
    ancestral = diffusers_levels("KDPM2AncestralDiscreteScheduler", SD, 4)
    one_stage = diffusers_levels("EulerDiscreteScheduler", SD, 4).sigmas
    assert one_stage is not None
    assert heun.sigmas is not None
    assert heun.sigmas.tolist() == [one_stage[i] for i in (0, 1, 1, 2, 2, 3, 3, 4)]
    assert kdpm2.sigmas_interpol is not None
    np.testing.assert_allclose(kdpm2.sigmas_interpol[1:3], [math.sqrt(one_stage[0] * one_stage[1])] * 2, rtol=1e-12)
    assert ancestral.sigmas_up is not None
    assert ancestral.sigmas_down is not None
    np.testing.assert_allclose(
        ancestral.sigmas_up[:5] ** 2 + ancestral.sigmas_down[:5] ** 2, one_stage[[1, 2, 2, 3, 3]] ** 2, rtol=1e-9
    )
    assert len(heun.timesteps) == len(kdpm2.timesteps) == len(ancestral.timesteps) == 7


def test_betas_of_ones_own() -> None:
    betas = np.linspace(0.001, 0.02, 100)
    config = {"trained_betas": betas, "num_train_timesteps": 100, "timestep_spacing": "trailing"}
    sigmas = diffusers_levels("EulerDiscreteScheduler", config, 4).sigmas
    assert sigmas is not None
    np.testing.assert_allclose(sigmas[:-1], VP(betas).sigmas[[99, 74, 49, 24]], rtol=1e-12)


def test_nothing_given_is_changed() -> None:
    config, sigmas = {"use_flow_sigmas": True}, np.array([1.0, 0.5])
    diffusers_levels("UniPCMultistepScheduler", config, sigmas=sigmas)
    assert config == {"use_flow_sigmas": True}
    assert sigmas.tolist() == [1.0, 0.5]


def test_settings_of_other_classes_are_ignored() -> None:
    plain = diffusers_levels("DDIMScheduler", {}, 5)
    other = diffusers_levels("DDIMScheduler", {"shift": 3.0, "use_karras_sigmas": True, "clip_sample": False}, 5)
    assert plain.timesteps.tolist() == other.timesteps.tolist()


@pytest.mark.parametrize(
    ("name", "config", "given", "says"),
    [
        ("EulerDiscreteSheduler", {}, {"steps": 5}, "did you mean EulerDiscreteScheduler"),
        ("nonsense", {}, {"steps": 5}, "known: Euler"),
        ("EulerDiscreteScheduler", {}, {"steps": 0}, "steps must be at least 1"),
        ("EulerDiscreteScheduler", {}, {"steps": 5, "timesteps": [9, 5]}, "takes one of steps, timesteps and sigmas"),
        ("EulerDiscreteScheduler", {}, {"timesteps": []}, "at least one"),
        ("EulerDiscreteScheduler", {}, {"sigmas": [math.nan, 0]}, "finite"),
        ("EulerDiscreteScheduler", {"timestep_spacing": "even"}, {"steps": 5}, "timestep_spacing must be"),
        ("EulerDiscreteScheduler", {"beta_schedule": "exp"}, {"steps": 5}, "beta_schedule must be one of linear"),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "one"}, {"steps": 5}, "final_sigmas_type must be"),
        ("EulerDiscreteScheduler", {"interpolation_type": "cubic"}, {"steps": 5}, "interpolation_type must be"),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, {"timesteps": [9]}, "excludes karras"),
        ("LMSDiscreteScheduler", {}, {"timesteps": [9, 5]}, "takes no timesteps; it takes steps"),
        ("LMSDiscreteScheduler", {"use_karras_sigmas": True, "use_beta_sigmas": True}, {"steps": 5}, "only one of"),
        ("DPMSolverMultistepScheduler", {}, {"steps": 5, "mu": 1.0}, "mu needs use_dynamic_shifting"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, {"steps": 5}, "needs final_sigmas_type"),
        ("UniPCMultistepScheduler", {}, {"sigmas": [1.0, 0.5]}, "need use_flow_sigmas"),
        ("UniPCMultistepScheduler", {"use_dynamic_shifting": True}, {"steps": 5}, "needs mu"),
        ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1}, {"steps": 1}, "last sigma below 1"),
        ("FlowMatchEulerDiscreteScheduler", {}, {"steps": 3, "sigmas": [1.0, 0.5]}, "lists of equal length"),
        ("DDPMScheduler", {}, {"timesteps": [5, 9]}, "timesteps must fall"),
        ("DDIMScheduler", {}, {"steps": 1001}, "at most num_train_timesteps, 1000"),
        ("DDIMInverseScheduler", {"timestep_spacing": "linspace"}, {"steps": 5}, "must be 'leading' or 'trailing'"),
        ("PNDMScheduler", {}, {"steps": 3}, "at least 4"),
        ("LCMScheduler", {}, {"steps": 51}, "at most original_inference_steps, 50"),
        ("LCMScheduler", {}, {"steps": 20, "strength": 0.2}, "original_inference_steps \\* strength, 10"),
        ("EDMEulerScheduler", {"sigma_schedule": "linear"}, {"steps": 5}, "sigma_schedule must be"),
    ],
)
def test_refusals(name: str, config: dict[str, Any], given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        diffusers_levels(name, config, **given)


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="must be the name of a class"):
        diffusers_levels(3, {}, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="steps must be a whole number"):
        diffusers_levels("EulerDiscreteScheduler", {})
