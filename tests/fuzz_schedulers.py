"""Random scheduler classes of diffusers with random options, beside `KSchedScheduler.from_diffusers` of each.

    nox -s fuzz
    KSCHED_FUZZ_SEED=7 pytest -m exhaustive tests/fuzz_schedulers.py

A case is a number. It determines a class, its options, the number of steps or a list of levels, and where the run
begins. If the class runs and its result is finite, ours gives the same up to the class's own rounding, or refuses with
our own error before the first model call. If the class fails, ours may run or refuse.
"""

from __future__ import annotations

import inspect
import os
import random
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

import ksched  # noqa: E402
from ksched.dialects.diffusers.classes import CLASSES  # noqa: E402
from ksched.dialects.diffusers.levels import diffusers_levels  # noqa: E402
from ksched.integrations.diffusers.scheduler import KSchedScheduler  # noqa: E402

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

SEED = int(os.environ.get("KSCHED_FUZZ_SEED", "0"))
BLOCKS, EACH = 20, 50
PACKAGE = str(Path(ksched.__file__).parent)
BATCH = (2, 3, 4, 4)
#: what is tried of each option; classes take those that they know
VALUES: dict[str, list[Any]] = {
    "num_train_timesteps": [1000, 1000, 500, 50],
    "beta_start": [0.00085, 0.0001, 0.001],
    "beta_end": [0.012, 0.02],
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"],
    "prediction_type": ["epsilon", "v_prediction", "sample"],
    "timestep_spacing": ["leading", "trailing", "linspace"],
    "steps_offset": [0, 1],
    "use_karras_sigmas": [True],
    "use_exponential_sigmas": [True],
    "use_beta_sigmas": [True],
    "use_lu_lambdas": [True],
    "use_flow_sigmas": [True],
    "flow_shift": [1.0, 3.0],
    "final_sigmas_type": ["zero", "sigma_min"],
    "rescale_betas_zero_snr": [True],
    "solver_order": [1, 2, 3],
    "solver_type": ["midpoint", "heun", "bh1", "bh2", "logrho"],
    "algorithm_type": ["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver", "deis", "data_prediction"],
    "lower_order_final": [True, False],
    "euler_at_final": [True],
    "predict_x0": [True, False],
    "disable_corrector": [[], [0], [0, 1]],
    "predictor_order": [1, 2, 3],
    "corrector_order": [1, 2, 3],
    "clip_sample": [True, False],
    "clip_sample_range": [1.0, 2.0],
    "thresholding": [True, False],
    "dynamic_thresholding_ratio": [0.9, 0.995],
    "sample_max_value": [1.0, 2.0],
    "set_alpha_to_one": [True, False],
    "skip_prk_steps": [True, False],
    "variance_type": ["fixed_small", "fixed_large", "fixed_small_log"],
    "original_inference_steps": [50, 20],
    "timestep_scaling": [10.0, 1.0],
    "shift": [1.0, 3.0, 7.0],
    "shift_terminal": [0.1, 0.02],
    "invert_sigmas": [True],
    "stochastic_sampling": [True],
    "sigma_min": [0.002, 0.02],
    "sigma_max": [80.0, 20.0],
    "sigma_data": [0.5, 1.0],
    "sigma_schedule": ["karras", "exponential"],
    "rho": [7.0, 3.0],
}
#: its noise is a Brownian tree's, which cannot be turned off
NOT_HERE = {"CosineDPMSolverMultistepScheduler"}
#: classes whose own sums lose more in float32 than others', or divide by what is nearly 0
LOOSE = {"PNDMScheduler": 2e-3, "DEISMultistepScheduler": 5e-3, "SASolverScheduler": 2e-3, "LMSDiscreteScheduler": 2e-3}
#: classes that cut the timesteps of sigmas to whole numbers
CUTTING = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
#: (class, option, value, why): where float32 decides what the class does, both run in float64, the class at our levels
#: and timesteps, after these were found to be the class's but for its rounding
IN_FLOAT64: list[tuple[str, str, Any, str]] = [
    *((name, "use_exponential_sigmas", True, "a timestep of 998.9999 is cut to 998") for name in CUTTING),
    *((name, "use_beta_sigmas", True, "a timestep of 998.9999 is cut to 998") for name in CUTTING),
    ("DPMSolverMultistepScheduler", "beta_schedule", "squaredcos_cap_v2", "it cuts those of karras sigmas then too"),
    ("UniPCMultistepScheduler", "use_flow_sigmas", True, "alpha is 1 - 0.999999, of which float32 has two digits"),
    ("HeunDiscreteScheduler", "beta_schedule", "squaredcos_cap_v2", "states of 20000 cancel down to some of 1"),
    ("KDPM2AncestralDiscreteScheduler", "beta_schedule", "squaredcos_cap_v2", "so do the squares of levels in a step"),
    ("KDPM2DiscreteScheduler", "beta_schedule", "squaredcos_cap_v2", "so do they in a step to the middle"),
    ("EulerDiscreteScheduler", "rescale_betas_zero_snr", True, "the table has 4096 at 999, and passes it at 995.3"),
]


