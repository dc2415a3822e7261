"""What a loop of diffusers goes through, one model call after another: `stock_iterations`, `own_iterations`.

Such a loop fixes its model calls before it begins, may begin at any of them, and hands over whatever state it likes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ksched.denoisers.denoiser import Denoiser, Prediction
from ksched.execution.run import Run
from ksched.integrations.stock import (
    CLASSES,
    METHOD,
    FlowToData,
    Request,
    check_replaced,
    falling,
    request_of,
    settings_of,
    stock_class,
)
from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import check_steps
from ksched.plan.plan import Plan
from ksched.plan.rows import Register
from ksched.plan.trace import trace
from ksched.processes import EDM, VP, AngleV, Flow, Level, Process
from ksched.sampler import build_sampler
from ksched.samplers.blocks.steps import SHORT, ddim
from ksched.samplers.registry import SamplerSpec, dialect_options, sampler_spec
from ksched.schedules import calculate_sigmas
from ksched.schedules.diffusers import DiffusersLevels, diffusers_levels, flow_shift, vp_of
from ksched.schedules.grid import Grid
from ksched.schedules.transforms import stretch_terminal
from ksched.types import Array, ArrayLike

__all__ = [
    "Iterations",
    "Method",
    "own_iterations",
    "process_of",
    "scheduled_sigmas",
    "start_std",
    "stock_iterations",
]

Settings = Mapping[str, Any]

#: plans of a method that are remembered: a loop begins nearly always at the same call
_KEPT = 8


@dataclass(frozen=True)
class Method:
    """A sampler on the levels of a run, which may also begin in the middle.

    Attributes
    ----------
    sampler, process, dialect, options : as for `ksched.build_sampler`
    sigmas : levels of the whole run
    request : of a stock class, where that has something that no sampler has
    changed : those of the options that are not the class's own
    """

    sampler: str
    sigmas: tuple[float, ...]
    process: Process
    dialect: Dialect
    options: Mapping[str, Any]
    request: Request | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)
    _plans: dict[Any, Plan | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def plan(self, begin: int = 0, extra: Mapping[str, Any] | None = None) -> Plan | None:
        """The plan from a model call on, None if none is left.

        Parameters
        ----------
        begin : number of the first model call, of the whole run
        extra : options that were not known before
        """
        key = begin, tuple(sorted((extra or {}).items()))
        if key not in self._plans:
            if len(self._plans) >= _KEPT:
                self._plans.clear()
            self._plans[key] = self._plan(begin, extra)
        return self._plans[key]

    def _plan(self, begin: int, extra: Mapping[str, Any] | None) -> Plan | None:
        options = {**self.options, **(extra or {})}
        if self.request is not None and self.request.literal is not None:
            return self.request.literal(begin, {**self.changed, **(extra or {})})
        whole = self.whole if options == self.options else self._built(self.sigmas, options)
        if begin == 0:
            return whole
        return None if begin >= whole.nfe else self._tail(whole, begin, options)

    def share_of_state(self, run: Run) -> float | None:
        """How a prediction is corrected that was made at another state than the run's own, amid a step.

        That state is not gone on from: the next ones are formed from the prediction and from where the step began. A
        method of slopes takes the slope that was found at it.

        Returns
        -------
        how much of the difference of the two states is added to the prediction; None if the run goes on from the
        state that it was made at, as it does between steps
        """
        plan, calls = run.plan, run.nfe
        literal = self.request is not None and self.request.literal is not None  # all of it is one step, as traced
        if run.done or calls == 0 or literal or plan.call_steps[calls] != plan.call_steps[calls - 1]:
            return None
        row = [k for k, formed in enumerate(plan.rows) if formed.level is not None][calls]
        if any(register == Register("x", row) for later in plan.rows[row + 1 :] for register, _ in later.terms):
            return None
        slopes = sampler_spec(self.sampler).family == "runge_kutta"
        return -1 / plan.levels[calls].alpha if slopes else 0.0

    @cached_property
    def whole(self) -> Plan:
        """The plan of the whole run."""
        return self._built(self.sigmas, self.options)

    def _built(self, sigmas: Sequence[float], options: Mapping[str, Any]) -> Plan:
        def plan(**more: Any) -> Plan:
            how: Any = {**options, **more}
            return build_sampler(self.sampler, sigmas=sigmas, process=self.process, dialect=self.dialect, **how).plan

        made = plan()
        if made.rows[0].level is None and options.get("s_churn"):
            # the loop has called the model before anything here could add noise
            made = plan(s_tmax=min(options.get("s_tmax", math.inf), math.nextafter(sigmas[0], 0.0)))
        if made.rows[0].level is None:
            raise ValueError(f"sampler {self.sampler} changes the state before the first model call, as no loop does")
        return made

    def _tail(self, whole: Plan, begin: int, options: Mapping[str, Any]) -> Plan:
        """The plan from a model call in the middle of a run on.

        A step that is under way goes on with steps of first order to the next one's level.
        """
        steps, labels = whole.call_steps, [level.label for level in whole.levels]
        first = steps[begin]
        if begin > 0 and steps[begin - 1] == first:  # amid the stages of a step
            first += 1
        if self.sampler == "dpm_singlestep":  # whose stages are steps of the grid
            first += -first % int(options.get("order", 2))
        first = min(first, whole.steps)
        lead = [whole.levels[k] for k in range(begin, whole.nfe) if steps[k] < first]
        # where noise was added before the call, the step begins above its level
        called = next((labels[k] for k in range(begin, whole.nfe) if steps[k] == first), None)
        sub = self.sigmas[first:] if called is None else (called, *self.sigmas[first + 1 :])
        shorter = self._on_fewer(options, whole.steps, first)
        for sampler, how in ((self.sampler, shorter), ("ipndm", {}), ("euler", {})):
            rest = None if len(sub) < 2 else replace(self, sampler=sampler, options=how, request=None)._built(sub, how)
            made = [level.label for level in lead] + ([level.label for level in rest.levels] if rest else [])
            if len(made) == len(labels) - begin and np.allclose(made, labels[begin:], rtol=1e-9, atol=0):
                return _led(lead, sampler, sub, self.process, self.dialect, how)
        # calls that no shorter run makes, as after a restart: from each to the next
        return _led([*whole.levels[begin:]], "euler", self.sigmas[-1:], self.process, self.dialect, {})

    def _on_fewer(self, options: Mapping[str, Any], steps: int, first: int) -> dict[str, Any]:
        """Options that count steps, for a run that begins after the first ones."""
        how = dict(options)
        if steps >= SHORT and self.sampler in ("dpm_multistep", "deis") and how.get("lower_order_final", True):
            defaults = {**dialect_options(sampler_spec(self.sampler), self.dialect), **how}
            if defaults.get("lower_order_final"):
                how["lower_order_final"] = False  # it is long as a whole
        if how.get("first_corrected"):
            how["first_corrected"] = max(how["first_corrected"] - first, 0)
        if how.get("s_churn") and first < steps:
            how["s_churn"] = how["s_churn"] * (steps - first) / steps
        return how


def _led(
    lead: Sequence[Level],
    sampler: str,
    sigmas: Sequence[float],
    process: Process,
    dialect: Dialect,
    options: Mapping[str, Any],
) -> Plan:
    """Steps of first order through some levels, then a sampler on the rest."""
    spec = sampler_spec(sampler)
    rest = Grid.of(sigmas, process)
    how = {**dialect_options(spec, dialect), **options}
    if not lead:
        return SamplerSpec.plan(spec, rest, how)

    def function(run: Any, grid: Grid, x: Any) -> Any:
        for s, t in zip(lead, [*lead[1:], rest.levels[0]], strict=True):
            denoised = run.denoise(x, s)
            x = run.keep(ddim(s, t, x, denoised) if s != t else 1.0 * x)  # a call at the same level once more
        return spec(run, rest, x, **how) if len(rest) else x

    return trace(function, Grid(process, (lead[0], *rest.levels)), {})


@dataclass(frozen=True)
class Iterations:
    """The iterations of a loop.

    Attributes
    ----------
    method : what is done in them; it may have fewer model calls than there are iterations, whose rest changes nothing
    timesteps : what the network is told, one for each
    whole : whether timesteps are whole numbers
    sigmas : contract sigma of each, and of the end
    init_noise_sigma : what the loop multiplies its start noise by
    order : iterations of a step, as the loop counts them
    conversions : for each, what the network's input is divided by, and x0 as a combination of state and output
    """

    method: Method
    timesteps: Array
    whole: bool
    sigmas: Array
    init_noise_sigma: float
    order: int
    conversions: Sequence[tuple[float, float, float]]

    @property
    def process(self) -> Process:
        """In whose coordinates states are."""
        return self.method.process

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def shown(self) -> Array:
        """``sigmas`` as the class has them: with ``invert_sigmas`` the share of data."""
        return 1 - self.sigmas if isinstance(self.process, FlowToData) else self.sigmas

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Level of every iteration, and of the end."""
        return tuple(self.process.level(float(sigma)) for sigma in self.sigmas)


