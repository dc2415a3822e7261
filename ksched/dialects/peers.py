"""What other programs call their noise schedules and samplers, and what is the same here: `PEERS`, `SAMPLER_PEERS`.

A row with no schedule or sampler says that there is none, and why. Rows of `Dialect.A1111` whose name ends in "(Forge)"
or "(reForge)" exist, or differ, in that descendant alone. Where numbers are not the program's own, the note says so.
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
        raise TypeError(f"a {kind} of {program} is named by a string; got {name!r}")
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
        hint = f"these are the names of other programs: take {ours}."
    raise ValueError(f"{program} has no {kind} {name!r}; {hint}")


def find_peer(program: Dialect | str, name: str) -> Peer:
    """The row of a program's name for a schedule.

    Parameters
    ----------
    program : a `Dialect` other than ours
    name : what that program calls it, whatever the case and punctuation: a scheduler or node of ComfyUI, a function of
        k-diffusion, a flag, spacing or class of diffusers, a label of A1111, Forge, reForge or SD.Next, a word of
        stable-diffusion.cpp, a class of skrample

    Raises
    ------
    TypeError : not strings
    ValueError : the program has no such name; the message lists near ones
    """
    return _find(_KNOWN, program, name, "schedule", "calculate_sigmas")


def find_sampler(program: Dialect | str, name: str) -> SamplerPeer:
    """The row of a program's name for a sampler.

    Parameters
    ----------
    program : a `Dialect` other than ours
    name : what that program calls it, whatever the case and punctuation: a sampler or node of ComfyUI, a function of
        k-diffusion, a class of diffusers, a label of A1111, Forge, reForge or SD.Next, a word of stable-diffusion.cpp,
        a class of skrample, a method of RES4LYF

    Raises
    ------
    TypeError : not strings
    ValueError : the program has no such name; the message lists near ones
    """
    return _find(_KNOWN_SAMPLERS, program, name, "sampler", "build_sampler")


def peer_sigmas(program: Dialect | str, name: str, steps: int, process: Process | None = None, **options: Any) -> Array:
    """Noise levels of a run by another program's name for the schedule.

    Parameters
    ----------
    program, name : as for `find_peer`
    steps, process, options : as for `calculate_sigmas`; options go before those of the table

    Returns
    -------
    as `calculate_sigmas`

    Raises
    ------
    TypeError, ValueError : as for `find_peer` and `calculate_sigmas`; or a name that has no schedule here, and why
    """
    peer = find_peer(program, name)
    if peer.schedule is None:
        raise ValueError(f"{peer.program}'s {peer.name!r} is no schedule here: {peer.note}")
    return calculate_sigmas(peer.schedule, steps, process, dialect=peer.dialect, **{**peer.options, **options})
