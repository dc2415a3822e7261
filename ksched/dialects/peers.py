"""Names that other programs have for noise schedules and samplers, and their ksched equals: `PEERS`, `SAMPLER_PEERS`.

A row without a schedule or sampler says why ksched has none. Rows of `Dialect.A1111` whose name ends in "(Forge)" or
"(reForge)" exist only in that fork, or differ there. If ksched's numbers are not the program's own, the note says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from ksched.dialects.peer import Peer, SamplerPeer
from ksched.dialects.peer_samplers import SAMPLER_PEERS
from ksched.dialects.peer_schedules import PEERS
from ksched.names.enums import Dialect
from ksched.names.spelling import few, spelling_key
from ksched.processes import Process
from ksched.schedules import calculate_sigmas
from ksched.types import Array

__all__ = ["find_peer", "find_sampler", "peer_sigmas"]


# ------------------------------------------------------------------------------------------------------------- look-up
def _name_key(name: str) -> str:
    key = spelling_key(name)
    return f"alignyoursteps{key[3:]}" if key.startswith("ays") and key != "aysschedules" else key


_KNOWN: Mapping[tuple[Dialect, str], Peer] = {(peer.program, _name_key(peer.name)): peer for peer in PEERS}


_KNOWN_SAMPLERS: Mapping[tuple[Dialect, str], SamplerPeer] = {(p.program, _name_key(p.name)): p for p in SAMPLER_PEERS}


P = TypeVar("P", Peer, SamplerPeer)


def _find(known: Mapping[tuple[Dialect, str], P], program: Dialect | str, name: str, kind: str, ours: str) -> P:
    program = Dialect.parse(program)
    if not isinstance(name, str):
        raise TypeError(f"the name of a {kind} of {program} must be a string; got {name!r}")
    found = known.get((program, _name_key(name)))
    if found is not None:
        return found
    own = {key: peer.name for (owner, key), peer in known.items() if owner is program}
    near = [own[key] for key in difflib.get_close_matches(_name_key(name), own, n=4, cutoff=0.5)]
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif own:
        hint = f"known: {few(own.values())}."
    else:
        hint = f"only names of other programs are looked up here; use {ours}."
    raise ValueError(f"{program} has no {kind} {name!r}; {hint}")


def find_peer(program: Dialect | str, name: str) -> Peer:
    """The row of a program's name for a schedule.

    Parameters
    ----------
    program : Dialect or str
        A `Dialect` other than ksched's.
    name : str
        The program's name, in any case and punctuation: a scheduler or node of ComfyUI, a function of k-diffusion, a
        flag, spacing or class of diffusers, a label of A1111, Forge, reForge or SD.Next, a word of
        stable-diffusion.cpp, a class of skrample.

    Raises
    ------
    TypeError
        If an argument is not a string.
    ValueError
        If the program has no such name; the message lists similar ones.
    """
    return _find(_KNOWN, program, name, "schedule", "calculate_sigmas")


def find_sampler(program: Dialect | str, name: str) -> SamplerPeer:
    """The row of a program's name for a sampler.

    Parameters
    ----------
    program : Dialect or str
        A `Dialect` other than ksched's.
    name : str
        The program's name, in any case and punctuation: a sampler or node of ComfyUI, a function of k-diffusion, a
        class of diffusers, a label of A1111, Forge, reForge or SD.Next, a word of stable-diffusion.cpp, a class of
        skrample, a method of RES4LYF.

    Raises
    ------
    TypeError
        If an argument is not a string.
    ValueError
        If the program has no such name; the message lists similar ones.
    """
    return _find(_KNOWN_SAMPLERS, program, name, "sampler", "build_sampler")


def peer_sigmas(program: Dialect | str, name: str, steps: int, process: Process | None = None, **options: Any) -> Array:
    """Sigmas of a run for another program's name of the schedule.

    Parameters
    ----------
    program, name : Dialect or str
        As for `find_peer`.
    steps, process, options : int, Process, object or None
        As for `calculate_sigmas`; options override those of the table.

    Returns
    -------
    ndarray of float64
        As from `calculate_sigmas`.

    Raises
    ------
    TypeError, ValueError
        As for `find_peer` and `calculate_sigmas`; or ksched has no schedule for the name; the message says why.
    """
    peer = find_peer(program, name)
    if peer.schedule is None:
        raise ValueError(f"ksched has no schedule for {peer.program}'s {peer.name!r}: {peer.note}")
    return calculate_sigmas(peer.schedule, steps, process, dialect=peer.dialect, **{**peer.options, **options})
