"""Rules by which reference pipelines compute what they pass to a scheduler: lists of sigmas, and mu."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ksched.processes import Flow
from ksched.processes.resolution_shift import mu_for_flux2, mu_for_tokens
from ksched.schedules.curves import calculate_linear_quadratic_sigmas
from ksched.schedules.distilled import few_step
from ksched.types import Array

__all__ = ["LISTS", "Size", "list_of", "mu_of", "rule_text"]


class Size(NamedTuple):
    """Size of the result in pixels and frames; None is unspecified."""

    width: int | None = None
    height: int | None = None
    frames: int | None = None


class ListRule(NamedTuple):
    """A list of sigmas for a number of steps, and the rule in words."""

    make: Callable[[int, Mapping[str, Any]], Array]
    text: str


def _log_snr(steps: int, rule: Mapping[str, Any]) -> Array:
    low, high = rule["logsnr"]
    sigmas: Array = 1 / (1 + np.exp(np.linspace(low, high, steps + 1)[:-1]))
    sigmas[0] = 1.0
    return sigmas


def _whole(steps: int, rule: Mapping[str, Any]) -> Array:
    timesteps: Array = np.trunc(np.linspace(1000, 1, steps))
    return timesteps / 1000


def _sway(steps: int, rule: Mapping[str, Any]) -> Array:
    time = np.linspace(0, 1, steps + 1)[:-1]
    sigmas: Array = 1 - (time + float(rule["coefficient"]) * (np.cos(np.pi / 2 * time) - 1 + time))
    return sigmas


def _angles(steps: int, rule: Mapping[str, Any]) -> Array:
    angles = [math.atan(rule["sigma_max"]), *rule["angles"]]
    if steps > len(angles):
        raise ValueError(f"steps must be at most {len(angles)}, the number of known angles; got {steps}")
    return few_step(angles[:steps], rule="angles")[:-1]


LISTS: Mapping[str, ListRule] = {
    "to 1/n": ListRule(lambda n, rule: np.linspace(1.0, 1 / n, n), "uniform in time from 1 to 1/n"),
    "to 0": ListRule(lambda n, rule: np.linspace(1.0, 0.0, n + 1)[:-1], "uniform in time from 1 to 0"),
    "shifted to 0": ListRule(
        lambda n, rule: Flow(rule["shift"]).sigma_at(np.linspace(1.0, 0.0, n + 1)[:-1]),
        "uniform in time from 1 to 0, shifted",
    ),
    "whole timesteps": ListRule(_whole, "uniform in timesteps from 1000 to 1, rounded down"),
    "sway": ListRule(_sway, "sway: a cosine makes it denser at the noisy end"),
    "log-SNR": ListRule(_log_snr, "uniform in log-SNR"),
    "linear, quadratic": ListRule(
        lambda n, rule: calculate_linear_quadratic_sigmas(n, Flow(), threshold_noise=rule["threshold"])[:-1],
        "linear, then quadratic",
    ),
    "angles": ListRule(_angles, "a list of TrigFlow's angles"),
    "rising": ListRule(lambda n, rule: np.linspace(0, 1, n), "karras"),
}


def list_of(rule: Mapping[str, Any], steps: int) -> Array:
    """The list of a rule for a number of steps."""
    return np.asarray(LISTS[rule["rule"]].make(steps, rule), dtype=np.float64)


def mu_of(rule: Mapping[str, Any], steps: int, size: Size) -> float:
    """The mu of a rule for a size and a number of steps."""
    if rule["rule"] == "constant":
        return float(rule["mu"])
    tokens = _tokens(rule, size)
    if rule["rule"] == "flux2":
        return mu_for_flux2(tokens, steps)
    (base_tokens, base), (max_tokens, most) = rule["base"], rule["max"]
    if rule["rule"] == "root":
        return float(most * (tokens / base_tokens) ** 0.5 + base)
    return mu_for_tokens(tokens, base_mu=base, max_mu=most, base_tokens=base_tokens, max_tokens=max_tokens)


def _tokens(rule: Mapping[str, Any], size: Size) -> int:
    if "tokens" in rule:
        return int(rule["tokens"])
    if size.width is None or size.height is None:
        raise ValueError("mu depends on the size; pass width and height")
    cell = rule["cell"]
    frames = 1 if "frame_cell" not in rule else ((size.frames or 1) - 1) // rule["frame_cell"] + 1
    return int((size.width // cell) * (size.height // cell) * frames)


def rule_text(levels: Mapping[str, Any], mu: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Both rules in words; without a list, the spacing in the scheduler's configuration."""
    spaced = LISTS[levels["rule"]].text if levels else _spacing_text(config)
    shifts = {
        "constant": "mu is constant",
        "tokens": "mu is linear in the number of tokens",
        "root": "mu grows with the square root of the number of tokens",
        "flux2": "mu depends on tokens and steps, as fitted for FLUX.2",
    }
    return spaced + (f"; {shifts[mu['rule']]}" if mu else "")


def _spacing_text(config: Mapping[str, Any]) -> str:
    if config.get("use_karras_sigmas"):
        return "karras"
    if "sigma_schedule" in config:
        return str(config["sigma_schedule"])
    if "original_inference_steps" in config:
        return "a part of the training table, as for LCM"
    if "beta_start" in config:
        return f"{config.get('timestep_spacing', 'leading')} timesteps"
    return "two angles" if config.get("prediction_type") == "trigflow" else "uniform in time, shifted"