def conversions_of(process: Process, prediction: str, sigmas: ArrayLike) -> list[tuple[float, float, float]]:
    """(norm, of_x, of_output) for levels; see `Denoiser.conversions`."""
    kinds: dict[str, Prediction] = {"flow_prediction": "flow"}
    kind: Any = kinds.get(prediction, prediction)
    if isinstance(process, EDM) and kind == "epsilon":  # as classes with sigma_data call EDM's F, whatever it is
        kind = "edm"
    if isinstance(process, VP) and process.zero_terminal_snr and kind == "epsilon":
        # what a table stands in for with a large sigma has an eps; pure noise has none
        if not np.all(np.isfinite(np.asarray(sigmas, dtype=np.float64))):
            raise ValueError("prediction_type 'epsilon' says nothing at zero terminal SNR: the first state is noise")
        process = VP(variance_preserving=process.variance_preserving)
    if process.is_flow and kind == "epsilon":  # no model is trained so, but a class of diffusers has it
        levels = [process.level(float(sigma)) for sigma in np.asarray(sigmas).tolist()]
        if any(level.alpha <= 0 for level in levels):
            raise ValueError("prediction_type 'epsilon' says nothing at sigma 1 of a flow: the first state is noise")
        return [(1.0, 1 / level.alpha, -level.sigma / level.alpha) for level in levels]
    found = Denoiser(_no_network, process, kind).conversions(sigmas)
    if isinstance(process, FlowToData) and kind == "flow":
        return [(norm, of_x, -of_output) for norm, of_x, of_output in found]
    return found


