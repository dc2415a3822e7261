"""The samplers of k-diffusion, diffusers and ComfyUI as contenders, with the same start, model and sigmas for all.

Each program is loaded only as far as its sampling needs, with stubs for its other imports; a program that is missing
is left out. A run of diffusers is the loop of its pipelines without the pipeline. What a user does once before the
loop (`set_timesteps`, `set_begin_index`) is not timed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from _measure import Contender

from ksched import Sampler

Model = Callable[..., Any]


@dataclass(frozen=True)
class Job:
    """The input of all contenders: a start state, a model that does almost no work, and the noise levels.

    Attributes
    ----------
    x : start state
    model : ``(x, sigma, **anything) -> denoised``
    both : the same for samplers that take (denoised, uncond)
    sigmas : host levels, the last 0
    """

    x: torch.Tensor
    model: Model
    both: Model
    sigmas: Sequence[float]

    @property
    def steps(self) -> int:
        """Number of steps of the run."""
        return len(self.sigmas) - 1


def counted(run: Callable[[Model], object], model: Model) -> int:
    """Model calls of a run."""
    calls = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return model(*args, **kwargs)

    run(counting)
    return calls


# ---------------------------------------------------------------------------------------------------------- k-diffusion


@contextmanager
def _modules(stubs: Mapping[str, ModuleType]) -> Iterator[None]:
    """Stub modules that exist while others are imported."""
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _absent(names: Sequence[str]) -> dict[str, ModuleType]:
    """Stubs of modules that are not installed; nothing in them is called."""
    stubs = {name: ModuleType(name) for name in names if importlib.util.find_spec(name) is None}
    for stub in stubs.values():
        stub.odeint = None  # type: ignore[attr-defined]
    return stubs


def _from_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no Python file: {path.name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _append_dims(x: torch.Tensor, ndim: int) -> torch.Tensor:
    return x[(...,) + (None,) * (ndim - x.ndim)]


def k_diffusion_sampling(path: Path | None) -> ModuleType:
    """k-diffusion's sampling.py alone, installed or at a path: the whole package imports its training code.

    Raises
    ------
    ImportError, OSError : if it cannot be found
    """
    if path is None:
        spec = importlib.util.find_spec("k_diffusion")
        if spec is None or spec.origin is None:
            raise ImportError("k-diffusion is not installed and no path to its sampling.py is given")
        path = Path(spec.origin).with_name("sampling.py")
    package, utils = ModuleType("k_diffusion_alone"), ModuleType("k_diffusion_alone.utils")
    package.__path__ = []
    utils.append_dims = _append_dims  # type: ignore[attr-defined]
    stubs = {module.__name__: module for module in (package, utils)}
    with _modules({**stubs, **_absent(["torchdiffeq", "torchsde"])}):
        return _from_file("k_diffusion_alone.sampling", path)


#: Samplers that use a Brownian tree by default.
TREES = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")
K_DIFFUSION = [
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
]


#: Names of contenders; a cell of the tables may have fewer.
OURS, OURS_GIVEN = "ksched", "ksched, noise given"
KDIFF, KDIFF_GIVEN, KDIFF_TREE = "k-diffusion", "k-diffusion, noise given", "k-diffusion, tree"
DIFF, DIFF_STEP, COMFY = "diffusers", "diffusers, step", "ComfyUI"


def _given(x: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The same noise for every interval, at no cost."""
    noise = torch.randn_like(x)
    return lambda sigma, sigma_next: noise


