"""Every sampler of the other programs, as ours with options: those that registrations name, then those not here."""

from __future__ import annotations

from ksched.dialects.absent_samplers import NOT_HERE
from ksched.dialects.peer import SamplerPeer
from ksched.names.enums import Dialect, SamplerType
from ksched.samplers.registry import samplers

__all__ = ["SAMPLER_PEERS"]


def _here(program: Dialect) -> list[SamplerPeer]:
    """What a program calls our samplers; one that has no member yet is left out, so that the member can be written."""
    members = {member.value: member for member in SamplerType}
    return [
        SamplerPeer(program, peer.name, members[spec.name], peer.options, peer.note)
        for spec in samplers()
        for peer in spec.peers
        if peer.program is program and spec.name in members
    ]


#: every name of a sampler, in the order of the programs
SAMPLER_PEERS: tuple[SamplerPeer, ...] = tuple(
    peer for program, absent in NOT_HERE.items() for peer in (*_here(program), *absent)
)
