"""Reading JSON and TOML that may be damaged or hostile: the result is always data or a ValueError."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["parse_json", "parse_toml"]


#: largest nesting depth of lists and mappings; our own files nest five deep
_DEEPEST = 64


#: largest number of digits in a whole number; one with more may be too large for a float
_DIGITS = 308


_BITS = 1023


#: a dotted TOML name with hundreds of parts, for which tomllib takes quadratic time
_LONG_NAME = re.compile(r"""(?<![\w-])(?>["']?[\w-]++["']?[ \t]*+\.[ \t]*+){256}""")


def parse_json(text: str | bytes, *, constants: bool = False) -> Any:
    """The data in a JSON text.

    Parameters
    ----------
    text : str or bytes
        JSON; bytes are UTF-8, UTF-16 or UTF-32.
    constants : bool
        Accept ``NaN``, ``Infinity`` and ``-Infinity`` too, which Python writes but JSON does not allow.

    Raises
    ------
    TypeError
        For anything that is neither text nor bytes.
    ValueError
        For text that is not JSON, repeats a name in a mapping, or has a whole number of more than 308 digits or lists
        nested more than 64 deep; the message says what is wrong, and the caller adds where.
    """
    how: dict[str, Any] = {} if constants else {"parse_constant": _refuse_constant}
    return _checked(lambda: json.loads(text, object_pairs_hook=_mapping, parse_int=_whole, **how))


def parse_toml(text: str) -> dict[str, Any]:
    """The data in a TOML text; errors as for `parse_json`."""
    if _LONG_NAME.search(text):
        raise ValueError("a name has more than 256 parts")
    read: dict[str, Any] = _checked(lambda: tomllib.loads(text))
    return read


def _checked(parse: Callable[[], Any]) -> Any:
    try:
        data = parse()
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEEPEST} deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from None
    except ValueError as error:
        if "integer string conversion" in str(error):  # Python's own message advises the programmer, not the user
            raise ValueError(f"a whole number has more than {_DIGITS} digits") from None
        raise
    layer, depth = [data], 0
    while layer := [value for group in layer if isinstance(group, list | dict) for value in _inside(group)]:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        if any(type(value) is int and value.bit_length() > _BITS for value in layer):
            raise ValueError(f"a whole number has more than {_DIGITS} digits")
    return data


def _inside(group: list[Any] | dict[str, Any]) -> Any:
    return group.values() if isinstance(group, dict) else group


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object; Python would silently keep the last of a repeated name."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in mapping if names.count(name) > 1)!r} appears twice")
    return mapping


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a whole number has more than {_DIGITS} digits")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