def _no_network(x: Any, timestep: Any) -> Any:
    raise NotImplementedError


def prediction_of(config: Settings, stock: str | None) -> str:
    """What the network predicts, in the words of diffusers."""
    fixed = CLASSES[stock].prediction if stock else None
    found = fixed or config.get("prediction_type") or ("flow_prediction" if is_flow(config, stock) else "epsilon")
    return str(found)


def is_flow(config: Settings, stock: str | None) -> bool:
    """Whether a configuration is one of a flow model."""
    if stock is not None and CLASSES[stock].prediction == "flow_prediction":
        return True
    return config.get("prediction_type") == "flow_prediction" or bool(config.get("use_flow_sigmas"))


# ----------------------------------------------------------------------------------------------------- a class as it is


def stock_levels(
    stock: str,
    config: Settings,
    steps: int | None,
    timesteps: ArrayLike | None = None,
    sigmas: ArrayLike | None = None,
    mu: float | None = None,
    original_inference_steps: int | None = None,
    strength: float = 1.0,
) -> tuple[DiffusersLevels, int]:
    """Levels of a class, and the number of steps it counts."""
    given: dict[str, Any] = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu}
    given["original_inference_steps"] = original_inference_steps
    known = settings_of(stock)
    settings = {name: value for name, value in config.items() if value is not None and name in known}
    name = stock_class(stock).levels or stock
    asked: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    levels = diffusers_levels(name, settings, steps, strength=strength, **asked)
    return levels, len(levels.timesteps) if steps is None else steps


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
) -> Iterations:
    """The iterations of a class of diffusers, as that would go through them.

    Parameters
    ----------
    stock, config : the class and its configuration
    steps, timesteps, sigmas, mu, original_inference_steps, strength : of ``set_timesteps``
    given : of ``step``
    options : of the sampler, which go before those of the class
    layout : "calls", steps are model calls, of which there are as many as fit into their number

    Raises
    ------
    TypeError, ValueError : what the class refuses, or no option of ours repeats; unknown options
    """
    order = stock_class(stock).calls
    if layout == "calls":
        steps, order = steps if steps is None else (steps + order - 1) // order, 1
    levels, counted = stock_levels(stock, config, steps, timesteps, sigmas, mu, original_inference_steps, strength)
    request = request_of(stock, config, levels, counted, given)
    process, told = request.process, np.asarray(levels.timesteps)
    own = dict(options or {})
    if request.literal is not None and (others := own.keys() - ({"eta"} if request.sampler == "ddim" else set())):
        raise TypeError(f"{stock} takes no sampler option {min(others)!r} here; give the sampler by name for that")
    every = {**request.options, **own}
    method = Method(request.sampler, tuple(request.sigmas), process, Dialect.DIFFUSERS, every, request, own)
    plan_calls = list(request.calls) if request.calls is not None else method.whole.call_sigmas.tolist()
    if not 0 <= len(told) - len(plan_calls) <= 1:
        raise ValueError(
            f"{stock} repeats levels on the way: {len(told)} timesteps, {len(plan_calls)} model calls; take fewer"
        )
    calls = plan_calls + [request.sigmas[-1]] * (len(told) - len(plan_calls))
    shown = [*calls, request.sigmas[-1]]
    if levels.sigmas is not None and len(levels.sigmas) == len(shown):
        shown = (1 - levels.sigmas if isinstance(process, FlowToData) else levels.sigmas).tolist()
    return Iterations(
        method,
        told.astype(np.float64),
        told.dtype == np.int64,
        np.array(shown),
        levels.init_noise_sigma,
        order,
        conversions_of(process, prediction_of(config, stock), calls),
    )


