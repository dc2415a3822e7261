"""Parity with ComfyUI and k-diffusion: recorded noise levels, and runs on a denoiser known exactly (golden/README)."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_adapter import make_schedule, process_of

from ksched import VE, SamplerType, build_sampler
from ksched.exact import GaussianMixture

FOLDER = Path(__file__).parent / "golden"
RANGE = VE(1e-6, 1e6)  # k-diffusion's states are x0 + sigma * eps


@cache
def read(kind: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(gzip.decompress((FOLDER / f"{kind}.json.gz").read_bytes()))
    return data


def runs() -> list[dict[str, Any]]:
    """Its runs of samplers that we have."""
    names = list(SamplerType)
    return [
        case for case in read("kdiffusion_trajectories")["cases"] if case["sampler"] in names and not case.get("flag")
    ]


@pytest.mark.parametrize("case", runs(), ids=lambda c: c["id"])
def test_run(case: dict[str, Any]) -> None:
    mixture = read("kdiffusion_trajectories")["mixtures"][case["mixture"]]
    exact = GaussianMixture(
        mixture["weights"], mixture["means"], [np.full(6, std**2) for std in mixture["stds"]], process=RANGE
    )
    bank = read("kdiffusion_trajectories")["noise_banks"].get(case["noise_bank"], ())
    seen: list[float] = []
    asked = 0

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(float(sigma[0]))
        return exact(x, sigma)

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        nonlocal asked
        # where it may churn, k-diffusion draws before every step and multiplies by zero if it does not
        number = case["sigmas"].index(sigma_from) if case["noise_via"] == "randn_like" else asked
        asked += 1
        return torch.tensor(bank[number], dtype=torch.float64)

    sampler = build_sampler(case["sampler"], sigmas=case["sigmas"], process=RANGE, **case["options"])
    result = sampler.sample(model, torch.tensor(case["x_init"], dtype=torch.float64), noise=noise)
    want = np.array(case["final_x"])
    assert np.abs(result.numpy() - want).max() <= 1e-9 * np.abs(want).max()
    np.testing.assert_allclose(seen, case["model_sigmas"], rtol=1e-12)


def schedule_cases() -> dict[str, list[dict[str, Any]]]:
    """Recorded noise levels of both programs by kind and schedule."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key, stem in (("comfyui", "comfy"), ("k_diffusion", "kdiffusion")):
        data = read(f"{stem}_schedules")
        for case in data["cases"]:
            case["source_key"] = key
            if "model_sampling" in case:
                case["_model_sampling"] = data["model_samplings"][case["model_sampling"]]
            found.setdefault(f"{key}-{case['kind']}-{case.get('scheduler', '')}", []).append(case)
    return found


@pytest.mark.parametrize("cases", schedule_cases().values(), ids=schedule_cases())
def test_schedules(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        got = make_schedule(case)
        if got is None:
            assert np.isnan(case["sigmas"]).any(), f"{case['id']} is not covered"
            continue
        want: Any = case.get("sigmas_f64", case.get("shift"))
        parts, wants = (
            (got, want) if isinstance(got, list) else ([got["shift"] if isinstance(got, dict) else got], [want])
        )
        for part, expected in zip(parts, wants, strict=True):
            np.testing.assert_allclose(part, expected, rtol=1e-9, atol=1e-12, err_msg=case["id"])


@pytest.mark.parametrize("name", read("comfy_schedules")["model_samplings"])
def test_processes(name: str) -> None:
    recorded = read("comfy_schedules")["model_samplings"][name]
    process = process_of(recorded)
    entries = slice(None) if recorded["table_index"] == "all" else recorded["table_index"]
    np.testing.assert_allclose(process.sigmas[entries], recorded["table_sigmas_f64"], rtol=1e-9)
    for share, want in list(zip(recorded["percents"], recorded["percent_to_sigma_f64"], strict=True))[1:]:
        if name != "svd_edm":  # it takes the share for a timestep of another kind and answers infinity
            assert process.sigma_after(share) == pytest.approx(want, rel=1e-9)
    # the peer's timestep is the nearest whole one, and its inverse forgets the shift; where neither acts it is ours
    if name in ("edm_0.002_120", "edm_0.002_80", "contv_0.03_500", "cosmos_0.002_80", "svd_edm", "flow_shift1"):
        probes = np.array(recorded["probe_sigmas"])
        np.testing.assert_allclose(process.timestep(probes), recorded["timestep_of_probe_f64"], rtol=1e-6, atol=1e-6)


def test_nothing_was_left_out_by_accident() -> None:
    assert len(runs()) >= 54
    assert sum(map(len, schedule_cases().values())) == 1219 + 171
