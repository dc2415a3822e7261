"""The plan readers printed in the docs compute what the library computes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import NAMES, SPECS, process_for
from representatives import each

import ksched

PAGE = (Path(__file__).parents[1] / "docs" / "your-own-loop.md").read_text()
UNCOND = {spec.name for spec in SPECS if spec.uncond}


def block(kind: str, word: str) -> str:
    texts: list[str] = re.findall(rf"```{re.escape(kind)}\n(.*?)```", PAGE, re.S)
    return next(text for text in texts if word in text)


def noise_of(sigma_from: float, sigma_to: float) -> Any:
    return np.sin(np.arange(1, 7) * (1 + 3 * sigma_from + 7 * sigma_to)).reshape(2, 3)


def ours(sampler: ksched.Sampler, x: Any) -> Any:
    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        denoised = x * 0.5 / (0.5 + sigma.reshape(-1, 1) ** 2)
        return denoised, 0.9 * denoised

    noise = None if not sampler.plan.draws else lambda a, b: torch.from_numpy(noise_of(a, b))
    return sampler.sample(model, torch.from_numpy(x), noise=noise).numpy()


def start(sampler: ksched.Sampler) -> Any:
    return sampler.sigmas[0] * np.cos(np.arange(6.0)).reshape(2, 3)


@each("name", NAMES)
def test_the_page_of_numpy(name: str) -> None:
    names: dict[str, Any] = {}
    exec(block("{testcode}", "def run_plan"), names)
    sampler = ksched.build_sampler(name, "karras", 7, process=process_for(name))
    x = start(sampler)

    def denoise(x: Any, sigma: float) -> Any:
        denoised = x * 0.5 / (0.5 + sigma**2)
        return (denoised, 0.9 * denoised) if name in UNCOND else denoised

    found = names["run_plan"](sampler.plan.to_json(), denoise, x, noise_of)
    np.testing.assert_allclose(found, ours(sampler, x), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_the_same_in_javascript() -> None:
    names = ["euler", "dpmpp_2m_sde", "uni_pc", "seeds_3", "euler_cfg_pp", "restart"]
    samplers = [ksched.build_sampler(name, "karras", 7) for name in names]
    jobs = [[s.plan.to_json(), start(s).ravel().tolist(), s.spec.name in UNCOND] for s in samplers]
    program = block("js", "function runPlan") + (
        "const jobs = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "const noise = (a, b) => [1, 2, 3, 4, 5, 6].map((i) => Math.sin(i * (1 + 3 * a + 7 * b)));"
        "const denoise = (both) => (x, s) => { const d = x.map((v) => (v * 0.5) / (0.5 + s * s));"
        " return both ? [d, d.map((v) => 0.9 * v)] : d; };"
        "console.log(JSON.stringify(jobs.map(([text, x, both]) => runPlan(text, denoise(both), x, noise))));"
    )
    done = subprocess.run(["node", "-e", program], input=json.dumps(jobs), capture_output=True, text=True, check=True)
    for sampler, found in zip(samplers, json.loads(done.stdout), strict=True):
        np.testing.assert_allclose(np.reshape(found, (2, 3)), ours(sampler, start(sampler)), rtol=1e-12, atol=1e-12)
