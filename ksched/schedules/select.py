"""Every schedule by name: name in, noise levels out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.names.sampler_type import ScheduleName
from ksched.options import Option, check_options, check_steps, options_of
from ksched.processes import Process, default_process
from ksched.processes.base import check_process
from ksched.schedules import curves, power, published, training_table
from ksched.schedules.own import CallForm, ask_own, name_of, own_options
from ksched.types import Array

__all__ = [
    "DIALECTS",
    "FAMILIES",
    "SCHEDULES",
    "Schedule",
    "ScheduleSpec",
    "calculate_sigmas",
    "register_schedule",
    "schedule_name",
    "schedule_options",
    "schedule_spec",
    "schedules",
]


#: families of schedules, and their headings
FAMILIES: Mapping[str, str] = {
    "sigma": "Evenly spaced in some function of sigma",
    "training_table": "Over the training steps",
    "curve": "Curves from 1 to 0",
    "published": "Published tables",
    "own": "Registered",
}


class ScheduleSpec(NamedTuple):
    """Everything the library knows of a schedule: family (one of `FAMILIES`), function, rule in words, and source."""

    family: str
    function: Callable[..., Array]
    formula: str
    source: str

    @property
    def needs_process(self) -> bool:
        """Whether the rule reads the process itself, not just its range."""
        return _needs_process(self.function)


@cache
def _needs_process(function: Callable[..., Array]) -> bool:
    return "process" in inspect.signature(function).parameters


#: a schedule, or something that names one
Schedule: TypeAlias = ScheduleName | NoiseSchedule | str | Callable[..., Any]

_ARGUMENTS = ("schedule", "steps", "process", "sigma_min", "sigma_max", "dialect")  # of `calculate_sigmas`

_N = NoiseSchedule
SCHEDULES: Mapping[NoiseSchedule, ScheduleSpec] = {
    _N.SIMPLE: ScheduleSpec(
        "training_table",
        training_table.calculate_simple_sigmas,
        "even stride over the training table, from the top",
        "ComfyUI",
    ),
    _N.KARRAS: ScheduleSpec("sigma", power.calculate_karras_sigmas, "even in sigma ** (1 / rho)", "arXiv:2206.00364"),
    _N.EXPONENTIAL: ScheduleSpec("sigma", power.calculate_exponential_sigmas, "even in log sigma", "k-diffusion"),
    _N.SGM_UNIFORM: ScheduleSpec(
        "training_table",
        training_table.calculate_sgm_uniform_sigmas,
        "even in timestep, last point left out",
        "Stability generative-models",
    ),
    _N.DDIM_UNIFORM: ScheduleSpec(
        "training_table",
        training_table.calculate_ddim_uniform_sigmas,
        "even stride over the table, from the bottom",
        "arXiv:2010.02502",
    ),
    _N.NORMAL: ScheduleSpec(
        "training_table", training_table.calculate_normal_sigmas, "even in timestep, both ends", "k-diffusion, ComfyUI"
    ),
    _N.LINEAR: ScheduleSpec("sigma", power.calculate_linear_sigmas, "even in sigma", "karras at rho = 1"),
    _N.BETA: ScheduleSpec(
        "training_table",
        training_table.calculate_beta_sigmas,
        "beta quantiles of the training table",
        "arXiv:2407.12173",
    ),
    _N.BETA57: ScheduleSpec(
        "training_table", training_table.calculate_beta57_sigmas, "beta with alpha 0.5, beta 0.7", "RES4LYF"
    ),
    _N.LINEAR_QUADRATIC: ScheduleSpec(
        "curve", curves.calculate_linear_quadratic_sigmas, "linear, then quadratic, to 0", "Mochi, ComfyUI"
    ),
    _N.KL_OPTIMAL: ScheduleSpec("sigma", power.calculate_kl_optimal_sigmas, "even in atan sigma", "arXiv:2404.14507"),
    _N.POLYEXPONENTIAL: ScheduleSpec(
        "sigma", power.calculate_polyexponential_sigmas, "log sigma as a power of the share left", "k-diffusion"
    ),
    _N.VP: ScheduleSpec("sigma", power.calculate_vp_sigmas, "even in continuous VP time", "arXiv:2011.13456"),
    _N.LAPLACE: ScheduleSpec(
        "sigma", power.calculate_laplace_sigmas, "Laplace quantiles of log sigma", "arXiv:2407.03297"
    ),
    _N.LOGSNR: ScheduleSpec(
        "training_table", training_table.calculate_logsnr_sigmas, "even in log-SNR", "arXiv:2206.00927"
    ),
    _N.TRAILING: ScheduleSpec(
        "training_table",
        training_table.calculate_trailing_sigmas,
        "rounded even stride, from the top",
        "arXiv:2305.08891",
    ),
    _N.LEADING: ScheduleSpec(
        "training_table", training_table.calculate_leading_sigmas, "whole stride, from the bottom", "diffusers"
    ),
    _N.SD_TURBO: ScheduleSpec(
        "training_table", training_table.calculate_sd_turbo_sigmas, "the first of ten even strides", "ComfyUI"
    ),
    _N.ALIGN_YOUR_STEPS: ScheduleSpec(
        "published", published.calculate_align_your_steps_sigmas, "optimised table of 10 steps", "arXiv:2404.14507"
    ),
    _N.GITS: ScheduleSpec(
        "published", published.calculate_gits_sigmas, "optimised tables of 2 to 20 steps", "arXiv:2405.11326"
    ),
    _N.OPTIMAL_STEPS: ScheduleSpec(
        "published", published.calculate_optimal_steps_sigmas, "optimised tables for flow models", "arXiv:2503.21774"
    ),
    _N.LTXV: ScheduleSpec(
        "curve", curves.calculate_ltxv_sigmas, "even, shifted by tokens, stretched", "LTX-Video, ComfyUI"
    ),
    _N.FLUX2: ScheduleSpec(
        "curve", curves.calculate_flux2_sigmas, "even, shifted by size and steps", "FLUX.2, ComfyUI"
    ),
    _N.IDEOGRAM4: ScheduleSpec(
        "curve", curves.calculate_ideogram4_sigmas, "logit-normal quantiles, shifted by size", "Ideogram 4, ComfyUI"
    ),
    _N.BONG_TANGENT: ScheduleSpec("curve", curves.calculate_bong_tangent_sigmas, "two arctangents, to 0", "RES4LYF"),
    _N.COSINE: ScheduleSpec(
        "curve", curves.calculate_cosine_sigmas, "half a cosine of the root of the share", "reForge"
    ),
    _N.PHI: ScheduleSpec("sigma", power.calculate_phi_sigmas, "a golden power of the share left", "reForge"),
    _N.SMOOTHSTEP: ScheduleSpec(
        "training_table",
        training_table.calculate_smoothstep_sigmas,
        "a cubic step over the training table",
        "stable-diffusion.cpp",
    ),
    _N.LOGIT_NORMAL: ScheduleSpec(
        "curve", curves.calculate_logit_normal_sigmas, "logit-normal quantiles", "arXiv:2403.03206"
    ),
    _N.SWAY: ScheduleSpec("curve", curves.calculate_sway_sigmas, "even, moved by a cosine", "arXiv:2410.06885"),
    _N.PIECEWISE: ScheduleSpec(
        "sigma", power.calculate_piecewise_sigmas, "exponential, then karras, from a level between", "ECMWF anemoi"
    ),
}

_MEANT: Mapping[Dialect, Mapping[str, Mapping[str, Any]]] = {
    Dialect.KSCHED: {},
    Dialect.COMFYUI: {
        _N.SIMPLE: {"entries": "always"},
        _N.DDIM_UNIFORM: {"stride": "whole"},
        _N.SGM_UNIFORM: {"shift_twice": True},
        _N.NORMAL: {"shift_twice": True, "zero": "unless_reached"},
        _N.BETA: {"entries": "always"},
        _N.BETA57: {"entries": "always"},
        _N.VP: {"own_range": True},
        _N.LAPLACE: {"ends": "clamp"},
        _N.ALIGN_YOUR_STEPS: {"fit_range": False},
        _N.GITS: {"fit_range": False},
        _N.OPTIMAL_STEPS: {"fit_range": False},
        _N.IDEOGRAM4: {"clamp": True},
    },
    Dialect.K_DIFFUSION: {_N.VP: {"own_range": True}},
    Dialect.DIFFUSERS: {
        _N.BETA: {"domain": "sigma"},
        _N.ALIGN_YOUR_STEPS: {"fit_range": False},
        _N.IDEOGRAM4: {"clamp": True},
    },
    Dialect.A1111: {
        _N.SIMPLE: {"entries": "always"},
        _N.DDIM_UNIFORM: {"stride": "whole"},
        _N.BETA: {"domain": "sigma"},
        _N.KL_OPTIMAL: {"final": "sigma_min"},
        _N.ALIGN_YOUR_STEPS: {"fit_range": False, "version": "a1111", "last": "keep"},
    },
    Dialect.SD_CPP: {
        _N.SIMPLE: {"entries": "always"},
        _N.BETA: {"entries": "always"},
        _N.SMOOTHSTEP: {"entries": "always"},
        _N.ALIGN_YOUR_STEPS: {"fit_range": False},
        _N.GITS: {"fit_range": False},
        _N.LOGIT_NORMAL: {"std": 1.75, "clamp": True},
    },
    Dialect.SKRAMPLE: {_N.LOGIT_NORMAL: {"std": 3.0, "domain": "sigma"}},
}

#: what a name means in other programs, as our options; this table is the whole dialect
DIALECTS: Mapping[Dialect, Mapping[str, Mapping[str, Any]]] = {
    **_MEANT,
    Dialect.RES4LYF: _MEANT[Dialect.COMFYUI],  # it adds to ComfyUI's menu
    Dialect.SDNEXT: _MEANT[Dialect.DIFFUSERS],  # it configures diffusers' classes
}


_REGISTERED: dict[str, ScheduleSpec] = {}


def register_schedule(name: str, function: Callable[..., Any], *, formula: str = "", source: str = "") -> ScheduleSpec:
    """Add a schedule of your own. It then works by name with every sampler and process.

    Parameters
    ----------
    name : str
        The name that you will give to `build_sampler`; it must be new.
    function : callable
        ``(steps)``, ``(steps, process)`` or ``(steps, sigma_min, sigma_max)``. It returns ``steps + 1`` levels that
        fall from the first level to 0. Parameters named sigma_min, sigma_max and process are passed by name. Other
        keywords that are numbers become the schedule's options.
    formula, source : str
        Its rule in words, and where it comes from.

    Raises
    ------
    TypeError
        If the name is not a string, or the function takes other arguments.
    ValueError
        If the name is taken by a schedule, a sampler, or a spelling of one.

    Notes
    -----
    Every call checks what the function returns. `ksched.testing.check_schedule` tries it with many numbers of steps and
    many ranges.

    Examples
    --------
    >>> import ksched
    >>> import numpy as np
    >>> def sway(steps, s: float = -1.0):
    ...     t = np.linspace(0, 1, steps + 1)  # F5-TTS's: its time is 1 - sigma
    ...     return 1 - (t + s * (np.cos(np.pi / 2 * t) - 1 + t))
    >>> ksched.build_sampler("euler", sway, 4, process=ksched.Flow()).sigmas.round(3)
    array([1.   , 0.924, 0.707, 0.383, 0.   ])

    After ``ksched.register_schedule("sway_of_speech", sway)``, that name does the same.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a schedule must be a string; got {name!r}")
    if not callable(function):
        raise TypeError(f"function must be callable, (steps) -> levels; got {function!r}")
    CallForm.of(function)
    for kind, word in ((NoiseSchedule, "noise schedule"), (SamplerType, "sampler")):
        if kind.is_name(name):
            raise ValueError(f"the name of a schedule must be new; {name!r} is taken by a {word}. Choose another")
    spec = ScheduleSpec("own", function, formula or "a user-defined function", source)
    _REGISTERED[name] = spec
    NoiseSchedule.registered().append(name)
    return spec


