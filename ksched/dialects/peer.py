"""One name of another program: the ksched sampler or schedule that it means, and its options."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ksched.names.enums import Dialect, NoiseSchedule, SamplerType

__all__ = [
    "A1111",
    "COMFYUI",
    "DIFFUSERS",
    "K_DIFFUSION",
    "NO_OPTIONS",
    "RES4LYF",
    "SDNEXT",
    "SD_CPP",
    "SKRAMPLE",
    "Peer",
    "SamplerPeer",
]


NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Peer(NamedTuple):
    """One name that another program has for a schedule."""

    program: Dialect
    name: str
    schedule: NoiseSchedule | None
    options: Mapping[str, Any] = NO_OPTIONS
    note: str = ""

    @property
    def dialect(self) -> Dialect:
        """The dialect in which to read ksched's name: the program's own."""
        return self.program

    @property
    def call(self) -> str:
        """The call of `calculate_sigmas` to write instead; empty if there is no schedule."""
        if self.schedule is None:
            return ""
        return f'calculate_sigmas("{self.schedule}", steps, process, dialect="{self.dialect}"{_written(self.options)})'


class SamplerPeer(NamedTuple):
    """One name that another program has for a sampler.

    ``options`` are implied by the name in addition to the program's dialect, or are the defaults of its class.
    """

    program: Dialect
    name: str
    sampler: SamplerType | None
    options: Mapping[str, Any] = NO_OPTIONS
    note: str = ""

    @property
    def dialect(self) -> Dialect:
        """The dialect in which to read ksched's name: the program's own."""
        return self.program

    @property
    def call(self) -> str:
        """The call of `build_sampler` to write instead; empty if there is no sampler."""
        if self.sampler is None:
            return ""
        how = f'process=process, dialect="{self.dialect}"{_written(self.options)}'
        return f'build_sampler("{self.sampler}", schedule, steps, {how})'


def _written(options: Mapping[str, Any]) -> str:
    return "".join(f", {name}={value!r}".replace("'", '"') for name, value in options.items())


COMFYUI, K_DIFFUSION, DIFFUSERS, A1111 = Dialect.COMFYUI, Dialect.K_DIFFUSION, Dialect.DIFFUSERS, Dialect.A1111
SD_CPP, SKRAMPLE, RES4LYF, SDNEXT = Dialect.SD_CPP, Dialect.SKRAMPLE, Dialect.RES4LYF, Dialect.SDNEXT
