"""Samplers by name: the built-in ones and those registered by users."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ksched.names.enums import Dialect, SamplerType
from ksched.names.sampler_type import SamplerName
from ksched.plan.plan import Plan
from ksched.plan.protocol import SamplerFunction
from ksched.samplers import auto
from ksched.samplers.coordinates import VIEW_OPTIONS
from ksched.samplers.from_plan import own_levels, placed, replay
from ksched.samplers.linear_multistep import same_levels
from ksched.samplers.shipping import shipped
from ksched.samplers.spec import FAMILIES, Calls, SamplerSpec
from ksched.schedules.grid import Grid

__all__ = ["AUTO", "families", "plan_spec", "register_sampler", "sampler_spec", "samplers"]


def _all_shipped() -> dict[str, SamplerSpec]:
    """Every sampler that a file of this folder registers, in the order of `SamplerType`; the newest come last."""
    folder = __name__.rpartition(".")[0]
    for file in pkgutil.iter_modules(importlib.import_module(folder).__path__, f"{folder}."):
        if file.name != __name__:
            importlib.import_module(file.name)
    place = {member.value: k for k, member in enumerate(SamplerType)}
    return {spec.name: spec for spec in sorted(shipped(), key=lambda spec: place.get(spec.name, len(place)))}


_REGISTRY: dict[str, SamplerSpec] = _all_shipped()


#: "auto" chooses among samplers and is not one of them
AUTO = SamplerSpec(
    "auto", auto.auto, 2, "ksched", ends_at_denoised=False, levels=auto.auto_levels, family="exponential_multistep"
)


def samplers() -> Iterator[SamplerSpec]:
    """Every sampler: ksched's own first, then those registered by users."""
    return iter(tuple(_REGISTRY.values()))


def families(specs: Iterable[SamplerSpec] | None = None) -> dict[str, list[SamplerSpec]]:
    """Samplers by family heading, in a fixed order.

    Parameters
    ----------
    specs : iterable of SamplerSpec or None
        The samplers to group; None means every sampler.
    """
    members = list(samplers() if specs is None else specs)
    found = {heading: [spec for spec in members if spec.family == family] for family, heading in FAMILIES.items()}
    return {heading: specs for heading, specs in found.items() if specs}


def sampler_spec(name: SamplerName | SamplerType | str) -> SamplerSpec:
    """The sampler of a name: a registered name if it matches exactly, else any spelling `SamplerType.parse` reads.

    "auto" is `ksched.samplers.auto.auto`. The JSON of a `Plan` is a sampler too, on the plan's own levels.

    Raises
    ------
    TypeError, ValueError
        If there is no such sampler; the message lists similar names.
    """
    if isinstance(name, str) and name.lstrip().startswith("{"):
        return plan_spec(Plan.from_json(name))
    if name == AUTO.name:
        return AUTO
    if isinstance(name, str) and name in _REGISTRY:
        return _REGISTRY[name]
    return _REGISTRY[SamplerType.parse(name)]


@dataclass(frozen=True, eq=False)
class _OfPlan(SamplerSpec):
    """A plan as a sampler; two are equal if their plans are."""

    whole: Plan | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OfPlan) and self.whole == other.whole

    def __hash__(self) -> int:
        return hash(self.whole)

    def plan(self, grid: Grid, options: Mapping[str, Any]) -> Plan:
        """The plan itself, on its own levels."""
        assert self.whole is not None
        here = placed(self.whole, grid.process)
        own = same_levels([level.label for level in grid.levels], here.sigmas)
        return here if own else super().plan(grid, options)


def plan_spec(plan: Plan) -> SamplerSpec:
    """A plan as a sampler: on its own levels, or on the last few of them with a general method."""

    def calls(steps: int, to_zero: bool) -> int:
        return plan.nfe

    facts: dict[str, Any] = {"calls": calls, "draws": len(plan.draws), "ends_at_denoised": False}
    facts |= {"uncond": any(row.both for row in plan.rows), "levels": partial(own_levels, plan)}
    facts |= {"steps": tuple(dict.fromkeys((plan.steps, plan.nfe)))}
    return _OfPlan(f"plan {plan.digest[:8]}", replay(plan), 0, "a plan", text=plan.to_json(), whole=plan, **facts)


def dialect_options(spec: SamplerSpec, dialect: Dialect) -> Mapping[str, Any]:
    """Options that a sampler's name implies in a dialect; none for samplers that users registered."""
    return spec.dialects.get(dialect, {})


def register_sampler(
    name: str,
    function: SamplerFunction,
    *,
    order: int,
    source: str = "",
    calls: int | Calls | None = 1,
    calls_to_zero: int = 1,
    draws: int | None = 0,
    weak_order: int | None = None,
    uncond: bool = False,
    adaptive: bool = False,
    ends_at_denoised: bool = True,
    keeps_variance: bool = True,
    flow_only: bool = False,
    family: str = "other",
) -> SamplerSpec:
    """Add a sampler of your own. It then works by name with every schedule and process.

    Parameters
    ----------
    name : str
        The name that you will give to `build_sampler`; it must be new.
    function : callable
        ``(run, grid, x, *, options) -> x``.
    order, source, calls, calls_to_zero, draws, weak_order, uncond, adaptive, ends_at_denoised : facts about the sampler
        (see `SamplerSpec`)
    keeps_variance, flow_only, family : bool or str
        Further facts (see `SamplerSpec`).

    Raises
    ------
    ValueError
        If the name is taken, by a sampler or by another program's spelling of one; an option has the name of one that
        every sampler has; the family is unknown.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a sampler must be a string; got {name!r}")
    if not callable(function):
        raise TypeError(f"function must be callable, (run, grid, x) -> x; got {type(function).__name__}")
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}")
    try:
        taken = sampler_spec(name)
    except ValueError:
        facts: dict[str, Any] = {
            "calls": calls,
            "calls_to_zero": calls_to_zero,
            "draws": draws,
            "weak_order": weak_order,
        }
        facts |= {"uncond": uncond, "adaptive": adaptive, "ends_at_denoised": ends_at_denoised, "family": family}
        facts |= {"keeps_variance": keeps_variance, "flow_only": flow_only}
        spec = SamplerSpec(name, function, order, source, **facts)
        # reading the options also finds mistakes in the signature
        if clash := spec.own_options.keys() & VIEW_OPTIONS.keys():
            raise ValueError(f"every sampler already has an option {min(clash)!r}; rename that of {name!r}") from None
        _REGISTRY[name] = spec
        SamplerType.registered().append(name)
        return spec
    raise ValueError(f"the name of a sampler must be new; {name!r} belongs to {taken.name!r}. Choose another")
