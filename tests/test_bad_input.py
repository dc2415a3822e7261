"""Bad input gets one clear error before the first model call: what must hold, what came, what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from representatives import each

import ksched
from ksched import EDM, VE, VP, Denoiser, Flow, build_sampler, calculate_sigmas
from ksched.integrations.comfyui import calculate_sigmas as levels_in_comfyui
from ksched.integrations.servers import sglang, vllm_omni
from ksched.samplers.registry import register_sampler

X = torch.ones(2, 3)


def never(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    raise AssertionError("the model was called")


def euler(**how: Any) -> Callable[[], object]:
    return lambda: build_sampler("euler", "karras", 4).sample(**{"denoiser": never, "x": X, **how})


def ancestral(**how: Any) -> Callable[[], object]:
    return lambda: build_sampler("euler_ancestral", "karras", 4).sample(**{"denoiser": never, "x": X, **how})


def build(*args: Any, **how: Any) -> Callable[[], object]:
    return lambda: build_sampler(*args, **how).sample(never, X, seed=0)


def sigmas(*args: Any, **how: Any) -> Callable[[], object]:
    return lambda: calculate_sigmas(*args, **how)


def custom(values: Any, process: ksched.Process | None = None) -> Callable[[], object]:
    return build("euler", sigmas=values, process=process)


CASES: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    # names
    ("sampler misspelt", build("dpmpp2mm"), ValueError, "unknown sampler 'dpmpp2mm'; did you mean dpmpp_2m"),
    ("sampler unlike any", build("zzz"), ValueError, "unknown sampler 'zzz'; 'ksched list' shows all"),
    ("sampler not a name", build(3), TypeError, "a sampler name must be a string; got 3"),
    ("schedule misspelt", build("euler", "karas"), ValueError, "unknown noise schedule 'karas'; did you mean karras"),
    (
        "schedule not a name",
        build("euler", 3),
        TypeError,
        "a noise schedule must be a name or a function of the steps; got 3",
    ),
    ("dialect unknown", build("euler", dialect="klingon"), ValueError, "unknown dialect 'klingon'; known: ksched"),
    ("label unknown", lambda: ksched.parse_label("DPM++ 9X Karras"), ValueError, "unknown sampler"),
    ("label not text", lambda: ksched.parse_label(7), TypeError, "label must be a string"),  # type: ignore[arg-type]
    # what newcomers passed by mistake
    ("shift as text", lambda: Flow(shift="3"), TypeError, "shift must be a positive number; got '3'"),  # type: ignore[arg-type]
    (
        "list for an array",
        lambda: ksched.arrays.run(build_sampler("euler", "karras", 2), lambda x, sigma: x, [1.0, 2.0]),
        TypeError,
        "x must be an array with the batch first; got list",
    ),
    ("no function", lambda: register_sampler("mine", 3, order=1), TypeError, "function must be callable"),  # type: ignore[arg-type]
    (
        "data as text",
        lambda: ksched.check_model(never, VP(), data="latents.npy"),
        TypeError,
        "data must be a tensor or an array of numbers; got str",
    ),
    (
        "a name for a sampler, in a server",
        lambda: sglang.prepare(SimpleNamespace(latents=X), "euler"),  # type: ignore[arg-type]
        TypeError,
        "sampler must be a Sampler from ksched.build_sampler; got 'euler'",
    ),
    (
        "prediction misspelt, in a server",
        lambda: vllm_omni.StepPipeline(None, lambda state: None, prediction="flw"),  # type: ignore[arg-type,return-value]
        ValueError,
        "unknown prediction type 'flw'; did you mean flow",
    ),
    (
        "the model for its sampling",
        lambda: levels_in_comfyui(object(), "karras", 5),
        TypeError,
        "model_sampling must be model.get_model_object.*got object",
    ),
    # steps
    ("steps zero", build("euler", "karras", 0), ValueError, "steps must be at least 1; got 0"),
    ("steps negative", sigmas("simple", -3), ValueError, "steps must be at least 1; got -3"),
    ("steps fractional", build("euler", "karras", 2.5), TypeError, "steps must be a whole number.*got 2.5"),
    ("steps a flag", sigmas("normal", True), TypeError, "steps must be a whole number.*got True"),
    ("steps text", sigmas("karras", "20"), TypeError, "steps must be a whole number.*got '20'"),
    # ranges
    ("sigma_min zero", sigmas("karras", 5, sigma_min=0), ValueError, "sigma_min must be > 0.*got sigma_min=0.0"),
    ("range reversed", sigmas("exponential", 5, sigma_min=9, sigma_max=1), ValueError, "< sigma_max, both finite"),
    ("range NaN", sigmas("linear", 5, sigma_max=math.nan), ValueError, "both finite; got .*sigma_max=nan"),
    ("range infinite", sigmas("karras", 5, sigma_max=math.inf), ValueError, "sigma_max must be at most 1.79769e"),
    ("flow above 1", sigmas("karras", 5, Flow(), sigma_max=2), ValueError, "sigma_max must be at most 1 for Flow"),
    (
        "untrained level",
        sigmas("simple", 5, sigma_max=99),
        ValueError,
        "in the training range, 0.0291672 to 14",
    ),
    # options
    ("rho zero", sigmas("karras", 5, rho=0), ValueError, "schedule karras: rho must be at least 0.01 and at most 1000"),
    (
        "option of nobody",
        build("euler", "karras", 4, etaa=1),
        TypeError,
        "has no option 'etaa'; it has s_churn, s_tmin",
    ),
    ("option of another", sigmas("exponential", 5, rho=7), TypeError, "schedule exponential has no option 'rho'"),
    ("option beside sigmas", build("euler", sigmas=[2, 1], rho=7), TypeError, "custom sigmas has no option 'rho'"),
    (
        "eta negative",
        build("ddim", eta=-1),
        ValueError,
        "sampler ddim: eta must be a finite number of at least 0; got -1",
    ),
    ("eta NaN", build("ddim", eta=math.nan), ValueError, "eta must be a finite number of at least 0; got nan"),
    ("eta text", build("ddim", eta="1"), TypeError, "sampler ddim: eta must be a number; got '1'"),
    ("order zero", build("uni_pc", order=0), ValueError, "order must be at least 1 and at most 8; got 0"),
    ("order fractional", build("uni_pc", order=2.0), TypeError, "order must be a whole number; got 2.0"),
    ("choice", build("uni_pc", variant="bh3"), ValueError, "variant must be one of 'bh1', 'bh2'; got 'bh3'"),
    ("flag", build("uni_pc", corrector=1), TypeError, "corrector must be True or False; got 1"),
    # custom sigmas
    ("sigmas rising", custom([1, 2, 0]), ValueError, r"strictly decreasing; got sigmas\[0\]=1.0, sigmas\[1\]=2.0"),
    ("sigmas repeated", custom([3, 2, 2, 0]), ValueError, r"sigmas\[1\]=2.0, sigmas\[2\]=2.0.*run exactly as given"),
    ("sigmas NaN", custom([3, math.nan, 0]), ValueError, r"sigmas must be finite.*got sigmas\[1\]=nan"),
    ("sigmas negative", custom([3, 1, -1]), ValueError, r"sigmas must be >= 0; got sigmas\[2\]=-1.0"),
    (
        "sigmas infinite",
        custom([math.inf, 1, 0]),
        ValueError,
        r"only on VP\(variance_preserving=True\).*sigmas\[0\]=inf",
    ),
    ("sigmas infinite inside", custom([9, math.inf], VP(variance_preserving=True)), ValueError, r"got sigmas\[1\]=inf"),
    ("sigmas empty", custom([]), ValueError, r"at least one number; got shape \(0,\)"),
    ("sigmas a matrix", custom([[3, 2], [1, 0]]), ValueError, r"one-dimensional list.*got shape \(2, 2\)"),
    ("sigmas words", custom(["high", "low"]), TypeError, "sigmas must be a list of numbers"),
    (
        "flow sigma above 1",
        custom([1.5, 0.5, 0], Flow()),
        ValueError,
        r"at most 1 on this process; got sigmas\[0\]=1.5",
    ),
    # processes
    ("process a name", build("euler", process="flow"), TypeError, r"process must be a ksched process.*got 'flow'"),
    ("process in schedule", sigmas("simple", 5, "vp"), TypeError, r"process must be a ksched process.*got 'vp'"),
    ("betas above 1", lambda: VP([0.1, 1.5]), ValueError, r"every beta must lie in \(0, 1\); got betas\[1\]=1.5"),
    ("betas NaN", lambda: VP([0.1, math.nan, 0.2]), ValueError, r"got betas\[1\]=nan"),
    ("betas one number", lambda: VP(0.1), ValueError, r"one list of at least two numbers; got shape \(\)"),
    ("EDM range", lambda: EDM(80, 0.002), ValueError, "sigma_min must be > 0 and < sigma_max; got sigma_min=80"),
    ("VE range", lambda: VE(0, 1), ValueError, "sigma_min must be > 0 and < sigma_max; got sigma_min=0"),
    ("shift zero", lambda: Flow(0), ValueError, "shift must be a positive number; got 0"),
    ("sigma_data", lambda: EDM(sigma_data=-1), ValueError, "sigma_data must be a positive number; got -1"),
    # states
    ("x an array", euler(x=np.ones((2, 3))), TypeError, "x must be a torch tensor; got ndarray"),
    (
        "x whole numbers",
        euler(x=torch.ones(2, 3, dtype=torch.long)),
        TypeError,
        "floating-point tensor; got torch.int64",
    ),
    ("x without batch", euler(x=torch.tensor(1.0)), ValueError, "x must have a batch axis first"),
    ("denoiser missing", euler(denoiser=None), TypeError, "denoiser must be callable.*got NoneType"),
    # noise
    (
        "no seed",
        ancestral(),
        ValueError,
        "this sampler draws noise: give seed=<int>, one seed per batch item, or noise=",
    ),
    ("seed and noise", ancestral(seed=1, noise=never), ValueError, "give either seed or noise, not both"),
    ("seed fractional", ancestral(seed=1.5), TypeError, "seed must be a whole number or one per batch item; got 1.5"),
    ("seed a flag", ancestral(seed=True), TypeError, "seed must be a whole number or one per batch item; got True"),
    ("seeds too few", ancestral(seed=[1]), ValueError, "got 1 seeds for a batch of 2"),
    ("seeds fractional", ancestral(seed=[1, 2.5]), TypeError, "one per batch item; got 2.5"),
    ("noise a tensor", ancestral(noise=X), TypeError, "noise must be callable.*got Tensor"),
    # networks
    (
        "prediction",
        lambda: Denoiser(never, VP(), "epz"),
        ValueError,
        "unknown prediction type 'epz'; did you mean epsilon",
    ),
    (
        "flow on VP",
        lambda: Denoiser(never, VP(), "flow"),
        ValueError,
        "a VP network predicts epsilon, score, v_prediction",
    ),
    (
        "epsilon on flow",
        lambda: Denoiser(never, Flow()),
        ValueError,
        "a Flow network predicts flow, velocity_to_data or sample; got 'eps",
    ),
    (
        "epsilon at zero SNR",
        lambda: Denoiser(never, VP(zero_terminal_snr=True)),
        ValueError,
        "epsilon cannot be predicted with zero terminal SNR",
    ),
    ("network", lambda: Denoiser(3, VP()), TypeError, "network must be callable"),  # type: ignore[arg-type]
    ("denoiser's process", lambda: Denoiser(never, "vp"), TypeError, "process must be a ksched"),  # type: ignore[arg-type]
    # registry and plans
    (
        "name taken",
        lambda: register_sampler("euler", never, order=1),
        ValueError,
        "must be new; 'euler' belongs to 'euler'",
    ),
    (
        "peer's name taken",
        lambda: register_sampler("Euler a", never, order=1),
        ValueError,
        "belongs to 'euler_anc",
    ),
    ("name empty", lambda: register_sampler("", never, order=1), TypeError, "the name of a sampler must be a string"),
    ("not JSON", lambda: ksched.Plan.from_json("{"), ValueError, "not a ksched plan in JSON, version 1"),
    ("other JSON", lambda: ksched.Plan.from_json('{"a": 1}'), ValueError, "not a ksched plan in JSON, version 1"),
    ("no such name", lambda: ksched.nothing, AttributeError, "module 'ksched' has no attribute 'nothing'"),
]


@each("what, act, kind, message", CASES)
def test_bad_input_is_refused_before_the_first_model_call(
    what: str, act: Callable[[], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (None, TypeError, "denoised must be a tensor; got NoneType"),
        (torch.ones(2, 4), ValueError, r"denoised must have the state's shape \(2, 3\); got \(2, 4\)"),
        (torch.ones(1, 3), ValueError, r"denoised must have the state's shape \(2, 3\); got \(1, 3\)"),
        (torch.ones(2, 3, device="meta"), ValueError, "denoised must be on the state's device cpu; got meta"),
    ],
)
def test_a_wrong_prediction_is_refused_and_nothing_is_lost(answer: Any, kind: type[Exception], message: str) -> None:
    run = build_sampler("dpmpp_2m", "karras", 3).start(X)
    run.feed(X / 2)
    assert_refused(run, answer, kind, message)


def assert_refused(run: ksched.Run | ksched.AdaptiveRun, answer: Any, kind: type[Exception], message: str) -> None:
    """Feeding the answer raises, and the run's state is unchanged."""
    before = run.state_dict()
    with pytest.raises(kind, match=message):
        run.feed(answer)
    after = run.state_dict()
    assert {k: v for k, v in before.items() if k != "registers"} == {k: v for k, v in after.items() if k != "registers"}
    assert all(torch.equal(v, after["registers"][k]) for k, v in before["registers"].items())


@pytest.mark.parametrize(
    ("noise", "kind", "message"),
    [
        (lambda a, b: 1.0, TypeError, r"must return a tensor; got float"),
        (lambda a, b: torch.ones(3), ValueError, r"noise must have the state's shape \(2, 3\); got \(3,\)"),
    ],
)
def test_wrong_noise_is_refused_and_nothing_is_lost(noise: Any, kind: type[Exception], message: str) -> None:
    assert_refused(build_sampler("ddpm", "karras", 3).start(X, noise=noise), X / 2, kind, message)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "heun"])
def test_a_model_that_writes_to_its_state_is_found_out(name: str) -> None:
    sampler = build_sampler(name, "karras", 4)
    x = 14.0 * torch.ones(1, 3)
    calls = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        calls.append(sigma)
        return x.mul_(0.5) if len(calls) == 2 else x / 2

    with pytest.raises(RuntimeError, match=r"must not modify x, .* one of them wrote to it: use x\.clone\(\)"):
        sampler.sample(model, x)
    assert len(calls) == 2
    assert torch.equal(x, 14.0 * torch.ones(1, 3))
    sampler.sample(lambda x, sigma: x.clone().mul_(0.5), x)
