"""The sampler that is chosen for a number of model calls: shipped tables of levels and weights, or a general pair."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeVar

from ksched.options import Positive, check_steps
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Flow, Process
from ksched.samplers.adams import lms
from ksched.samplers.exponential_multistep import exp_pc
from ksched.samplers.linear_multistep import Table, ratio, same_levels, weighted
from ksched.schedules import calculate_sigmas
from ksched.schedules.grid import Grid

__all__ = ["AutoEnd", "Choice", "auto", "auto_levels", "auto_origin", "choose", "general"]

V = TypeVar("V", bound=Vector)
AutoEnd = Literal["integral", "denoised"]

#: by range of tables: from which to which first level they are used, over the std of the data, and in words
_STARTS = {"sd": (12.0, 18.0), "edm": (60.0, 800.0), "flow": (800.0, math.inf)}
_WORDS = {"sd": "Stable Diffusion's range", "edm": "EDM's range", "flow": "pure noise, as with flow matching"}
#: calls up to which a table is stretched where there is none; with more, a general pair is as good
_STRETCHED = 11
#: steps from which the general method may be of higher order
_LONG = 12


@cache
def _shipped() -> Mapping[str, Any]:
    """The file of the tables."""
    text = (resources.files("ksched") / "data" / "auto_plans.json").read_text()
    data: Mapping[str, Any] = json.loads(text)
    return data


@cache
def _tables() -> Mapping[tuple[str, str, int, float], Table]:
    """Tables by range, end, number of calls, and scale of guidance, 1 where they were made for none in particular."""
    rows = _shipped()["tables"]
    return {(t["range"], t["end"], t["calls"], float(t.get("guidance", 1))): Table.from_dict(t) for t in rows}


def _counts(kind: str, end: str) -> list[int]:
    """Numbers of calls that there is a table for."""
    return [calls for of, how, calls, scale in _tables() if (of, how, scale) == (kind, end, 1)]


def _scale(kind: str, end: str, calls: int, guidance: float | None) -> float:
    """Of the scales that there are tables for, the nearest, by ratio; 1 where no table was made for a scale."""
    scales = sorted(scale for *key, scale in _tables() if key == [kind, end, calls])
    if guidance is None or not scales:
        return 1.0
    return min(scales, key=lambda scale: abs(math.log(scale / guidance)))


@cache
def _table(kind: str, end: str, calls: int, scale: float = 1.0) -> Table | None:
    """A table for a number of calls, stretched from the one below where few calls lie between two; else None."""
    found = _tables().get((kind, end, calls, scale))
    below = [count for count in _counts(kind, end) if 1 < count < calls]
    if found is not None or calls > _STRETCHED or not below:
        return found
    return _tables()[kind, end, max(below), 1.0].stretched(calls)


def auto_origin() -> str:
    """Where the tables come from, in words."""
    data = _shipped()
    return f"fitted to synthetic mixtures by {data['made_by']}, seed {data['seed']}, on {data['date']}"


@dataclass(frozen=True)
class Choice:
    """What `auto` runs for a number of model calls.

    Attributes
    ----------
    table : a tuned one, None for a general pair
    sigmas : contract sigmas
    name : short, of the table or the pair
    why : what it was chosen by, a sentence
    """

    table: Table | None
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
) -> Choice:
    """What `auto` runs, and why.

    Parameters
    ----------
    steps : model calls
    process : what the model was trained on
    end, data_std, guidance : as for `auto`

    Raises
    ------
    TypeError, ValueError : steps that are no number of at least 1
    """
    check_steps(steps)
    ends = (process.level(sigma) for sigma in (process.sigma_max, process.sigma_min))
    start, lowest = (ratio(level) * process.noise_scale / data_std for level in ends)
    kind = next((name for name, (low, high) in _STARTS.items() if low <= start <= high), None)
    scale = 1.0 if kind is None else _scale(kind, end, steps, guidance)
    table = None if kind is None else _table(kind, end, steps, scale)
    if kind is None:
        why = f"no table is for a start at {start:.4g} times the std of the data"
    elif table is None:
        counts = ", ".join(map(str, sorted(_counts(kind, end))))
        why = f"the tables that end in this way are for {counts} model calls"
    elif steps > 1 and table.levels[-2] < lowest * (1 - 1e-6):
        why = f"the table has a level of {table.levels[-2]:.3g}, below {lowest:.3g}, the lowest of the process"
    else:
        made_for = max(count for count in _counts(kind, end) if count <= steps)
        why = f"the start is that of {_WORDS[kind]}; {auto_origin()}"
        why += f"; stretched from that of {made_for} calls" if made_for < steps else ""
        why += "" if guidance is None else f"; {_nearest(kind, end, steps, guidance)}"
        name = f"the table {kind}, {end}, {steps} calls" + (f", guidance {scale:g}" if scale != 1 else "")
        return Choice(table, tuple(table.sigmas(process, data_std)), name, why)
    name, sigmas = _general(steps, process, start, data_std)
    return Choice(None, sigmas, name, why)


def _nearest(kind: str, end: str, calls: int, guidance: float) -> str:
    """Why a table is for a scale of guidance, in words."""
    scales = sorted(scale for *key, scale in _tables() if key == [kind, end, calls] and scale != 1)
    if not scales:
        return f"for guidance {guidance:g} there is no table of its own with so many calls, and this one bears it"
    known = ", ".join(f"{scale:g}" for scale in scales)
    nearest = _scale(kind, end, calls, guidance)
    chosen = "without" if nearest == 1 else f"{nearest:g}"
    return f"of tables without guidance and for {known}, {chosen} is nearest to {guidance:g}"


def _general(steps: int, process: Process, start: float, data_std: float) -> tuple[str, tuple[float, ...]]:
    """Name and levels of the pair that is best where no table is for it."""
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
) -> list[float]:
    """Contract sigmas of `auto`; arguments and errors as for `choose`."""
    return list(choose(steps, process, end=end, data_std=data_std, guidance=guidance).sigmas)


def auto(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    end: AutoEnd = "integral",
    data_std: Positive = 1.0,
    guidance: Positive | None = None,
) -> V:
    """The best method known for the number of steps: a tuned table on its own levels, a general method on any other.

    One model call per step, deterministic. On its own levels, up to 20 steps, a table of weights that was fitted to
    synthetic mixtures, with and without guidance (see `weighted`). On other levels, and beyond, an exponential
    predictor-corrector (`exp_pc`), from pure noise `lms`.

    Parameters
    ----------
    end : "denoised", the last prediction is the result, for models that are noisy (quantized, say); "integral", a mean
        of all predictions is, which is more exact and amplifies the errors of a model
    data_std : standard deviation of the data, which the levels are in proportion to. EDM's models have 0.5. A flow
        model that is sampled with a shift of s, as for large images, sees its data as if it were s times as large
    guidance : scale of classifier-free guidance that the model will be run with, 1 for none; the table that was fitted
        to the nearest scale is taken. None is the table for models without guidance that bears guidance too

    Notes
    -----
    Tables by ``benchmarks/fit_auto_plans.py``; what they gain is measured by ``benchmarks/tuned.py`` and
    ``benchmarks/generalisation.py``.
    """
    how: Any = {"end": end, "data_std": data_std, "guidance": guidance}
    chosen = choose(len(grid), grid.process, **how) if len(grid) else None
    if chosen and chosen.table and same_levels([level.label for level in grid.levels], chosen.sigmas):
        return weighted(run, grid, x, weights=chosen.table.weights)
    return general(run, grid, x, end=end)


def general(run: SamplerContext[V], grid: Grid, x: V, *, end: AutoEnd = "integral") -> V:
    """What `auto` does on any levels; parameters as there."""
    if grid.levels[0].alpha == 0 and grid.process.is_flow:
        return lms(run, grid, x, end=end)
    high = len(grid) >= _LONG
    return exp_pc(run, grid, x, predictor_order=3 if high else 2, corrector_order=4 if high else 3, end=end)
