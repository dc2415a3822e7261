"""Samplers as ComfyUI's KSAMPLER calls them, and noise levels for its models."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import torch

from ksched import schedules
from ksched.execution.loop import StepInfo
from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.names.sampler_type import SamplerName, ScheduleName
from ksched.options import check_options
from ksched.processes import EDM, VE, VP, AngleV, Cascade, Flow, FlowVE, Process
from ksched.sampler import Sampler, build_sampler
from ksched.samplers.registry import dialect_options, sampler_spec
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid
from ksched.types import Array

__all__ = ["NoiseKind", "SamplerFunction", "calculate_sigmas", "process_of", "sampler_function"]

#: Where noise comes from: by item and place in the run; parts of one path by item; ComfyUI's own stream, of the batch.
NoiseKind = Literal["seeded", "brownian", "comfyui"]

NoiseSampler: TypeAlias = Callable[[Any, Any], Any]


class SamplerFunction(Protocol):
    """What KSAMPLER takes for a sampler; see `sampler_function` for the arguments."""

    def __call__(
        self,
        model: Any,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        disable: bool | None = None,
        *,
        noise_sampler: NoiseSampler | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """The state at the last of the sigmas."""
        ...


# ------------------------------------------------------------------------------------------------------------ processes


def process_of(model_sampling: Any) -> Process:
    """The process of a model, read from what ComfyUI calls its ``model_sampling``.

    Parameters
    ----------
    model_sampling : as ``model.get_model_object("model_sampling")`` returns it

    Returns
    -------
    ``Flow`` with its shift and noise scale for CONST models; ``FlowVE`` for Cosmos; ``Cascade``, ``AngleV`` and ``EDM``
    for those; ``VP`` with the model's own table for discrete models, whatever they predict; ``VE`` over its range for
    all else

    Notes
    -----
    Classes are known by their names, so that a subclass made on the spot, as ComfyUI's nodes make them, is what its
    bases are. States of VP models are ``x0 + sigma * eps``, as ComfyUI holds them.
    """
    kinds = {kind.__name__ for kind in type(model_sampling).__mro__}
    if "CONST" in kinds:
        return _flow(model_sampling, "ModelSamplingFlux" in kinds)
    if "StableCascadeSampling" in kinds:
        return Cascade(float(model_sampling.shift))
    if "ModelSamplingDiscrete" in kinds:
        with contextlib.suppress(ValueError):  # a table that repeats levels, or is none of betas
            return _discrete(model_sampling, "ModelSamplingDiscreteEDM" in kinds)
    ends = float(model_sampling.sigma_min), float(model_sampling.sigma_max)
    if "ModelSamplingCosmosRFlow" in kinds:
        return FlowVE(*ends)
    if "ModelSamplingContinuousEDM" in kinds:
        data = float(getattr(model_sampling, "sigma_data", 1.0))
        return (AngleV if "ModelSamplingContinuousV" in kinds else EDM)(*ends, sigma_data=data)
    return VE(*ends)


def _table(model_sampling: Any) -> Array:
    return np.array(model_sampling.sigmas.tolist(), dtype=np.float64)


def _flow(model_sampling: Any, writes_mu: bool) -> Flow:
    """The flow process of a table: its shift as declared, or as measured where the table is another one."""
    table = _table(model_sampling)
    place = max(len(table) // 2, 1)
    u, sigma = place / len(table), float(table[place - 1])
    shift = sigma * (1 - u) / (u * (1 - sigma)) if 0 < u < 1 and 0 < sigma < 1 else 1.0
    declared = float(getattr(model_sampling, "shift", shift))
    declared = math.exp(declared) if writes_mu else declared
    if math.isclose(declared, shift, rel_tol=1e-4):
        shift = declared
    told = float(getattr(model_sampling, "multiplier", 1.0))
    return Flow(shift, len(table), told, noise_scale=float(getattr(model_sampling, "noise_scale", 1.0)))


def _discrete(model_sampling: Any, log_sigma: bool) -> VP:
    """The VP process whose table is that of the model, in the float32 that ComfyUI holds it in."""
    logs = np.log(_table(model_sampling))
    every = int(getattr(model_sampling, "skip_steps", 1))
    if every > 1:  # a table of some training steps; those between lie on the line that ComfyUI draws between two
        places = (np.arange(len(logs) * every) - (every - 1)) / every
        below = np.minimum(places, 0) * (logs[1] - logs[0])
        logs = np.interp(places, np.arange(len(logs)), logs) + below
    alpha_bar = 1 / (1 + np.exp(2 * logs))
    betas = 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    return VP(betas, keep_every=every, log_sigma_timesteps=log_sigma)


def _process_around(model: Any, levels: list[float]) -> Process:
    """The process of the model that a sampler function is called with; VE over the run's levels if it does not tell."""
    for path in ("inner_model.inner_model.model_sampling", "inner_model.model_sampling", "model_sampling"):
        with contextlib.suppress(AttributeError):
            return process_of(attrgetter(path)(model))
    with contextlib.suppress(AttributeError):
        return process_of(model.inner_model.model_patcher.get_model_object("model_sampling"))
    positive = [level for level in levels if level > 0]
    low, high = min(positive, default=1.0), max(positive, default=1.0)
    return VE(low, high if high > low else 2 * low)


