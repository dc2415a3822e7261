"""Options that every sampler has: how it reads the noise levels of a run. Each is the habit of some other program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from ksched.options import Between, NonNegative, Option, PeerValue, options_of
from ksched.processes import Process
from ksched.schedules.grid import Grid

__all__ = ["VIEW_OPTIONS", "VECoordinates", "view"]


@dataclass(frozen=True)
class VECoordinates(Process):
    """A process whose states are treated as ``x0 + sigma * eps``, whatever they are.

    Attributes
    ----------
    process : Process
        The noise process that the model was trained on.
    """

    process: Process

    def sigma_after(self, share: float) -> float:
        """`Process.sigma_after` of the process."""
        return self.process.sigma_after(share)

    def _table_sigmas(self) -> Any:
        return self.process.sigmas.copy()

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return self.process._timestep(sigma, xp)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return self.process._sigma(timestep, xp)

    def _position(self, sigma: Any, xp: Any) -> Any:
        return self.process._position(sigma, xp)

    def _sigma_at_position(self, position: Any, xp: Any) -> Any:
        return self.process._sigma_at_position(position, xp)


def view(
    grid: Grid,
    *,
    as_ve: Annotated[bool, PeerValue(True)] = False,
    start_after: Annotated[float, Between(0.0, 0.5), PeerValue(0.1)] = 0.0,
    end_at: Annotated[NonNegative, PeerValue(0.01)] = 0.0,
) -> Grid:
    """The grid as a sampler of another program reads it.

    Parameters
    ----------
    grid : Grid
        Noise levels of the run.
    as_ve : bool
        On a flow process, treat states as ``x0 + sigma * eps``, as programs do whose formulas know no other form. The
        ODE is the same in these coordinates: deterministic samplers keep their order and only space their steps evenly
        in another variable, -log(sigma). The noise that a stochastic sampler adds is wrong. No effect on other
        processes.
    start_after : float
        Start a run from pure noise at the level that lies this share of the run later (ComfyUI: 0.0001 for samplers in
        log-SNR, which is infinite at pure noise).
    end_at : float
        Replace a last level of 0 by this one and stop there (ComfyUI's UniPC: 0.001).

    Raises
    ------
    ValueError
        If ``end_at`` is not below the level before it, or ``start_after`` is not above the level after it.
    """
    process, levels = grid.process, list(grid.levels)
    flow = process.is_flow
    if start_after > 0 and levels[0].alpha == 0 and len(levels) > 1:
        begun = process.level(process.sigma_after(start_after))
        if begun.label <= levels[1].label:
            raise ValueError(
                f"start_after must keep the start above the second level, {levels[1].label:g}; got {start_after}, "
                f"which "
                f"starts at {begun.label:g}"
            )
        levels[0] = begun
    if end_at > 0 and levels[-1].sigma == 0 and len(levels) > 1:
        if end_at >= levels[-2].label:
            raise ValueError(f"end_at must be below the last level above 0, {levels[-2].label:g}; got {end_at}")
        levels[-1] = process.level(end_at)
    if as_ve and flow:
        process = VECoordinates(process)
        levels = [process.level(level.label) for level in levels]
    return grid if levels == list(grid.levels) else replace(grid, process=process, levels=tuple(levels))


#: the options of `view`
VIEW_OPTIONS: Mapping[str, Option] = options_of(view)
