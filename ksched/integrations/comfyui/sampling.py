"""Samplers as ComfyUI's KSAMPLER calls them, and noise levels for its models."""

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

#: ComfyUI's own method, and the published one where its own is wrong for the model
AUTO: Literal["auto"] = "auto"

#: Whose method a name means: a dialect, or "auto", ComfyUI's where it is right.
NodeDialect: TypeAlias = Dialect | Literal["auto"]


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
    dialect: Dialect | str = AUTO,
    noise: NoiseKind = "seeded",
    **options: Any,
) -> SamplerFunction:
    """A sampler in the form that ComfyUI's KSAMPLER takes.

    Parameters
    ----------
    name : a `ksched.SamplerType`, any spelling that its ``parse`` knows, or a name that was registered
    dialect : whose method the name means. "auto" is ComfyUI's, but on a flow model, where ComfyUI's own of this name
        takes states for what they are not and adds noise or guidance that overshoots, it is "ksched", the published
        one. "comfyui" is ComfyUI's own numbers there too
    noise : "seeded", that of item i depends on the run's seed plus i and on the place in the run alone; "brownian", the
        same with one path for all numbers of steps; "comfyui", the numbers that ComfyUI's own sampler would draw; a
        name of `ksched.noise` such as "pink", noise that is not white. Where the seed is that of a `NoiseByItem`, i is
        the item's index in the batch it was taken from
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
    """The dialect of a name, or "auto".

    Raises
    ------
    TypeError, ValueError : neither
    """
    return AUTO if dialect == AUTO else Dialect.parse(dialect)


def _sampler_on(
    spec: SamplerSpec, levels: Sequence[float], process: Process, dialect: NodeDialect, options: dict[str, Any]
) -> Sampler:
    """The sampler on the levels of a run, which may rise if it draws no noise: a run from data to noise."""
    limit = process.sigma_limit
    # the table of a flow model may end a rounding error above pure noise
    levels = [limit if limit < level <= limit * (1 + 1e-6) else level for level in levels]
    rises = all(low < high for low, high in pairwise(levels))
    sampler = _on_falling(spec, levels[::-1] if rises else levels, process, dialect, options)
    if not rises:
        return sampler
    if spec.adaptive or sampler.plan.draws:
        raise ValueError(
            f"sigmas rise, and only a deterministic sampler can run from data to noise; {spec.name} "
            + ("chooses its own steps" if spec.adaptive else "draws noise")
        )
    return replace(sampler, grid=Grid(process, tuple(process.level(level) for level in levels)))


def _on_falling(
    spec: SamplerSpec, levels: Sequence[float], process: Process, dialect: NodeDialect, options: dict[str, Any]
) -> Sampler:
    """The sampler in the dialect, which "auto" chooses by what the sampler does on such a process."""
    spoken = Dialect.COMFYUI if dialect == AUTO else dialect
    end = dialect_options(spec, spoken).get("end_at", 0.0)
    # a dialect that ends above 0 cannot where a level is lower: such a run ends at 0
    given = {"end_at": 0.0, **options} if end and levels[-2] <= end else options
    sampler = build_sampler(spec.key, sigmas=levels, process=process, dialect=spoken, **given)
    if dialect != AUTO or "as_ve" in options or not (process.is_flow and dict(sampler.options).get("as_ve")):
        return sampler
    noisy = bool(dict(sampler.options).get("eta")) if spec.adaptive else bool(sampler.plan.draws)
    # the ODE is the same for states taken for x0 + sigma * eps; the noise to be added and CFG++ are not
    return _on_falling(spec, levels, process, Dialect.KSCHED, options) if noisy or spec.uncond else sampler


def _asked(model: Any, extra_args: Mapping[str, Any], both: bool) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """The model as a denoiser; one that knows its process is not ComfyUI's, and not told what its own are."""
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


def _as_if_at(last: float, end: float, x: torch.Tensor, process: Process) -> torch.Tensor:
    """A state at ``end`` in the scale of one at ``last``: KSAMPLER scales what it gets by the last of its levels."""
    if last > 0 or end == 0:
        return x
    scale = process.alpha(last) / process.alpha(end)
    return x if scale == 1 else x * scale