# ----------------------------------------------------------------------------------------- any sampler, any schedule


def process_of(config: Settings, stock: str | None, mu: float | None = None) -> Process:
    """What a model was trained on, by the configuration of its scheduler; states are as that holds them."""
    length = int(config.get("num_train_timesteps") or 1000)
    if stock is not None:  # what is left over from another class means nothing here
        others = {"sigma_data", "snr_shift_scale", "original_inference_steps"} - settings_of(stock)
        config = {name: value for name, value in config.items() if name not in others}
    if is_flow(config, stock):
        names = ("shift",) if stock and "shift" in settings_of(stock) else ("flow_shift", "shift")
        shifts = [float(config[name]) for name in names if config.get(name) not in (None, 1.0)]
        dynamic = {"use_dynamic_shifting": bool(config.get("use_dynamic_shifting")), "shift": (shifts or [1.0])[0]}
        shift = flow_shift(dynamic | {"time_shift_type": config.get("time_shift_type") or "exponential"}, mu)
        kind = FlowToData if config.get("invert_sigmas") else Flow
        # where the network is told sigma itself, the class has a table of one level, which is no spacing
        return kind(shift, 1000 if length == 1 else length, float(length))
    low, high, data = (config.get(name) for name in ("sigma_min", "sigma_max", "sigma_data"))
    if data is not None:
        of_data = AngleV if stock == "CosineDPMSolverMultistepScheduler" else EDM
        return of_data(low or 0.002, high or 80.0, data)
    table = vp_of(config, variance_preserving=stock is None or _preserves(stock))
    if config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
        return EDM(low or table.sigma_min, high or table.sigma_max, 1.0)
    if original := config.get("original_inference_steps"):
        return distilled(table, int(original))
    return table


def distilled(table: VP, original: int | None = None, strength: float = 1.0) -> VP:
    """The part of a training table that a model is run on, as LCM's and TCD's schedulers count it.

    Parameters
    ----------
    table : of the training
    original : number of the entries that the model was distilled on, evenly spaced; None is all of them
    strength : share of these that is gone through, from the lowest

    Raises
    ------
    ValueError : more entries than the table has; fewer than two left
    """
    length = len(table.betas)
    original = length if original is None else original
    if original > length:
        raise ValueError(f"original_inference_steps must be at most num_train_timesteps, {length}; got {original}")
    every, count = length // original, int(original * strength)
    if count < 2:
        raise ValueError(
            f"original_inference_steps * strength must be at least 2; got {original} * {strength}. Raise one of them."
        )
    kept = every * count
    if kept == length:
        how: dict[str, Any] = {"zero_terminal_snr": table.zero_terminal_snr, "snr_shift": table.snr_shift}
        betas = table.betas
    else:  # what is left of a table that was rescaled is as it was
        how, alpha_bar = {}, table.alphas_cumprod[:kept]
        betas = tuple((1 - alpha_bar / np.append(1.0, alpha_bar[:-1])).tolist())
    return VP(betas, variance_preserving=table.variance_preserving, every=every, **how)


