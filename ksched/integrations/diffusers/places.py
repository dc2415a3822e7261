"""Errors for names of samplers and schedules passed in place of arguments about the model."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from diffusers.schedulers.scheduling_utils import SchedulerMixin

from ksched.dialects.diffusers.betas import BETA_SCHEDULES
from ksched.names.enums import NoiseSchedule
from ksched.names.labels import parse_label
from ksched.samplers.registry import sampler_spec

__all__ = ["check_arguments", "check_places", "check_scheduler"]


#: parameters that may be positional, as in diffusers, with what they must be
_PLACES = {
    "num_train_timesteps": "a whole number",
    "beta_start": "a number",
    "beta_end": "a number",
    "beta_schedule": f"one of {', '.join(BETA_SCHEDULES)}",
    "trained_betas": "a list of numbers",
}


def check_places(entries: Any) -> None:
    """Raise an error for names passed where the constructor expects facts about the model.

    Raises
    ------
    TypeError
        If an argument is a name, or the number of timesteps is not a whole number.
    ValueError
        If there is less than one timestep.
    """
    given = {place: entries[place] for place in _PLACES if isinstance(entries[place], str)}
    wrong = {place: word for place, word in given.items() if place != "beta_schedule" or _is_no_beta(word)}
    if wrong:
        place, word = next(iter(wrong.items()))
        raise TypeError(f"{place} must be {_PLACES[place]}; got {word!r}{_by_keyword([*wrong.values()])}")
    length = entries.num_train_timesteps
    if isinstance(length, Mapping | SchedulerMixin):
        raise TypeError(
            "num_train_timesteps must be a whole number; got a configuration or a scheduler. Use "
            "KSchedScheduler.from_config(pipe.scheduler.config, sampler=..., schedule=...)"
        )
    if isinstance(length, bool) or not isinstance(length, Real) or float(length) % 1 != 0:
        raise TypeError(f"num_train_timesteps must be a whole number; got {length!r}")
    if not float(length) >= 1:
        raise ValueError(f"num_train_timesteps must be at least 1; got {length}")


def check_arguments(config: Any, return_unused_kwargs: Any = False) -> None:
    """Raise an error if ``from_config`` gets no configuration, or a name in place of ``return_unused_kwargs``.

    Raises
    ------
    TypeError
        If an argument is a name or a scheduler.
    """
    if isinstance(config, str) and "/" not in config and not Path(config).exists():
        how = _by_keyword([config]).rpartition("give ")[2].removesuffix(" by keyword") or "sampler=..., schedule=..."
        raise TypeError(
            f"the first argument must be the configuration of the scheduler to replace; got {config!r}. Use "
            f"KSchedScheduler.from_config(pipe.scheduler.config, {how})"
        )
    if isinstance(config, SchedulerMixin):
        raise TypeError(f"from_config takes a configuration; got a {type(config).__name__}. Pass its .config")
    if isinstance(return_unused_kwargs, str):
        raise TypeError(
            f"return_unused_kwargs must be True or False; got {return_unused_kwargs!r}"
            f"{_by_keyword([return_unused_kwargs])}"
        )


def check_scheduler(scheduler: Any) -> None:
    """Raise an error unless `from_diffusers` gets a scheduler or a configuration.

    Raises
    ------
    TypeError
        If the argument is neither.
    """
    if not isinstance(scheduler, Mapping) and not isinstance(getattr(scheduler, "config", None), Mapping):
        raise TypeError(
            f"from_diffusers takes a diffusers scheduler or its configuration; got {scheduler!r}. To choose a "
            "sampler, use KSchedScheduler.from_config(pipe.scheduler.config, sampler=..., schedule=...)"
        )


def _is_no_beta(word: str) -> bool:
    return word not in BETA_SCHEDULES and bool(_by_keyword([word]))


def _by_keyword(words: list[str]) -> str:
    """A hint how to pass names; empty if none of the words is a name."""
    kinds = [_kind(word) for word in words]
    if not any(kinds):
        return _of_label(words[0])
    if len(words) == 2 and None not in kinds:  # some names are both, and the sampler comes first
        kinds = ["sampler", "schedule"]
    named = [f"{kind}={word!r}" for kind, word in zip(kinds, words, strict=True) if kind is not None]
    return f". If {'this is a name' if len(named) == 1 else 'these are names'}, give {', '.join(named)} by keyword"


def _of_label(word: str) -> str:
    """The same hint for a label from a program's menu, which stands for a sampler and a schedule."""
    try:
        sampler, schedule = parse_label(word)
    except ValueError:
        return ""
    return f". If this is a label, give sampler={sampler.value!r}, schedule={schedule.value!r} by keyword"


def _kind(word: str) -> str | None:
    """Whether a word is the name of a sampler or of a schedule; None if neither."""
    for kind, parse in (("sampler", sampler_spec), ("schedule", NoiseSchedule.parse)):
        with contextlib.suppress(ValueError):
            parse(word)
            return kind
    return None