def _white(x: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The cheapest noise there is, as a noise sampler."""
    return lambda sigma, sigma_next: torch.randn_like(x)


def k_diffusion(sampling: ModuleType, name: str, job: Job, trees: bool) -> Iterator[Contender]:
    """The contenders from k-diffusion for a ksched sampler."""
    if name not in K_DIFFUSION:
        return
    function = getattr(sampling, "sample_" + name.removesuffix("_heun"))
    options: dict[str, Any] = {"disable": True}
    if name == "dpmpp_2m_sde_heun":
        options["solver_type"] = "heun"
    levels: tuple[Any, ...] = (torch.tensor(job.sigmas, dtype=torch.float32, device=job.x.device),)
    if name in ("dpm_fast", "dpm_adaptive"):
        levels = (job.sigmas[-2], job.sigmas[0], *([job.steps] if name == "dpm_fast" else []))

    def contender(title: str, slow: bool = False, **more: Any) -> Contender:
        calls = counted(lambda model: function(model, job.x, *levels, **options, **more), job.model)
        return Contender(title, lambda: lambda: function(job.model, job.x, *levels, **options, **more), calls, slow)

    tree = name in TREES
    yield contender(KDIFF, **({"noise_sampler": _white(job.x)} if tree else {}))
    if tree or name.endswith("_ancestral"):
        yield contender(KDIFF_GIVEN, noise_sampler=_given(job.x))
    if tree and trees and hasattr(getattr(sampling, "torchsde", None), "BrownianTree"):
        yield contender(KDIFF_TREE, slow=True)


# ------------------------------------------------------------------------------------------------------------ diffusers

_TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_KARRAS = {**_TABLE, "use_karras_sigmas": True}
_MULTI = "DPMSolverMultistepScheduler"
#: Class and configuration; classes without Karras levels run as many levels of their own. Orders match our defaults.
DIFFUSERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", _KARRAS),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", _TABLE),
    "heun": ("HeunDiscreteScheduler", _KARRAS),
    "dpm_2": ("KDPM2DiscreteScheduler", _KARRAS),
    "dpm_2_ancestral": ("KDPM2AncestralDiscreteScheduler", _KARRAS),
    "lms": ("LMSDiscreteScheduler", _KARRAS),
    "dpmpp_2m": (_MULTI, _KARRAS),
    "dpm_multistep": (_MULTI, {**_KARRAS, "solver_order": 3}),
    "dpmpp_2m_sde": (_MULTI, {**_KARRAS, "algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2m_sde_heun": (_MULTI, {**_KARRAS, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
    "dpmpp_3m_sde": (_MULTI, {**_KARRAS, "algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    "dpm_singlestep": ("DPMSolverSinglestepScheduler", {**_KARRAS, "solver_order": 3}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", _KARRAS),
    "deis": ("DEISMultistepScheduler", {**_KARRAS, "solver_order": 3}),
    "uni_pc": ("UniPCMultistepScheduler", {**_KARRAS, "solver_order": 3, "solver_type": "bh1"}),
    "uni_pc_bh2": ("UniPCMultistepScheduler", {**_KARRAS, "solver_order": 3, "solver_type": "bh2"}),
    "sa_solver": ("SASolverScheduler", {**_KARRAS, "predictor_order": 3, "corrector_order": 4}),
    "ipndm": ("IPNDMScheduler", {}),
    "pndm": ("PNDMScheduler", {**_TABLE, "skip_prk_steps": True}),
    "ddim": ("DDIMScheduler", {**_TABLE, "clip_sample": False}),
    "ddpm": ("DDPMScheduler", {**_TABLE, "clip_sample": False}),
    "lcm": ("LCMScheduler", _TABLE),
    "tcd": ("TCDScheduler", _TABLE),
}
#: Classes that take no denoised prediction.
_EPS_ONLY = [
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "IPNDMScheduler",
    "PNDMScheduler",
]


def diffusers_library() -> ModuleType:
    """The package, with its warnings about settings turned off.

    Raises
    ------
    ImportError : if it is not installed
    """
    library = importlib.import_module("diffusers")
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    return library


def diffusers(library: ModuleType, name: str, job: Job, trees: bool) -> Iterator[Contender]:
    """Yield diffusers' contenders for a ksched sampler: the loop of its pipelines, and the least possible work.

    A pipeline scales the model's input, and the scheduler turns the eps that the model predicts into a denoised
    prediction. Ours and k-diffusion's samplers leave both to the denoiser, so the second contender does neither: it
    calls `step` alone, with a denoised prediction where the scheduler takes one.
    """
    if name not in DIFFUSERS:
        return
    class_name, configuration = DIFFUSERS[name]
    slow = class_name == "DPMSolverSDEScheduler"
    if slow and not (trees and importlib.util.find_spec("torchsde")):
        return

    def contender(title: str, scaled: bool, **more: Any) -> Contender:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = getattr(library, class_name)(**configuration, **more)

        def prepare(model: Model) -> Callable[[], object]:
            scheduler.set_timesteps(job.steps, device=job.x.device)
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(0)
            scheduler.is_scale_input_called = True  # else `step` warns each time
            timesteps = scheduler.timesteps

            def pipeline() -> object:
                x = job.x
                for t in timesteps:
                    x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, return_dict=False)[0]
                return x

            def alone() -> object:
                x = job.x
                for t in timesteps:
                    x = scheduler.step(model(x, t), t, x, return_dict=False)[0]
                return x

            return pipeline if scaled else alone

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calls = counted(lambda model: prepare(model)(), job.model)
        return Contender(title, lambda: prepare(job.model), calls, slow)

    yield contender(DIFF, scaled=True)
    if not slow:
        yield contender(DIFF_STEP, scaled=False, **({} if class_name in _EPS_ONLY else {"prediction_type": "sample"}))


# -------------------------------------------------------------------------------------------------------------- ComfyUI


class _Const:
    """Stands for ComfyUI's class of flow models; this model is not one."""


def comfyui_sampling(path: Path) -> dict[str, Callable[..., Any]]:
    """ComfyUI's samplers by name, from a checkout; only its sampling files are loaded.

    Raises
    ------
    ImportError, OSError : if it cannot be found
    """

    def set_post_cfg(options: dict[str, Any], function: Any, disable_cfg1_optimization: bool = False) -> dict[str, Any]:
        return {**options, "post": [*options.get("post", []), function]}

    package = ModuleType("comfy")
    package.__path__ = [str(path / "comfy")]
    patcher, sampling = ModuleType("comfy.model_patcher"), ModuleType("comfy.model_sampling")
    patcher.set_model_options_post_cfg_function = set_post_cfg  # type: ignore[attr-defined]
    sampling.CONST = _Const  # type: ignore[attr-defined]
    package.model_patcher, package.model_sampling = patcher, sampling  # type: ignore[attr-defined]
    utils = ModuleType("comfy.k_diffusion.utils")
    utils.append_dims = _append_dims  # type: ignore[attr-defined]
    stubs = {module.__name__: module for module in (package, patcher, sampling, utils)}
    with _modules({**stubs, **_absent(["torchsde"])}):
        made = importlib.import_module("comfy.k_diffusion.sampling")
        uni_pc = importlib.import_module("comfy.extra_samplers.uni_pc")
    found = {name.removeprefix("sample_"): value for name, value in vars(made).items() if name.startswith("sample_")}
    return {**found, "uni_pc": uni_pc.sample_unipc, "uni_pc_bh2": uni_pc.sample_unipc_bh2}


class _ComfyModel:
    """A model as ComfyUI's samplers see it."""

    def __init__(self, model: Model, both: Model) -> None:
        part = SimpleNamespace(
            noise_scaling=lambda sigma, noise, x, *_: x + sigma * noise,
            percent_to_sigma=lambda percent: 14.6 * (1 - percent),
        )
        self.model_patcher = SimpleNamespace(get_model_object=lambda name: part)
        self.inner_model = SimpleNamespace(
            model_patcher=self.model_patcher, inner_model=SimpleNamespace(model_sampling=part), model_sampling=part
        )
        self._model, self._both = model, both

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, model_options: Any = None, **more: Any) -> torch.Tensor:
        if not model_options:
            return self._model(x, sigma)
        denoised, uncond = self._both(x, sigma)
        for function in model_options["post"]:
            function({"denoised": denoised, "uncond_denoised": uncond})
        return denoised


