"""Samplers by name, with the facts that are declared of them and tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ksched.options import Option, options_of
from ksched.samplers import euler, multistep, runge_kutta
from ksched.tape import SamplerFunction
from ksched.types import SamplerType

__all__ = ["SamplerSpec", "register_sampler", "sampler_spec", "samplers"]


@dataclass(frozen=True)
class SamplerSpec:
    """What the library knows of a sampler.

    Attributes
    ----------
    name : `SamplerType` value, or the name it was registered under
    function : ``(run, grid, x, *, options) -> x``
    order : order of convergence of the deterministic form, low-order start and end counted
    source : paper or program
    calls : model calls per step
    calls_to_zero : model calls of the step into sigma 0
    draws : noises per step that does not end at 0, with default options; 0 for deterministic samplers
    weak_order : order of the mean and variance of the stochastic form; None if there is none
    """

    name: str
    function: SamplerFunction
    order: int
    source: str
    calls: int = 1
    calls_to_zero: int = 1
    draws: int = 0
    weak_order: int | None = None

    @property
    def options(self) -> Mapping[str, Option]:
        """The sampler's keyword-only options."""
        return options_of(self.function)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    def nfe(self, steps: int, to_zero: bool = True) -> int:
        """Model calls of a run of ``steps`` steps."""
        return self.calls * steps - (self.calls - self.calls_to_zero if to_zero and steps else 0)


_S = SamplerType
_REGISTRY: dict[str, SamplerSpec] = {
    spec.name: spec
    for spec in (
        SamplerSpec(_S.EULER.value, euler.euler, 1, "Karras et al. 2022, arXiv:2206.00364"),
        SamplerSpec(_S.HEUN.value, runge_kutta.heun, 2, "Karras et al. 2022, arXiv:2206.00364", calls=2),
        SamplerSpec(_S.EULER_ANCESTRAL.value, euler.euler_ancestral, 1, "k-diffusion", draws=1, weak_order=1),
        SamplerSpec(_S.DDIM.value, euler.ddim_eta, 1, "Song et al. 2020, arXiv:2010.02502", weak_order=1),
        SamplerSpec(_S.DDPM.value, euler.ddpm, 1, "Ho et al. 2020, arXiv:2006.11239", draws=1, weak_order=1),
        SamplerSpec(_S.DPMPP_2M.value, multistep.dpmpp_2m, 2, "Lu et al. 2022, arXiv:2211.01095"),
        SamplerSpec(
            _S.DPMPP_2M_SDE.value, multistep.dpmpp_2m_sde, 2, "Lu et al. 2022, arXiv:2211.01095", draws=1, weak_order=2
        ),
        SamplerSpec(
            _S.DPMPP_2S_ANCESTRAL.value,
            runge_kutta.dpmpp_2s_ancestral,
            2,
            "Lu et al. 2022, arXiv:2211.01095",
            calls=2,
            draws=1,
            weak_order=2,
        ),
        SamplerSpec(_S.UNI_PC.value, multistep.uni_pc, 2, "Zhao et al. 2023, arXiv:2302.04867"),
    )
}


def samplers() -> Iterator[SamplerSpec]:
    """Every sampler, ours first, then those registered by others."""
    return iter(tuple(_REGISTRY.values()))


def sampler_spec(name: SamplerType | str) -> SamplerSpec:
    """The sampler of a name: one registered by that very name, else by any spelling `SamplerType.parse` knows.

    Raises
    ------
    TypeError, ValueError : no such sampler; the message lists near names
    """
    if isinstance(name, str) and name in _REGISTRY:
        return _REGISTRY[name]
    return _REGISTRY[SamplerType.parse(name)]


def register_sampler(
    name: str,
    function: SamplerFunction,
    *,
    order: int,
    source: str = "",
    calls: int = 1,
    calls_to_zero: int = 1,
    draws: int = 0,
    weak_order: int | None = None,
) -> SamplerSpec:
    """Add a sampler of your own; it then works with every schedule and process, and by name everywhere.

    Parameters
    ----------
    name : the name to give `build_sampler`; must be new
    function : ``(run, grid, x, *, options) -> x``
    order, source, calls, calls_to_zero, draws, weak_order : facts about it (see `SamplerSpec`)

    Raises
    ------
    ValueError : the name is taken, by a sampler or by a peer's spelling of one
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"a sampler is named by a string; got {name!r}")
    try:
        taken = sampler_spec(name)
    except ValueError:
        spec = SamplerSpec(name, function, order, source, calls, calls_to_zero, draws, weak_order)
        options_of(function)  # a mistake in the signature shows here
        _REGISTRY[name] = spec
        return spec
    raise ValueError(f"the name {name!r} is taken by sampler {taken.name!r}; choose another")
