"""How a sampler that ships is registered: `ships` above its function, `preset` above the docstring of what has none.

A registration is all that the library knows of the sampler. The names in `ksched.names.sampler_type`, the dialects and
the tables of other programs' names are made from it.
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

#: programs whose samplers take every state for ``x0 + sigma * eps``, unless a registration says ``as_ve=False``
_AS_VE = (Dialect.COMFYUI, Dialect.K_DIFFUSION, Dialect.A1111, Dialect.SD_CPP, Dialect.RES4LYF)
#: programs that have another one's samplers, and so mean what it means unless a registration says otherwise
_INHERIT = {
    Dialect.A1111: Dialect.K_DIFFUSION,
    Dialect.SD_CPP: Dialect.K_DIFFUSION,
    Dialect.SDNEXT: Dialect.DIFFUSERS,
}
#: for samplers that these programs do not have: states are what they are
AS_THEY_ARE: Mapping[Dialect, Mapping[str, Any]] = {dialect: {"as_ve": False} for dialect in _AS_VE}
#: what ComfyUI does where it computes in log-SNR: right on flow processes, but for a start a little below pure noise
IN_LOG_SNR: Mapping[str, Any] = {"as_ve": False, "start_after": 1e-4}


class Facts(TypedDict, total=False):
    """Facts of a sampler, as for `SamplerSpec`."""

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
    """Register the function below as a sampler that ships.

    Parameters
    ----------
    name : its name, where that is not the function's
    spellings : what else it is called, with spaces between; the names of ``peers`` are read anyway
    peers : what other programs call it
    dialects : options that make its name mean what it does in a program. "as_ve" is there for every program that has
        it for all samplers; A1111 and stable-diffusion.cpp have what k-diffusion has, SD.Next what diffusers has
    facts : as for `SamplerSpec`; order, source and family are needed

    Raises
    ------
    ValueError : a second sampler of the name, or a family that there is not
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
    """Register another sampler with some options decided; the function below has its name and its docstring alone.

    Parameters
    ----------
    of : the function of the other sampler, which is registered
    fixed : options that it no longer has
    defaults : other defaults of options that it keeps
    spellings, peers : as for `ships`
    dialects : as for `ships`; a program that is not among them means what it does for the other sampler
    facts : those that are not the other sampler's

    Raises
    ------
    TypeError : ``of`` has no such option
    ValueError : as for `ships`
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
        function.__signature__ = whole.replace(parameters=shown)  # type: ignore[attr-defined]
        function.__wrapped__ = of  # whose annotations the signature has
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
    """Spellings and names of peers, as fields of `SamplerSpec`."""
    named = tuple(peer._replace(name=peer.name.replace("{}", own)) for peer in peers)
    return {"spellings": tuple(spellings.split()), "peers": named}


def _in_dialects(given: Dialects) -> dict[Dialect, dict[str, Any]]:
    """All that a name means in every dialect."""
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
        raise ValueError(f"there are two samplers of the name {spec.name!r}")
    _SHIPPED[spec.name] = spec


def shipped() -> Iterator[SamplerSpec]:
    """Every sampler that has been registered, in the order of registration."""
    return iter(_SHIPPED.values())