# --------------------------------------------------------------------------------------------------------------- levels


def calculate_sigmas(
    model_sampling: Any,
    name: ScheduleName | NoiseSchedule | str,
    steps: int,
    *,
    dialect: Dialect | str = Dialect.COMFYUI,
    **options: Any,
) -> torch.Tensor:
    """Noise levels of a model by the name of the schedule: ComfyUI's function of this name, for all of ours.

    Parameters
    ----------
    model_sampling : as for `process_of`
    name : a `ksched.NoiseSchedule`, or any spelling that its ``parse`` knows
    steps : number of steps, >= 1
    dialect : whose numbers the name means; ComfyUI's unless you say otherwise
    options : of the schedule, and ``sigma_min`` and ``sigma_max``, as for `ksched.calculate_sigmas`

    Returns
    -------
    float32 tensor on the processor; ``steps + 1`` levels unless ComfyUI gives more or fewer for the name

    Raises
    ------
    TypeError, ValueError : as for `ksched.calculate_sigmas`
    """
    levels = schedules.calculate_sigmas(name, steps, process_of(model_sampling), dialect=dialect, **options)
    return torch.tensor(levels.tolist(), dtype=torch.float32)


# ------------------------------------------------------------------------------------------------------------- samplers


def sampler_function(
    name: SamplerName | SamplerType | str,
    *,
    dialect: Dialect | str = Dialect.COMFYUI,
    noise: NoiseKind = "seeded",
    **options: Any,
) -> SamplerFunction:
    """A sampler in the form that ComfyUI's KSAMPLER takes.

    Parameters
    ----------
    name : a `ksched.SamplerType`, any spelling that its ``parse`` knows, or a name that was registered
    dialect : whose method the name means; ComfyUI's unless you say otherwise
    noise : "seeded", that of item i depends on the run's seed plus i and on the place in the run alone; "brownian", the
        same with one path for all numbers of steps; "comfyui", the numbers that ComfyUI's own sampler would draw
    options : of the sampler

    Returns
    -------
    ``(model, x, sigmas, extra_args, callback, disable, noise_sampler=None, **options) -> x``, where options go before
    those given here, and a ``noise_sampler`` of your own, ``(sigma, sigma_next) -> tensor like x``, before ``noise``.
    The process is read from the model. Callbacks get one dictionary a step: x, i, sigma, sigma_hat and denoised

    Raises
    ------
    TypeError, ValueError : an unknown name or option, a value out of range; at a call, levels that neither fall nor
        rise throughout, or rise for a sampler that draws noise

    Notes
    -----
    CFG++ samplers get the unconditional prediction from a function after guidance, put into a copy of the model
    options. Without a seed in ``extra_args`` it is that of torch's own generator, which is not moved.
    """
    spec, dialect = sampler_spec(name), Dialect.parse(dialect)
    if noise not in get_args(NoiseKind):
        raise ValueError(f"noise must be one of {', '.join(map(repr, get_args(NoiseKind)))}; got {noise!r}")
    preset = check_options(f"sampler {spec.name}", spec.options, options)

    def sample(
        model: Any,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        disable: bool | None = None,
        *,
        noise_sampler: NoiseSampler | None = None,
        **more: Any,
    ) -> torch.Tensor:
        if len(sigmas) <= 1:
            return x
        levels: list[float] = sigmas.tolist()
        process = _process_around(model, levels)
        sampler = _sampler_on(spec, levels, process, dialect, {**preset, **more})
        extra_args = {} if extra_args is None else extra_args
        seed = extra_args.get("seed")
        seed = torch.initial_seed() if seed is None else seed
        source = noise_sampler
        if source is None and noise == "comfyui":
            source = _comfyui_noise(spec, x, sigmas, seed)
        how: dict[str, Any] = {"seed": seed, "noise": "brownian" if noise == "brownian" else None}
        if source is not None:
            how = {"noise": _on_tensors(source, x)}
        result = sampler.sample(
            (_both if spec.uncond else _denoised)(model, extra_args),
            x,
            callback=None if callback is None else _dictionaries(callback, sigmas),
            progress=disable is False and importlib.util.find_spec("tqdm") is not None,
            **how,
        )
        return _as_if_at(levels[-1], dict(sampler.options).get("end_at", 0.0), result, process)

    sample.__name__ = sample.__qualname__ = f"sample_{spec.name}"
    sample.__doc__ = spec.summary
    return sample


