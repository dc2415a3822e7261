"""Every sampler of other programs as a ksched sampler with options: registered names, then names without an equal."""

from __future__ import annotations

from ksched.dialects.absent_samplers import NOT_HERE
from ksched.dialects.peer import SamplerPeer
from ksched.names.enums import Dialect, SamplerType
from ksched.samplers.registry import samplers

__all__ = ["SAMPLER_PEERS"]


def _here(program: Dialect) -> list[SamplerPeer]:
    """A program's names for ksched's samplers, without samplers that have no enum member yet."""
    members = {member.value: member for member in SamplerType}
    return [
        SamplerPeer(program, peer.name, members[spec.name], peer.options, peer.note)
        for spec in samplers()
        for peer in spec.peers
        if peer.program is program and spec.name in members
    ]


#: every sampler name of other programs, in the order of the programs
SAMPLER_PEERS: tuple[SamplerPeer, ...] = tuple(
    peer for program, absent in NOT_HERE.items() for peer in (*_here(program), *absent)
)
