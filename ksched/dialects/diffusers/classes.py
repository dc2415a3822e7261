"""What a scheduler class of diffusers asks of `ksched.build_sampler`: its method and options, without diffusers.

The levels that a class runs at are in `ksched.schedules.diffusers`; here is what it does between them. Classes that go
by timesteps step to ``t - N // n``, which is not always where the next step starts from: `ddim_by_strides` and
`plms_by_strides` do that literally.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ksched.dialects.diffusers.betas import vp_of
from ksched.dialects.diffusers.level_blocks import DiffusersLevels
from ksched.dialects.diffusers.levels import level_settings
from ksched.dialects.diffusers.loops import ddim_by_strides, lms_by_place, plms_by_strides, traced
from ksched.dialects.peers import find_sampler
from ksched.names.enums import Dialect
from ksched.plan.plan import Plan
from ksched.processes import EDM, VP, Flow, Process

__all__ = [
    "CLASSES",
    "LEVELS",
    "METHOD",
    "FlowToData",
    "NotRepresentedError",
    "Request",
    "StockClass",
    "check_replaced",
    "falling",
    "request_of",
    "settings_of",
    "stock_class",
]


Settings = Mapping[str, Any]


OTHER_LEVELS = "its steps arrive at other levels than the next ones start from: prev_timestep is t - N // n"


RISING = "its levels rise, and a grid of ours falls"


ENDS_ON_NOISE = (
    "invert_sigmas=True makes its stochastic steps end on noise; choose a sampler, such as lcm, which takes the "
    "inverted time as it is meant"
)


CHURN_NOT_IN_EPS = "it churns after the model call, and makes of an answer that is no eps a prediction of the new state"


CHURN_OFF_FLOW = "it churns flow states as if they were x0 + sigma * eps, and drops the noise of every second call"


NOT_A_NUMBER = "its noise is not a number: the square root of a logarithm"


EDITED_TCD = "it edits the prediction and keeps the noise of the one before, which tcd here has no place for"


#: settings of the classes' methods, which a sampler takes the place of
METHOD = frozenset((
    "solver_order", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final", "predict_x0",
    "solver_p", "disable_corrector", "predictor_order", "corrector_order", "tau", "tau_func", "skip_prk_steps",
    "set_alpha_to_one", "timestep_scaling", "stochastic_sampling", "eta", "s_noise", "noise_sampler_seed",
))  # fmt: skip


#: settings of the classes' levels, which a schedule takes the place of; the others are of the model and of its range
LEVELS = frozenset((
    "timestep_spacing", "steps_offset", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
    "use_lu_lambdas", "interpolation_type", "sigma_schedule", "rho",
))  # fmt: skip


class NotRepresentedError(ValueError):
    """A setting of a class that no option of ours repeats; the text says why."""


@dataclass(frozen=True)
class FlowToData(Flow):
    """A `Flow` whose network is told how much data there is, and answers ``x0 - eps`` (``invert_sigmas``).

    Its time runs from 0, noise, to ``timestep_scale``, data. Sigma is the noise std, as everywhere.
    """

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return self.timestep_scale * (1 - sigma)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return 1 - timestep / self.timestep_scale


class Request(NamedTuple):
    """What a class asks for.

    Attributes
    ----------
    sampler, process, options : as for `ksched.build_sampler`, in the diffusers dialect
    sigmas : levels of the run, falling
    calls : levels of the model calls where they are no falling list, and are not the plan's own
    literal : the class's own loop over the levels of its calls, in place of the sampler; it may start at any of them
    pair : the model answers with the edited prediction and the one that eps comes from
    noise_by_step : one noise is drawn at every step, used or not
    learned_variance : of "learned" or "learned_range", if the noise is scaled by an output of the model
    boundary : of LCM, whose ``step`` returns the consistency function's answer beside the next state (see `lcm`)
    """

    sampler: str
    sigmas: Sequence[float]
    process: Process
    options: Mapping[str, Any] = {}
    calls: Sequence[float] | None = None
    literal: Callable[[int, Mapping[str, Any]], Plan] | None = None
    pair: bool = False
    noise_by_step: bool = False
    learned_variance: str | None = None
    boundary: float = 0.0


class Run(NamedTuple):
    """A run of a class: its name, configuration, levels, number of steps, and what ``step`` is told every time."""

    scheduler: str
    config: Settings
    levels: DiffusersLevels
    steps: int
    given: Settings

    @property
    def sigmas(self) -> list[float]:
        """Levels of a class that has a list of them."""
        assert self.levels.sigmas is not None
        return [float(sigma) for sigma in self.levels.sigmas]

    @property
    def timesteps(self) -> list[float]:
        """Timesteps of the model calls."""
        return [float(t) for t in self.levels.timesteps]


# ------------------------------------------------------------------------------------------------------------ processes
def level_of(process: VP, timestep: float) -> float:
    """Sigma over alpha at a whole timestep."""
    if timestep >= len(process.betas):
        raise ValueError(f"timestep {timestep:g} is beyond the training table, which has {len(process.betas)} betas")
    alpha_bar = float(process.alphas_cumprod[int(timestep)])
    return math.sqrt((1 - alpha_bar) / alpha_bar) if alpha_bar > 0 else math.inf


#: ratio of two levels that only rounding tells apart
_SAME = 1 - 1e-12


def falling(sigmas: Sequence[float]) -> tuple[list[float], bool]:
    """Levels without the repeats, which are steps of length 0; and whether the last was one."""
    kept = [sigmas[0]]
    for sigma in sigmas[1:]:
        if sigma < _SAME * kept[-1] or sigma > 1.001 * kept[-1]:  # rounding makes some repeats rise
            kept.append(sigma)
    return kept, len(sigmas) > 1 and sigmas[-1] > 0 and sigmas[-1] >= _SAME * sigmas[-2]


# ------------------------------------------------------------------- classes that hold x0 + sigma * eps, or flow states
def _sigma_states(run: Run) -> Process:
    """``x0 + sigma * eps``, of any range: the table only names timesteps."""
    s = run.config
    if s.get("sigma_data") is not None:
        low, high = s.get("sigma_min") or 0.002, s.get("sigma_max") or 80.0
        return EDM(low, high, s["sigma_data"])
    return vp_of(s, variance_preserving=False)


def _euler(run: Run) -> Request:
    churn = {name: value for name, value in run.given.items() if name.startswith("s_")}
    in_eps = run.scheduler != "EDMEulerScheduler" and run.config.get("prediction_type", "epsilon") == "epsilon"
    if churn.get("s_churn", 0) > 0 and not in_eps:
        raise NotRepresentedError(CHURN_NOT_IN_EPS)
    # a table of one level too many is walked as far as there are timesteps
    levels = falling(run.sigmas[: len(run.timesteps) + 1])[0]
    return Request("euler", levels, _sigma_states(run), churn)


def _in_sigma(sampler: str) -> Callable[[Run], Request]:
    """A class whose levels are all that is particular to it."""

    def request(run: Run) -> Request:
        return Request(sampler, falling(run.sigmas)[0], _sigma_states(run), run.given)

    return request


def _lms(run: Run) -> Request:
    process, sigmas = _sigma_states(run), falling(run.sigmas)[0]
    order = int(run.given.get("order", 4))

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        levels = [process.level(sigma) for sigma in sigmas]
        return traced(partial(lms_by_place, levels=levels, begin=begin, order=order), process, levels[begin])

    return Request("lms", sigmas, process, {"order": order}, sigmas[:-1], literal)


def _flow_euler(run: Run) -> Request:
    if run.config.get("stochastic_sampling"):
        return _flow_lcm(run)
    sigmas = [1 - share for share in run.sigmas] if run.config.get("invert_sigmas") else run.sigmas
    return Request("euler", falling(sigmas)[0], _flow(run))  # it takes s_churn and its like, and does nothing


def _flow_lcm(run: Run) -> Request:
    if run.config.get("invert_sigmas"):
        raise NotRepresentedError(ENDS_ON_NOISE)
    if run.config.get("scale_factors"):
        raise NotRepresentedError("it resizes the state between steps")
    return Request("lcm", falling(run.sigmas)[0], _flow(run), {"boundary": 0.0})


def _flow_heun(run: Run) -> Request:
    if run.given.get("s_churn", 0) > 0:
        raise NotRepresentedError(CHURN_OFF_FLOW)
    return Request("heun", falling(run.sigmas)[0], _flow(run))


def _flow_ancestral(run: Run) -> Request:
    options = {"eta": run.config.get("eta", 1.0), "s_noise": run.config.get("s_noise", 1.0)}
    return Request("euler_ancestral", falling(run.sigmas)[0], _flow(run), options)


def _flow(run: Run) -> Flow:
    """The shift is in the levels already."""
    kind = FlowToData if run.config.get("invert_sigmas") else Flow
    return kind(timestep_scale=float(run.config.get("num_train_timesteps", 1000)))


def _edm_solver(run: Run) -> Request:
    return _solver_request(run, _sigma_states(run), cosine=run.scheduler.startswith("Cosine"))


# --------------------------------------------------- classes that go by sigmas and hold variance-preserving states
def _solver_process(run: Run) -> Process:
    return _flow(run) if run.config.get("use_flow_sigmas") else vp_of(run.config, variance_preserving=True)


def _solver(run: Run) -> Request:
    return _solver_request(run, _solver_process(run))


def _solver_request(run: Run, process: Process, cosine: bool = False) -> Request:
    s = run.config
    kind = "sde-dpmsolver++" if cosine else s.get("algorithm_type", "dpmsolver++")
    kind = "dpmsolver++" if kind == "deis" else kind
    solver = s.get("solver_type", "midpoint")
    levels, repeat_last = falling(run.sigmas)
    options: dict[str, Any] = {
        "order": s.get("solver_order", 2),
        "solver_type": solver if solver in ("midpoint", "heun") else "midpoint",
        "predict": "denoised" if kind.endswith("++") else "eps",
        "eta": float(kind.startswith("sde")),
        "repeat_last": repeat_last,
    }
    if run.scheduler == "DPMSolverSinglestepScheduler":
        return Request(
            "dpm_singlestep", levels, process, options | {"lower_order_final": s.get("lower_order_final", False)}
        )
    options["lower_order_final"] = s.get("lower_order_final", True)
    return Request("dpm_multistep", levels, process, options | {"euler_at_final": s.get("euler_at_final", False)})


def _uni_pc(run: Run) -> Request:
    s = run.config
    without = sorted(s.get("disable_corrector") or [])
    if without != list(range(len(without))):
        raise NotRepresentedError("it leaves out the corrector of steps amid the others")
    if s.get("solver_p") is not None:
        raise NotRepresentedError("its predictor is another scheduler")
    levels, repeat_last = falling(run.sigmas)
    variant = s.get("solver_type", "bh2")
    options = {
        "order": s.get("solver_order", 2),
        "variant": variant if variant in ("bh1", "bh2") else "bh2",
        "predict": "denoised" if s.get("predict_x0", True) else "eps",
        "first_corrected": len(without),
        "lower_order_final": s.get("lower_order_final", True),
        "repeat_last": repeat_last,
    }
    return Request("uni_pc", levels, _solver_process(run), options)


def _deis(run: Run) -> Request:
    levels, repeat_last = falling(run.sigmas)
    options = {
        "max_order": run.config.get("solver_order", 2),
        "lower_order_final": run.config.get("lower_order_final", True),
        "repeat_last": repeat_last,
    }
    return Request("deis", levels, _solver_process(run), options)


def _sa_solver(run: Run) -> Request:
    s, sigmas = run.config, run.sigmas
    if s.get("tau_func") is not None:
        raise NotRepresentedError("tau_func is a function; take sampler sa_solver, whose tau holds in an interval")
    levels, repeat_last = falling(sigmas)
    process = _solver_process(run)
    tau = s.get("tau") or {"eta": 1.0, "t_lo": 200, "t_hi": 800}
    steps = list(zip(run.timesteps, sigmas, strict=False))
    noisy = [sigma for t, sigma in steps if tau["t_lo"] <= t <= tau["t_hi"]]
    options = {
        "predictor_order": s.get("predictor_order", 2),
        "corrector_order": s.get("corrector_order", 2),
        "predict": "denoised" if s.get("algorithm_type", "data_prediction") == "data_prediction" else "eps",
        "tau": float(tau["eta"]) if noisy else 0.0,
        "lower_order_final": s.get("lower_order_final", True),
        "repeat_last": repeat_last,
    }
    if noisy:
        # timesteps are rounded, so the ends of tau lie somewhere between the levels with and without noise
        above = [sigma for sigma in sigmas if sigma > max(noisy)]
        below = [sigma for sigma in sigmas if 0 < sigma < min(noisy)]
        loud = math.sqrt(max(noisy) * min(above)) if above else max(noisy) * 1.01
        quiet = math.sqrt(min(noisy) * max(below)) if below else min(noisy) / 1.01
        options |= {"tau_start": _share_of(process, loud), "tau_end": _share_of(process, quiet)}
    return Request("sa_solver", levels, process, options, noise_by_step=True)


def _share_of(process: Process, sigma: float) -> float:
    """The share of a run after which it is at sigma: inverse of `Process.sigma_after`."""
    place = process.time(sigma) if isinstance(process, Flow) else process.position(sigma) / (len(process.sigmas) - 1)
    return min(max(1 - place, 0.0), 1.0)


# --------------------------------------------------------------------------------------- classes that go by timesteps
def _after(process: VP, s: Settings, timestep: float, to_one: bool) -> float:
    """The level of a timestep, or of the end where that is below all."""
    if timestep >= 0:
        return level_of(process, timestep)
    return 0.0 if s.get("set_alpha_to_one", to_one) else level_of(process, 0)


def _stride(run: Run) -> int:
    return int(run.config.get("num_train_timesteps", 1000) // run.steps)


def _ddim(run: Run) -> Request:
    s, step, timesteps = run.config, _stride(run), run.timesteps
    process = vp_of(s, variance_preserving=True)
    calls = [level_of(process, t) for t in timesteps]
    ends = [_after(process, s, t - step, to_one=True) for t in timesteps]
    eta = run.given.get("eta") or 0.0
    edited = s.get("clip_sample", True) or s.get("thresholding")
    pair = bool(edited and not run.given.get("use_clipped_model_output")) and not run.scheduler.startswith("CogVideoX")

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        how = {"eta": eta, "pair": pair, **options}
        levels, arrivals = ([process.level(v) for v in values[begin:]] for values in (calls, ends))
        function = partial(ddim_by_strides, levels=levels, arrivals=arrivals, **how)
        return traced(function, process, levels[0])

    return Request("ddim", falling([*calls, ends[-1]])[0], process, {"eta": eta}, calls, literal, pair)


def _ddpm(run: Run) -> Request:
    s = run.config
    kind = s.get("variance_type", "fixed_small")
    if kind == "fixed_large_log":
        raise NotRepresentedError(NOT_A_NUMBER)
    process = vp_of(s, variance_preserving=True)
    levels = [*(level_of(process, t) for t in run.timesteps), 0.0]
    if kind.startswith("learned"):  # the noise is added beside the plan
        return Request("ddpm", levels, process, {"s_noise": 0.0}, learned_variance=kind)
    larger = "beta" if run.timesteps[-1] == 0 else "beta_to_end"
    return Request("ddpm", levels, process, {"variance": "posterior" if kind.startswith("fixed_small") else larger})


def _pndm(run: Run) -> Request:
    s, step, n, timesteps = run.config, _stride(run), run.steps, run.timesteps
    process, v = vp_of(s, variance_preserving=True), s.get("prediction_type") == "v_prediction"
    slopes = {"slopes": "v" if v else "straight"}
    if s.get("skip_prk_steps"):
        calls = [level_of(process, t) for t in timesteps]

        def literal(begin: int, options: Mapping[str, Any]) -> Plan:
            ways = [(t, t - step) for t in timesteps[begin:]]
            if len(ways) > 1:
                ways[1] = ways[1][0] + step, ways[1][0]
            if max(t for t, _ in ways) >= len(process.betas):
                raise NotRepresentedError(f"its second call is for a timestep of {len(process.betas)} or more")
            ends = [(process.level(level_of(process, a)), process.level(_after(process, s, b, False))) for a, b in ways]
            levels = [process.level(value) for value in calls[begin:]]
            function = partial(plms_by_strides, levels=levels, steps=ends, slopes="v" if v else "eps")
            return traced(function, process, levels[0])

        own = falling([*calls, _after(process, s, timesteps[-1] - step, False)])[0]
        return Request("pndm", own, process, {**slopes, "warm_up": "heun"}, calls, literal)
    even = [timesteps[-1] + step * k for k in range(n)][::-1]
    if even[:1] != timesteps[:1] or step % 2:
        raise NotRepresentedError(OTHER_LEVELS)
    levels, _ = falling([*(level_of(process, t) for t in even), _after(process, s, timesteps[-1] - step, False)])
    return Request("pndm", levels, process, {**slopes, "warm_up": "prk", "max_order": 4 if n > 1 else 1})


_LATENT: Settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _lcm(run: Run) -> Request:
    process = vp_of({**_LATENT, **run.config}, variance_preserving=True)
    levels = [*(level_of(process, t) for t in run.timesteps), 0.0]
    boundary = run.config.get("timestep_scaling", 10.0)
    return Request("lcm", levels, process, {"boundary": boundary}, boundary=boundary)


def _tcd(run: Run) -> Request:
    if run.config.get("thresholding") or run.config.get("clip_sample"):
        raise NotRepresentedError(EDITED_TCD)
    process, eta = vp_of({**_LATENT, **run.config}, variance_preserving=True), run.given.get("eta")
    levels, _ = falling([*(level_of(process, t) for t in run.timesteps), level_of(process, 0)])
    return Request("tcd", levels, process, {"eta": 0.3 if eta is None else eta})


def _ipndm(run: Run) -> Request:
    """Its timesteps are angles."""
    levels = [math.inf if t >= 1 else math.tan(t * math.pi / 2) for t in run.timesteps]
    return Request("ipndm", [*levels, 0.0], VP(variance_preserving=True))


def _rising(run: Run) -> Request:
    raise NotRepresentedError(RISING)


# ---------------------------------------------------------------------------------------------------------- the classes
class StockClass(NamedTuple):
    """What is particular to a class beside its levels.

    Attributes
    ----------
    request : its method
    uses : settings of the method, beside those of the levels and the process
    calls : model calls of a step, as its timesteps are laid out
    levels : the class whose levels it has, if not its own
    prediction : what its networks predict, if there is no setting for it
    noises_by_timestep : whether ``add_noise`` takes the level of the whole timestep, and not that of the run
    begins_untold : whether it steps through the timesteps of the training where nobody called ``set_timesteps``
    """

    request: Callable[[Run], Request]
    uses: str = "prediction_type"
    calls: int = 1
    levels: str | None = None
    prediction: str | None = None
    noises_by_timestep: bool = False
    begins_untold: bool = False


_EDITS = "prediction_type thresholding dynamic_thresholding_ratio sample_max_value"


_CLIPS = f"{_EDITS} clip_sample clip_sample_range"


_SOLVES = f"{_EDITS} solver_order algorithm_type solver_type lower_order_final"


_HEUNS = "prediction_type clip_sample clip_sample_range"


_VP = "rescale_betas_zero_snr"


CLASSES: Mapping[str, StockClass] = {
    f"{name}Scheduler": facts
    for name, facts in {
        "EulerDiscrete": StockClass(_euler, begins_untold=True),
        "EulerAncestralDiscrete": StockClass(_in_sigma("euler_ancestral"), begins_untold=True),
        "HeunDiscrete": StockClass(_in_sigma("heun"), _HEUNS, 2, begins_untold=True),
        "LMSDiscrete": StockClass(_lms, begins_untold=True),
        "KDPM2Discrete": StockClass(_in_sigma("dpm_2"), calls=2, begins_untold=True),
        "KDPM2AncestralDiscrete": StockClass(_in_sigma("dpm_2_ancestral"), calls=2, begins_untold=True),
        "DPMSolverSDE": StockClass(_in_sigma("dpmpp_sde"), calls=2, begins_untold=True),
        "EDMEuler": StockClass(_euler, "prediction_type sigma_data"),
        "EDMDPMSolverMultistep": StockClass(_edm_solver, f"{_SOLVES} euler_at_final sigma_data"),
        "CosineDPMSolverMultistep": StockClass(
            _edm_solver, "prediction_type solver_order solver_type lower_order_final euler_at_final sigma_data"
        ),
        "DPMSolverMultistep": StockClass(_solver, f"{_SOLVES} euler_at_final"),
        "DPMSolverSinglestep": StockClass(_solver, _SOLVES),
        "UniPCMultistep": StockClass(
            _uni_pc, f"{_EDITS} solver_order predict_x0 solver_type lower_order_final disable_corrector"
        ),
        "DEISMultistep": StockClass(_deis, f"{_EDITS} solver_order lower_order_final"),
        "SASolver": StockClass(
            _sa_solver,
            f"{_EDITS} predictor_order corrector_order algorithm_type tau tau_func lower_order_final",
            noises_by_timestep=True,
        ),
        "DDIM": StockClass(_ddim, f"{_CLIPS} {_VP} set_alpha_to_one"),
        "DDIMParallel": StockClass(_ddim, f"{_CLIPS} {_VP} set_alpha_to_one", levels="DDIMScheduler"),
        "CogVideoXDDIM": StockClass(
            _ddim, f"prediction_type {_VP} set_alpha_to_one snr_shift_scale", levels="DDIMScheduler"
        ),
        "DDPM": StockClass(_ddpm, f"{_CLIPS} {_VP} variance_type", begins_untold=True),
        "DDPMParallel": StockClass(_ddpm, f"{_CLIPS} {_VP} variance_type", levels="DDPMScheduler", begins_untold=True),
        "PNDM": StockClass(_pndm, "prediction_type set_alpha_to_one"),
        "LCM": StockClass(_lcm, f"{_CLIPS} {_VP} timestep_scaling"),
        "TCD": StockClass(_tcd, f"prediction_type {_VP}"),
        "IPNDM": StockClass(_ipndm, "", prediction="v_prediction"),
        "FlowMatchEulerDiscrete": StockClass(_flow_euler, "stochastic_sampling", prediction="flow_prediction"),
        "FlowMatchHeunDiscrete": StockClass(_flow_heun, "", 2, prediction="flow_prediction"),
        "FlowMatchLCM": StockClass(_flow_lcm, "scale_factors", prediction="flow_prediction"),
        "LTXEulerAncestralRF": StockClass(_flow_ancestral, "eta s_noise", prediction="flow_prediction"),
        "DDIMInverse": StockClass(_rising),
        "DPMSolverMultistepInverse": StockClass(_rising),
    }.items()
}


def stock_class(name: str) -> StockClass:
    """What is known of a class.

    Raises
    ------
    ValueError : a class that is unknown or has no counterpart; the message says why, or lists near names
    """
    if name in CLASSES:
        return CLASSES[name]
    near = difflib.get_close_matches(name, CLASSES, n=4, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(CLASSES)}."
    try:
        peer = find_sampler(Dialect.DIFFUSERS, name)
    except ValueError:
        raise ValueError(f"unknown scheduler class {name!r}; {hint}") from None
    why = f"its loop is its own; the nearest sampler is {peer.sampler} {peer.note}" if peer.sampler else peer.note
    raise NotRepresentedError(f"{name} has no drop-in here: {why}")


def check_replaced(scheduler: str | None, config: Settings) -> None:
    """Raise for a class, or a setting of it, that no sampler or schedule of ours can take over.

    Raises
    ------
    NotRepresentedError : the message says what to do
    """
    if scheduler is not None and scheduler.endswith("InverseScheduler"):
        raise NotRepresentedError(
            f"{scheduler} goes from data to noise, and a sampler would go back: leave sampler and schedule out, or "
            "invert with ksched.build_sampler(...).invert"
        )
    if scheduler == "IPNDMScheduler":
        raise NotRepresentedError(
            f"networks of {scheduler} are told an angle, which is on no table of betas: leave sampler and schedule out"
        )
    if config.get("scale_factors") and (scheduler is None or "scale_factors" in settings_of(scheduler)):
        raise NotRepresentedError(
            f"scale_factors={config['scale_factors']} resizes the state between steps, which no sampler here does: "
            "set scale_factors=None, or keep the scheduler that the pipeline has"
        )


def settings_of(scheduler: str) -> frozenset[str]:
    """Names of the settings that a class goes by; it has others that do nothing here, or nothing at all."""
    facts = CLASSES[scheduler]
    return frozenset(level_settings(facts.levels or scheduler)) | frozenset(facts.uses.split())


def request_of(
    scheduler: str, config: Settings, levels: DiffusersLevels, steps: int, given: Settings | None = None
) -> Request:
    """What a class asks of `ksched.build_sampler` on levels that are known.

    Parameters
    ----------
    scheduler : name of the class
    config : its configuration; what is missing has the class's default
    levels : of the run, from `ksched.dialects.diffusers.levels.diffusers_levels`
    steps : number of steps that its ``set_timesteps`` was asked for
    given : arguments of its ``step``

    Raises
    ------
    NotRepresentedError : something that no option of ours repeats
    ValueError : an unknown class
    """
    facts = stock_class(scheduler)
    known = settings_of(scheduler)
    settings = {name: value for name, value in config.items() if value is not None and name in known}
    return facts.request(Run(scheduler, settings, levels, steps, dict(given or {})))
