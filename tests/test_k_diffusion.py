"""k-diffusion's functions: signatures, recorded numbers, its own file where installed, and its host programs."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import inspect
import math
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases import process_for
from fake_webui import Host
from representatives import each, firsts, short
from test_golden import posterior_mean, read

import ksched
from ksched import EDM, VP, AngleV, Flow, NoiseSchedule
from ksched.execution.adaptive_run import AdaptiveRun
from ksched.integrations import k_diffusion
from ksched.integrations.k_diffusion import __main__ as command
from ksched.integrations.k_diffusion.menus import register
from ksched.integrations.k_diffusion.noise import BrownianTreeNoiseSampler
from ksched.integrations.k_diffusion.process import process_of
from ksched.integrations.k_diffusion.samplers import log_likelihood
from ksched.samplers.registry import _REGISTRY, samplers

#: k-diffusion's own signatures, 0.1.1.post1
SIGNATURES = {
    "sample_euler": "s_churn=0.0, s_tmin=0.0, s_tmax=inf, s_noise=1.0",
    "sample_euler_ancestral": "eta=1.0, s_noise=1.0, noise_sampler=None",
    "sample_heun": "s_churn=0.0, s_tmin=0.0, s_tmax=inf, s_noise=1.0",
    "sample_dpm_2": "s_churn=0.0, s_tmin=0.0, s_tmax=inf, s_noise=1.0",
    "sample_dpm_2_ancestral": "eta=1.0, s_noise=1.0, noise_sampler=None",
    "sample_lms": "order=4",
    "sample_dpm_fast": "eta=0.0, s_noise=1.0, noise_sampler=None",
    "sample_dpm_adaptive": "order=3, rtol=0.05, atol=0.0078, h_init=0.05, pcoeff=0.0, icoeff=1.0, dcoeff=0.0, "
    "accept_safety=0.81, eta=0.0, s_noise=1.0, noise_sampler=None, return_info=False",
    "sample_dpmpp_2s_ancestral": "eta=1.0, s_noise=1.0, noise_sampler=None",
    "sample_dpmpp_sde": "eta=1.0, s_noise=1.0, noise_sampler=None, r=0.5",
    "sample_dpmpp_2m": "",
    "sample_dpmpp_2m_sde": "eta=1.0, s_noise=1.0, noise_sampler=None, solver_type='midpoint'",
    "sample_dpmpp_3m_sde": "eta=1.0, s_noise=1.0, noise_sampler=None",
    "get_sigmas_karras": "n, sigma_min, sigma_max, rho=7.0, device='cpu'",
    "get_sigmas_exponential": "n, sigma_min, sigma_max, device='cpu'",
    "get_sigmas_polyexponential": "n, sigma_min, sigma_max, rho=1.0, device='cpu'",
    "get_sigmas_vp": "n, beta_d=19.9, beta_min=0.1, eps_s=0.001, device='cpu'",
    "log_likelihood": "model, x, sigma_min, sigma_max, extra_args=None, atol=0.0001, rtol=0.0001",
    "BrownianTreeNoiseSampler": "x, sigma_min, sigma_max, seed=None, transform, cpu=False",
}
RANGES = {"sample_dpm_fast": "sigma_min, sigma_max, n", "sample_dpm_adaptive": "sigma_min, sigma_max"}
CHURN = ("euler", "heun", "dpm_2")
SAMPLERS = [spec.name for spec in samplers()]
CASES = [case for case in read("kdiffusion_trajectories")["cases"] if not case.get("error")]


@pytest.fixture(autouse=True)
def global_noise() -> Iterator[None]:
    """Here the global generator may be moved: that is k-diffusion's contract."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Another default dtype; some of k-diffusion's sigmas take it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def exact(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The denoiser of data that is normal with std 0.5."""
    assert sigma.shape == x.shape[:1]
    return x * (0.25 / (0.25 + sigma**2)).reshape(-1, *[1] * (x.ndim - 1))


def levels(steps: int = 8, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    sigmas: torch.Tensor = k_diffusion.get_sigmas_karras(steps, 0.03, 14.6)
    return sigmas.to(dtype)


def arguments(name: str, sigmas: torch.Tensor) -> tuple[Any, ...]:
    """What a sampler is given behind model and x."""
    ends = (float(sigmas[-2]), float(sigmas[0]))
    return {"dpm_fast": (*ends, len(sigmas) - 1), "dpm_adaptive": ends}.get(name, (sigmas,))


def function(name: str) -> Callable[..., Any]:
    sample: Callable[..., Any] = getattr(k_diffusion, f"sample_{name}")
    return sample


def plain(callable_: Any) -> str:
    """A signature without annotations; of a lambda only that it is there."""
    parameters = inspect.signature(callable_).parameters.values()
    text = ", ".join(str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters)
    return re.sub(r"=<function .*? at \w+>", "", text)


# ----------------------------------------------------------------------------------------------------------- signatures


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_k_diffusion(name: str) -> None:
    expected = SIGNATURES[name]
    if name.startswith("sample"):
        head = f"model, x, {RANGES.get(name, 'sigmas')}, extra_args=None, callback=None, disable=None"
        expected = ", ".join(filter(None, (head, expected)))
    assert plain(getattr(k_diffusion, name)) == expected


def test_every_sampler_and_schedule_is_there() -> None:
    names = {f"sample_{name}" for name in SAMPLERS} | {f"get_sigmas_{name}" for name in NoiseSchedule}
    assert names <= set(dir(k_diffusion))
    for name in names:
        made = getattr(k_diffusion, name)
        assert made is getattr(k_diffusion, name)
        assert (made.__name__, made.__module__) == (name, k_diffusion.__name__)
        assert pickle.loads(pickle.dumps(made)) is made
        assert name.startswith("get") or all(p in made.__doc__ for p in inspect.signature(made).parameters)
        kinds = {p.kind for p in inspect.signature(made).parameters.values()}
        assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    with pytest.raises(AttributeError, match="no attribute 'sample_nothing'"):
        _ = k_diffusion.sample_nothing


@each("name", SAMPLERS)
def test_defaults_shown_are_those_that_run(name: str) -> None:
    spec = _REGISTRY[name]
    shown = inspect.signature(function(name)).parameters
    for option, parameter in spec.own_options.items():
        if option in shown:
            assert shown[option].default == parameter.default
    noisy = spec.draws != 0 or spec.own_options.keys() & {"eta", "tau", "s_churn"}
    assert ("noise_sampler" in shown) == (bool(noisy) and name not in CHURN)


def test_a_sampler_of_somebody_else_gets_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def jump(run: Any, grid: Any, x: Any, *, share: float = 1.0) -> Any:
        """One jump."""
        return share * run.denoise(x, grid.levels[0])

    monkeypatch.setattr("ksched.samplers.registry._REGISTRY", dict(_REGISTRY))
    ksched.register_sampler("jump", jump, order=0)
    x = torch.ones(2, 3)
    assert plain(k_diffusion.sample_jump).endswith("disable=None, share=1.0")
    assert torch.equal(k_diffusion.sample_jump(exact, x, levels(), share=0.5), exact(x, torch.full((2,), 14.6)) / 2)


# ----------------------------------------------------------------------------------------------------- recorded numbers


def case_noise(case: dict[str, Any]) -> Callable[[Any, Any], torch.Tensor]:
    """A case's noise by interval: it may have been asked for some that was multiplied by 0."""
    bank = np.array(read("kdiffusion_trajectories")["noise_banks"].get(case.get("noise_bank"), ()))
    requests = case.get("noise_requests") or []
    asked = 0

    def noise(sigma: Any, sigma_next: Any) -> torch.Tensor:
        nonlocal asked
        assert isinstance(sigma, torch.Tensor)
        assert sigma.ndim == sigma_next.ndim == 0
        ends = float(sigma), float(sigma_next)
        number = next((k for k in range(asked, len(requests)) if np.allclose(requests[k], ends)), asked)
        asked = number + 1
        return torch.from_numpy(bank[number])

    return noise


ONE_GRID = [case["id"] for case in firsts(CASES, lambda case: (case["sampler"], case.get("options")))]


@short(lambda case: case["id"] in ONE_GRID)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_recorded_runs(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Results, the sigmas of model calls and the arguments of callbacks equal k-diffusion's."""
    data = read("kdiffusion_trajectories")
    mixture, name = data["mixtures"][case["mixture"]], case["sampler"]
    seen: list[float] = []
    told: list[dict[str, Any]] = []

    def model(x: torch.Tensor, sigma: torch.Tensor, mark: str) -> torch.Tensor:
        assert mark == "passed on"
        seen.append(float(sigma[0]))
        return torch.from_numpy(posterior_mean(mixture, x.numpy(), 1.0, seen[-1]))

    options = {key: value for key, value in case["options"].items() if key != "n_steps"}
    if name in CHURN:  # their noise is that of k_diffusion.sampling.torch, which hosts replace
        bank = iter(data["noise_banks"].get(case.get("noise_bank"), ()))
        host = ModuleType("k_diffusion.sampling")
        host.torch = SimpleNamespace(randn_like=lambda x: torch.tensor(next(bank), dtype=x.dtype))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "k_diffusion.sampling", host)
    elif "noise_sampler" in inspect.signature(function(name)).parameters:
        options["noise_sampler"] = case_noise(case)
    sigmas = torch.tensor(case["sigmas"], dtype=torch.float64)
    given: tuple[Any, ...] = (sigmas,)
    if "sigma_min" in case:
        given = (case["sigma_min"], case["sigma_max"], *([case["n"]] if "n" in case else []))
    if name == "dpm_adaptive":
        options["return_info"] = True
    start = torch.tensor(case["x_init"], dtype=torch.float64)
    before = start.clone()
    result = function(name)(model, start, *given, {"mark": "passed on"}, told.append, True, **options)
    if name == "dpm_adaptive":
        result, info = result
        assert info == case["info"]
    want = np.array(case["final_x"])
    assert np.abs(result.numpy() - want).max() <= 1e-9 * np.abs(want).max()
    np.testing.assert_allclose(seen, case["model_sigmas"], rtol=1e-9, atol=1e-12)
    assert torch.equal(start, before)
    assert [step["i"] for step in told] == [step["i"] for step in case["steps"]]
    for got, step in zip(told, case["steps"], strict=True):
        assert got.keys() == step.keys()
        for key, value in step.items():
            # k-diffusion's own levels here are float32 in the two that are given a range
            rough = 1e-6 if key in ("sigma", "sigma_hat", "t", "t_up", "error") else 1e-8
            np.testing.assert_allclose(np.asarray(got[key]), value, rtol=rough, atol=rough, err_msg=key)


# --------------------------------------------------------------------------------------------------- k-diffusion's file


@pytest.fixture(scope="module")
def package() -> SimpleNamespace:
    """k-diffusion's sampling.py and external.py alone; the package imports all that trains models."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.origin is None:
        pytest.skip("k-diffusion is not installed")
    absent = [name for name in ("torchdiffeq", "torchsde") if importlib.util.find_spec(name) is None]
    stubs: dict[str, Any] = {
        name: ModuleType(name) for name in ("k_diffusion_alone", "k_diffusion_alone.utils", *absent)
    }
    stubs["k_diffusion_alone"].__path__ = []
    stubs["k_diffusion_alone"].utils = stubs["k_diffusion_alone.utils"]
    stubs["k_diffusion_alone.utils"].append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    for name in absent:
        stubs[name].odeint = None
    with pytest.MonkeyPatch.context() as patch:
        for name, stub in stubs.items():
            patch.setitem(sys.modules, name, stub)
        for name in ("sampling", "external"):
            path = Path(spec.origin).with_name(f"{name}.py")
            found = importlib.util.spec_from_file_location(f"k_diffusion_alone.{name}", path)
            assert found is not None
            assert found.loader is not None
            module = importlib.util.module_from_spec(found)
            patch.setitem(sys.modules, f"k_diffusion_alone.{name}", module)
            setattr(stubs["k_diffusion_alone"], name, module)
            found.loader.exec_module(module)
    return SimpleNamespace(**vars(stubs["k_diffusion_alone"]))


@pytest.fixture(scope="module")
def original(package: SimpleNamespace) -> ModuleType:
    """k-diffusion's sampling.py."""
    sampling: ModuleType = package.sampling
    return sampling


@pytest.mark.parametrize("wrapper", ["DiscreteEpsDDPMDenoiser", "DiscreteVDDPMDenoiser", "VDenoiser"])
def test_its_wrappers_are_models(wrapper: str, package: SimpleNamespace) -> None:
    def network(x: torch.Tensor, timestep: torch.Tensor, cond: float) -> torch.Tensor:
        return cond * torch.tanh(x) + timestep.reshape(-1, 1) / 1e4

    alpha_bar = torch.tensor(VP.linear().alphas_cumprod)
    given = () if wrapper == "VDenoiser" else (alpha_bar, False)
    model = getattr(package.external, wrapper)(network, *given).double()
    process = process_of(SimpleNamespace(inner_model=model))
    sigmas = levels(6, torch.float64)
    if wrapper == "VDenoiser":
        assert isinstance(process, AngleV)
    else:
        assert isinstance(process, VP)
        np.testing.assert_allclose(process.sigmas, model.sigmas, rtol=1e-12)
        sigmas = model.get_sigmas(6).double()
        ours = k_diffusion.get_sigmas_normal(6, model.sigma_min, model.sigma_max, inner_model=model)
        torch.testing.assert_close(ours, sigmas.float(), rtol=1e-6, atol=0)
    x = 10 * torch.randn(2, 3, dtype=torch.float64)
    for name in ("sample_heun", "sample_dpmpp_2m"):
        ours, theirs = (
            getattr(m, name)(model, x, sigmas, {"cond": 0.3}, disable=True) for m in (k_diffusion, package.sampling)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_signatures_against_the_file(original: ModuleType) -> None:
    ours = {name: plain(getattr(k_diffusion, name)) for name in SIGNATURES}
    theirs = {name: plain(getattr(original, name)) for name in SIGNATURES}
    theirs["BrownianTreeNoiseSampler"] += ", cpu=False"  # of ComfyUI's
    assert ours == theirs
    every = {name for name in vars(original) if name.startswith(("sample_", "get_sigmas_"))}
    assert every < set(SIGNATURES)


OPTIONS: dict[str, list[dict[str, Any]]] = {
    **{name: [{}, {"s_churn": 5.0}, {"s_churn": 9.0, "s_tmin": 0.1, "s_tmax": 9.0, "s_noise": 1.01}] for name in CHURN},
    "lms": [{}, {"order": 2}],
    "dpm_adaptive": [{}, {"order": 2, "eta": 0.5}, {"rtol": 0.01, "pcoeff": 0.2}],
    "dpm_fast": [{}, {"eta": 1.0}],
    "dpmpp_2m": [{}],
    "dpmpp_2m_sde": [{}, {"eta": 0.0}, {"solver_type": "heun", "s_noise": 0.9}],
    "dpmpp_sde": [{}, {"r": 0.3, "eta": 0.7}],
}
PAIRS = [
    (name, options, dtype)
    for name in (name.removeprefix("sample_") for name in SIGNATURES if name.startswith("sample_"))
    for options in OPTIONS.get(name, [{}, {"eta": 0.0}, {"eta": 0.6, "s_noise": 0.95}])
    for dtype in (torch.float32, torch.float64)
]


@short(lambda options, dtype: dtype == torch.float64 or not options)
@pytest.mark.parametrize(("name", "options", "dtype"), PAIRS, ids=lambda v: str(v).replace("torch.", ""))
def test_runs_against_the_file(
    name: str, options: dict[str, Any], dtype: torch.dtype, original: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same result and callbacks, with the same noise from the global generator or from the same noise sampler."""
    with default_dtype(dtype):
        sigmas = levels(9, dtype)
        x = sigmas[0] * torch.randn(3, 2, 4, dtype=dtype)

        def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return torch.tanh(exact(x, sigma))

        def run(sample: Callable[..., Any]) -> tuple[torch.Tensor, list[dict[str, Any]]]:
            told: list[dict[str, Any]] = []
            generator = torch.Generator().manual_seed(5)
            more = dict(options)
            if "sde" in name:
                more["noise_sampler"] = lambda a, b: torch.randn(x.shape, generator=generator, dtype=dtype)
            torch.manual_seed(7)
            result = sample(model, x, *arguments(name, sigmas), callback=told.append, disable=True, **more)
            return result, told

        (ours, told), (theirs, meant) = run(function(name)), run(getattr(original, f"sample_{name}"))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    if name == "dpm_adaptive" and dtype == torch.float32:
        tolerance = 3e-4  # its steps follow differences of states, rounded; as far from its own run in float64
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert [step["i"] for step in told] == [step["i"] for step in meant]
    for got, want in zip(told, meant, strict=True):
        assert got.keys() == want.keys()
        for key in want:
            value, other = (torch.as_tensor(step[key]) for step in (got, want))
            close = 10 * tolerance * (100 if key in ("error", "h") else 1)
            torch.testing.assert_close(value, other, rtol=close, atol=close, check_dtype=False)


UPWARDS = [name for name in SIGNATURES if name.startswith("sample_") and name != "sample_dpm_adaptive"]


@pytest.mark.parametrize("name", UPWARDS)
def test_runs_upwards_against_the_file(name: str, original: ModuleType) -> None:
    x = torch.randn(3, 2, dtype=torch.float64)
    with default_dtype(torch.float64):
        given = (14.6, 0.03, 7) if name == "sample_dpm_fast" else (levels(9, torch.float64)[:-1].flip(0),)
        noisy = "eta" in inspect.signature(getattr(k_diffusion, name)).parameters
        more: dict[str, Any] = {"eta": 0.0, "noise_sampler": lambda a, b: torch.zeros_like(x)} if noisy else {}
        ours, theirs = (getattr(m, name)(exact, x, *given, disable=True, **more) for m in (k_diffusion, original))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------- every other sampler


def test_euler_runs_upwards() -> None:
    x = torch.tensor([[1.0]], dtype=torch.float64)
    result = k_diffusion.sample_euler(exact, x, [0.5, 1.0, 2.0], disable=True)
    slopes = 0.5 / (0.25 + 0.5**2), 1 / (0.25 + 1)  # of x, for normal data
    assert float(result) == pytest.approx((1 + 0.5 * slopes[0]) * (1 + slopes[1]))


def pair(x: torch.Tensor, sigma: torch.Tensor, **inputs: Any) -> Any:
    return exact(x, sigma), 0.9 * exact(x, sigma)


@each("name", SAMPLERS)
def test_every_sampler_runs(name: str) -> None:
    spec = _REGISTRY[name]
    model: Any = pair if spec.uncond else exact
    process = process_for(name)
    sigmas = levels(8) / (14.6 if process.is_flow else 1)
    x = float(sigmas[0]) * torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    told: list[dict[str, Any]] = []

    def run(**more: Any) -> torch.Tensor:
        how = {"disable": True, "process": process}
        result: torch.Tensor = function(name)(model, x, *arguments(name, sigmas), **how, **more)
        return result

    first = run(callback=told.append, seed=3)
    assert first.isfinite().all()
    assert first.shape == x.shape
    assert torch.equal(run(seed=[3, 4]), first)
    state = torch.random.get_rng_state()
    run(seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)  # with a seed the global generator is left alone
    assert [step["i"] for step in told] == list(range(len(told)))
    assert all({"x", "i", "sigma", "sigma_hat", "denoised"} <= step.keys() for step in told)
    if not spec.adaptive and name != "dpm_fast":
        assert 1 <= len(told) <= 8
    torch.manual_seed(4)
    again = run()
    torch.manual_seed(4)
    assert torch.equal(run(), again)


def test_one_plan_is_the_same_as_the_sampler() -> None:
    """A function runs the sampler of its name, by default in k-diffusion's dialect."""
    sigmas = levels(6, torch.float64)
    x = 14.6 * torch.randn(2, 3, dtype=torch.float64)
    for dialect in ("k_diffusion", "ksched", "comfyui"):
        sampler = ksched.build_sampler("dpmpp_3m_sde", sigmas=sigmas, dialect=dialect)
        expected = sampler.sample(exact, x, noise=lambda a, b: torch.ones(2, 3, dtype=torch.float64))
        ones = {"noise_sampler": lambda a, b: torch.ones_like(x), "disable": True}
        assert torch.equal(k_diffusion.sample_dpmpp_3m_sde(exact, x, sigmas, dialect=dialect, **ones), expected)
    flow = Flow(3.0)
    grid = torch.tensor([1.0, 0.8, 0.4, 0.0], dtype=torch.float64)
    result = k_diffusion.sample_dpmpp_2m(exact, x, grid, process=flow, dialect="ksched", disable=True)
    assert torch.equal(result, ksched.build_sampler("dpmpp_2m", sigmas=grid, process=flow).sample(exact, x))


def test_levels_are_run_as_given() -> None:
    """They need not begin at sigma_max or end at 0, and may be of any array type."""
    seen: list[float] = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(float(sigma[0]))
        return exact(x, sigma)

    x = torch.ones(1, 2)
    given = [9.1, 3.3, 3.2, 0.7]
    results = [
        k_diffusion.sample_euler(model, x, kind(given), disable=True)
        for kind in (list, tuple, np.array, lambda v: torch.tensor(v, dtype=torch.float64))
    ]
    assert all(torch.equal(result, results[0]) for result in results)
    assert seen == pytest.approx(given[:3] * 4)
    assert not torch.equal(results[0], x)


@pytest.mark.parametrize("few", [[], [3.0]])
def test_no_steps_return_the_start(few: list[float]) -> None:
    x = torch.ones(1, 2)
    assert torch.equal(k_diffusion.sample_euler(exact, x, torch.tensor(few)), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_models(dtype: torch.dtype) -> None:
    kinds = set()

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        kinds.add((x.dtype, sigma.dtype))
        return exact(x, sigma)

    x = (14.6 * torch.randn(2, 3)).to(dtype)
    result = k_diffusion.sample_euler_ancestral(model, x, levels(5), disable=True)
    assert result.dtype == dtype
    assert kinds == {(dtype, dtype)}


def test_gradients_are_not_recorded() -> None:
    x = torch.ones(1, 2, requires_grad=True)
    assert not k_diffusion.sample_heun(exact, x, levels(3), disable=True).requires_grad


def test_a_callback_may_end_the_run() -> None:
    class Interrupted(BaseException):
        pass

    told: list[int] = []

    def callback(step: dict[str, Any]) -> None:
        told.append(step["i"])
        if step["i"] == 2:
            raise Interrupted

    for name in ("dpmpp_2m", "dpm_adaptive"):
        told.clear()
        with pytest.raises(Interrupted):
            function(name)(exact, torch.ones(1, 2), *arguments(name, levels(8)), callback=callback)
        assert told == [0, 1, 2]


def test_what_callbacks_keep_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = torch.empty(1, 2)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return buffer.copy_(exact(x, sigma))  # a captured network writes over its own output

    for name in ("euler", "dpm_adaptive", "dpm_fast"):
        kept: list[dict[str, Any]] = []
        copies: list[dict[str, Any]] = []

        def callback(step: dict[str, Any], kept: Any = kept, copies: Any = copies) -> None:
            kept.append(step)
            copies.append(copy.deepcopy(step))

        function(name)(model, torch.ones(1, 2), *arguments(name, levels(5)), callback=callback, disable=True)
        for was, is_ in zip(copies, kept, strict=True):
            assert all(torch.equal(torch.as_tensor(was[key]), torch.as_tensor(is_[key])) for key in was)


# --------------------------------------------------------------------------------------------------------- progress bar


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    x = torch.ones(1, 2)
    k_diffusion.sample_heun(exact, x, levels(5), disable=False)
    assert "5/5" in capsys.readouterr().err
    k_diffusion.sample_dpm_fast(exact, x, 0.1, 10.0, 7, disable=False)
    assert "7/7" in capsys.readouterr().err
    _, info = k_diffusion.sample_dpm_adaptive(exact, x, 0.1, 10.0, disable=False, return_info=True)
    assert f"{info['nfe']}it" in capsys.readouterr().err
    k_diffusion.sample_euler(exact, x, levels(5), disable=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    k_diffusion.sample_euler(exact, x, levels(5), disable=False)
    assert capsys.readouterr().err == ""


# --------------------------------------------------------------------------------------------------------------- errors

GOOD = {"model": exact, "x": torch.ones(2, 3), "sigmas": levels()}
BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("euler", {"sigmas": [1.0, 2.0, 0.0]}, ValueError, r"strictly decreasing; got sigmas\[0\]=1.0, sigmas\[1\]=2.0"),
    ("euler", {"sigmas": [2.0, 1.0, 1.0, 0.0]}, ValueError, r"sigmas\[1\]=1.0, sigmas\[2\]=1.0"),
    ("euler", {"sigmas": [1.0, 3.0, 2.0]}, ValueError, r"sigmas\[0\]=1.0, sigmas\[1\]=3.0"),
    (
        "euler",
        {"sigmas": [0.0, 1.0]},
        ValueError,
        "sample_euler must run from a higher to a lower sigma; got 0.0 to 1.0",
    ),
    ("euler_ancestral", {"sigmas": [0.1, 1.0]}, ValueError, "use a sampler that draws no noise"),
    ("euler", {"sigmas": [2.0, math.nan, 0.0]}, ValueError, r"sigmas\[1\]=nan"),
    ("euler", {"sigmas": [2.0, 1.0, -0.1]}, ValueError, r"sigmas must be >= 0; got sigmas\[2\]=-0.1"),
    ("euler", {"sigmas": levels()[None]}, ValueError, "sigmas must be one list of numbers; got shape"),
    ("euler", {"sigmas": "karras"}, TypeError, "sigmas must be a tensor or a list of numbers; got 'karras'"),
    ("euler", {"x": [1.0]}, TypeError, "x must be a torch tensor; got list"),
    ("euler", {"x": torch.ones(2, dtype=torch.int64)}, TypeError, "floating-point tensor; got torch.int64"),
    ("euler", {"model": None}, TypeError, "model must be callable; got NoneType"),
    ("euler", {"callback": 3}, TypeError, "callback must be callable; got int"),
    ("euler", {"extra_args": 3}, TypeError, "extra_args must be a dictionary or None; got int"),
    ("euler", {"s_churn": -1.0}, ValueError, "sampler euler: s_churn must be a finite number of at least 0; got -1.0"),
    ("euler", {"eta": 1.0}, TypeError, "sample_euler: got an unexpected keyword argument 'eta'"),
    ("euler", {"seed": 0.5}, TypeError, "seed must be a whole number or one per batch item; got 0.5"),
    ("euler", {"seed": [1]}, ValueError, "got 1 seeds for a batch of 2"),
    ("euler_ancestral", {"eta": "much"}, TypeError, "eta must be a number; got 'much'"),
    ("euler_ancestral", {"eta": [1.0]}, ValueError, "one for each of the 8 steps; got 1 numbers"),
    ("euler_ancestral", {"noise_sampler": 1}, TypeError, "noise_sampler must be callable; got int"),
    ("euler_ancestral", {"noise_sampler": exact, "seed": 1}, ValueError, "pass either seed or noise_sampler, not both"),
    ("dpmpp_2m_sde", {"solver_type": "euler"}, ValueError, "solver_type must be one of 'midpoint', 'heun'"),
    ("lms", {"order": 0}, ValueError, "order must be at least 1 and at most 8; got 0"),
    ("euler", {"dialect": "nobody"}, ValueError, "unknown dialect 'nobody'"),
    ("euler", {"process": "vp"}, TypeError, "process must be a ksched process"),
]


@pytest.mark.parametrize(("name", "wrong", "kind", "text"), BAD, ids=lambda v: v if isinstance(v, str) else None)
def test_mistakes_show_before_the_first_model_call(
    name: str, wrong: dict[str, Any], kind: type[Exception], text: str
) -> None:
    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model was called")

    with pytest.raises(kind, match=text):
        function(name)(**{**GOOD, "model": model, **wrong})


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("dpm_fast", (0.0, 10.0, 5), "first sigma, must be above 0, finite and different; got 0.0 and 10.0"),
        ("dpm_fast", (10.0, 10.0, 5), "sample_dpm_fast: sigma_min and sigma_max, the last and first sigma, must be"),
        ("dpm_fast", (0.1, 10.0, 0), "steps must be at least 1; got 0"),
        (
            "dpm_adaptive",
            (0.1, math.inf),
            "sample_dpm_adaptive: sigma_min and sigma_max, the last and first sigma, must be above 0",
        ),
        ("dpm_adaptive", (10.0, 0.1), "sample_dpm_adaptive must run from a higher to a lower sigma; got 0.1 to 10.0"),
    ],
)
def test_mistakes_of_ranges(name: str, given: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        function(name)(exact, torch.ones(1, 2), *given)
    with pytest.raises(ValueError, match="order must be at least 2 and at most 3; got 4"):
        k_diffusion.sample_dpm_adaptive(exact, torch.ones(1, 2), 0.1, 10.0, order=4)


def test_ranges_may_come_as_tensors() -> None:
    x, sigmas = torch.ones(1, 2), levels(4, torch.float64)
    for name in ("dpm_fast", "dpm_adaptive"):
        n = (4,) if name == "dpm_fast" else ()
        numbers = function(name)(exact, x, float(sigmas[-2]), float(sigmas[0]), *n, disable=True)
        assert torch.equal(function(name)(exact, x, sigmas[-2], sigmas[0], *n, disable=True), numbers)


def test_a_live_run_tells_its_state() -> None:
    x = torch.ones(1, 2, dtype=torch.float64)
    run = ksched.build_sampler("dpm_adaptive", sigmas=[10.0, 0.1]).start(x)
    assert isinstance(run, AdaptiveRun)
    assert (run.state.accepted, run.state.error) == (0, 0.0)
    while run.step < 1:
        run.feed(exact(run.x, run.sigma))
    assert run.state.accepted + run.state.rejected == 1
    assert 0 < run.state.error < 10


# ------------------------------------------------------------------------------------------------------------ schedules


PUBLISHED = [case for case in read("kdiffusion_schedules")["cases"] if f"get_sigmas_{case['kind']}" in SIGNATURES]


@pytest.mark.parametrize("kind", ["karras", "exponential", "polyexponential", "vp"])
def test_recorded_schedules(kind: str) -> None:
    cases = [case for case in PUBLISHED if case["kind"] == kind]
    assert len(cases) >= 14
    made = getattr(k_diffusion, f"get_sigmas_{kind}")
    for case in cases:
        given = {key: case[key] for key in inspect.signature(made).parameters if key in case}
        sigmas = made(**given)
        assert sigmas.dtype == torch.float32
        np.testing.assert_allclose(sigmas, case["sigmas_f64"], rtol=1e-7)  # of one rounding; k-diffusion's have more
        with default_dtype(torch.float64):
            np.testing.assert_allclose(made(*given.values()), case["sigmas_f64"], rtol=1e-9)


def test_schedules_against_the_file(original: ModuleType) -> None:
    with default_dtype(torch.float64):
        for n in (1, 2, 7, 30):
            for name, more in {"karras": {"rho": 5.0}, "exponential": {}, "polyexponential": {"rho": 0.8}}.items():
                for options in ({}, more):
                    ours = getattr(k_diffusion, f"get_sigmas_{name}")(n, 0.0292, 14.6, **options)
                    theirs = getattr(original, f"get_sigmas_{name}")(n, 0.0292, 14.6, **options)
                    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
            torch.testing.assert_close(k_diffusion.get_sigmas_vp(n), original.get_sigmas_vp(n), rtol=1e-9, atol=0)


@each("schedule", NoiseSchedule)
def test_every_schedule_in_a_hosts_form(schedule: NoiseSchedule) -> None:
    made = getattr(k_diffusion, f"get_sigmas_{schedule.value}")
    shown = inspect.signature(made).parameters
    wrapper = discrete()
    low, high = float(wrapper.sigmas[0]), float(wrapper.sigmas[-1])
    given: dict[str, Any] = {"n": 7, "sigma_min": low, "sigma_max": high, "device": torch.device("cpu")}
    if "inner_model" in shown:
        given["inner_model"] = wrapper
    given = {key: value for key, value in given.items() if key in shown}
    sigmas = made(**given)
    assert sigmas.shape == (8,)
    assert sigmas.dtype == torch.float32
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0
    if "inner_model" in shown:  # a flow model gets levels of a flow
        flow = SimpleNamespace(inner_model=SimpleNamespace(sigmas=torch.tensor(Flow(3.0).sigmas)))
        assert made(7, None, None, inner_model=flow)[0] <= 1
    with pytest.raises(TypeError, match=f"get_sigmas_{schedule.value}: missing a required argument"):
        made()


# ------------------------------------------------------------------------------------------------------ Brownian noise


def test_brownian_noise_is_a_path() -> None:
    x = torch.zeros(2, 50000, dtype=torch.float64)
    noise = BrownianTreeNoiseSampler(x, 0.03, 14.6, seed=[1, 9])
    a, b, c = 14.6, 5.0, 1.2
    first, second, whole = noise(a, b), noise(b, c), noise(a, c)
    for value in (first, second, whole):
        assert value.shape == x.shape
        assert value.dtype == x.dtype
        assert abs(float(value.mean())) < 0.02
        assert float(value.std()) == pytest.approx(1, abs=0.02)
    assert abs(float((first * second).mean())) < 0.02
    # rounded to cells of 3 % in sigma, the parts are those of the whole
    parts = (first * math.sqrt(a - b) + second * math.sqrt(b - c)) / math.sqrt(a - c)
    assert float((parts * whole).mean()) > 0.99
    assert torch.equal(noise(b, a), -first)
    assert torch.equal(noise(torch.tensor(a), torch.tensor(b)), first)
    assert torch.equal(BrownianTreeNoiseSampler(x[1:], 0.03, 14.6, seed=9)(a, b), first[1:])
    assert torch.equal(BrownianTreeNoiseSampler(x, 0.03, 14.6, seed=1)(a, b)[0], first[0])


def test_the_path_runs_in_the_time_of_the_transform() -> None:
    x = torch.zeros(1, 50000)
    linear = BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=2)
    logs = BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=2, transform=lambda sigma: sigma.log())
    for noise, share in ((linear, 9 / 9.9), (logs, 0.5)):
        assert float((noise(10.0, 1.0) * noise(10.0, 0.1)).mean()) == pytest.approx(math.sqrt(share), abs=0.02)


def test_a_seed_comes_from_the_global_generator() -> None:
    x = torch.zeros(1, 4)
    made = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        made.append(BrownianTreeNoiseSampler(x, 0.1, 10.0)(10.0, 1.0))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    with pytest.raises(ValueError, match="got 2 seeds for a batch of 1"):
        BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=[1, 2])


