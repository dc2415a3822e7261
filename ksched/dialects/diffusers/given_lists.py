"""Lists of sigmas or timesteps that a loop passes to ``set_timesteps``, for a ksched sampler."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ksched.dialects.diffusers.classes import settings_of
from ksched.dialects.diffusers.process import Settings, ends_low, is_flow
from ksched.dialects.diffusers.request import SigmaTold, falling, is_told_data
from ksched.processes import Process
from ksched.schedules.flow_transforms import stretch_terminal
from ksched.types import Array, ArrayLike

__all__ = ["GivenLevels", "check_agreement", "given_levels", "given_lists", "respaces"]


class GivenLevels(NamedTuple):
    """Sigmas of a list.

    Attributes
    ----------
    levels : ndarray of float64
        Falling sigmas, with the end.
    lead : tuple of float
        Sigmas before these, if the list rises from them.
    told : ndarray of float64 or None
        Timesteps given for all of them but the end; None if none were given.
    """

    levels: Array
    lead: tuple[float, ...] = ()
    told: Array | None = None


def given_lists(
    process: Process, sigmas: ArrayLike | None, timesteps: ArrayLike | None
) -> tuple[ArrayLike | None, Array | None]:
    """The lists of ``set_timesteps``; inverted for a class whose network is called with the share of data."""
    if isinstance(process, SigmaTold):  # its timesteps carry the same information as its sigmas
        return sigmas, None
    listed = None if timesteps is None else np.asarray(timesteps, dtype=np.float64)
    if sigmas is not None and listed is not None:
        check_agreement(process, np.asarray(sigmas, dtype=np.float64), listed)
    if listed is None or not is_told_data(process):
        return sigmas, listed
    return listed / process.timestep_scale if sigmas is None else sigmas, None


def respaces(config: Settings, stock: str | None) -> bool:
    """Whether a class of flow models spaces the sigmas of a list anew, by a rule in its settings."""
    rules = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    if stock is None or not is_flow(config, stock):
        return False
    return any(config.get(name) and name in settings_of(stock) for name in rules)


def check_agreement(process: Process, sigmas: Array, timesteps: Array) -> None:
    """Raise an error for timesteps that do not belong to the sigmas passed with them, before or after the shift.

    Raises
    ------
    ValueError
        If the lists have different lengths or mean different levels; timesteps may be whole numbers.
    """
    count = len(timesteps)
    if count not in (len(sigmas), len(sigmas) - 1) or (count < len(sigmas) and sigmas[-1] != 0):
        raise ValueError(f"timesteps and sigmas must have the same length; got {count} and {len(sigmas)}")
    given = sigmas[:count]
    meant = [process.timestep(given[given > 0])]
    unit, listed = 1.0, timesteps[given > 0]
    if process.is_flow:
        scale = float(getattr(process, "timestep_scale", 1000.0))
        unit, levels = scale / 1000, process.sigma_at(given[given > 0])
        meant = [scale * given[given > 0], scale * levels, scale * (1 - given[given > 0]), scale * (1 - levels)]
        meant = meant if is_told_data(process) else meant[:2]
    apart = min(float(np.abs(values - listed).max(initial=0.0)) for values in meant)
    if not apart <= 1.01 * unit:
        raise ValueError(
            f"timesteps and sigmas must agree; they differ by up to {apart:.4g} timesteps. Pass one of the two; got "
            f"timesteps={timesteps.tolist()}, sigmas={sigmas.tolist()}"
        )


def given_levels(
    sigmas: ArrayLike, listed: Array | None, process: Process, config: Settings, stock: str | None
) -> GivenLevels:
    """Sigmas of a list, unchanged except for the shift and the end of flow models.

    Raises
    ------
    ValueError
        If a list for a flow model rises at another step than its first.
    """
    levels = np.asarray(sigmas, dtype=np.float64)
    if not process.is_flow:
        return GivenLevels(levels, (), listed)
    terminal, positive = config.get("shift_terminal"), levels > 0
    told = None if listed is None else listed[positive[: len(listed)]]
    levels = np.append(process.sigma_at(levels[positive]), 0.0)
    levels = stretch_terminal(levels, terminal) if terminal else levels
    levels = levels[:-1] if ends_low(config, stock) and len(levels) > 2 else levels
    lead = 1 if len(levels) > 2 and levels[1] > levels[0] else 0
    rest = levels[lead:]
    if np.any(np.diff(rest) > 0):
        raise ValueError(f"sigmas must be strictly decreasing, except at the first step; got {levels.tolist()}")
    kept = np.append(True, np.diff(rest) < 0)  # repeated sigmas are steps of length 0
    if told is not None:
        told = np.append(told[:lead], told[lead:][kept[: len(told) - lead]])
    return GivenLevels(np.array(falling(rest[kept].tolist())[0]), tuple(levels[:lead].tolist()), told)
