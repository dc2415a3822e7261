"""Enums whose members are read from every spelling that programs use."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Self

__all__ = ["Name", "spelling_key"]


def spelling_key(text: str) -> str:
    """Spelling without case, spaces, dashes or dots; ``+`` is read as the letter p (DPM++ = dpmpp)."""
    return re.sub(r"[^a-z0-9]", "", text.lower().replace("+", "p"))


class Name(StrEnum):
    """A name that can be read from any spelling a peer uses."""

    @classmethod
    def _kind(cls) -> str:
        raise TypeError("abstract")

    @classmethod
    def _spellings(cls) -> Mapping[str, str]:
        return {}

    @classmethod
    @cache
    def _known(cls) -> Mapping[str, Self]:
        """Every spelling, without case and punctuation."""
        return {spelling_key(member): member for member in cls} | {
            spelling_key(k): cls(member) for k, member in cls._spellings().items()
        }

    @classmethod
    def parse(cls, name: str) -> Self:
        """Member for a name in our spelling or a peer's, whatever its case and punctuation.

        Parameters
        ----------
        name : our value ("dpmpp_2m"), or what ComfyUI, A1111, k-diffusion or diffusers call the same thing

        Raises
        ------
        TypeError : ``name`` is not a string
        ValueError : nothing has that name; the message lists the nearest ones
        """
        if isinstance(name, cls):
            return name
        if not isinstance(name, str):
            raise TypeError(f"a {cls._kind()} is named by a string; got {name!r}")
        known = cls._known()
        found = known.get(spelling_key(name))
        if found is not None:
            return found
        near = [known[k].value for k in difflib.get_close_matches(spelling_key(name), known, n=6, cutoff=0.6)]
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else f"known: {', '.join(cls)}."
        raise ValueError(f"unknown {cls._kind()} {name!r}; {hint}")