# --------------------------------------------------------------------------------------------------------------- models


def discrete(sigmas: Any = None) -> Any:
    """A wrapper as k-diffusion's of discrete models."""
    table = torch.tensor(VP().sigmas if sigmas is None else sigmas, dtype=torch.float32)
    return SimpleNamespace(
        sigmas=table,
        sigma_to_t=lambda sigma: VP().timestep(sigma),
        t_to_sigma=lambda t: VP().sigma(t),
        get_sigmas=lambda n: torch.tensor(ksched.calculate_sigmas("normal", n), dtype=torch.float32),
        inner_model=None,
    )


def test_processes_of_wrappers() -> None:
    process = process_of(SimpleNamespace(inner_model=SimpleNamespace(inner_model=discrete())))
    assert isinstance(process, VP)
    np.testing.assert_allclose(process.sigmas, VP().sigmas, rtol=1e-5)
    v_model = SimpleNamespace(sigma_to_t=lambda s: s.atan() / math.pi * 2, t_to_sigma=lambda t: (t * math.pi / 2).tan())
    assert isinstance(process_of(v_model), AngleV)
    karras = SimpleNamespace(sigma_data=0.7, get_scalings=lambda sigma: None)
    assert process_of(karras) == EDM(sigma_data=0.7)
    flow = process_of(discrete(Flow(3.0).sigmas))
    assert isinstance(flow, Flow)
    assert flow.shift == pytest.approx(3.0, rel=1e-4)
    assert process_of(ksched.Denoiser(exact, Flow(2.0), "flow")) == Flow(2.0)
    assert process_of(VP.cosine()) == VP.cosine()
    assert process_of(exact) is None
    assert process_of(discrete([3.0, 2.0, 1.0])) is None

    class NotReady:
        @property
        def inner_model(self) -> Any:
            raise NotImplementedError

    assert process_of(NotReady()) is None


