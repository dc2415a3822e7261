"""Enums whose members can be parsed from every spelling that programs use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import Self

from ksched.names.spelling import nearest, spelling_key

__all__ = ["Name"]

_FEW = 10  # most names that a message lists


class Name(StrEnum):
    """A name that can be parsed from any spelling a peer uses."""

    @classmethod
    def _kind(cls) -> str:
        raise TypeError("abstract")

    @classmethod
    def _spellings(cls) -> Mapping[str, str]:
        return {}

    @classmethod
    def _absent(cls) -> Mapping[str, str]:
        """Names that people ask for and ksched does not have, with what to use instead."""
        return {}

    @classmethod
    def _pairs(cls) -> bool:
        """Whether it is used together with another kind of name, as sampler and schedule are, and may be swapped."""
        return True

    @classmethod
    @cache
    def registered(cls) -> list[str]:
        """Names that users registered in addition to the members, for messages."""
        return []

    @classmethod
    @cache
    def _known(cls) -> Mapping[str, Self]:
        """Every spelling, without case and punctuation."""
        return {spelling_key(member): member for member in cls} | {
            spelling_key(k): cls(member) for k, member in cls._spellings().items()
        }

    @classmethod
    def parse(cls, name: str) -> Self:
        """The member for a name in ksched's or a peer's spelling, ignoring case and punctuation.

        Parameters
        ----------
        name : str
            Ksched's own value ("dpmpp_2m"), or the name in ComfyUI, A1111, k-diffusion or diffusers.

        Raises
        ------
        TypeError
            If ``name`` is not a string.
        ValueError
            If nothing has that name; the message says what to use instead, or lists similar names.
        """
        if isinstance(name, cls):
            return name
        if not isinstance(name, str):
            raise TypeError(f"a {cls._kind()} name must be a string; got {name!r}")
        found = cls._known().get(spelling_key(name))
        if found is None:
            raise ValueError(cls._unknown(name))
        return found

    @classmethod
    def _unknown(cls, name: str) -> str:
        """The error message for a name that no member has."""
        shown = repr(name if len(name) <= 60 else f"{name[:57]}...")
        absent = {spelling_key(word): instead for word, instead in cls._absent().items()}
        if instead := absent.get(spelling_key(name)):
            return f"ksched has no {cls._kind()} {shown}: {instead}"
        for other in _kinds():
            if cls._pairs() and other is not cls and other.is_name(name):
                return (
                    f"{shown} is a {other._kind()}; swap the two, or pass a {cls._kind()} such as "
                    f"{next(iter(cls)).value!r}"
                )
        if cls._pairs() and (parts := _parts(name)):
            meant = " with ".join(f"{part._kind()} {part.value!r}" for part in parts)
            return f"{shown} is {meant}; pass each separately, or read such labels with ksched.parse_label"
        known = {**{key: member.value for key, member in cls._known().items()}, **{n: n for n in cls.registered()}}
        near = dict.fromkeys(known[key] for key in nearest(name, known, most=5))
        if near:
            hint = f"did you mean {' or '.join(list(near)[:3])}?"
        elif len(cls) <= _FEW:
            hint = f"known: {', '.join(cls)}."
        else:
            hint = f"'ksched list' shows all {len(cls)}, such as {', '.join(list(cls)[:3])}"
        return f"unknown {cls._kind()} {shown}; {hint}"

    @classmethod
    def is_name(cls, name: str) -> bool:
        """Whether it is the name of a member in any spelling, or was registered."""
        return spelling_key(name) in cls._known() or name in cls.registered()


def _kinds() -> Iterator[type[Name]]:
    """The kinds of names that are used together."""
    return (kind for kind in Name.__subclasses__() if kind._pairs())


def _parts(label: str) -> tuple[Name, ...]:
    """Two names of different kinds that make up a label; empty if it has none."""
    words = label.replace("_", " ").split()
    for cut in range(len(words) - 1, 0, -1):
        heads, tails = _members(" ".join(words[:cut])), list(_members(" ".join(words[cut:])))
        for head in heads:
            for tail in tails:
                if type(head) is not type(tail):
                    return head, tail
    return ()


def _members(name: str) -> Iterator[Name]:
    """The members that a name refers to, at most one of each kind."""
    for kind in _kinds():
        member = kind._known().get(spelling_key(name))
        if member is not None:
            yield member
