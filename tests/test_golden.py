"""Parity with k-diffusion: its own recorded runs on an exactly known denoiser (see golden/README)."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ksched import VE, NoiseSchedule, SamplerType, build_sampler, calculate_sigmas
from ksched.exact import GaussianMixture

FOLDER = Path(__file__).parent / "golden"
RANGE = VE(1e-6, 1e6)  # k-diffusion's states are x0 + sigma * eps


@cache
def read(kind: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(gzip.decompress((FOLDER / f"kdiffusion_{kind}.json.gz").read_bytes()))
    return data


def runs() -> list[dict[str, Any]]:
    """Its runs of samplers that we have."""
    names = list(SamplerType)
    return [case for case in read("trajectories")["cases"] if case["sampler"] in names and not case.get("flag")]


@pytest.mark.parametrize("case", runs(), ids=lambda c: c["id"])
def test_run(case: dict[str, Any]) -> None:
    mixture = read("trajectories")["mixtures"][case["mixture"]]
    exact = GaussianMixture(
        mixture["weights"], mixture["means"], [np.full(6, std**2) for std in mixture["stds"]], process=RANGE
    )
    bank = read("trajectories")["noise_banks"].get(case["noise_bank"], ())
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


def schedules() -> list[dict[str, Any]]:
    """Its noise levels by rules that we have."""
    return [case for case in read("schedules")["cases"] if case["kind"] in list(NoiseSchedule)]


@pytest.mark.parametrize("case", schedules(), ids=lambda c: c["id"])
def test_schedule(case: dict[str, Any]) -> None:
    options = {name: case[name] for name in ("sigma_min", "sigma_max", "rho") if name in case}
    np.testing.assert_allclose(
        calculate_sigmas(case["kind"], case["n"], RANGE, **options), case["sigmas_f64"], rtol=1e-9
    )


def test_nothing_was_left_out_by_accident() -> None:
    assert len(runs()) >= 54
    assert len(schedules()) >= 80