def test_a_sampler_that_reads_the_table_reads_the_models() -> None:
    wrapper = discrete(VP.linear().sigmas)
    model = type("Model", (), {"inner_model": wrapper, "__call__": lambda self, x, sigma: exact(x, sigma)})()
    x, sigmas = torch.ones(1, 2), levels(5)
    ones = {"noise_sampler": lambda a, b: torch.ones_like(x), "disable": True}
    own = k_diffusion.sample_tcd(model, x, sigmas, **ones)
    assert not torch.allclose(own, k_diffusion.sample_tcd(exact, x, sigmas, **ones))
    torch.testing.assert_close(own, k_diffusion.sample_tcd(exact, x, sigmas, process=VP.linear(), **ones))


def test_likelihood() -> None:
    x = torch.tensor([[0.0], [0.7], [-1.5]], dtype=torch.float64)
    value, info = log_likelihood(lambda x, sigma, scale: scale * exact(x, sigma), x, 1e-3, 80.0, {"scale": 1.0})
    variance = 0.25 + 1e-6
    expected = (-(x**2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)).sum(1)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=2e-3)
    assert info["fevals"] > 10


# ------------------------------------------------------------------------------------------------------ A1111 and Forge
EXTENSION = Path(k_diffusion.__file__).parent / "extension" / "scripts" / "ksched_menus.py"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """The program, with our extension loaded from its file as it loads it."""
    found = Host(discrete(), exact)
    for name, module in found.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    exec(compile(EXTENSION.read_text(encoding="utf-8"), str(EXTENSION), "exec"), {})
    return found