def _sampler_on(
    spec: SamplerSpec, levels: Sequence[float], process: Process, dialect: Dialect, options: dict[str, Any]
) -> Sampler:
    """The sampler on the levels of a run, which may rise if it draws no noise: a run from data to noise."""
    limit = process.sigma_limit
    # the table of a flow model may end a rounding error above pure noise
    levels = [limit if limit < level <= limit * (1 + 1e-6) else level for level in levels]
    rises = all(low < high for low, high in pairwise(levels))
    falling = levels[::-1] if rises else levels
    end = dialect_options(spec, dialect).get("end_at", 0.0)
    if end and falling[-2] <= end:  # a dialect that ends above 0 cannot where a level is lower: such a run ends at 0
        options = {"end_at": 0.0, **options}
    sampler = build_sampler(spec.key, sigmas=falling, process=process, dialect=dialect, **options)
    if not rises:
        return sampler
    if spec.adaptive or sampler.plan.draws:
        raise ValueError(
            f"sigmas rise, and only a deterministic sampler can run from data to noise; {spec.name} "
            + ("chooses its own steps" if spec.adaptive else "draws noise")
        )
    return replace(sampler, grid=Grid(process, tuple(process.level(level) for level in levels)))


def _denoised(model: Any, extra_args: Mapping[str, Any]) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    return lambda x, sigma: model(x, sigma, **extra_args)


def _both(model: Any, extra_args: Mapping[str, Any]) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """The model, and beside its prediction the unconditional one, which a function after guidance is shown."""
    seen: list[Any] = []

    def keep(shown: dict[str, Any]) -> Any:
        seen.append(shown["uncond_denoised"])
        return shown["denoised"]

    options = dict(extra_args.get("model_options") or {})
    options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", []), keep]
    options["disable_cfg1_optimization"] = True  # at scale 1 there would be no unconditional prediction
    given = {**extra_args, "model_options": options}

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        seen.clear()
        denoised = model(x, sigma, **given)
        if not seen:
            raise RuntimeError(
                "a CFG++ sampler needs the unconditional prediction, which this model does not show: its guider calls "
                "no sampler_post_cfg_function. Take one that does, such as CFGGuider, or another sampler"
            )
        return denoised, seen[-1]

    return denoise


def _dictionaries(callback: Callable[[dict[str, Any]], object], sigmas: torch.Tensor) -> Callable[[StepInfo], object]:
    """A callback of ComfyUI's as one of ours."""

    def told(info: StepInfo) -> object:
        hat = sigmas.new_full((), info.sigma)
        sigma = hat if info.steps is None else sigmas[info.step]
        return callback({"x": info.x, "i": info.step, "sigma": sigma, "sigma_hat": hat, "denoised": info.denoised})

    return told


def _on_tensors(noise_sampler: NoiseSampler, x: torch.Tensor) -> Callable[[float, float], Any]:
    """A noise sampler asked with tensors, as those of k-diffusion expect."""
    return lambda sigma, sigma_next: noise_sampler(x.new_full((), sigma), x.new_full((), sigma_next))


def _comfyui_noise(spec: SamplerSpec, x: torch.Tensor, sigmas: torch.Tensor, seed: int) -> NoiseSampler:
    """The noise of ComfyUI's own sampler of that name, as the version that runs makes it."""
    comfy: Any = importlib.import_module("comfy.k_diffusion.sampling")
    made: NoiseSampler
    if spec.brownian_tree:
        made = comfy.BrownianTreeNoiseSampler(x, sigmas[sigmas > 0].min(), sigmas.max(), seed=seed, cpu=True)
    else:
        made = comfy.default_noise_sampler(x, seed=seed)
    return made


def _as_if_at(last: float, end: float, x: torch.Tensor, process: Process) -> torch.Tensor:
    """A state at ``end`` in the scale of one at ``last``: KSAMPLER scales what it gets by the last of its levels."""
    if last > 0 or end == 0:
        return x
    scale = process.alpha(last) / process.alpha(end)
    return x if scale == 1 else x * scale
