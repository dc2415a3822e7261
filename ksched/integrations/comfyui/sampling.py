"""Samplers in the form that ComfyUI's KSAMPLER calls, and noise levels for ComfyUI models."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, Protocol, TypeAlias, get_args

import torch

from ksched import schedules
from ksched.execution.loop import StepInfo
from ksched.integrations.comfyui.models import process_around, process_of
from ksched.integrations.comfyui.noise import NoiseKind, NoiseSampler, asked_with_tensors, comfyui_noise, seeds_of
from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.names.sampler_type import SamplerName, ScheduleName
from ksched.options import check_options
from ksched.processes import Process
from ksched.processes.agreement import process_of_model
from ksched.sampler import Sampler, build_sampler
from ksched.samplers.registry import dialect_options, sampler_spec
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid

__all__ = ["AUTO", "NodeDialect", "SamplerFunction", "calculate_sigmas", "node_dialect", "sampler_function"]

#: ComfyUI's own method, or the published one where ComfyUI's is wrong for the model
AUTO: Literal["auto"] = "auto"

#: Program whose method a name means: a dialect, or "auto", which is ComfyUI's where it is right.
NodeDialect: TypeAlias = Dialect | Literal["auto"]


class SamplerFunction(Protocol):
    """A sampler in the form that KSAMPLER takes; see `sampler_function` for the arguments."""

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


# --------------------------------------------------------------------------------------------------------------- levels


def calculate_sigmas(
    model_sampling: Any,
    name: ScheduleName | NoiseSchedule | str,
    steps: int,
    *,
    dialect: Dialect | str = Dialect.COMFYUI,
    **options: Any,
) -> torch.Tensor:
    """Sigmas of a model for a named schedule: ComfyUI's function of this name, extended to all of ksched's schedules.

    Parameters
    ----------
    model_sampling : object
        As for `process_of`.
    name : str or NoiseSchedule
        A `ksched.NoiseSchedule`, or any spelling that its ``parse`` knows.
    steps : int
        Number of steps, at least 1.
    dialect : Dialect or str
        Program whose numbers the name means; ComfyUI by default.
    options : object
        Options of the schedule, and ``sigma_min`` and ``sigma_max``, as for `ksched.calculate_sigmas`.

    Returns
    -------
    Tensor
        float32 tensor on the CPU, with ``steps + 1`` levels unless ComfyUI gives more or fewer for the name.

    Raises
    ------
    TypeError, ValueError
        As for `ksched.calculate_sigmas`.
    """
    levels = schedules.calculate_sigmas(name, steps, process_of(model_sampling), dialect=dialect, **options)
    return torch.tensor(levels.tolist(), dtype=torch.float32)


# ------------------------------------------------------------------------------------------------------------- samplers


def sampler_function(
    name: SamplerName | SamplerType | str,
    *,
    dialect: Dialect | str = AUTO,
    noise: NoiseKind = "seeded",
    **options: Any,
) -> SamplerFunction:
    """A sampler in the form that ComfyUI's KSAMPLER takes.

    Parameters
    ----------
    name : str or SamplerType
        A `ksched.SamplerType`, any spelling that its ``parse`` knows, or a registered name.
    dialect : Dialect or str
        Program whose method the name means. "comfyui" uses ComfyUI's own numbers on all models. "auto" does too, except
        for samplers that treat states of a flow model as VE states and whose noise or guidance then overshoots; for
        these it is "ksched", the published method.
    noise : {"seeded", "brownian", "comfyui", "pink", "brown", "blue", "violet", "pyramid", "offset"}
        "seeded": the noise of item i depends only on the run's seed plus i and on the place in the run; "brownian": the
        same, with one path for all numbers of steps; "comfyui": the numbers that ComfyUI's own sampler would draw; or a
        name from `ksched.noise`, such as "pink", for noise that is not white. If the seed comes from a `NoiseByItem`, i
        is the item's index in its original batch.
    options : object
        Options of the sampler.

    Returns
    -------
    SamplerFunction
        Function ``(model, x, sigmas, extra_args, callback, disable, noise_sampler=None, **options) -> x``. Its options
        override those given here, and a ``noise_sampler`` of your own, ``(sigma, sigma_next) -> tensor like x``,
        overrides ``noise``. The process is read from the model. A callback gets one dictionary per step, with x, i,
        sigma, sigma_hat and denoised.

    Raises
    ------
    TypeError, ValueError
        If a name or option is unknown, or a value out of range; at a call, the sigmas neither fall nor rise throughout,
        or rise for a sampler that draws noise.

    Notes
    -----
    CFG++ samplers get the unconditional prediction through a post-CFG function in a copy of the model options. Without
    a seed in ``extra_args``, the seed of torch's global generator is used, which is not advanced.
    """
    spec, spoken = sampler_spec(name), node_dialect(dialect)
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
        process = process_around(model, levels)
        sampler = _sampler_on(spec, levels, process, spoken, {**preset, **more})
        extra_args = {} if extra_args is None else extra_args
        seed = extra_args.get("seed")
        seed = torch.initial_seed() if seed is None else seed
        source = noise_sampler
        if source is None and noise == "comfyui":
            source = comfyui_noise(spec, x, sigmas, seed)
        named = None if noise in ("seeded", "comfyui") else noise
        how: dict[str, Any] = {"seed": seeds_of(seed, len(x)), "noise": named}
        if source is not None:
            how = {"noise": asked_with_tensors(source, x)}
        result = sampler.sample(
            _asked(model, extra_args, spec.uncond),
            x,
            callback=None if callback is None else _dictionaries(callback, sigmas),
            progress=disable is False and importlib.util.find_spec("tqdm") is not None,
            **how,
        )
        return _as_if_at(levels[-1], dict(sampler.options).get("end_at", 0.0), result, process)

    sample.__name__ = sample.__qualname__ = f"sample_{spec.name}"
    sample.__doc__ = spec.summary
    return sample


def node_dialect(dialect: NodeDialect | str) -> NodeDialect:
    """The dialect with a name, or "auto".

    Raises
    ------
    TypeError, ValueError
        If the name is neither.
    """
    return AUTO if dialect == AUTO else Dialect.parse(dialect)


def _sampler_on(
    spec: SamplerSpec, levels: Sequence[float], process: Process, dialect: NodeDialect, options: dict[str, Any]
) -> Sampler:
    """The sampler on a run's sigmas, which may rise (a run from data to noise) if it draws no noise."""
    limit = process.sigma_limit
    # the table of a flow model may end above pure noise by a rounding error
    levels = [limit if limit < level <= limit * (1 + 1e-6) else level for level in levels]
    rises = all(low < high for low, high in pairwise(levels))
    sampler = _on_falling(spec, levels[::-1] if rises else levels, process, dialect, options)
    if not rises:
        return sampler
    if spec.adaptive or sampler.plan.draws:
        raise ValueError(
            f"sigmas must fall, since only a deterministic sampler can run from data to noise; {spec.name} "
            + ("chooses its own steps" if spec.adaptive else "draws noise")
        )
    return replace(sampler, grid=Grid(process, tuple(process.level(level) for level in levels)))