def test_the_extension_registers_what_runs(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = [data for data in host.menu.all_samplers if data.name.startswith("ksched ")]
    left_out = {spec.name for spec in samplers() if spec.uncond or spec.flow_only}
    assert {data.name.removeprefix("ksched ") for data in new} == {"auto", *SAMPLERS} - left_out
    # a host draws by its own randn_like, so that an image in a batch is the image alone
    drawn: list[torch.Size] = []

    def randn_like(x: torch.Tensor) -> torch.Tensor:
        drawn.append(x.shape)
        return torch.ones_like(x)

    sampling: Any = ModuleType("k_diffusion.sampling")
    sampling.torch = SimpleNamespace(randn_like=randn_like)
    monkeypatch.setitem(sys.modules, "k_diffusion.sampling", sampling)
    sigmas = host.levels(host.schedulers.schedulers_map["ksched karras"], 4)
    for data in new:
        assert host.menu.all_samplers_map[data.name] is data
        assert host.menu.samplers_map[data.name.lower()] == data.name
        own = data.options.get("scheduler")
        given = host.levels(host.schedulers.schedulers_map[own], 4) if own else sigmas
        sampler = data.constructor(SimpleNamespace())
        result = sampler.sample(given[0] * torch.ones(1, 4, 2, 2), given, None)
        assert result.isfinite().all(), data.name
        if not any(spec.adaptive for spec in samplers() if f"ksched {spec.name}" == data.name):
            assert sampler.told == sorted(set(sampler.told)), data.name
    assert drawn
    capsys.readouterr()


def test_the_extension_registers_schedules_with_levels_for_any_steps(host: Host) -> None:
    new = [scheduler for scheduler in host.schedulers.schedulers if scheduler.name.startswith("ksched_")]
    assert len(new) >= len(NoiseSchedule) - 1
    for scheduler in new:
        found = host.schedulers.schedulers_map
        assert found[scheduler.name] is found[scheduler.label] is scheduler
        for steps in (1, 7):
            sigmas = host.levels(scheduler, steps)
            assert len(sigmas) >= steps + 1, scheduler.name
            assert (sigmas.diff() < 0).all(), scheduler.name
            assert sigmas[0] <= host.denoiser.sigmas[-1] * (1 + 1e-5), scheduler.name


def test_the_extension_adds_nothing_twice_and_replaces_nothing(host: Host) -> None:
    before = (list(host.menu.all_samplers), list(host.schedulers.schedulers))
    assert register() == []
    assert (host.menu.all_samplers, host.schedulers.schedulers) == before
    assert host.menu.all_samplers[0].name == "Euler"


def test_the_extension_is_installed_and_taken_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["install", str(tmp_path)]) == 2
    assert "must contain a folder extensions" in capsys.readouterr().err
    other = tmp_path / "extensions" / "other" / "scripts" / "a.py"
    other.parent.mkdir(parents=True)
    other.write_text("")
    assert command.main(["install", str(tmp_path)]) == 0
    folder = tmp_path / "extensions" / "ksched"
    assert capsys.readouterr().out == f"{folder}\n"
    assert (folder / "scripts" / EXTENSION.name).read_bytes() == EXTENSION.read_bytes()
    assert command.main(["uninstall", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"removed {folder / 'scripts' / EXTENSION.name}\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [other]
    assert command.main(["uninstall", str(tmp_path)]) == 2
    assert "nothing that ksched wrote" in capsys.readouterr().err


def test_a_range_that_is_not_the_models_is_heeded() -> None:
    """Programs hand the model's own range on, rounded; any other is a choice."""
    own = ksched.VP()
    rounded = k_diffusion.get_sigmas_normal(5, own.sigma_min * (1 + 1e-6), own.sigma_max, inner_model=own)
    assert torch.equal(rounded, k_diffusion.get_sigmas_normal(5, own.sigma_min, own.sigma_max, inner_model=own))
    chosen = k_diffusion.get_sigmas_normal(5, 2 * own.sigma_min, own.sigma_max, inner_model=own)
    assert chosen[-2].item() == pytest.approx(2 * own.sigma_min, rel=1e-5)


# ------------------------------------------------------------------------------------- row 26: beside the samplers
PIECES = """BatchedBrownianTree BrownianTreeNoiseSampler DPMSolver PIDStepSizeController append_zero
default_noise_sampler get_ancestral_step linear_multistep_coeff to_d"""


def test_row_26_everything_that_programs_import_is_there(original: ModuleType) -> None:
    public = {name for name, thing in vars(original).items() if getattr(thing, "__module__", "") == original.__name__}
    assert set(PIECES.split()) <= public
    missing = {name for name in public if not hasattr(k_diffusion, name)}
    assert not missing
    assert set(PIECES.split()) <= set(dir(k_diffusion))
    assert set(PIECES.split()) <= set(k_diffusion.__all__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_row_26_functions(original: ModuleType, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, denoised = torch.randn(3, 2, 4, 4, dtype=dtype), torch.randn(3, 2, 4, 4, dtype=dtype)
    sigma = torch.tensor([14.0, 3.0, 0.1], dtype=dtype)
    for s in (sigma, sigma[0]):
        torch.testing.assert_close(
            k_diffusion.to_d(x, s, denoised), original.to_d(x, s, denoised), rtol=1e-6, atol=1e-6
        )
    torch.testing.assert_close(k_diffusion.append_zero(sigma), original.append_zero(sigma), rtol=0, atol=0)
    assert k_diffusion.append_dims(sigma, 4).shape == (3, 1, 1, 1)
    with pytest.raises(ValueError, match="target_dims must be at least the number of axes, 4"):
        k_diffusion.append_dims(x, 2)
    for eta in (0.0, 0.3, 1.0, 1.7):
        for before, after in ((14.0, 9.0), (1.0, 0.9), (0.1, 0.03), (3.0, 0.0)):
            for kind in (float, lambda value: torch.tensor(value, dtype=dtype)):
                ours, theirs = (m.get_ancestral_step(kind(before), kind(after), eta) for m in (k_diffusion, original))
                np.testing.assert_allclose(np.array(ours, float), np.array(theirs, float), rtol=1e-6, atol=1e-6)
    noise = (m.default_noise_sampler(x) for m in (k_diffusion, original))
    drawn = []
    for sampler in noise:
        torch.manual_seed(3)
        drawn.append(sampler(2.0, 1.0))
    assert torch.equal(*drawn)


def test_row_26_multistep_weights(original: ModuleType) -> None:
    t = levels(12, torch.float64).numpy()
    for i in range(11):
        for order in range(1, min(i + 1, 6) + 1):
            for j in range(order):
                ours, theirs = (m.linear_multistep_coeff(order, t, i, j) for m in (k_diffusion, original))
                assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    with pytest.raises(ValueError, match="order must be at most 1 in step 0"):
        k_diffusion.linear_multistep_coeff(2, t, 0, 0)


def test_row_26_step_sizes(original: ModuleType) -> None:
    errors = np.random.default_rng(0).lognormal(0, 2, 40)
    for given in ((0.0, 1.0, 0.0), (0.2, 0.7, 0.1), (1.0, 0.3, 0.0, 3, 0.9)):
        ours, theirs = (m.PIDStepSizeController(0.05, *given) for m in (k_diffusion, original))
        for error in errors:
            assert ours.propose_step(error) == theirs.propose_step(error)
            assert ours.h == pytest.approx(theirs.h, rel=1e-12)
            np.testing.assert_allclose(ours.errs, theirs.errs, rtol=1e-12)
        assert ours.limiter(2.0) == theirs.limiter(2.0)


def test_row_26_brownian_trees() -> None:
    x = torch.zeros(4, 20_000, dtype=torch.float64)
    tree = k_diffusion.BatchedBrownianTree(x, 0.0, 10.0, seed=[1, 2, 3, 4], w0=x, tol=1e-6)
    whole, parts = tree(1.0, 9.0), [tree(a, a + 2.0) for a in (1.0, 3.0, 5.0, 7.0)]
    assert float((whole - sum(parts)).std()) < 0.05 * float(whole.std())  # ends are rounded to 3 % of the time
    assert float(whole.var()) == pytest.approx(8, rel=0.03)
    assert torch.equal(tree(9.0, 1.0), -whole)
    assert torch.equal(k_diffusion.BatchedBrownianTree(x[1:2], 0.0, 10.0, seed=2)(1.0, 9.0), whole[1:2])
    sampler = k_diffusion.BrownianTreeNoiseSampler(x, 0.0, 10.0, seed=[1, 2, 3, 4])
    assert isinstance(sampler.tree, k_diffusion.BatchedBrownianTree)
    assert torch.allclose(sampler(1.0, 9.0), whole / 8**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_row_26_dpm_solver(original: ModuleType, dtype: torch.dtype) -> None:
    x = 3 * torch.randn(2, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    calls: list[int] = []

    def model(x: torch.Tensor, sigma: torch.Tensor, scale: float) -> torch.Tensor:
        return scale * torch.tanh(x) / (1 + sigma[:, None])

    made: list[Any] = [m.DPMSolver(model, {"scale": 0.7}, lambda: calls.append(1)) for m in (k_diffusion, original)]
    ours, theirs = made
    assert isinstance(made[0], torch.nn.Module)
    t, later = ours.t(torch.tensor(3.0, dtype=dtype)), ours.t(torch.tensor(1.2, dtype=dtype))
    assert float(ours.sigma(t)) == pytest.approx(3, rel=1e-6)
    for name, options in (
        ("dpm_solver_1_step", {}),
        ("dpm_solver_2_step", {}),
        ("dpm_solver_2_step", {"r1": 1 / 3}),
        ("dpm_solver_3_step", {}),
        ("dpm_solver_3_step", {"r1": 0.25, "r2": 0.8}),
    ):
        for start, end in ((t, later), (later, t)):
            (a, cache), (b, known) = (getattr(m, name)(x, start, end, **options) for m in (ours, theirs))
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
            assert cache.keys() == known.keys()
            again, _ = getattr(ours, name)(x, start, end, **options, eps_cache=cache)
            assert torch.equal(again, a)
    rough = 1e-5 if dtype is torch.float32 else 1e-6  # the levels of the original are float32
    for nfe in (3, 7, 8):
        told: list[list[Any]] = [[], []]
        results = []
        for m, into in ((ours, told[0]), (theirs, told[1])):
            calls.clear()
            m.info_callback = into.append
            results.append(m.dpm_solver_fast(x, t, later, nfe))
            assert len(calls) == nfe
        torch.testing.assert_close(*results, rtol=rough, atol=rough)
        assert [step["i"] for step in told[0]] == [step["i"] for step in told[1]]
        up = [m.dpm_solver_fast(x, later, t, nfe) for m in (ours, theirs)]
        torch.testing.assert_close(*up, rtol=rough, atol=rough)
    (a, counts), (b, known_counts) = (m.dpm_solver_adaptive(x, t, later, order=3) for m in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-3 if dtype is torch.float32 else 1e-5, atol=1e-4)
    assert counts == known_counts
