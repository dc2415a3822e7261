"""The process of a diffusers scheduler's settings: tables of betas, and shifts of flow models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ksched.processes import VP

__all__ = ["BETA_SCHEDULES", "TERMINAL_ALPHA_BAR", "Settings", "flow_shift", "vp_of"]


#: possible values of ``beta_schedule``, in one class or another
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp", "laplace")


#: alpha-bar that replaces the 0 at the end of a zero-terminal-SNR table: sigma 4096
TERMINAL_ALPHA_BAR = 2.0**-24


Settings = Mapping[str, Any]


# ---------------------------------------------------------------- blocks
def vp_of(config: Mapping[str, Any], **how: Any) -> VP:
    """The process of a configuration with betas; missing settings are as in most classes.

    Parameters
    ----------
    config : mapping
        ``beta_schedule``, ``beta_start``, ``beta_end``, ``num_train_timesteps``, or ``trained_betas``;
        ``rescale_betas_zero_snr`` and ``snr_shift_scale``.
    how : object
        Further arguments of `VP`.

    Raises
    ------
    ValueError
        If ``beta_schedule`` is unknown.
    """
    s: dict[str, Any] = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
    s |= {name: config[name] for name in s if config.get(name) is not None}
    how["zero_terminal_snr"] = bool(config.get("rescale_betas_zero_snr"))
    how["snr_shift"] = float(config.get("snr_shift_scale") or 1.0)
    betas = config.get("trained_betas")
    if betas is not None:
        s["beta_schedule"] = tuple(np.asarray(betas, dtype=np.float64).tolist())
    return _vp(*s.values(), tuple(how.items()))


@lru_cache(maxsize=32)
def _vp(start: float, end: float, kind: str | tuple[float, ...], length: int, flags: tuple[tuple[str, Any], ...]) -> VP:
    how = dict(flags)
    match kind:
        case tuple():
            return VP(kind, **how)
        case "linear":
            return VP.linear(start, end, length, **how)
        case "scaled_linear":
            return VP.scaled_linear(start, end, length, **how)
        case "sigmoid":
            return VP.sigmoid(start, end, length, **how)
        case "squaredcos_cap_v2":
            return VP.cosine(length, **how)
        case "exp":
            return VP.exponential(length, **how)
    raise ValueError(
        "beta_schedule must be one of linear, scaled_linear, sigmoid, squaredcos_cap_v2, exp; "
        f"got {kind!r}. Pass trained_betas instead."
    )


def flow_shift(s: Settings, mu: float | None) -> float:
    """The flow shift of the settings: the static one, or the one from ``mu`` if shifting is dynamic.

    Raises
    ------
    ValueError
        If mu is missing, or the kind of shift is unknown.
    """
    if not s["use_dynamic_shifting"]:
        return float(s["flow_shift"] if "shift" not in s else s["shift"])
    if mu is None:
        raise ValueError("use_dynamic_shifting=True needs mu; pass set_timesteps(..., mu=...)")
    if s["time_shift_type"] not in ("exponential", "linear"):
        raise ValueError(f"time_shift_type must be 'exponential' or 'linear'; got {s['time_shift_type']!r}")
    return math.exp(mu) if s["time_shift_type"] == "exponential" else float(mu)