def _on_falling(
    spec: SamplerSpec, levels: Sequence[float], process: Process, dialect: NodeDialect, options: dict[str, Any]
) -> Sampler:
    """The sampler in the dialect; "auto" chooses it by how the sampler behaves on the process."""
    spoken = Dialect.COMFYUI if dialect == AUTO else dialect
    end = dialect_options(spec, spoken).get("end_at", 0.0)
    # a dialect that ends above 0 cannot do so where a level is lower; such a run ends at 0
    given = {"end_at": 0.0, **options} if end and levels[-2] <= end else options
    sampler = build_sampler(spec.key, sigmas=levels, process=process, dialect=spoken, **given)
    if dialect != AUTO or "as_ve" in options or not (process.is_flow and dict(sampler.options).get("as_ve")):
        return sampler
    noisy = bool(dict(sampler.options).get("eta")) if spec.adaptive else bool(sampler.plan.draws)
    # the ODE is the same if states are treated as x0 + sigma * eps; the added noise and CFG++ are not
    return _on_falling(spec, levels, process, Dialect.KSCHED, options) if noisy or spec.uncond else sampler


def _asked(model: Any, extra_args: Mapping[str, Any], both: bool) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """The model as a denoiser; one that knows its process is not ComfyUI's and does not get ComfyUI's own arguments."""
    given = dict(extra_args)
    if process_of_model(model) is not None:
        given = {name: value for name, value in given.items() if name not in ("model_options", "seed", "denoise_mask")}
        if not given:
            own: Callable[[torch.Tensor, torch.Tensor], Any] = model
            return own
    elif both:
        return _both(model, given)
    return lambda x, sigma: model(x, sigma, **given)


def _both(model: Any, extra_args: Mapping[str, Any]) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """The model with the unconditional prediction beside its own, taken from a post-CFG function."""
    seen: list[Any] = []

    def keep(shown: dict[str, Any]) -> Any:
        seen.append(shown["uncond_denoised"])
        return shown["denoised"]

    options = dict(extra_args.get("model_options") or {})
    options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", []), keep]
    options["disable_cfg1_optimization"] = True  # otherwise scale 1 has no unconditional prediction
    given = {**extra_args, "model_options": options}

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        seen.clear()
        denoised = model(x, sigma, **given)
        if not seen:
            raise RuntimeError(
                "a CFG++ sampler needs the unconditional prediction, but this model's guider calls no "
                "sampler_post_cfg_function. Use a guider that does, such as CFGGuider, or another sampler"
            )
        return denoised, seen[-1]

    return denoise


def _dictionaries(callback: Callable[[dict[str, Any]], object], sigmas: torch.Tensor) -> Callable[[StepInfo], object]:
    """One of ComfyUI's callbacks as a ksched callback."""

    def told(info: StepInfo) -> object:
        hat = sigmas.new_full((), info.sigma)
        sigma = hat if info.steps is None else sigmas[info.step]
        return callback({"x": info.x, "i": info.step, "sigma": sigma, "sigma_hat": hat, "denoised": info.denoised})

    return told


def _as_if_at(last: float, end: float, x: torch.Tensor, process: Process) -> torch.Tensor:
    """A state at ``end`` rescaled as if at ``last``, since KSAMPLER scales results by the last of its sigmas."""
    if last > 0 or end == 0:
        return x
    scale = process.alpha(last) / process.alpha(end)
    return x if scale == 1 else x * scale
