"""Parity with diffusers: recorded runs of its scheduler classes, each one call of our public API (golden/README)."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers_adapter import reason, run_diffusers_case

from ksched.dialects.diffusers.classes import CLASSES
from ksched.dialects.diffusers.request import NOT_A_NUMBER
from ksched.types import Array

#: the runs that are no target, beside those that raise there or are recorded as wrong (`flag`)
REASONS = {
    "df/DDPM/0263": NOT_A_NUMBER,  # variance_type="fixed_large_log"
    "df/DDPM/0264": NOT_A_NUMBER,
}


@cache
def recorded() -> dict[str, Any]:
    path = Path(__file__).parent / "golden" / "diffusers_trajectories.json.gz"
    data: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return data


def posterior_mean(mixture: dict[str, Any], x: Array, alpha: float, sigma: float) -> Array:
    """Mean of the data given ``x = alpha * x0 + sigma * eps``, for a mixture of isotropic normals."""
    weights, means, stds = (np.array(mixture[name]) for name in ("weights", "means", "stds"))
    variance = (alpha * stds) ** 2 + sigma**2
    away = x[:, None] - alpha * means
    log_share = np.log(weights) - x.shape[1] / 2 * np.log(variance) - (away**2).sum(-1) / (2 * variance)
    share = np.exp(log_share - log_share.max(1, keepdims=True))
    means = means + (alpha * stds**2 / variance)[:, None] * away
    result: Array = np.einsum("bk,bkd->bd", share / share.sum(1, keepdims=True), means)
    return result


def prepared(case: dict[str, Any]) -> dict[str, Any]:
    """The case with what the adapter reads: start state, noise, denoiser."""
    mixture = recorded()["mixtures"][case["mixture"]]
    return case | {
        "_x": np.array(case["x_init"]),
        "_noise": np.array(recorded()["noise_banks"][case["noise_bank"]]),
        "_denoise": lambda x, alpha, sigma: posterior_mean(mixture, x, alpha, sigma),
    }


def targets() -> list[dict[str, Any]]:
    """Runs that came to an end, of a finite sample."""
    cases: list[dict[str, Any]] = recorded()["cases"]
    return [case for case in cases if not case.get("error") and (not case.get("flag") or case["id"] in REASONS)]


@pytest.mark.parametrize("name", sorted({case["sampler"] for case in targets()}))
def test_runs(name: str) -> None:
    for case in (case for case in targets() if case["sampler"] == name):
        assert reason(case) == REASONS.get(case["id"]), case["id"]
        if case["id"] not in REASONS:
            want = np.array(case["final_x"])
            difference = np.abs(run_diffusers_case(prepared(case)) - want).max()
            assert difference <= 1e-9 * np.abs(want).max(), case["id"]


@pytest.mark.parametrize(
    "case", [case for case in recorded()["cases"] if case.get("flag")], ids=lambda case: case["id"]
)
def test_run_that_is_not_a_number_there(case: dict[str, Any]) -> None:
    assert case["flag"] == "nonfinite_reference"
    result = run_diffusers_case(prepared(case))
    assert case["id"] in REASONS if result is None else np.isfinite(result).all()


def test_every_class_is_covered() -> None:
    variants = {"DDIMParallelScheduler", "DDPMParallelScheduler", "CogVideoXDDIMScheduler"}
    of_one_model = {f"{name}Scheduler" for name in ("CogVideoXDPM", "FlowMapEulerDiscrete", "MiniMaxH3", "SCM")}
    assert {f"{case['sampler']}Scheduler" for case in recorded()["cases"]} == set(CLASSES) - variants - of_one_model
    assert len(targets()) - len(REASONS) == 347