def _preserves(stock: str) -> bool:
    """Whether the states of a class have the size of the data, whatever the noise."""
    return not stock.startswith(("Euler", "Heun", "LMS", "KDPM2", "DPMSolverSDE"))


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
) -> Iterations:
    """Iterations of a sampler of ours, on a schedule of ours, for the model that a configuration describes.

    Parameters
    ----------
    config, stock : of the model's scheduler
    steps, timesteps, sigmas, mu : of ``set_timesteps``; lists are run as they are, but for the shift of flow models,
        which loops leave to the scheduler
    original_inference_steps, strength : of ``set_timesteps`` too: which part of a training table is run on
    sampler, schedule : None is what the class has
    dialect, sampler_options, schedule_options : as for `ksched.build_sampler`
    layout : "calls", steps are model calls, of which there are as many as fit into their number; "steps", steps of the
        schedule, each of which may take several

    Raises
    ------
    TypeError, ValueError : unknown names or options, levels that are no grid, a sampler that no loop can drive
    """
    check_replaced(stock, config)
    mu = mu if config.get("use_dynamic_shifting") else None
    process = process_of(config, stock, mu)
    part: dict[str, Any] = {"original_inference_steps": original_inference_steps, "strength": strength}
    if original_inference_steps is not None or strength != 1:
        if not isinstance(process, VP):
            raise ValueError(
                "original_inference_steps and strength are of models with a table of betas, as LCM's; "
                f"this one is {process!r}. Leave them out."
            )
        settings = {**config, "original_inference_steps": None}
        original = original_inference_steps or config.get("original_inference_steps")
        process = distilled(process_of(settings, stock, mu), original, strength)  # type: ignore[arg-type]
    options: dict[str, Any] = dict(sampler_options or {})
    reading, beside = dialect, None
    if sampler is None:
        levels, counted = stock_levels(stock or "EulerDiscreteScheduler", config, 10, mu=mu)
        request = request_of(stock or "EulerDiscreteScheduler", config, levels, counted)
        if request.learned_variance:  # the noise that is added beside the plan
            beside = Request(request.sampler, (), process, learned_variance=request.learned_variance)
        # what is told by the last level belongs to the class
        kept = {name: value for name, value in request.options.items() if name != "repeat_last"}
        sampler, options, reading = request.sampler, {**kept, **options}, Dialect.DIFFUSERS
    spec = sampler_spec(sampler)
    if spec.levels is not None and schedule is not None:
        raise ValueError(f"sampler {spec.name} has noise levels of its own; leave out schedule, got {schedule!r}")
    if spec.uncond:
        raise ValueError(
            f"sampler {spec.name} needs the prediction without guidance too, and pipelines hand over the guided one "
            "alone; take the sampler without cfg_pp in its name"
        )
    if spec.adaptive:
        raise ValueError(
            f"sampler {spec.name} chooses its steps by what the model answers, and a pipeline fixes its iterations "
            "beforehand; take another, or run it with ksched.build_sampler(...).sample"
        )

    def method(levels: Sequence[float] | Array) -> Method:
        return Method(spec.key, tuple(float(v) for v in levels), process, reading, options, beside)

    def scheduled(count: int) -> Method:
        if spec.levels is not None:
            return method(spec.levels(count, process, **options))
        if schedule is None and stock is not None:
            return method(_levels_of(stock, config, count, mu, part))
        name = schedule or NoiseSchedule.SIMPLE
        return method(scheduled_sigmas(config, process, name, count, dialect, schedule_options, stock))

    told: tuple[Array, Array] | None = None
    if isinstance(process, FlowToData) and timesteps is not None:  # the class inverts a list of either kind
        sigmas = np.asarray(timesteps, dtype=np.float64) / process.timestep_scale if sigmas is None else sigmas
        timesteps = None
    if sigmas is not None:
        levels_given = np.asarray(sigmas, dtype=np.float64)
        if isinstance(process, Flow):
            levels_given = process.sigma_at(levels_given[levels_given > 0])
            terminal = config.get("shift_terminal")
            levels_given = np.append(levels_given, 0.0)
            levels_given = stretch_terminal(levels_given, terminal) if terminal else levels_given
            if _ends_low(config, stock) and len(levels_given) > 2:
                levels_given = levels_given[:-1]
        made = method(levels_given)
        if timesteps is not None:
            told = np.asarray(timesteps, dtype=np.float64), levels_given[: len(np.asarray(timesteps))]
    elif timesteps is not None:
        listed = np.asarray(timesteps, dtype=np.float64)
        listed = listed[max(len(listed) - int(len(listed) * strength), 0) :]  # as LCM's scheduler cuts a list
        made = method(np.append(process_of(config, stock, mu).sigma(listed), 0.0))
    else:
        asked = check_steps(steps)
        by_calls = layout == "calls" and spec.levels is None
        made = scheduled(_steps_within(spec, asked, scheduled) if by_calls else asked)
    plan = made.whole
    calls = plan.call_sigmas
    network = process.timestep(calls) if told is None else np.interp(calls, told[1][::-1], told[0][::-1])
    order = spec.calls if layout == "steps" and isinstance(spec.calls, int) else 1
    return Iterations(
        made,
        np.asarray(network, dtype=np.float64),
        False,
        np.append(calls, made.sigmas[-1]),
        start_std(process, float(calls[0]), config),
        order,
        conversions_of(process, prediction_of(config, stock), calls),
    )


