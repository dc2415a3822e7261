"""The iterations of a diffusers loop, one model call after another: `stock_iterations`, `own_iterations`.

Such a loop fixes its model calls before it begins, may begin at any of them, and may pass in any state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ksched.dialects.diffusers.class_levels import stock_levels
from ksched.dialects.diffusers.classes import METHOD, check_replaced, request_of, stock_class
from ksched.dialects.diffusers.conversions import conversions_of
from ksched.dialects.diffusers.given_lists import given_levels, given_lists, respaces
from ksched.dialects.diffusers.level_blocks import DiffusersLevels
from ksched.dialects.diffusers.method import Method
from ksched.dialects.diffusers.process import (
    Settings,
    distilled,
    ends_low,
    is_flow,
    prediction_of,
    process_of,
    scheduled_sigmas,
    start_std,
    takes_above_one,
)
from ksched.dialects.diffusers.request import Request, falling, shows_data
from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import check_steps, our_words
from ksched.processes import VP, Level, Process
from ksched.samplers.registry import sampler_spec
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import check_sigmas
from ksched.types import Array, ArrayLike

__all__ = ["Iterations", "check_drivable", "own_iterations", "stock_iterations"]


@dataclass(frozen=True)
class Iterations:
    """The iterations of a loop.

    Attributes
    ----------
    method : Method
        The method; if it has fewer model calls than there are iterations, the rest changes nothing.
    timesteps : ndarray of float64
        The network's timestep for each iteration.
    whole : bool
        Whether timesteps are whole numbers.
    sigmas : ndarray of float64
        Contract sigma of each iteration, and of the end.
    init_noise_sigma : float
        Factor of the loop's start noise.
    order : int
        Iterations per step, as the loop counts them.
    conversions : sequence of tuple of float
        For each iteration, the divisor of the network's input and the coefficients of state and output in x0.
    beyond : int
        Number of first iterations whose timesteps are beyond the training table; a run begins after them.
    read : sequence of tuple of float or None
        Conversions as the class reads answers, if it reads them at other levels than those of the calls.
    """

    method: Method
    timesteps: Array
    whole: bool
    sigmas: Array
    init_noise_sigma: float
    order: int
    conversions: Sequence[tuple[float, float, float]]
    beyond: int = 0
    read: Sequence[tuple[float, float, float]] | None = None

    @property
    def process(self) -> Process:
        """The process in whose coordinates states are."""
        return self.method.process

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def shown(self) -> Array:
        """``sigmas`` in the class's form: the share of data with ``invert_sigmas``."""
        return 1 - self.sigmas if shows_data(self.process) else self.sigmas

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Level of every iteration, and of the end."""
        return tuple(self.process.level(float(sigma)) for sigma in self.sigmas)


# ----------------------------------------------------------------------------------------------------- a class as it is
def stock_iterations(
    stock: str,
    config: Settings,
    steps: int | None,
    *,
    timesteps: ArrayLike | None = None,
    sigmas: ArrayLike | None = None,
    mu: float | None = None,
    original_inference_steps: int | None = None,
    strength: float = 1.0,
    given: Settings | None = None,
    options: Settings | None = None,
    layout: str | None = None,
    levels: Array | None = None,
    **angles: float | None,
) -> Iterations:
    """The iterations of an unchanged diffusers class.

    Parameters
    ----------
    stock, config : str or mapping
        Class and configuration.
    steps, timesteps, sigmas, mu, original_inference_steps, strength : int, array_like, float or None
        Arguments of ``set_timesteps``.
    given : mapping or None
        Arguments of ``step``.
    options : mapping or None
        Options of the sampler, which override the class's.
    layout : str or None
        With "calls", ``steps`` counts model calls, and as many steps as fit are taken.
    levels : ndarray of float64 or None
        Contract sigmas that a program has written over the class's.
    angles : float or None
        max_timesteps and intermediate_timesteps of ``set_timesteps``.

    Raises
    ------
    TypeError, ValueError
        If the class does not support the arguments, ksched cannot represent a setting, or an option is unknown.
    """
    order = stock_class(stock).calls
    if layout == "calls":
        steps, order = steps if steps is None else (steps + order - 1) // order, 1
    found, counted = stock_levels(
        stock, config, steps, timesteps, sigmas, mu, original_inference_steps, strength, **angles
    )
    found = found if levels is None else _written_over(found, levels, config)
    request = request_of(stock, config, found, counted, given)
    process, told = request.process, np.asarray(found.timesteps)
    own = our_words(sampler_spec(request.sampler).options, options or {})
    if request.literal is not None and (others := own.keys() - ({"eta"} if request.sampler == "ddim" else set())):
        raise TypeError(f"{stock} takes no sampler option {min(others)!r} here; to use it, choose the sampler by name")
    every = {**request.options, **own}
    method = Method(request.sampler, tuple(request.sigmas), process, Dialect.DIFFUSERS, every, request, own)
    plan_calls = list(request.calls) if request.calls is not None else method.whole.call_sigmas.tolist()
    if not 0 <= len(told) - len(plan_calls) <= 1:
        raise ValueError(
            f"{stock} must not repeat sigmas; got {len(told)} timesteps for {len(plan_calls)} calls. Use fewer steps"
        )
    calls = plan_calls + [request.sigmas[-1]] * (len(told) - len(plan_calls))
    shown = [*calls, request.sigmas[-1]]
    if found.sigmas is not None and len(found.sigmas) == len(shown):
        shown = (1 - found.sigmas if shows_data(process) else found.sigmas).tolist()
    return Iterations(
        method,
        told.astype(np.float64),
        told.dtype == np.int64,
        np.array(shown),
        found.init_noise_sigma,
        order,
        conversions_of(process, prediction_of(config, stock), calls),
        int(np.sum(told >= len(process.betas))) if found.sigmas is None and isinstance(process, VP) else 0,
        None if request.read_at is None else conversions_of(process, prediction_of(config, stock), request.read_at),
    )


def _written_over(found: DiffusersLevels, levels: Array, config: Settings) -> DiffusersLevels:
    """Levels of a class with other sigmas; possible if it has one list of them and no further tables."""
    if found.sigmas is None or len(found.sigmas) != len(levels) or found.sigmas_interpol is not None:
        raise ValueError("sigmas cannot be written here, as the class has further tables; pass set_timesteps a list")
    return found._replace(sigmas=1 - levels if config.get("invert_sigmas") else levels)


def own_iterations(
    config: Settings,
    steps: int | None,
    *,
    sampler: str | None,
    schedule: str | None,
    stock: str | None,
    dialect: Dialect = Dialect.KSCHED,
    layout: str = "calls",
    sampler_options: Settings | None = None,
    schedule_options: Settings | None = None,
    timesteps: ArrayLike | None = None,
    sigmas: ArrayLike | None = None,
    mu: float | None = None,
    original_inference_steps: int | None = None,
    strength: float = 1.0,
    **angles: float | None,
) -> Iterations:
    """Iterations of a ksched sampler on a ksched schedule, for the model of a configuration.

    Parameters
    ----------
    config, stock : mapping, str or None
        Configuration and class of the model's scheduler.
    steps, timesteps, sigmas, mu : int, array_like, float or None
        Arguments of ``set_timesteps``; lists are run unchanged, except for the shift of flow models, which loops leave
        to the scheduler.
    original_inference_steps, strength : int, float or None
        Arguments of ``set_timesteps`` that select a part of a training table.
    angles : float or None
        For SANA-Sprint: max_timesteps and intermediate_timesteps, from which the class makes its sigmas.
    sampler, schedule : str or None
        None uses the class's own.
    dialect, sampler_options, schedule_options : Dialect, mapping or None
        As for `ksched.build_sampler`.
    layout : str
        With "calls", ``steps`` counts model calls, and as many steps as fit are taken; with "steps" it counts steps of
        the schedule, each of which may take several calls.

    Raises
    ------
    TypeError, ValueError
        If a name or option is unknown, sigmas are no valid grid, or no loop can drive the sampler.
    """
    check_replaced(stock, config)
    mu = mu if config.get("use_dynamic_shifting") else None
    part: dict[str, Any] = {"original_inference_steps": original_inference_steps, "strength": strength, **angles}
    process = _process_of_part(config, stock, mu, original_inference_steps, strength)
    base = _Base(sampler, dialect, {}) if sampler is not None else _sampler_of(stock, config, process, mu)
    spec = sampler_spec(base.sampler)
    options = {**base.options, **our_words(spec.options, sampler_options or {})}
    check_drivable(spec, schedule)

    def method(levels: Sequence[float] | Array, lead: tuple[float, ...] = ()) -> Method:
        levels = tuple(check_sigmas(levels, process.sigma_limit).tolist())
        return Method(spec.key, levels, process, base.dialect, options, base.beside, lead=lead)

    def scheduled(count: int) -> Method:
        if spec.levels is not None:
            return method(spec.levels(count, process, **options))
        if schedule is None and stock is not None:
            return method(_levels_of(stock, config, count, mu, part))
        name = schedule or NoiseSchedule.SIMPLE
        return method(scheduled_sigmas(config, process, name, count, dialect, schedule_options, stock))

    respaced = schedule is None and spec.levels is None and respaces(config, stock)
    lists = {"timesteps": timesteps, "sigmas": sigmas}
    sigmas, listed = given_lists(process, sigmas, timesteps)
    told = None
    if respaced and stock is not None and (sigmas is not None or listed is not None):
        made = method(_levels_of(stock, config, None, mu, {**part, **lists}))
    elif sigmas is not None:
        given = given_levels(sigmas, listed, process, config, stock)
        made, told = method(given.levels, given.lead), given.told
    elif listed is not None:
        rest = listed[max(len(listed) - int(len(listed) * strength), 0) :]  # LCM's scheduler cuts a list like this
        made = method(np.append(process_of(config, stock, mu).sigma(rest), 0.0))
    else:
        asked = check_steps(steps)
        by_calls = layout == "calls" and spec.levels is None
        made = scheduled(_steps_within(spec, asked, scheduled) if by_calls else asked)
    order = spec.calls if layout == "steps" and isinstance(spec.calls, int) else 1
    return _iterations_of(made, config, stock, told=told, order=order)


class _Base(NamedTuple):
    """A sampler, its options, and what is added to its plan."""

    sampler: str
    dialect: Dialect
    options: dict[str, Any]
    beside: Request | None = None


def check_drivable(spec: SamplerSpec, schedule: str | None) -> None:
    """Raise an error for a sampler that a diffusers loop cannot drive, or not on a schedule.

    Raises
    ------
    ValueError
        If the message says why, and what to use instead.
    """
    if spec.levels is not None and schedule is not None:
        raise ValueError(f"sampler {spec.name} has its own sigmas; leave out schedule, got {schedule!r}")
    if spec.uncond:
        raise ValueError(
            f"sampler {spec.name} also needs the prediction without guidance, but pipelines only pass on the guided "
            "one; use the sampler without cfg_pp in its name"
        )
    if spec.adaptive:
        raise ValueError(
            f"sampler {spec.name} chooses its steps by the model's answers, but a pipeline fixes its iterations "
            "beforehand; use another, or run it with ksched.build_sampler(...).sample"
        )


def _process_of_part(
    config: Settings, stock: str | None, mu: float | None, original: int | None, strength: float
) -> Process:
    """The process of a configuration, or of the part of its table that is run."""
    process = process_of(config, stock, mu)
    if original is None and strength == 1:
        return process
    if not isinstance(process, VP):  # only VP has a table of betas
        raise ValueError(
            "original_inference_steps and strength need a model with a table of betas, such as LCM's; "
            f"got {process!r}. Leave them out."
        )
    whole = process_of({**config, "original_inference_steps": None}, stock, mu)
    assert isinstance(whole, VP)  # since its part is
    return distilled(whole, original or config.get("original_inference_steps"), strength)


def _sampler_of(stock: str | None, config: Settings, process: Process, mu: float | None) -> _Base:
    """The sampler that represents a diffusers class, or Euler."""
    stock = stock or "EulerDiscreteScheduler"
    levels, counted = stock_levels(stock, config, 10, mu=mu)
    request = request_of(stock, config, levels, counted)
    beside = None
    if request.learned_variance:  # the noise is added outside the plan
        beside = Request(request.sampler, (), process, learned_variance=request.learned_variance)
    # repeat_last follows from the class's own sigmas
    options = {name: value for name, value in request.options.items() if name != "repeat_last"}
    return _Base(request.sampler, Dialect.DIFFUSERS, options, beside)


def _iterations_of(
    method: Method, config: Settings, stock: str | None, *, told: Array | None, order: int
) -> Iterations:
    """Iterations of a method, one for each of its model calls.

    Parameters
    ----------
    told : ndarray of float64 or None
        Timesteps given for the method's sigmas; None uses the training timesteps.
    order : int
        Iterations per step, as the loop counts them.
    """
    process, calls = method.process, method.whole.call_sigmas
    if stock is not None and stock_class(stock).tells_end:  # its loops drop the last timestep
        calls, told = np.append(calls, method.sigmas[-1]), None
    network = process.timestep(calls)
    if told is not None:
        lead = len(method.lead)
        levels = np.asarray(method.sigmas[: len(told) - lead])
        network = np.append(told[:lead], np.interp(calls[lead:], levels[::-1], told[lead:][::-1]))
    return Iterations(
        method,
        np.asarray(network, dtype=np.float64),
        False,
        np.append(calls, method.sigmas[-1]),
        start_std(process, method.whole.start.label, config),
        order,
        conversions_of(process, prediction_of(config, stock), calls),
    )


def _levels_of(
    stock: str, config: Settings, steps: int | None, mu: float | None, part: Mapping[str, Any]
) -> list[float]:
    """Sigmas of a class for another sampler: each once, down to 0."""
    # settings of the method are replaced; sigmas are noise, and the process inverts time
    settings = {key: value for key, value in config.items() if key not in {*METHOD, "thresholding", "clip_sample"}}
    settings |= {"skip_prk_steps": True, "invert_sigmas": False, "variance_type": None}
    low = ends_low(config, stock)
    if is_flow(config, stock) and config.get("num_train_timesteps") == 1:
        settings["num_train_timesteps"] = 1000  # a table with one entry says nothing about the others
    levels, counted = stock_levels(stock, settings, steps, mu=mu, **part)
    found = falling(list(request_of(stock, settings, levels, counted).sigmas))[0]
    if found[0] > 1 and is_flow(config, stock) and not takes_above_one(config, stock):
        raise ValueError(
            f"prediction_type='flow_prediction' says that this is a flow model, but {stock} has no sigmas for one; "
            "choose a schedule too"
        )
    positive = [sigma for sigma in found if sigma > 0]
    return positive if low and len(positive) > 1 else [*positive[:counted], 0.0]


def _steps_within(spec: SamplerSpec, calls: int, build: Callable[[int], Method]) -> int:
    """The largest number of steps with at most ``calls`` model calls, at least 1."""
    if isinstance(spec.calls, int):
        return max((calls + spec.calls - spec.calls_to_zero) // spec.calls, 1)
    low, high = 1, calls
    while low < high:  # counted, because options and sigmas may change the number of calls
        middle = (low + high + 1) // 2
        low, high = (middle, high) if build(middle).whole.nfe <= calls else (low, middle - 1)
    return low
