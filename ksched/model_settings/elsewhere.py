"""A recipe's settings in other programs: diffusers' class, and the sampler and scheduler of ComfyUI and A1111."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ksched.dialects.peer import Peer
from ksched.dialects.peer_samplers import SAMPLER_PEERS
from ksched.dialects.peer_schedules import PEERS
from ksched.model_settings.level_lists import mu_of
from ksched.model_settings.one_model import Recipe
from ksched.names.enums import Dialect
from ksched.processes import Flow, Process
from ksched.schedules.select import calculate_sigmas

__all__ = ["Elsewhere", "elsewhere"]

#: largest relative distance at which another program's scheduler is still named as the nearest
_NEAR = 0.05


class Elsewhere(NamedTuple):
    """A recipe's settings in one program.

    Attributes
    ----------
    sampler : str
        The program's name of the sampler; empty if it has none.
    scheduler : str
        The program's scheduler with the nearest sigmas; empty if none is near.
    apart : float
        Largest relative distance of its sigmas, 0 to rounding if they are the same.
    shift : float or None
        Shift of a flow model, if the program asks for one.
    """

    sampler: str
    scheduler: str
    apart: float
    shift: float | None = None

    def __str__(self) -> str:
        sampler = self.sampler or "no such sampler"
        if not self.scheduler:
            return f"{sampler}; no scheduler has these levels, so pass the sigmas"
        same = "the same levels" if self.apart < 1e-6 else f"levels up to {self.apart:.2g} apart"
        shift = "" if self.shift is None else f", shift {self.shift:.4g}"
        return f"{sampler}, {self.scheduler}{shift}; {same}"


def elsewhere(recipe: Recipe) -> Mapping[Dialect, Elsewhere]:
    """The settings of ComfyUI and A1111 for a recipe at its own steps and size; for diffusers see ``scheduler``."""
    shift = _shift_of(recipe)
    # if a model's mu depends on the size, ComfyUI's table is ten times as long
    process = recipe.process if shift is None else Flow(shift, 10_000 if recipe.mu_rule else 1000)
    found = {}
    for program in (Dialect.COMFYUI, Dialect.A1111):
        names = [p.name for p in SAMPLER_PEERS if p.program is program and p.sampler == recipe.sampler]
        near = _nearest(recipe, process, program)
        if program is Dialect.A1111 and shift is not None:
            near = ("", math.inf)
        found[program] = Elsewhere(names[0] if names else "", near[0], near[1], shift if near[0] else None)
    return found


def _shift_of(recipe: Recipe) -> float | None:
    if not recipe.process.is_flow:
        return None
    if recipe.mu_rule:
        mu = mu_of(recipe.mu_rule, recipe.steps, recipe.size)
        return mu if recipe.config.get("time_shift_type") == "linear" else math.exp(mu)
    return float(recipe.config.get("shift", recipe.config.get("flow_shift", 1.0)))


def _nearest(recipe: Recipe, process: Process, program: Dialect) -> tuple[str, float]:
    """The program's scheduler with the sigmas nearest to the recipe's, and its largest relative distance."""
    distances = {
        peer.name: _distance(recipe, process, peer)
        for peer in PEERS
        if peer.program is program and peer.schedule is not None and not peer.name.endswith("Scheduler")  # a node
    }
    if not distances or (best := min(distances.values())) > _NEAR:
        return "", math.inf
    name = next(name for name, apart in distances.items() if apart <= best + 1e-9)  # the first in the program's menu
    return name, distances[name]


def _distance(recipe: Recipe, process: Process, peer: Peer) -> float:
    wanted = recipe.default.sigmas
    try:
        levels = calculate_sigmas(
            peer.schedule or "", recipe.default.steps, process, dialect=peer.dialect, **dict(peer.options)
        )
    except (ValueError, TypeError):
        return math.inf
    if len(levels) != len(wanted) or not np.isfinite(wanted).all() or (wanted[-1] == 0) != (levels[-1] == 0):
        return math.inf
    positive = wanted > 0
    with np.errstate(divide="ignore"):
        return float(np.abs(levels[positive] / wanted[positive] - 1).max())
