"""Names of a sampler in other programs, as its registration declares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ksched.names.enums import Dialect, NoiseSchedule

__all__ = [
    "PeerName",
    "a1111",
    "comfyui",
    "diffusers",
    "k_diffusion",
    "res4lyf",
    "sd_cpp",
    "sdnext",
    "skrample",
    "words_for",
]


class PeerName(NamedTuple):
    """A sampler's name in another program.

    Attributes
    ----------
    program : Dialect
        The program that uses the name.
    name : str
        The name as that program writes it; "{}" stands for the sampler's own name.
    note : str
        What differs there, or which descendant of the program has it.
    options : mapping
        Options that the name implies beyond our dialect of that program, or the defaults of its class.
    read : bool
        Whether `SamplerType.parse` reads it; False if the name implies more than the sampler.
    arguments : tuple of str or None
        Options that its function or its ``step`` takes there; None if that is not known.
    inpaint : mapping
        ComfyUI's own options for runs under a mask.
    schedule : NoiseSchedule or None
        The schedule that A1111's "Automatic" takes for this label; None is its uniform schedule.
    """

    program: Dialect
    name: str
    note: str = ""
    options: Mapping[str, Any] = {}
    read: bool = True
    arguments: tuple[str, ...] | None = None
    inpaint: Mapping[str, Any] = {}
    schedule: NoiseSchedule | None = None


def comfyui(
    name: str = "{}", note: str = "", *, read: bool = True, inpaint: Mapping[str, Any] | None = None, **options: Any
) -> PeerName:
    """A name in ComfyUI's menu, in one of its nodes or in a package of nodes; arguments as for `PeerName`."""
    return PeerName(Dialect.COMFYUI, name, note, options, read, inpaint=inpaint or {})


def k_diffusion(arguments: str = "", note: str = "") -> PeerName:
    """A function of k-diffusion, with the arguments it takes after ``disable`` and those without a default before."""
    return PeerName(Dialect.K_DIFFUSION, "sample_{}", note, arguments=tuple(arguments.split()))


def diffusers(name: str, note: str = "", *, read: bool = True, arguments: str = "", **options: Any) -> PeerName:
    """A diffusers class, or a setting of one; ``arguments`` lists the arguments of ``step``, separated by spaces."""
    return PeerName(Dialect.DIFFUSERS, name, note, options, read, tuple(arguments.split()))


def a1111(
    name: str, note: str = "", *, read: bool = True, schedule: NoiseSchedule | None = None, **options: Any
) -> PeerName:
    """A label of A1111, Forge or reForge; arguments as for `PeerName`."""
    return PeerName(Dialect.A1111, name, note, options, read, schedule=schedule)


def sd_cpp(name: str, note: str = "", *, read: bool = True) -> PeerName:
    """A sampling method of stable-diffusion.cpp; arguments as for `PeerName`."""
    return PeerName(Dialect.SD_CPP, name, note, read=read)


def skrample(name: str, note: str = "", *, read: bool = True) -> PeerName:
    """A class of skrample with its default options; arguments as for `PeerName`."""
    return PeerName(Dialect.SKRAMPLE, name, note, read=read)


def res4lyf(name: str, note: str = "", *, read: bool = True, **options: Any) -> PeerName:
    """A method of RES4LYF's samplers, or a name it adds to ComfyUI's menu; arguments as for `PeerName`."""
    return PeerName(Dialect.RES4LYF, name, note, options, read)


def sdnext(name: str, note: str = "", *, read: bool = True, **options: Any) -> PeerName:
    """A label of SD.Next; arguments as for `PeerName`."""
    return PeerName(Dialect.SDNEXT, name, note, options, read)


def words_for(peer: PeerName, sampler: str) -> list[str]:
    """Spellings that `SamplerType.parse` reads for a name, with ComfyUI's function names and short class names.

    Parameters
    ----------
    peer : PeerName
        The name.
    sampler : str
        Our name for the sampler.
    """
    if not peer.read:
        return []
    if (peer.program, peer.name) == (Dialect.COMFYUI, sampler):
        return [peer.name, f"sample_{sampler}"]
    short = peer.name.removesuffix("Scheduler")
    return [peer.name] if short == peer.name else [short, peer.name]
