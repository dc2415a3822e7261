"""The sampler ``auto``: for each number of model calls, a shipped table of levels and weights or a general pair."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeVar

from ksched.options import Positive, check_steps
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Flow, Process
from ksched.samplers.adams import lms
from ksched.samplers.exponential_multistep import exp_pc
from ksched.samplers.linear_multistep import Table, ratio, same_levels
from ksched.samplers.linear_table import LinearTable
from ksched.schedules import calculate_sigmas
from ksched.schedules.grid import Grid

__all__ = ["AutoEnd", "Choice", "auto", "auto_levels", "auto_origin", "choose", "general"]

V = TypeVar("V", bound=Vector)
AutoEnd = Literal["integral", "denoised"]

#: ranges of tables: bounds on the first noise level over the data's std, and the range in words
_STARTS = {"sd": (12.0, 18.0), "edm": (60.0, 800.0), "flow": (800.0, math.inf)}
_WORDS = {"sd": "Stable Diffusion's range", "edm": "EDM's range", "flow": "pure noise, as with flow matching"}
#: up to this many calls, a missing table is stretched from one of fewer calls; beyond, a general pair is as good
_STRETCHED = 11
#: from this many steps on, the general method may be of higher order
_LONG = 12


@cache
def _shipped() -> Mapping[str, Any]:
    """The file that holds the tables."""
    text = (resources.files("ksched") / "data" / "auto_plans.json").read_text(encoding="utf-8")
    data: Mapping[str, Any] = json.loads(text)
    return data


_Key = tuple[str, str, int, float]  # range, end, number of calls, guidance scale


@cache
def _tables() -> Mapping[_Key, Table]:
    """Tables of means; scale 1 marks tables made for no particular scale."""
    return {_key(t): Table.from_dict(t) for t in _shipped()["tables"] if "weights" in t}


@cache
def _freed() -> Mapping[_Key, LinearTable]:
    """Tables of free rows, each fitted from the table of means with the same key."""
    return {_key(t): LinearTable.from_dict(t) for t in _shipped()["tables"] if "rows" in t}


def _key(table: Mapping[str, Any]) -> _Key:
    return table["range"], table["end"], table["calls"], float(table.get("guidance", 1))


def _counts(kind: str, end: str) -> list[int]:
    """Numbers of calls for which there is a table."""
    return [calls for of, how, calls, scale in _tables() if (of, how, scale) == (kind, end, 1)]


def _scales(kind: str, end: str, calls: int, consistent: bool) -> list[float]:
    """The guidance scales that have a table; 1 is always one of them."""
    keys = {*_tables(), *(() if consistent else _freed())}
    return sorted({1.0, *(scale for *key, scale in keys if key == [kind, end, calls])})


def _nearest(scales: Sequence[float], guidance: float | None) -> float:
    """The nearest of some scales, by ratio."""
    return 1.0 if guidance is None else min(scales, key=lambda scale: abs(math.log(scale / guidance)))


@cache
def _table(kind: str, end: str, calls: int, scale: float = 1.0) -> Table | None:
    """The table for a number of calls, or one stretched from slightly fewer calls; None if neither exists."""
    found = _tables().get((kind, end, calls, scale))
    below = [count for count in _counts(kind, end) if 1 < count < calls]
    if found is not None or calls > _STRETCHED or not below:
        return found
    return _tables()[kind, end, max(below), 1.0].stretched(calls)


def auto_origin() -> str:
    """Origin of the tables, in words."""
    data = _shipped()
    return f"fitted to synthetic mixtures by {data['made_by']}, seed {data['seed']}, on {data['date']}"


@dataclass(frozen=True)
class Choice:
    """The sampler and noise levels that `auto` runs for a number of model calls.

    Attributes
    ----------
    table : Table, LinearTable or None
        A tuned table; None for a general pair.
    sigmas : tuple of float
        Contract sigmas.
    name : str
        Short name of the table or the pair.
    why : str
        The reason for the choice, as a clause.
    """

    table: Table | LinearTable | None
    sigmas: tuple[float, ...]
    name: str
    why: str


def choose(
    steps: int,
    process: Process,
    *,
    end: AutoEnd = "integral",
    data_std: Positive = 1.0,
    guidance: Positive | None = None,
    consistent: bool = False,
) -> Choice:
    """The sampler and noise levels that `auto` runs, and why.

    Parameters
    ----------
    steps : int
        Number of model calls.
    process : Process
        The noise process that the model was trained on.
    end, data_std, guidance, consistent : as for `auto`

    Raises
    ------
    TypeError, ValueError
        If steps is not a whole number of at least 1.
    """
    check_steps(steps)
    ends = (process.level(sigma) for sigma in (process.sigma_max, process.sigma_min))
    start, lowest = (ratio(level) * process.noise_scale / data_std for level in ends)
    kind = next((name for name, (low, high) in _STARTS.items() if low <= start <= high), None)
    scales = [1.0] if kind is None else _scales(kind, end, steps, consistent)
    scale = _nearest(scales, guidance)
    free = None if consistent or kind is None else _freed().get((kind, end, steps, scale))
    table = free or (None if kind is None else _table(kind, end, steps, scale))
    if kind is None:
        why = f"there is no table for a start at {start:.4g} times the std of the data"
    elif table is None:
        counts = ", ".join(map(str, sorted(_counts(kind, end))))
        why = f"tables with this end exist for {counts} model calls"
    elif steps > 1 and table.lowest < lowest * (1 - 1e-6):
        why = f"the table's lowest level, {table.lowest:.3g}, is below the process's lowest, {lowest:.3g}"
    else:
        made_for = max(count for count in _counts(kind, end) if count <= steps)
        why = f"the run starts in {_WORDS[kind]}; {auto_origin()}"
        why += f"; stretched from the table for {made_for} calls" if made_for < steps and not free else ""
        why += "" if guidance is None else f"; {_of_scales(scales, guidance)}"
        name = f"the table {kind}, {end}, {steps} calls" + (f", guidance {scale:g}" if scale != 1 else "")
        return Choice(table, tuple(table.sigmas(process, data_std)), name, why)
    name, sigmas = _general(steps, process, start, data_std)
    return Choice(None, sigmas, name, why)


def _of_scales(scales: Sequence[float], guidance: float) -> str:
    """Why this table serves a guidance scale, in words."""
    own = [scale for scale in scales if scale != 1]
    if not own:
        return f"there is no table for guidance {guidance:g} at this number of calls; this one was fitted to bear it"
    known, nearest = ", ".join(f"{scale:g}" for scale in own), _nearest(scales, guidance)
    chosen = "without" if nearest == 1 else f"{nearest:g}"
    return f"of the tables without guidance and for {known}, {chosen} is nearest to {guidance:g}"


def _general(steps: int, process: Process, start: float, data_std: float) -> tuple[str, tuple[float, ...]]:
    """Name and levels of the best general pair, used where no table applies."""
    if math.isinf(start):
        flow = calculate_sigmas("beta57", steps, Flow(3.0))[1:-1]
        lams = [math.log((1 - s) / s * process.noise_scale / data_std) for s in flow]
        return "beta57 of a shift of 3", (process.sigma_max, *(process.level_at(lam).label for lam in lams), 0.0)
    return "exponential", tuple(float(sigma) for sigma in calculate_sigmas("exponential", steps, process))


def auto_levels(
    steps: int,
    process: Process,
    *,
    end: AutoEnd = "integral",
    data_std: Positive = 1.0,
    guidance: Positive | None = None,
    consistent: bool = False,
) -> list[float]:
    """Contract sigmas of `auto`; arguments and errors are those of `choose`."""
    how: Any = {"end": end, "data_std": data_std, "guidance": guidance, "consistent": consistent}
    return list(choose(steps, process, **how).sigmas)


def auto(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    end: AutoEnd = "integral",
    data_std: Positive = 1.0,
    guidance: Positive | None = None,
    consistent: bool = False,
) -> V:
    """The best method known for the number of steps: a tuned table on its own noise levels, else a general method.

    One model call per step, deterministic. On its own levels and up to 20 steps it runs a table fitted to synthetic
    mixtures, with and without guidance (see `linear` and `weighted`). On other levels, or with more steps, it runs an
    exponential predictor-corrector (`exp_pc`), or `lms` from pure noise.

    Parameters
    ----------
    end : str
        "denoised" returns the last prediction; use it for models that are noisy (quantized, say). "integral" returns a
        weighted mean of all predictions, which is more exact but amplifies the model's errors.
    data_std : float
        Standard deviation of the data, to which the levels are proportional; 0.5 for EDM's models. Sampling a flow
        model with shift ``s``, as for large images, is equivalent to scaling its data by ``s``, so pass ``s``.
    guidance : float or None
        Scale of classifier-free guidance (CFG) that you will run the model with, 1 for none: the table fitted to the
        nearest scale is used. None uses the table for models without guidance, which tolerates guidance too.
    consistent : bool
        Use only tables in which every step takes a mean of the predictions, and the model receives the sigma of its
        state. Otherwise only the result is a mean: the states before it are free, and the sigmas that the model
        receives differ from theirs by a few per cent. Either way a constant prediction comes out unchanged.

    Notes
    -----
    ``benchmarks/fit_auto_plans.py`` made the tables; ``benchmarks/tuned.py`` and ``benchmarks/generalisation.py``
    measure their gain.
    """
    how: Any = {"end": end, "data_std": data_std, "guidance": guidance, "consistent": consistent}
    chosen = choose(len(grid), grid.process, **how) if len(grid) else None
    if chosen and chosen.table and same_levels([level.label for level in grid.levels], chosen.sigmas):
        return chosen.table.run(run, grid, x, data_std)
    return general(run, grid, x, end=end)


def general(run: SamplerContext[V], grid: Grid, x: V, *, end: AutoEnd = "integral") -> V:
    """The method of `auto` for arbitrary noise levels; parameters as there."""
    if grid.levels[0].alpha == 0 and grid.process.is_flow:
        return lms(run, grid, x, end=end)
    high = len(grid) >= _LONG
    return exp_pc(run, grid, x, predictor_order=3 if high else 2, corrector_order=4 if high else 3, end=end)
