"""diffusers' own scheduler tests. Set the environment variable KSCHED_DIFFUSERS to the path of a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = os.environ.get("KSCHED_DIFFUSERS")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="KSCHED_DIFFUSERS is no path of diffusers' repository")

#: what does not pass, and why: the list of docs/diffusers.md
NO_PROCESS = {"test_betas"}  # betas of 1 and more, which no process has
DIFFERS = {
    "ddim": NO_PROCESS,
    "ddim_parallel": NO_PROCESS,
    "ddpm": NO_PROCESS
    | {
        "test_timesteps",  # a training of one timestep
        "test_rescale_betas_zero_snr",  # epsilon at zero SNR, which is 0 / 0
        "test_full_loop_with_noise",  # 1 - alpha_bar in float32, where it is 1e-4
    },
    "deis": set[str](),
    "dpm_multi": set[str](),
    "dpm_single": set[str](),
    "edm_dpmsolver_multistep": set[str](),
    "edm_euler": set[str](),
    "euler": set[str](),
    "euler_ancestral": {"test_rescale_betas_zero_snr"},  # levels that do not fall, where the class answers with nan
    "heun": set[str](),
    "ipndm": {"test_full_loop_no_noise"},  # slopes of one run that the next one goes on with
    "kdpm2_ancestral": {"test_full_loop_with_noise"},  # 93087.328 for 93087.344 +- 0.01
    "kdpm2_discrete": set[str](),
    "lcm": NO_PROCESS,
    "lms": set[str](),
    "sasolver": set[str](),
    "tcd": NO_PROCESS | {"test_full_loop_multistep_deter"},  # eta by place
    "unipc": set[str](),
}
DIFFERS["ddpm_parallel"] = DIFFERS["ddpm"]


@pytest.fixture(scope="module")
def report() -> Any:
    script = Path(__file__).parent / "diffusers_checkout.py"
    # one test takes the last of a set of classes, and which that is depends on the order of hashes
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, script, str(CHECKOUT)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.mark.parametrize("name", DIFFERS)
def test_those_of_a_class_pass_with_ours_in_its_place(report: Any, name: str) -> None:
    assert report[name].keys() == DIFFERS[name], report[name]


def test_common_ones_pass(report: Any) -> None:
    common = {name: found for name, found in report.items() if name not in DIFFERS}
    assert len(common) > 10
    assert not any(common.values()), common
