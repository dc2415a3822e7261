"""Process, prediction and sigmas of a diffusers scheduler's configuration."""

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
from ksched.schedules.flow_transforms import stretch_terminal
from ksched.schedules.select import Schedule, calculate_sigmas
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
    """What the network predicts, in diffusers' words."""
    said = prediction_word(config.get("prediction_type"))
    fixed = CLASSES[stock].prediction if stock else None
    if fixed == "flow_prediction" and is_velocity(said):
        return str(said)  # it may have the opposite sign
    return str(fixed or said or ("flow_prediction" if is_flow(config, stock) else "epsilon"))


def is_flow(config: Settings, stock: str | None) -> bool:
    """Whether a configuration is that of a flow model."""
    if stock is not None and CLASSES[stock].prediction == "flow_prediction":
        return True
    return is_velocity(config.get("prediction_type")) or bool(config.get("use_flow_sigmas"))


# ----------------------------------------------------------------------------------------- any sampler, any schedule
def process_of(config: Settings, stock: str | None, mu: float | None = None) -> Process:
    """The process of a model, with states as its scheduler holds them."""
    if stock is not None:  # settings left over from another class have no effect
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
    """The range of sigmas in a configuration, or else the given one."""
    return config.get("sigma_min") or low, config.get("sigma_max") or high


def takes_above_one(config: Settings, stock: str | None) -> bool:
    """Whether a rule takes a flow class to sigmas above 1, where states are not flow states."""
    rules = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    by_rule = stock is not None and "sigma_max" in settings_of(stock) and any(config.get(name) for name in rules)
    return bool(by_rule and is_flow(config, stock) and (config.get("sigma_max") or 0.0) > 1)


def _flow_of(config: Settings, stock: str | None, mu: float | None) -> Process:
    """The process of a flow model's configuration."""
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
    # a network called with sigma itself has a table with one entry, which says nothing about spacing
    return kind(shift, 1000 if length == 1 else length, float(length))


def distilled(table: VP, original: int | None = None, strength: float = 1.0) -> VP:
    """The part of a training table that a model runs on, as LCM's and TCD's schedulers count it.

    Parameters
    ----------
    table : VP
        Process with the whole table.
    original : int or None
        Number of evenly spaced entries that the model was distilled on; None is all of them.
    strength : float
        Share of these to run, from the lowest.

    Raises
    ------
    ValueError
        If ``original`` is larger than the table, or fewer than two entries are left.
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
    else:  # the rest of a rescaled table is not rescaled again
        how, alpha_bar = {}, table.alphas_cumprod[:kept]
        betas = tuple((1 - alpha_bar / np.append(1.0, alpha_bar[:-1])).tolist())
    return VP(betas, variance_preserving=table.variance_preserving, keep_every=every, **how)


def _preserves(stock: str) -> bool:
    """Whether the states of a class keep the size of the data at every sigma."""
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
    """Sigmas of a ksched schedule, within the range and with the end that the model's configuration requires.

    Parameters
    ----------
    config, process : mapping or Process
        Configuration of the model's scheduler, and its process from `process_of`.
    schedule, steps, dialect, options : str, callable, int, Dialect, mapping or None
        As for `ksched.calculate_sigmas`.
    stock : str or None
        Class of the configuration; only its settings count.
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
    """The part of a training table allowed by the settings; EDM has it as its range, and flows have none."""
    if not isinstance(process, VP):  # only VP has a table of betas
        return {}
    span = {name: config[name] for name in ("sigma_min", "sigma_max") if config.get(name) is not None}
    clipped = config.get("lambda_min_clipped", -math.inf)
    if clipped > -math.inf and "sigma_max" not in span:  # it is a half log-SNR
        below = process.sigmas[-np.log(process.sigmas) >= clipped]
        if not len(below):
            raise ValueError(f"lambda_min_clipped={clipped} cuts every level of {process!r}; lower it")
        span["sigma_max"] = float(below[-1])
    return span


def ends_low(config: Settings, stock: str | None) -> bool:
    """Whether ``final_sigmas_type`` ends a run at the lowest sigma instead of at 0; ignored in other classes."""
    if stock is not None and "final_sigmas_type" not in settings_of(stock):
        return False
    final = config.get("final_sigmas_type") or "zero"
    if final not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigmas_type must be 'zero' or 'sigma_min'; got {final!r}")
    return bool(final == "sigma_min")


def start_std(process: Process, sigma: float, config: Settings) -> float:
    """The factor of the start noise: 1 for states with the size of the data."""
    if process.is_flow or process.variance_preserving:
        return 1.0
    # classes with sigma_data include the network's input norm, as those with "leading" do
    leading = config.get("timestep_spacing") == "leading" or has_sigma_data(process)
    return math.hypot(sigma, 1.0) if leading else sigma
