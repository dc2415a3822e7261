"""Random programs against the public interface: the right result, or one of our own errors before the first model call.

    nox -s fuzz                                       # a thousand cases of each fuzzer
    KSCHED_FUZZ_SEED=7 pytest -m exhaustive tests/fuzz_interface.py

A case is a number. It determines the process, sampler, schedule, options, levels, state, seed, model and callback, most
of them valid and some of them odd. The expected outcome depends on what is odd:

- nothing: the result has the state's shape and dtype, equals the sampler function on float64 tensors, is reproducible,
  and each item gets its solo result;
- an argument: it is accepted and the result is right, or ksched refuses it by an error with a message before the model
  is called;
- the model or callback: the error is ksched's, or the model's own.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import torch
from cases import process_for

import ksched
from ksched import EDM, VE, VP, Flow, NoiseSchedule, Process, build_sampler, calculate_sigmas
from ksched.denoisers.answer import answer
from ksched.execution.batch import Batch
from ksched.options import Option
from ksched.samplers.registry import samplers
from ksched.schedules import schedule_options

pytestmark = pytest.mark.exhaustive

SEED = int(os.environ.get("KSCHED_FUZZ_SEED", "0"))
BLOCKS, EACH = 20, 50
PACKAGE = str(Path(ksched.__file__).parent)
SPECS = [spec for spec in samplers() if not spec.name.startswith("my_")]

PROCESSES: list[Callable[[random.Random], Process]] = [
    lambda rng: VP(),
    lambda rng: VP(zero_terminal_snr=True),
    lambda rng: VP(variance_preserving=True),
    lambda rng: Flow(rng.choice([1.0, 3.0, 12.0])),
    lambda rng: EDM(0.002, 80.0),
    lambda rng: VE(0.01, 50.0),
    lambda rng: VP(keep_every=20),
]
ODD_NUMBERS: list[Any] = [
    math.nan,
    math.inf,
    -math.inf,
    -1,
    0,
    1e30,
    -1e30,
    1e-30,
    "1",
    None,
    True,
    [1.0],
    2**70,
    0.5,
    3,
]
ODD_STEPS: list[Any] = [0, -3, 2.5, "7", None, True, math.nan, [4]]
ODD_SEEDS: list[Any] = [-1, 2**200, "a", 1.5, [1], [1, 2, 3, 4, 5, 6, 7], None, True, [None, 1]]
ODD_SIGMAS: list[Any] = [
    [], [1.0], [0.0], [3.0, 2.0, 2.0, 0.0], [1.0, 2.0, 0.0], [2.0, math.nan, 0.0], [math.inf, 1.0, 0.0], [-1.0, -2.0],
    "321", None, [[2.0, 1.0]], [1e300, 1.0, 0.0], [2.0, 1e-300, 0.0], [0.5, 0.0, -0.5], torch.tensor([2.0, 1.0, 0.0]),
    {2.0, 1.0}, [2.0, "1", 0.0], [1e-320, 0.0],
]  # fmt: skip


class Case:
    """One random program; ``odd`` names what is odd about it."""

    def __init__(self, number: int) -> None:
        rng = self.rng = random.Random(f"{SEED} {number}")
        self.odd: set[str] = set()
        self.optional = False
        self.calls = 0
        process, self.spec = rng.choice(PROCESSES)(rng), rng.choice(SPECS)
        self.process = process_for(self.spec, process)
        self.how: dict[str, Any] = {"process": self.process}
        self.steps: Any = rng.randint(1, 9)
        self._levels()
        self._options()
        self._state()
        self._draws()
        self.model_kind = rng.choice(["right"] * 12 + list(MODELS)) if not self.odd else "right"
        if self.model_kind != "right":
            self.odd.add("model")
        self.callback_kind = rng.choice([None] * 8 + ["plain", "raises", "writes"])
        if self.callback_kind in ("raises", "writes"):
            self.odd.add("callback")

    def _maybe(self, what: str, odds: int) -> bool:
        if self.rng.randrange(odds) == 0 and not self.odd:
            self.odd.add(what)
            return True
        return False

    def _levels(self) -> None:
        rng = self.rng
        if self._maybe("sigmas", 12):
            self.how["sigmas"] = rng.choice(ODD_SIGMAS)
            return
        if self._maybe("steps", 16):
            self.steps = rng.choice(ODD_STEPS)
        self.how["steps"] = self.steps
        if self.spec.levels is None:
            self.how["schedule"] = rng.choice(list(NoiseSchedule))

    def _options(self) -> None:
        rng = self.rng
        known: dict[str, Option] = dict(self.spec.options)
        if "schedule" in self.how and rng.random() < 0.3:
            known = dict(schedule_options(self.how["schedule"]))
        if known and rng.random() < 0.5:
            name = rng.choice(sorted(known))
            self.optional = True  # a sound value may still not fit the levels, as one for where a run ends
            odd = self._maybe("option", 3)
            self.how[name] = rng.choice(ODD_NUMBERS) if odd else sound_value(rng, known[name])
        if self._maybe("unknown option", 30):
            self.how[rng.choice(["etaa", "rhoo", "sampler_", "sigma"])] = 1.0

    def _state(self) -> None:
        rng = self.rng
        shape: Any = rng.choice([(1, 3), (2, 4), (3, 2, 4, 4), (2, 1, 1), (5, 1), (2, 300)])
        dtype = rng.choice([torch.float32] * 3 + [torch.float64, torch.bfloat16, torch.float16])
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        x: Any = torch.randn(shape, generator=generator, dtype=torch.float64)
        if self._maybe("state", 10):
            bad: list[Any] = [None, 3.0, [[1.0, 2.0]], torch.ones(2, 2, dtype=torch.int64), torch.tensor(1.0)]
            bad += [torch.ones(2, 2, dtype=torch.complex64), torch.ones(2, 2, dtype=torch.bool), x.numpy()]
            self.x = rng.choice(bad)
            return
        layout = rng.choice(["plain"] * 4 + ["turned", "gaps", "repeated", "empty"])
        x = x.to(dtype)
        if layout == "turned" and x.ndim > 2:
            x = x.mT
        elif layout == "gaps":
            x = torch.stack([x, x], dim=-1)[..., 0]
        elif layout == "repeated":
            x = x[:1].expand(len(x), *x.shape[1:])
        elif layout == "empty":
            x = x[:0]
        self.x = x

    def _draws(self) -> None:
        rng = self.rng
        self.sampling: dict[str, Any] = {"seed": rng.randrange(1000)}
        if self._maybe("seed", 12):
            self.sampling = {"seed": rng.choice(ODD_SEEDS)}
        elif self._maybe("noise", 20):
            self.sampling = {"noise": rng.choice(list(NOISES.values()))}
        elif rng.random() < 0.1:
            self.sampling["noise"] = "brownian"

    def model(self, x: torch.Tensor, sigma: torch.Tensor) -> Any:
        self.calls += 1
        return (right if self.model_kind == "right" else MODELS[self.model_kind])(self, x, sigma)

    def callback(self) -> Callable[[Any], object] | None:
        if self.callback_kind is None:
            return None

        def call(info: Any) -> object:
            if self.callback_kind == "raises":
                raise OwnError
            if self.callback_kind == "writes":
                info.x.mul_(0.5)
            return "ignored"

        return call

    def __str__(self) -> str:
        x = f"{tuple(self.x.shape)} {self.x.dtype}" if isinstance(self.x, torch.Tensor) else repr(self.x)
        how = {name: value for name, value in self.how.items() if name != "process"}
        return (
            f"{self.spec.name} {how} on {self.process!r}, x {x}, {self.sampling}, model {self.model_kind}, "
            f"callback {self.callback_kind}, odd: {sorted(self.odd) or 'nothing'}"
        )


class OwnError(Exception):
    """Of the model or callback."""


def sound_value(rng: random.Random, option: Option) -> Any:
    """A value in the middle of what an option takes."""
    if get_origin(option.kind) is not None and get_args(option.kind):
        return rng.choice(get_args(option.kind))
    if option.kind is bool:
        return rng.choice([True, False])
    if option.kind is int:
        return rng.randint(max(int(option.low), 1), min(int(min(option.high, 4)), 4))
    low, high = max(option.low, 0.0), min(option.high, 2.0)
    return option.default if not low <= high or option.default is None else round(rng.uniform(low, high), 3)


def right(case: Case, x: torch.Tensor, sigma: torch.Tensor) -> Any:
    """The exact denoiser of data of std 1 (0.5 on EDM's own data), and another share unconditionally."""
    level = sigma.double().reshape(-1, *[1] * (x.ndim - 1))
    alpha, std = torch.as_tensor(case.process.alpha(level)), torch.as_tensor(case.process.noise_std(level))
    share = torch.where(torch.isinf(std), torch.zeros_like(level), alpha / (alpha**2 + std**2))
    answer = (x.double() * share).to(x.dtype)
    return (answer, answer * 0.9) if case.spec.uncond else answer


def _raises(case: Case, x: torch.Tensor, sigma: torch.Tensor) -> Any:
    raise OwnError


#: models that are wrong
MODELS: dict[str, Callable[[Case, torch.Tensor, torch.Tensor], Any]] = {
    "raises": _raises,
    "another shape": lambda case, x, sigma: x[..., :1].repeat(*[1] * (x.ndim - 1), 7),
    "a number": lambda case, x, sigma: 1.0,
    "nothing": lambda case, x, sigma: None,
    "three": lambda case, x, sigma: (x, x, x),
    "a list": lambda case, x, sigma: [x, x],
    "an array": lambda case, x, sigma: x.float().numpy(),
    "writes": lambda case, x, sigma: (x / 2, x.mul_(0.5))[0] if not case.spec.uncond else (x / 2, x.mul_(0.5)),
    "fewer items": lambda case, x, sigma: x[:-1] if len(x) else None,
    "whole numbers": lambda case, x, sigma: "text",
}

#: noise of one's own that is wrong
NOISES: dict[str, Any] = {
    "another shape": lambda sigma, sigma_next: torch.ones(1, 1, 1, 7),
    "a number": lambda sigma, sigma_next: 1.0,
    "nothing": lambda sigma, sigma_next: None,
    "raises": lambda sigma, sigma_next: (_ for _ in ()).throw(OwnError()),
    "a word": "brown",
    "a number itself": 3.0,
}


def is_ours(error: BaseException) -> bool:
    """Whether ksched raised an error itself, with something to say."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename.startswith(PACKAGE) and bool(str(error).strip())


def check(case: Case) -> None:
    """Run a case; raises AssertionError if what comes of it must not be."""
    try:
        sampler = build_sampler(case.spec.name, **case.how)
        x = case.x
        if isinstance(x, torch.Tensor) and x.is_floating_point() and x.ndim:
            x = (x * float(sampler.process.noise_std(float(sampler.sigmas[0])))).to(x.dtype)
        kept = x.clone() if isinstance(x, torch.Tensor) else x
        result = sampler.sample(case.model, x, callback=case.callback(), **case.sampling)
    except OwnError:
        assert case.odd & {"model", "callback", "noise"}, "nobody raised this"
        return
    except (TypeError, ValueError, RuntimeError) as error:
        check_refusal(case, error)
        return
    assert isinstance(x, torch.Tensor)
    assert torch.equal(x.nan_to_num(), kept.nan_to_num()), "the start was written to"
    assert (result.shape, result.dtype, result.device) == (x.shape, x.dtype, x.device)
    if case.odd & {"model", "callback"} or case.sampling.get("noise") not in (None, "brownian"):
        return
    check_numbers(case, sampler, x, result)


def check_refusal(case: Case, error: Exception) -> None:
    """An error is ours, comes before the first model call, and for a reason."""
    assert case.odd or case.optional, f"refused though nothing is odd: {error}"
    assert is_ours(error), f"not an error of ours: {type(error).__name__}: {error}"
    if not case.odd & {"model", "callback", "noise"}:
        assert not case.calls, f"refused after {case.calls} model calls: {error}"
        assert not isinstance(error, RuntimeError), f"an argument is refused by TypeError or ValueError: {error}"


def check_numbers(case: Case, sampler: Any, x: torch.Tensor, result: torch.Tensor) -> None:
    """The result equals the sampler function's in float64, is reproducible, and each item gets its solo result."""
    again = sampler.sample(case.model, x, **case.sampling)
    assert torch.equal(again.nan_to_num(), result.nan_to_num()), "another result the second time"
    if sampler.spec.adaptive or not x.numel():
        return
    largest = max((abs(v) for row in sampler.plan.rows for _, v in row.terms), default=1.0)
    if not math.isfinite(largest) or largest > 1e4:  # an option that is allowed, and beyond what floats can show
        return
    if x.dtype == torch.float16 and not result.isfinite().all():  # it ends at 65504
        return
    exact = sampler.live(case.model, x.double(), **case.sampling)
    scale = max(1.0, float(exact.abs().max()), float(x.abs().double().max()))
    bound = 60 * (len(sampler.plan.rows) + 5) * torch.finfo(x.dtype).eps * scale * max(1.0, largest)
    assert (result.double() - exact).abs().max() <= bound, "not what the sampler function gives"
    check_ways(case, sampler, x, result)
    seed = case.sampling["seed"]
    if isinstance(seed, int) and len(x) > 1:
        alone = sampler.sample(case.model, x[1:2], **{**case.sampling, "seed": seed + 1})
        assert torch.equal(alone, result[1:2]), "an item depends on its batch"


def check_ways(case: Case, sampler: Any, x: torch.Tensor, result: torch.Tensor) -> None:
    """Driven by hand, saved and resumed at some call, and beside another run in a batch, it is the same run."""
    rng, at, again = case.rng, case.rng.randrange(8), sampler.start(x, **case.sampling)
    run = sampler.start(x, **case.sampling)
    while not run.done:
        if run.nfe == at:
            again.load_state_dict(run.state_dict())
            run = again
        run.feed(*answer(case.model, run.x, run.sigma, run.needs_uncond))
    assert torch.equal(run.x.nan_to_num(), result.nan_to_num()), f"another result when it is resumed at call {at}"
    if not run.nfe:  # there is nothing to share
        return
    other = build_sampler("euler", "karras", rng.randint(1, 5), process=case.process)
    batch = Batch()
    mine = sampler.start(x, **case.sampling)
    for each in rng.sample([mine, other.start(other.initial_state(x.shape, seed=1, dtype=x.dtype))], 2):
        batch.add(each)

    def pair(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        denoised = case.model(x, sigma)
        return denoised if isinstance(denoised, tuple) else (denoised, denoised)

    while batch:
        batch.tick(pair)
    assert torch.equal(mine.x.nan_to_num(), result.nan_to_num()), "another result in a batch"


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_programs(block: int) -> None:
    failures = []
    for number in range(block * EACH, (block + 1) * EACH):
        case = Case(number)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="the start of a run must be")
            try:
                check(case)
            except Exception as error:
                failures.append(f"{number}: {type(error).__name__}: {str(error)[:300]}\n    {case}")
    assert not failures, f"{len(failures)} of {EACH}, seed {SEED}:\n" + "\n".join(failures)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_levels(block: int) -> None:
    """A schedule with any options gives valid noise levels, or one of our own errors."""
    failures = []
    for number in range(block * EACH, (block + 1) * EACH):
        rng = random.Random(f"levels {SEED} {number}")
        process, schedule = rng.choice(PROCESSES)(rng), rng.choice(list(NoiseSchedule))
        steps = rng.choice([1, 2, 3, 7, 20, 1000, *ODD_STEPS]) if rng.random() < 0.3 else rng.randint(1, 30)
        how = {}
        known = schedule_options(schedule)
        for name in rng.sample(sorted(known), min(len(known), rng.randint(0, 2))):
            values = [*ODD_NUMBERS, 1e6, -1e6, 1e-6, 0.999999999, 1 - 1e-12]
            how[name] = rng.choice(values) if rng.random() < 0.6 else sound_value(rng, known[name])
        if rng.random() < 0.2:
            how[rng.choice(["sigma_min", "sigma_max"])] = rng.choice([*ODD_NUMBERS, 0.1, 5.0])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                levels = calculate_sigmas(schedule, steps, process, **how).tolist()
                assert all(map(math.isfinite, levels[1:])), f"levels that are no numbers: {levels[:8]}"
                repeats = how.get("ends") == "clamp" or how.get("clamp") is True  # the ends of the range, as documented
                falls = all(a > b or (repeats and a == b) for a, b in itertools.pairwise(levels))
                assert falls, f"levels that do not fall: {levels[:8]}"
                assert levels[-1] >= 0, f"a level below 0: {levels[-8:]}"
            except (TypeError, ValueError) as error:
                if not is_ours(error):
                    failures.append(f"{number}: {schedule.value} {steps} {how} {process!r}: {error!r}")
            except Exception as error:
                failures.append(f"{number}: {schedule.value} {steps} {how} {process!r}: {error!r}")
    assert not failures, f"{len(failures)} of {EACH}, seed {SEED}:\n" + "\n".join(failures)
