"""What a configuration of a diffusers scheduler says of its model: process, prediction, levels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ksched.dialects.diffusers.betas import flow_shift, vp_of
from ksched.dialects.diffusers.classes import CLASSES, settings_of
from ksched.dialects.diffusers.request import FlowToData, SigmaTold, has_sigma_data
from ksched.dialects.diffusers.words import is_velocity, prediction_word
from ksched.names.enums import Dialect
from ksched.processes import EDM, VP, AngleV, Flow, Process, TrigFlow
from ksched.schedules.select import Schedule, calculate_sigmas
from ksched.schedules.transforms import stretch_terminal
from ksched.types import Array

__all__ = [
    "Settings",
    "distilled",
    "ends_low",
    "is_flow",
    "prediction_of",
    "process_of",
    "scheduled_sigmas",
    "start_std",
    "takes_above_one",
]


Settings = Mapping[str, Any]


def prediction_of(config: Settings, stock: str | None) -> str:
    """What the network predicts, in the words of diffusers."""
    said = prediction_word(config.get("prediction_type"))
    fixed = CLASSES[stock].prediction if stock else None
    if fixed == "flow_prediction" and is_velocity(said):
        return str(said)  # which may be of the other sign
    return str(fixed or said or ("flow_prediction" if is_flow(config, stock) else "epsilon"))


def is_flow(config: Settings, stock: str | None) -> bool:
    """Whether a configuration is one of a flow model."""
    if stock is not None and CLASSES[stock].prediction == "flow_prediction":
        return True
    return is_velocity(config.get("prediction_type")) or bool(config.get("use_flow_sigmas"))


# ----------------------------------------------------------------------------------------- any sampler, any schedule
def process_of(config: Settings, stock: str | None, mu: float | None = None) -> Process:
    """What a model was trained on, by the configuration of its scheduler; states are as that holds them."""
    if stock is not None:  # what is left over from another class means nothing here
        others = {"sigma_data", "snr_shift_scale", "original_inference_steps"} - settings_of(stock)
        config = {name: value for name, value in config.items() if name not in others}
    if is_flow(config, stock):
        return _flow_of(config, stock, mu)
    if stock == "SCMScheduler":
        return TrigFlow(float(config.get("sigma_data") or 0.5))
    if (data := config.get("sigma_data")) is not None:
        of_data = AngleV if stock == "CosineDPMSolverMultistepScheduler" else EDM
        return of_data(*_range_of(config, 0.002, 80.0), data)
    table = vp_of(config, variance_preserving=stock is None or _preserves(stock))
    if config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
        return EDM(*_range_of(config, table.sigma_min, table.sigma_max), 1.0)
    if original := config.get("original_inference_steps"):
        return distilled(table, int(original))
    return table


def _range_of(config: Settings, low: float, high: float) -> tuple[float, float]:
    """The range of levels that a configuration names, or else one."""
    return config.get("sigma_min") or low, config.get("sigma_max") or high


def takes_above_one(config: Settings, stock: str | None) -> bool:
    """Whether a flow class is told by a rule to go to levels above 1, at which states are no flow states."""
    rules = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    by_rule = stock is not None and "sigma_max" in settings_of(stock) and any(config.get(name) for name in rules)
    return bool(by_rule and is_flow(config, stock) and (config.get("sigma_max") or 0.0) > 1)


def _flow_of(config: Settings, stock: str | None, mu: float | None) -> Process:
    """The process of a configuration of a flow model."""
    length = int(config.get("num_train_timesteps") or 1000)
    names = ("shift",) if stock and "shift" in settings_of(stock) else ("flow_shift", "shift")
    shifts = [float(config[name]) for name in names if config.get(name) not in (None, 1.0)]
    dynamic = {"use_dynamic_shifting": bool(config.get("use_dynamic_shifting")), "shift": (shifts or [1.0])[0]}
    shift = flow_shift(dynamic | {"time_shift_type": config.get("time_shift_type") or "exponential"}, mu)
    if stock is not None and CLASSES[stock].told_share:
        return FlowToData(shift, 1000, 1.0, shows_data=False)
    if takes_above_one(config, stock):
        return SigmaTold(config.get("sigma_min") or 0.002, config["sigma_max"], float(length))
    kind = FlowToData if config.get("invert_sigmas") else Flow
    # where the network is told sigma itself, the class has a table of one level, which is no spacing
    return kind(shift, 1000 if length == 1 else length, float(length))


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
    return VP(betas, variance_preserving=table.variance_preserving, keep_every=every, **how)


def _preserves(stock: str) -> bool:
    """Whether the states of a class have the size of the data, whatever the noise."""
    return not stock.startswith(("Euler", "Heun", "LMS", "KDPM2", "DPMSolverSDE"))


def scheduled_sigmas(
    config: Settings,
    process: Process,
    schedule: Schedule,
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
    span = _span(config, process)
    made = calculate_sigmas(schedule, steps, process, dialect=dialect, **{**span, **(options or {})})
    terminal = config.get("shift_terminal")
    made = stretch_terminal(made, terminal) if terminal and process.is_flow else made
    if not ends_low(config, stock):
        return made
    lowest = span.get("sigma_min", process.sigma_min)
    return np.append(made[made > lowest * (1 + 1e-9)], lowest)


def _span(config: Settings, process: Process) -> dict[str, float]:
    """The part of a training table that the settings leave; EDM has it as its range, and flows have none."""
    if not isinstance(process, VP):  # a configuration of betas is a table of this class
        return {}
    span = {name: config[name] for name in ("sigma_min", "sigma_max") if config.get(name) is not None}
    clipped = config.get("lambda_min_clipped", -math.inf)
    if clipped > -math.inf and "sigma_max" not in span:  # of a half log-SNR
        below = process.sigmas[-np.log(process.sigmas) >= clipped]
        if not len(below):
            raise ValueError(f"lambda_min_clipped={clipped} cuts every level of {process!r}; lower it")
        span["sigma_max"] = float(below[-1])
    return span


def ends_low(config: Settings, stock: str | None) -> bool:
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
    # classes with sigma_data have the network's input norm in it as those that lead have
    leading = config.get("timestep_spacing") == "leading" or has_sigma_data(process)
    return math.hypot(sigma, 1.0) if leading else sigma