def network(x: torch.Tensor, t: Any) -> torch.Tensor:
    """Something smooth that depends on both."""
    return torch.tanh(x * 0.8 + 0.3 * torch.sin(torch.as_tensor(t, dtype=torch.float32) / 300) + 0.1)


class Case:
    """One random scheduler and how it is run."""

    def __init__(self, number: int) -> None:
        rng = random.Random(f"schedulers {SEED} {number}")
        self.name = rng.choice(sorted(set(CLASSES) - NOT_HERE))
        self.kind = getattr(diffusers, self.name)
        known = [name for name in inspect.signature(self.kind).parameters if name in VALUES]
        self.options = {
            name: rng.choice(VALUES[name]) for name in rng.sample(known, rng.randint(0, min(4, len(known))))
        }
        if self.name.startswith("KDPM2"):  # goes through all timesteps of the training when it is made
            self.options["num_train_timesteps"] = 200
        self.how: dict[str, Any] = {"num_inference_steps": rng.choice([1, 2, 3, 4, 5, 8, 13, 20])}
        parameters = inspect.signature(self.kind.set_timesteps).parameters
        if rng.random() < 0.2:
            count = rng.randint(1, 6)
            if "timesteps" in parameters and rng.random() < 0.5:
                most = self.options.get("num_train_timesteps", 1000)
                self.how = {"timesteps": sorted(rng.sample(range(most), count), reverse=True)}
            elif "sigmas" in parameters:
                self.how = {"sigmas": sorted((round(rng.uniform(0.02, 1.0), 3) for _ in range(count)), reverse=True)}
        self.begin = rng.choice([0, 0, 0, 1, 2])
        if self.name == "PNDMScheduler" and not self.options.get("skip_prk_steps"):
            self.begin = 0  # its warm-up has no other start
        self.calls = 0

    def __str__(self) -> str:
        return f"{self.name} {self.options} {self.how} from {self.begin}"

    def is_set(self, name: str, value: Any = True) -> bool:
        return bool(self.options.get(name) == value)

    @property
    def in_float64(self) -> bool:
        return any(self.name == name and self.is_set(option, value) for name, option, value, _ in IN_FLOAT64)

    @property
    def apart(self) -> str:
        """Why ours need not be the class here; "" where it must be."""
        if self.name == "IPNDMScheduler" and self.how.get("num_inference_steps") == 1:
            return "it divides by the alpha of pure noise, 0, made 1e-8: the one answer is lost, and the image is 0"
        if self.name == "FlowMapEulerDiscreteScheduler" and len({*(values := self.values)}) < len(values):
            return "it finds its step by the timestep, and so the first of two that are the same twice"
        return ""

    @property
    def values(self) -> list[float]:
        """The list that the class is given."""
        return [value for values in self.how.values() if isinstance(values, list) for value in values]

    @property
    def adds_noise_wrongly(self) -> bool:
        """Whether the class's own noisy images are no states of its steps.

        With ``invert_sigmas`` its sigma is the share of data, and it takes as much noise; SA-Solver takes the noise of
        the training table for flow sigmas.
        """
        flow_table = self.name == "SASolverScheduler" and self.is_set("use_flow_sigmas")
        return flow_table or (self.is_set("invert_sigmas") and self.name.startswith("FlowMatch"))

    def noisy(self, scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """A state to begin with."""
        if self.adds_noise_wrongly:
            level = float(scheduler.sigmas[self.begin * scheduler.order])
            share = 1 - level if self.is_set("invert_sigmas") else level
            return (1 - share) * clean + share * noise
        made: torch.Tensor
        if hasattr(scheduler, "scale_noise"):
            made = scheduler.scale_noise(clean, t, noise)
        else:
            made = scheduler.add_noise(clean, noise, t)
        return made

    def run(self, scheduler: Any, dtype: torch.dtype = torch.float32, at: Any = None) -> torch.Tensor:
        """What a pipeline does, with states of a dtype, at the levels of another scheduler if there is one."""
        self.calls = 0
        generator = torch.Generator().manual_seed(3)
        scheduler.set_timesteps(**self.how)
        if at is not None:
            put_at_levels(scheduler, self, at)
        timesteps = scheduler.timesteps[self.begin * scheduler.order :]
        x = torch.randn(BATCH, generator=generator).to(dtype)
        if self.begin and len(timesteps):
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(self.begin * scheduler.order)
            clean = torch.linspace(-1, 1, x.numel(), dtype=dtype).view(BATCH)
            x = self.noisy(scheduler, clean, x, timesteps[:1].repeat(2))
        else:
            x = x * getattr(scheduler, "init_noise_sigma", 1.0)
        given: dict[str, Any] = (
            {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        )
        if self.name == "DPMSolverSDEScheduler":  # its noise is a Brownian tree's
            given["s_noise"] = 0.0
        for t in timesteps:
            shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            self.calls += 1
            x = scheduler.step(network(shown, t), t, x, **given, return_dict=False)[0]
        return x


def put_at_levels(scheduler: Any, case: Case, ours: Any) -> None:
    """Let a class step at our float64 sigmas, which equal its own up to rounding."""
    told = ours.timesteps.double()
    known = torch.isfinite(scheduler.timesteps)  # KDPM2's class has no number for some that a run may begin after
    torch.testing.assert_close(scheduler.timesteps.double()[known], told[known], rtol=0, atol=5.0)
    tables = {"sigmas": ours._run.sigmas}
    if hasattr(scheduler, "sigmas_interpol"):
        found = diffusers_levels(case.name, scheduler.config, *case.how.values())
        names = ("sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down")
        tables = {name: getattr(found, name) for name in names if getattr(found, name) is not None}
    levels = torch.tensor(tables["sigmas"].tolist(), dtype=torch.float64)
    torch.testing.assert_close(scheduler.sigmas.double(), levels, rtol=2e-3, atol=1e-6)
    for name, values in tables.items():
        setattr(scheduler, name, torch.tensor(values.tolist(), dtype=torch.float64))
    scheduler.timesteps = ours.timesteps


def is_ours(error: BaseException) -> bool:
    """Whether ksched raised an error itself, with something to say."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename.startswith(PACKAGE) and bool(str(error).strip())


def in_float64(case: Case, ours: Any) -> list[torch.Tensor]:
    """Results of both in float64, at our levels."""
    results = []
    for scheduler, at in ((ours, None), (case.kind(**case.options), ours)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            results.append(case.run(scheduler, torch.float64, at))
    return results


def check(case: Case) -> str:
    """What came of a case, in a word; raises AssertionError if it must not be."""
    try:
        stock = case.kind(**case.options)
    except Exception:
        return "no such scheduler"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            want = case.run(stock)
    except Exception:
        want = None
    case.calls = 0
    try:
        ours = KSchedScheduler.from_diffusers(case.kind(**case.options))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            got = case.run(ours)
    except (TypeError, ValueError, NotImplementedError) as refused:
        error: Exception = refused
    else:
        if want is None or not torch.isfinite(want).all():
            return "the class fails"
        if case.apart:
            assert torch.isfinite(got).all()
            return "apart"
        if case.in_float64:
            got, want = in_float64(case, ours)
        difference = float((got - want).abs().max()) / max(float(want.abs().max()), 1.0)
        assert difference <= LOOSE.get(case.name, 5e-4), f"{difference:.2g} from the class"
        return "the same"
    assert is_ours(error), f"not an error of ours: {type(error).__name__}: {error}"
    if want is not None and torch.isfinite(want).all():
        assert not case.calls, f"refused after {case.calls} model calls: {error}"
        return "refused"
    return "the class fails"


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_schedulers(block: int) -> None:
    failures, counts = [], Counter[str]()
    for number in range(block * EACH, (block + 1) * EACH):
        case = Case(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                counts[check(case)] += 1
            except Exception as error:
                failures.append(f"{number}: {type(error).__name__}: {str(error)[:300]}\n    {case}")
    assert not failures, f"{len(failures)} of {EACH}, seed {SEED}, {dict(counts)}:\n" + "\n".join(failures)
    assert counts["refused"] <= EACH // 4, f"more is refused than should be: {dict(counts)}"
