"""The noise of a configuration, as text: ``"pink"``, or a kind with options, ``"pyramid:strength=0.5"``."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_args

from ksched.names.spelling import did_you_mean
from ksched.noise.kinds import Colored, Correlated, NoiseName, Offset, Pyramid, kind_of

__all__ = ["noise_named", "noise_text"]

_KINDS: dict[str, type[Correlated]] = {"colored": Colored, "offset": Offset, "pyramid": Pyramid}


def noise_text(text: Any) -> str | None:
    """The name of a noise, checked and without spaces; None is white.

    Raises
    ------
    TypeError, ValueError
        If it is not text, or names no noise.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise TypeError(f"noise must be text, such as 'pink' or 'pyramid:strength=0.5'; got {text!r}")
    words = "".join(text.split()).lower()
    return None if noise_named(words) is None else words


def noise_named(text: str | None) -> Correlated | str | None:
    """The noise of a name, as `ksched.Sampler.sample` takes it; None is white.

    Raises
    ------
    ValueError
        If the text names no noise.
    """
    name, colon, options = (text or "white").partition(":")
    names = {*get_args(NoiseName), *_KINDS}
    if name not in names:
        raise ValueError(f"noise must be one of {', '.join(sorted(names))}; got {name!r}{did_you_mean(name, names)}")
    given = dict(_option(name, part) for part in options.split(",")) if colon else {}
    if given or name == "colored":
        if name == "colored" and "exponent" not in given:
            raise ValueError(f"noise colored needs an exponent, as in colored:exponent=0.5; got {text!r}")
        return _white_or(_KINDS[name](**given))
    return _white_or(kind_of(name))


def _white_or(kind: Correlated | str | None) -> Correlated | str | None:
    """A kind of noise; None for one that is white."""
    if isinstance(kind, Correlated) and kind.plain:
        return "brownian" if kind.brownian else None
    return None if kind == "seeded" else kind


def _option(name: str, text: str) -> tuple[str, Any]:
    """An option and its value; option names differ between kinds."""
    kind = _KINDS.get(name)
    known = [field.name for field in fields(kind) if field.name not in ("axes", "_")] if kind else []
    option, equals, value = text.partition("=")
    if option not in known:
        has = f"the options {', '.join(known)}" if known else f"no options; those that have are {', '.join(_KINDS)}"
        raise ValueError(f"noise {name} has {has}; got {option!r}{did_you_mean(option, known)}")
    try:
        read = json.loads(value)
    except ValueError:
        read = None
    if not equals or not isinstance(read, bool | int | float):
        raise ValueError(f"noise {name}: {option} must be a number, true or false; got {value!r}")
    return option, read
