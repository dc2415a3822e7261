"""A plan as a sampler: it runs on the plan's own levels, on any process that has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ksched.plan.plan import Plan
from ksched.plan.protocol import SamplerFunction
from ksched.plan.rows import Register, Row
from ksched.processes import Level, Process
from ksched.samplers.auto import general
from ksched.samplers.linear_multistep import same_levels
from ksched.schedules.grid import Grid

__all__ = ["own_levels", "placed", "replay"]


_CLOSE = 1e-5  # levels may have been rounded to float32


def placed(plan: Plan, process: Process) -> Plan:
    """A plan in the coordinates of a process: the same run, with states scaled for that process.

    Raises
    ------
    ValueError
        If the process does not start where the plan does.
    """
    if plan.noise_scale != process.noise_scale:
        return placed(_rescaled(plan, process.noise_scale), process)
    start = process.level(process.sigma_max)
    levels = dict.fromkeys((plan.start, *plan.levels, *plan.state_levels, plan.end))
    if all(_same(level, process.level(level.label)) for level in levels if level != plan.end):
        return plan
    if not (math.isclose(start.lam, plan.start.lam, rel_tol=0, abs_tol=_CLOSE) or start.lam == plan.start.lam):
        raise ValueError(
            f"the plan starts at a noise-to-signal ratio of {_ratio(plan.start):.6g}, but {process!r} starts at "
            f"{_ratio(start):.6g}. Make a plan for this process"
        )
    moved = {level: _there(plan, process, level) for level in levels}
    scales = _scales(plan, moved)

    def term(k: int, register: Register, value: float) -> tuple[Register, float]:
        return register, value * scales[k] / (scales[register.number] if register.kind == "x" else 1.0)

    def there(level: Level | None) -> Level | None:
        return level and moved[level]

    rows = tuple(
        Row(tuple(term(k, *each) for each in row.terms), there(row.level), row.step, row.both, there(row.state_level))
        for k, row in enumerate(plan.rows)
    )
    labels = {level.label: there.label for level, there in reversed(moved.items())}
    same_words = all(math.isclose(sigma, there, rel_tol=1e-9) for sigma, there in labels.items())

    def label(sigma: float) -> float:
        if sigma not in labels:
            if same_words:
                return sigma
            raise ValueError(
                f"the plan draws noise at sigma {sigma:g}, where it calls no model, so it runs only on its own process"
            )
        return labels[sigma]

    draws = tuple(
        draw._replace(sigma_from=label(draw.sigma_from), sigma_to=label(draw.sigma_to)) for draw in plan.draws
    )
    sigmas = tuple(map(label, plan.sigmas))
    return replace(plan, rows=rows, draws=draws, start=start, end=moved[plan.end], sigmas=sigmas)


def _scales(plan: Plan, moved: Mapping[Level, Level]) -> list[float]:
    """Factor by which the state of each row is multiplied when its level changes.

    The level is the one that the model is given, because the model's answer must stay the same. A state at which the
    model is not called is an intermediate of a step; its scale cancels, so it keeps the scale of the call before.
    """
    scales: list[float] = []
    for k, row in enumerate(plan.rows):
        own = plan.end if k == len(plan.rows) - 1 else row.level or (plan.start if k == 0 else None)
        scales.append(scales[-1] if own is None else _scale(moved[own]) / _scale(own))
    return scales


def _rescaled(plan: Plan, noise_scale: float) -> Plan:
    """The plan for states with another noise scale: its noise terms are multiplied."""
    factor = noise_scale / plan.noise_scale
    rows = tuple(
        row._replace(terms=tuple((r, value * factor if r.kind == "xi" else value) for r, value in row.terms))
        for row in plan.rows
    )
    return replace(plan, rows=rows, noise_scale=noise_scale)


def _same(a: Level, b: Level) -> bool:
    return all(abs(x - y) <= 1e-9 + _CLOSE * abs(y) for x, y in ((a.alpha, b.alpha), (a.sigma, b.sigma)))


def _ratio(level: Level) -> float:
    return level.sigma / level.alpha if level.alpha else math.inf


def _scale(level: Level) -> float:
    return level.alpha + level.sigma


def _there(plan: Plan, process: Process, level: Level) -> Level:
    """The process's level with the signal-to-noise ratio of a plan's level."""
    if level == plan.start:
        return process.level(process.sigma_max)
    same = process.level(level.label)
    if same.lam == level.lam or abs(same.lam - level.lam) < 1e-12:
        return same
    try:
        return process.level_at(level.lam)
    except OverflowError:
        raise ValueError(f"the plan needs a level at half log-SNR {level.lam:g}; {process!r} has none there") from None


def own_levels(plan: Plan, steps: int, process: Process) -> list[float]:
    """The contract sigmas of a plan.

    Parameters
    ----------
    steps : int
        The plan's number of steps, or its number of model calls.
    process : Process
        The noise process that the model was trained on.

    Raises
    ------
    ValueError
        For another number of steps, or a process that does not start where the plan does.
    """
    if steps not in (plan.steps, plan.nfe):
        raise ValueError(f"the plan has {plan.steps} steps and {plan.nfe} model calls; got steps={steps}")
    return list(placed(plan, process).sigmas)


def replay(plan: Plan) -> SamplerFunction:
    """A plan as a sampler function on its own levels.

    On the last few of its levels, as in image-to-image, it runs the method of `ksched.samplers.auto.general`; the same
    holds for the last few of the levels that it gives the model. It refuses any other levels.
    """

    def replayed(run: Any, grid: Grid, x: Any) -> Any:
        """The rows of a plan, on its own levels."""
        sigmas = [level.label for level in grid.levels]
        here = placed(plan, grid.process)
        if not same_levels(sigmas, here.sigmas):
            told = [*here.call_sigmas.tolist(), here.end.label]
            if not any(same_levels(sigmas, own[max(len(own) - len(sigmas), 0) :]) for own in (here.sigmas, told)):
                raise ValueError(
                    f"a plan must run on its own {plan.steps + 1} levels, or the last of them; got {sigmas}"
                )
            return general(run, grid, x)
        return _rows(here, run, grid, x)

    return replayed


def _rows(plan: Plan, run: Any, grid: Grid, x: Any) -> Any:
    registers: dict[str, list[Any]] = {"x": [], "D": [], "U": []}
    noises: dict[int, Any] = {}
    for k, row in enumerate(plan.rows):
        state = x if k == 0 else 0
        for (kind, number), value in row.terms:
            if kind == "xi" and number not in noises:
                draw = plan.draws[number]
                ends = grid.process.level(draw.sigma_from), grid.process.level(draw.sigma_to)
                noises[number] = run.noise(*ends, draw.stream)
            unit = _unit(value, plan.noise_scale) if kind == "xi" else value  # noise arrives in the process's scale
            state = state + unit * (noises if kind == "xi" else registers[kind])[number]
        if row.level is not None and row.both:
            denoised, uncond = run.denoise_both(state, row.at, row.level)
            registers["D"].append(denoised)
            registers["U"].append(uncond)
        elif row.level is not None:
            registers["D"].append(run.denoise(state, row.at, row.level))
            registers["U"].append(None)
        registers["x"].append(state)
    return registers["x"][-1]


def _unit(value: float, scale: float) -> float:
    """The number that ``scale`` multiplies to ``value``, exact to the last bit if one exists."""
    near = value / scale
    return next(
        (u for u in (near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf)) if u * scale == value), near
    )
