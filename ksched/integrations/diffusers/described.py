"""The text that `KSchedScheduler` prints."""

from __future__ import annotations

import inspect
from typing import Any

from ksched.integrations.diffusers.class_of import defaults_of

__all__ = ["described"]


def described(scheduler: Any) -> str:
    """The class, sampler and schedule that were chosen, and the settings that differ from the defaults."""
    config = scheduler.config
    stock = config.stock_class
    parameters = inspect.signature(type(scheduler).__init__).parameters
    usual = {name: parameter.default for name, parameter in parameters.items()}
    usual |= {} if stock is None else defaults_of(stock)
    unchosen = set(config.get("_use_default_values", ()))
    chosen = {name: config[name] for name in ("stock_class", "sampler", "schedule") if config[name] is not None}
    for name, value in config.items():
        if name.startswith("_") or name in chosen or name in unchosen or value is None:
            continue
        if name not in usual or not _same(value, usual[name]):
            chosen[name] = value
    return f"{type(scheduler).__name__}({', '.join(f'{name}={_short(value)}' for name, value in chosen.items())})"


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other) if not hasattr(one, "__len__") else repr(one) == repr(other)


def _short(value: Any) -> str:
    """A value as text, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