def comfyui(samplers: Mapping[str, Callable[..., Any]], name: str, job: Job) -> Iterator[Contender]:
    """The contenders from ComfyUI for a ksched sampler."""
    own = {"ddim": "euler"}.get(name, name)
    if own not in samplers or name == "dpm_adaptive":
        return
    function = samplers[own]
    levels: Sequence[Any] = (torch.tensor(job.sigmas, dtype=torch.float32, device=job.x.device),)
    if own == "dpm_fast":
        levels = (job.sigmas[-2], job.sigmas[0], job.steps)

    def run(model: Model, **more: Any) -> object:
        copies = [level.clone() if isinstance(level, torch.Tensor) else level for level in levels]
        comfy = _ComfyModel(model, lambda x, sigma: (model(x, sigma), job.both(x, sigma)[1]))
        return function(comfy, job.x.clone(), *copies, extra_args={}, disable=True, **more)

    more = {"noise_sampler": _white(job.x)} if "noise_sampler" in inspect.signature(function).parameters else {}
    calls = counted(lambda model: run(model, **more), job.model)
    yield Contender(COMFY, lambda: lambda: run(job.model, **more), calls)


# ---------------------------------------------------------------------------------------------------------- all of them


def ours(sampler: Sampler, job: Job) -> Iterator[Contender]:
    """ksched's contenders; a stochastic sampler also runs with precomputed noise, to time its arithmetic alone."""
    model = job.both if sampler.spec.uncond else job.model
    noisy = not sampler.spec.adaptive and bool(sampler.plan.draws)
    seed: dict[str, Any] = {"seed": 0} if noisy else {}
    calls = counted(lambda m: sampler.sample(m, job.x, **seed), model)
    yield Contender(OURS, lambda: lambda: sampler.sample(model, job.x, **seed), calls)
    if noisy:
        given = _given(job.x)
        yield Contender(OURS_GIVEN, lambda: lambda: sampler.sample(model, job.x, noise=given), calls)


