"""Registration of built-in samplers: `ships` decorates a sampler's function, `preset` a stub with its docstring.

A registration holds everything that the library knows of the sampler. The names in `ksched.names.sampler_type`, the
dialects and the tables of other programs' names are made from it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, TypeVar, Unpack

from ksched.names.enums import Dialect
from ksched.plan.protocol import SamplerFunction
from ksched.samplers.peer_names import PeerName
from ksched.samplers.spec import FAMILIES, Calls, SamplerSpec

__all__ = ["AS_THEY_ARE", "IN_LOG_SNR", "Facts", "preset", "shipped", "ships"]

F = TypeVar("F", bound=SamplerFunction)
Dialects = Mapping[Dialect, Mapping[str, Any]]

_SHIPPED: dict[str, SamplerSpec] = {}

#: programs whose samplers treat every state as ``x0 + sigma * eps``, unless a registration has ``as_ve=False``
_AS_VE = (Dialect.COMFYUI, Dialect.K_DIFFUSION, Dialect.A1111, Dialect.SD_CPP, Dialect.RES4LYF)
#: programs that take over another program's samplers; a name means the same there unless a registration differs
_INHERIT = {
    Dialect.A1111: Dialect.K_DIFFUSION,
    Dialect.SD_CPP: Dialect.K_DIFFUSION,
    Dialect.SDNEXT: Dialect.DIFFUSERS,
}
#: for samplers that these programs do not have: states are read as they are
AS_THEY_ARE: Mapping[Dialect, Mapping[str, Any]] = {dialect: {"as_ve": False} for dialect in _AS_VE}
#: ComfyUI where it computes in log-SNR: correct on flow processes, except that it starts slightly below pure noise
IN_LOG_SNR: Mapping[str, Any] = {"as_ve": False, "start_after": 1e-4}


class Facts(TypedDict, total=False):
    """Facts of a sampler, as in `SamplerSpec`."""

    order: int
    source: str
    family: str
    calls: int | Calls | None
    calls_to_zero: int
    draws: int | None
    weak_order: int | None
    uncond: bool
    adaptive: bool
    ends_at_denoised: bool
    keeps_variance: bool
    flow_only: bool
    brownian_tree: bool


def ships(
    *,
    name: str = "",
    spellings: str = "",
    peers: Sequence[PeerName] = (),
    dialects: Dialects | None = None,
    **facts: Unpack[Facts],
) -> Callable[[F], F]:
    """Register the decorated function as a built-in sampler.

    Parameters
    ----------
    name : str
        The sampler's name, if it is not the function's.
    spellings : str
        Other names, separated by spaces; the names of ``peers`` are read anyway.
    peers : sequence of PeerName
        Its names in other programs.
    dialects : mapping or None
        Options that reproduce the name's meaning in a program. "as_ve" is set for each program that has it for all
        samplers; A1111 and stable-diffusion.cpp take k-diffusion's options, SD.Next takes diffusers'.
    facts : as for `SamplerSpec`; order, source and family are required

    Raises
    ------
    ValueError
        For a second sampler with this name, or an unknown family.
    """

    def decorate(function: F) -> F:
        own = name or function.__name__
        spec = SamplerSpec(own, function, **facts, dialects=_in_dialects(dialects or {}))
        _add(replace(spec, **_names(own, spellings, peers)))
        return function

    return decorate


def preset(
    of: SamplerFunction,
    *,
    fixed: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    spellings: str = "",
    peers: Sequence[PeerName] = (),
    dialects: Dialects | None = None,
    **facts: Unpack[Facts],
) -> Callable[[Callable[[], None]], SamplerFunction]:
    """Register another sampler with some options preset; the decorated stub gives only its name and docstring.

    Parameters
    ----------
    of : callable
        The function of the other sampler, which must be registered.
    fixed : mapping or None
        Options that are set and no longer available.
    defaults : mapping or None
        New defaults for options that it keeps.
    spellings, peers : as for `ships`
    dialects : as for `ships`; programs left out take the meaning of the other sampler
    facts : object
        Facts that differ from the other sampler's.

    Raises
    ------
    TypeError
        If ``of`` has no such option.
    ValueError
        As for `ships`.
    """
    other = next(spec for spec in _SHIPPED.values() if spec.function is of)
    fixed, defaults = fixed or {}, defaults or {}
    if unknown := (fixed.keys() | defaults.keys()) - other.own_options.keys():
        raise TypeError(f"{other.name} has no option {min(unknown)!r}")

    def decorate(stub: Callable[[], None]) -> SamplerFunction:
        @functools.wraps(stub)
        def function(run: Any, grid: Any, x: Any, **options: Any) -> Any:
            return of(run, grid, x, **{**defaults, **options}, **fixed)

        whole = inspect.signature(of)
        kept = [parameter for parameter in whole.parameters.values() if parameter.name not in fixed]
        shown = [parameter.replace(default=defaults.get(parameter.name, parameter.default)) for parameter in kept]
        function.__signature__ = whole.replace(parameters=shown)  # type: ignore[attr-defined]  # not declared
        function.__wrapped__ = of  # the signature takes its annotations from there
        said = _in_dialects(dialects or {})
        means = {
            dialect: {option: value for option, value in options.items() if option not in fixed}
            for dialect, options in other.dialects.items()
        }
        means |= {dialect: said[dialect] for dialect in dialects or {}}
        spec = replace(other, name=stub.__name__, function=function, dialects=means, **facts)
        _add(replace(spec, **_names(spec.name, spellings, peers)))
        return function

    return decorate


def _names(own: str, spellings: str, peers: Sequence[PeerName]) -> dict[str, Any]:
    """Spellings and names in other programs, as fields of `SamplerSpec`."""
    named = tuple(peer._replace(name=peer.name.replace("{}", own)) for peer in peers)
    return {"spellings": tuple(spellings.split()), "peers": named}


def _in_dialects(given: Dialects) -> dict[Dialect, dict[str, Any]]:
    """Options that a name implies, for each dialect."""
    found = {}
    for dialect in Dialect:
        inherited = given.get(_INHERIT[dialect], {}) if dialect in _INHERIT else {}
        options = {"as_ve": dialect in _AS_VE, **inherited, **given.get(dialect, {})}
        found[dialect] = {name: value for name, value in options.items() if name != "as_ve" or value}
    return found


def _add(spec: SamplerSpec) -> None:
    if spec.family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {spec.family!r}")
    if spec.name in _SHIPPED:
        raise ValueError(f"a sampler named {spec.name!r} is already registered")
    _SHIPPED[spec.name] = spec


def shipped() -> Iterator[SamplerSpec]:
    """Every sampler that has been registered, in the order of registration."""
    return iter(_SHIPPED.values())
