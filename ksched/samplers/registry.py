"""Samplers by name: those that ship, and those that others register."""

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
    """Every sampler that a file of this folder registers, in the order of `SamplerType`; the newest are last."""
    folder = __name__.rpartition(".")[0]
    for file in pkgutil.iter_modules(importlib.import_module(folder).__path__, f"{folder}."):
        if file.name != __name__:
            importlib.import_module(file.name)
    place = {member.value: k for k, member in enumerate(SamplerType)}
    return {spec.name: spec for spec in sorted(shipped(), key=lambda spec: place.get(spec.name, len(place)))}


_REGISTRY: dict[str, SamplerSpec] = _all_shipped()


#: a choice among samplers, not one of them
AUTO = SamplerSpec(
    "auto", auto.auto, 2, "ksched", ends_at_denoised=False, levels=auto.auto_levels, family="exponential_multistep"
)


def samplers() -> Iterator[SamplerSpec]:
    """Every sampler, ours first, then those registered by others."""
    return iter(tuple(_REGISTRY.values()))


def families(specs: Iterable[SamplerSpec] | None = None) -> dict[str, list[SamplerSpec]]:
    """Samplers by family: headings and what stands under them, in a fixed order.

    Parameters
    ----------
    specs : which ones; None is every sampler
    """
    members = list(samplers() if specs is None else specs)
    found = {heading: [spec for spec in members if spec.family == family] for family, heading in FAMILIES.items()}
    return {heading: specs for heading, specs in found.items() if specs}


def sampler_spec(name: SamplerName | SamplerType | str) -> SamplerSpec:
    """The sampler of a name: one registered by that very name, else by any spelling `SamplerType.parse` knows.

    "auto" is `ksched.samplers.auto.auto`; and the JSON of a `Plan` is a sampler too, on the levels of the plan.

    Raises
    ------
    TypeError, ValueError : no such sampler; the message lists near names
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
    """A plan as a sampler; equal if the plans are."""

    whole: Plan | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OfPlan) and self.whole == other.whole

    def __hash__(self) -> int:
        return hash(self.whole)

    def plan(self, grid: Grid, options: Mapping[str, Any]) -> Plan:
        """The plan itself on its own levels."""
        assert self.whole is not None
        here = placed(self.whole, grid.process)
        own = same_levels([level.label for level in grid.levels], here.sigmas)
        return here if own else super().plan(grid, options)


def plan_spec(plan: Plan) -> SamplerSpec:
    """A plan as a sampler, on its own levels and, with a general method, on the last few of them."""

    def calls(steps: int, to_zero: bool) -> int:
        return plan.nfe

    facts: dict[str, Any] = {"calls": calls, "draws": len(plan.draws), "ends_at_denoised": False}
    facts |= {"uncond": any(row.both for row in plan.rows), "levels": partial(own_levels, plan)}
    facts |= {"steps": tuple(dict.fromkeys((plan.steps, plan.nfe)))}
    return _OfPlan(f"plan {plan.digest[:8]}", replay(plan), 0, "a plan", text=plan.to_json(), whole=plan, **facts)


def dialect_options(spec: SamplerSpec, dialect: Dialect) -> Mapping[str, Any]:
    """What a sampler's name means in a dialect, as options: nothing for samplers that others registered."""
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
    """Add a sampler of your own; it then works with every schedule and process, and by name everywhere.

    Parameters
    ----------
    name : the name to give `build_sampler`; must be new
    function : ``(run, grid, x, *, options) -> x``
    order, source, calls, calls_to_zero, draws, weak_order, uncond, adaptive, ends_at_denoised : facts about it (see
        `SamplerSpec`)
    keeps_variance, flow_only, family : the same

    Raises
    ------
    ValueError : the name is taken, by a sampler or by a peer's spelling of one; an option that every sampler has; a
        family that there is not
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"a sampler is named by a string; got {name!r}")
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
        if clash := spec.own_options.keys() & VIEW_OPTIONS.keys():  # a mistake in the signature shows here too
            raise ValueError(f"every sampler has an option {min(clash)!r} already; rename that of {name!r}") from None
        _REGISTRY[name] = spec
        SamplerType.registered().append(name)
        return spec
    raise ValueError(f"the name {name!r} is taken by sampler {taken.name!r}; choose another")