def scheduled_sigmas(
    config: Settings,
    process: Process,
    schedule: NoiseSchedule | str,
    steps: int,
    dialect: Dialect = Dialect.KSCHED,
    options: Settings | None = None,
    stock: str | None = None,
) -> Array:
    """Levels of a schedule of ours, within the range and with the end that the model's configuration asks for.

    Parameters
    ----------
    config, process : of the model's scheduler; the second as `process_of` reads it
    schedule, steps, dialect, options : as for `ksched.calculate_sigmas`
    stock : class of the configuration, whose settings alone count
    """
    span = {k: config[k] for k in ("sigma_min", "sigma_max") if config.get(k) is not None and isinstance(process, VP)}
    clipped = config.get("lambda_min_clipped", -math.inf)
    if isinstance(process, VP) and clipped > -math.inf and "sigma_max" not in span:  # of a half log-SNR
        below = process.sigmas[-np.log(process.sigmas) >= clipped]
        if not len(below):
            raise ValueError(f"lambda_min_clipped={clipped} cuts every level of {process!r}; lower it")
        span["sigma_max"] = float(below[-1])
    made = calculate_sigmas(schedule, steps, process, dialect=dialect, **{**span, **(options or {})})
    terminal = config.get("shift_terminal")
    made = stretch_terminal(made, terminal) if terminal and process.is_flow else made
    if not _ends_low(config, stock):
        return made
    lowest = span.get("sigma_min", process.sigma_min)
    return np.append(made[made > lowest * (1 + 1e-9)], lowest)


def _ends_low(config: Settings, stock: str | None) -> bool:
    """Whether a run ends at the lowest level and not at 0, by ``final_sigmas_type``; others' means nothing."""
    if stock is not None and "final_sigmas_type" not in settings_of(stock):
        return False
    final = config.get("final_sigmas_type") or "zero"
    if final not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigmas_type must be 'zero' or 'sigma_min'; got {final!r}")
    return bool(final == "sigma_min")


def start_std(process: Process, sigma: float, config: Settings) -> float:
    """What start noise is multiplied by: states of the data's size have it at 1."""
    if process.is_flow or process.variance_preserving:
        return 1.0
    leading = config.get("timestep_spacing") == "leading" or isinstance(process, EDM)
    return math.hypot(sigma, 1.0) if leading else sigma


def _levels_of(stock: str, config: Settings, steps: int, mu: float | None, part: Mapping[str, Any]) -> list[float]:
    """Noise levels of a class for another sampler: each once, down to 0."""
    # what is of the method is replaced; levels are of noise, and the process inverts time
    settings = {key: value for key, value in config.items() if key not in {*METHOD, "thresholding", "clip_sample"}}
    settings |= {"skip_prk_steps": True, "invert_sigmas": False, "variance_type": None}
    low = _ends_low(config, stock)
    if is_flow(config, stock) and config.get("num_train_timesteps") == 1:
        settings["num_train_timesteps"] = 1000  # a table of one level says nothing of the others
    levels, counted = stock_levels(stock, settings, steps, mu=mu, **part)
    found = falling(list(request_of(stock, settings, levels, counted).sigmas))[0]
    if found[0] > 1 and is_flow(config, stock):
        raise ValueError(
            f"the levels of {stock} are of no flow model, and prediction_type='flow_prediction' says this is one: "
            "give a schedule too"
        )
    positive = [sigma for sigma in found if sigma > 0]
    return positive if low and len(positive) > 1 else [*positive[:counted], 0.0]


def _steps_within(spec: SamplerSpec, calls: int, build: Callable[[int], Method]) -> int:
    """The most steps whose model calls are at most ``calls``, at least 1."""
    if isinstance(spec.calls, int):
        return max((calls + spec.calls - spec.calls_to_zero) // spec.calls, 1)
    low, high = 1, calls
    while low < high:  # options and levels may change the number of calls, so it is counted
        middle = (low + high + 1) // 2
        low, high = (middle, high) if build(middle).whole.nfe <= calls else (low, middle - 1)
    return low