def schedules() -> Mapping[str, ScheduleSpec]:
    """Every schedule by name: ksched's own first, then those registered by users."""
    return {**{str(name): spec for name, spec in SCHEDULES.items()}, **_REGISTERED}


def schedule_name(schedule: Schedule) -> NoiseSchedule | str:
    """The name of a schedule: a registered name, ksched's name for any spelling, or a function's name in messages.

    Raises
    ------
    TypeError, ValueError
        If there is no such schedule; the message says what the name is instead, or lists similar names.
    """
    if isinstance(schedule, str):
        return schedule if schedule in _REGISTERED else NoiseSchedule.parse(schedule)
    if not callable(schedule):
        raise TypeError(f"a noise schedule must be a name or a function of the steps; got {schedule!r}")
    return name_of(schedule)


def schedule_spec(schedule: Schedule) -> ScheduleSpec:
    """Facts about a schedule; errors are those of `schedule_name`."""
    name = schedule_name(schedule)
    if not isinstance(schedule, str):
        return ScheduleSpec("own", schedule, "a user-defined function", "")
    return SCHEDULES[name] if isinstance(name, NoiseSchedule) else _REGISTERED[name]


def schedule_options(schedule: Schedule) -> Mapping[str, Option]:
    """Options of a schedule besides its range."""
    spec = schedule_spec(schedule)
    if spec.family == "own":
        return own_options(spec.function)
    return options_of(spec.function, skip=("sigma_min", "sigma_max"))