@dataclass(frozen=True)
class Programs:
    """The programs found, and why the others are missing."""

    k_diffusion: ModuleType | None = None
    diffusers: ModuleType | None = None
    comfyui: Mapping[str, Callable[..., Any]] | None = None
    absent: Sequence[str] = ()

    def contenders(self, name: str, job: Job, trees: bool) -> Iterator[Contender]:
        """All contenders for a ksched sampler; with ``trees`` also Brownian trees, which are slow."""
        if self.k_diffusion is not None:
            yield from k_diffusion(self.k_diffusion, name, job, trees)
        if self.diffusers is not None:
            yield from diffusers(self.diffusers, name, job, trees)
        if self.comfyui is not None:
            yield from comfyui(self.comfyui, name, job)


def find_programs(k_diffusion: Path | None, comfyui: Path | None) -> Programs:
    """Load the available programs, from the paths in the benchmark's arguments."""
    loaders: dict[str, Callable[[], Any]] = {
        "k_diffusion": lambda: k_diffusion_sampling(k_diffusion),
        "diffusers": diffusers_library,
    }
    if comfyui is not None:
        loaders["comfyui"] = lambda: comfyui_sampling(comfyui)
    found, absent = {}, []
    for name, load in loaders.items():
        try:
            found[name] = load()
        except (ImportError, OSError) as error:
            absent.append(f"{name} is not measured because it cannot be loaded: {error}")
    return Programs(**found, absent=absent)


def peer_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments with the paths of programs that are not installed."""
    parser.add_argument("--k-diffusion", type=Path, metavar="PATH", help="path to k-diffusion's sampling.py")
    parser.add_argument("--comfyui", type=Path, metavar="PATH", help="path to a checkout of ComfyUI")


def begin(given: argparse.Namespace) -> tuple[torch.device, Programs] | None:
    """The device and programs named in the arguments, with threads set; None if the device is missing."""
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing is measured")
        return None
    torch.set_num_threads(given.threads)
    programs = find_programs(given.k_diffusion, given.comfyui)
    print(*programs.absent, sep="\n")
    return device, programs