def calculate_sigmas(
    schedule: Schedule,
    steps: int,
    process: Process | None = None,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    dialect: Dialect | str = Dialect.KSCHED,
    **options: Any,
) -> Array:
    """Noise levels of a run, from the name of a schedule.

    Parameters
    ----------
    schedule : str, NoiseSchedule or callable
        A `NoiseSchedule`, any spelling that `NoiseSchedule.parse` reads, a name registered with `register_schedule`, or
        a function of the same form.
    steps : int
        Number of steps, at least 1.
    process : Process or None
        The noise process that the model was trained on; None means Stable Diffusion's VP table.
    sigma_min, sigma_max : float or None
        Noise std of the last non-zero level and of the first level; None means the process's own.
    dialect : Dialect or str
        The program whose numbers the name means, where programs differ: a table of options (see `DIALECTS`).
    options : number, str or bool
        Options of the schedule besides its range, such as ``rho`` for karras (see `schedule_options`).

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing from the level of the start noise to 0. In another dialect
    than ours there may be more or fewer levels, repeats, or no 0

    Raises
    ------
    TypeError, ValueError
        For an unknown name or option, steps below 1, a range out of order or outside the process's; extreme options
        that make levels rise, repeat, or overflow.
    """
    name, spec = schedule_name(schedule), schedule_spec(schedule)
    process = default_process() if process is None else process
    check_process(process)
    meant = DIALECTS[Dialect.parse(dialect)].get(name, {})
    known = schedule_options(schedule)
    options = check_options(f"schedule {name}", known, {**meant, **options}, beside=_ARGUMENTS)
    if spec.family == "own":
        return ask_own(name, spec.function, check_steps(steps), process, sigma_min, sigma_max, options)
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the result is checked below
            levels = _levels_of(spec, steps, process, sigma_min, sigma_max, options)
    except (OverflowError, ZeroDivisionError) as error:
        raise ValueError(_out_of_sense(name, known, options, "are not finite")) from error
    fault = _fault_of(levels)
    if fault == _REPEAT:  # some choices repeat levels by design, as in other programs
        kinds = {option: value for option, value in options.items() if isinstance(value, str | bool)}
        if kinds == options or _fault_of(_levels_of(spec, steps, process, sigma_min, sigma_max, kinds)):
            return levels
    if fault:
        chosen = {option: value for option, value in options.items() if option not in meant}
        raise ValueError(_out_of_sense(name, known, chosen, fault))
    return levels


_REPEAT = "repeat"


def _levels_of(
    spec: ScheduleSpec,
    steps: int,
    process: Process,
    sigma_min: float | None,
    sigma_max: float | None,
    options: Mapping[str, Any],
) -> Array:
    """Levels from the function of a built-in schedule."""
    if spec.needs_process:
        return spec.function(steps, process, sigma_min=sigma_min, sigma_max=sigma_max, **options)
    low = process.sigma_min if sigma_min is None else sigma_min
    high = process.sigma_max if sigma_max is None else sigma_max
    if high > process.sigma_limit:
        raise ValueError(f"sigma_max must be at most {process.sigma_limit:g} for {process!r}; got {high}")
    return spec.function(steps, low, high, **options)


def _fault_of(levels: Array) -> str:
    """What is wrong with the levels of a schedule; an empty string if nothing is."""
    if np.isnan(levels).any() or np.isinf(levels[1:]).any():
        return "are not finite"
    falls = levels[:-1] - levels[1:]
    if (falls < 0).any():
        return "rise on the way"
    if (levels < 0).any():
        return "are below 0"
    return "" if falls.all() else _REPEAT


def _out_of_sense(name: str, known: Mapping[str, Option], options: Mapping[str, Any], fault: str) -> str:
    given = ", ".join(f"{option}={value!r}" for option, value in options.items()) or "its defaults"
    defaults = ", ".join(str(known[option]) for option in options)
    nearer = f"; use values closer to {defaults}" if defaults else ""
    return f"schedule {name} must have falling, finite levels; they {fault} with {given}{nearer}"
