"""Families of solvers that papers fit to a model, as options of our fit, and two dynamic programs for timesteps.

All in flow coordinates of data of standard deviation 1, as in `ksched.tuning.fit`. Written from the papers: GITS (Chen
et al. 2024), OSS (Pei et al. 2025), LD3 (Tong et al. 2024), S4S (Frankel et al. 2025), BNS (Shaul et al. 2024) and
DyWeight (Zhao et al. 2026). They differ only in the free parameters and the search: each starts from `ipndm`, and the
objective is the distance from the exact solution of the ODE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from math import comb
from typing import Protocol

import numpy as np
import torch

import ksched
from ksched import Process
from ksched.samplers.linear_multistep import ratio, sigmas_of
from ksched.tuning.canonical_plan import flow_level, linear_of
from ksched.tuning.fit import Denoise, Family, Linear, Problem, fit
from ksched.types import Array

#: Weights of the backward differences of slopes in a step of Adams and Bashforth, by their order.
ADAMS = (1.0, 1 / 2, 5 / 12, 3 / 8)
NODES, WARM_UP, GROWTH = 60, 240, 1.15  # GITS: of a path, how many of these, and what later steps count more
RUNS, SEED = 60, 1041  # number and seed of the runs that all other methods are fitted to
RADIUS, ROUNDS = 0.01, 4  # LD3: how far a start state may be moved, as root mean square, and how often it is
ORDER, HISTORY = 3, 4  # slopes that a step reads: of all, and of DyWeight
RIDGE = 1e-6
ALIKE = 1e-3  # share of white noise that slopes are taken to have, when it is asked how much alike they are
BACKWARD = 2  # a backward pass counts as this many calls


_NONE = torch.zeros(0, dtype=torch.float64)


class Counted:
    """A denoiser that counts the items it is called with; a backward pass counts twice more.

    Attributes
    ----------
    calls : so far
    """

    def __init__(self, denoise: Denoise) -> None:
        self.denoise, self.calls = denoise, 0

    def __call__(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The predictions."""
        back = torch.is_grad_enabled() and (y.requires_grad or s.requires_grad)
        self.calls += y.shape[:-1].numel() * (1 + BACKWARD * back)
        return self.denoise(y, s)


# -------------------------------------------------------------------------------------------------- multistep families


class Multistep:
    """`ipndm` with free parameters: levels, the levels passed to the model, and weights of the slopes.

    A step adds the difference of two times, times a sum of the slope and its backward differences; with the weights of
    `ADAMS` it is that of `ipndm`. For a flow, which starts from pure noise, the time is s and the slope the velocity;
    else the time is the noise to signal, as in EDM's coordinates.

    Parameters
    ----------
    levels : noise to signal at the calls, and 0
    low : no level that is free is below it
    opened : which of "levels", "told", "weights" are free; levels that are free lie between the first and ``low``
    width : how many slopes a step reads
    """

    def __init__(self, levels: Sequence[float], low: float, opened: Sequence[str] = (), width: int = ORDER) -> None:
        self.calls, self.opened, self.width = len(levels) - 1, tuple(opened), width
        self._levels = torch.tensor([flow_level(k) for k in levels], dtype=torch.float64)
        self._flow, self._low, self._high = math.isinf(levels[0]), flow_level(low), flow_level(levels[0])
        self._top = math.log(levels[0]) if math.isfinite(levels[0]) else math.log(100.0)
        self._depth = self._top - math.log(low)
        logs = [self._top, *(math.log(max(k, low)) for k in levels[1:-1]), math.log(low)]
        gaps = np.maximum(-np.diff(logs) / self._depth, 2e-3 / self.calls)
        self._starts = {
            "levels": np.log(gaps / gaps.sum()),
            "told": np.zeros(self.calls - 1),
            "weights": np.concatenate([ADAMS[: min(i + 1, width)] for i in range(self.calls)]),
        }
        self._units = torch.eye(len(self._starts["weights"]), dtype=torch.float64)

    def conditioned(self, problem: Problem) -> Multistep:
        """Rescale the weights so that a unit change of each moves the state of its step equally, as in `Linear`.

        Parameters
        ----------
        problem : on a run of which that is measured
        """
        told, rows, steps = self._run(torch.from_numpy(self.start))
        with torch.no_grad():
            _, known = problem.run(told, rows)
        read = torch.stack([part.flatten().double() for part in (problem.start, *known)])
        parts = []
        for step in steps:
            gram = (step @ read) @ (step @ read).T / read.shape[1]
            gram += ALIKE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
            parts.append(torch.linalg.inv(torch.linalg.cholesky(gram)).T)
        made = copy(self)
        made._units = torch.block_diag(*parts)
        return made

    @property
    def start(self) -> Array:
        """Return the numbers that give `ipndm`."""
        units = {"weights": np.linalg.inv(self._units.numpy())}
        parts = (units[name] @ at if name in units else at for name, at in self._starts.items() if name in self.opened)
        return np.concatenate([np.zeros(0), *parts])

    def _parts(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Levels, what is told of those of the calls, both as s, and weights of differences."""
        values, at = dict[str, torch.Tensor](), 0
        for name, start in self._starts.items():
            values[name] = torch.from_numpy(start)
            if name in self.opened:
                values[name], at = numbers[at : at + len(start)], at + len(start)
                if name == "weights":
                    values[name] = self._units @ values[name]
        levels = self._levels
        if "levels" in self.opened:
            logs = self._top - self._depth * values["levels"].softmax(0).cumsum(0)[:-1]
            levels = torch.cat([levels[:1], logs.sigmoid(), levels[-1:]])
        told = levels[:-1]
        if "told" in self.opened:
            shares = ((told[1:] - self._low) / (self._high - self._low)).clamp(1e-4, 1 - 1e-4)
            moved = self._low + (self._high - self._low) * (shares.logit() + values["told"]).sigmoid()
            told = torch.cat([levels[:1], moved])
        return levels, told, values["weights"]

    def levels(self, numbers: Array) -> tuple[float, ...]:
        """Noise to signal at the calls, and 0."""
        return tuple(s / (1 - s) if s < 1 else math.inf for s in self._parts(torch.from_numpy(numbers))[0].tolist())

    def rows(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As for `Family`."""
        told, rows, _ = self._run(numbers)
        return told, rows

    def _run(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """What is told, rows, and what the weights of every step count, over the start and the predictions."""
        levels, told, weights = self._parts(numbers)
        scales = torch.ones_like(levels) if self._flow else 1 - levels
        times, unit = levels / scales, torch.eye(self.calls + 1, dtype=torch.float64)
        state, slopes, rows, steps, at = unit[0] / scales[0], list[torch.Tensor](), list[torch.Tensor](), [], 0
        for i in range(self.calls):
            rows.append(state * (1.0 if self._flow else 1 - told[i]))
            slopes.append((state - unit[i + 1]) / times[i])
            orders = range(min(i + 1, self.width))
            differences = torch.stack([_difference(slopes, order) for order in orders])
            steps.append((times[i + 1] - times[i]) * scales[i + 1] * differences)
            state = state + steps[-1].T @ weights[at : at + len(orders)] / scales[i + 1]
            at += len(orders)
        return told, torch.stack([*rows, state]), steps


def _difference(slopes: Sequence[torch.Tensor], order: int) -> torch.Tensor:
    """The backward difference of the last slopes."""
    return torch.stack([(-1) ** k * comb(order, k) * slopes[-1 - k] for k in range(order + 1)]).sum(0)


# ---------------------------------------------------------------------------------------------------- dynamic programs


def cheapest(costs: Array, steps: int, growth: float = 1.0) -> list[int]:
    """Find the cheapest path from the first node to the last with a given number of forward steps.

    Parameters
    ----------
    costs : of a step from one node to another, shape (nodes, nodes)
    growth : the cost of step n counts ``growth ** n``
    """
    count = len(costs)
    ahead = np.full((steps + 1, count), math.inf)  # cost from a node to the last one, by number of steps
    ahead[0, -1] = 0.0
    later = np.triu(np.ones((count, count), dtype=bool), 1)
    allowed = np.where(later, costs, math.inf)
    for k in range(1, steps + 1):
        ahead[k] = (allowed + growth * ahead[k - 1]).min(1)
    path = [0]
    for k in range(steps, 0, -1):
        path.append(int((allowed[path[-1]] + growth * ahead[k - 1]).argmin()))
    return path


@dataclass(frozen=True)
class Path:
    """A run of many steps.

    Attributes
    ----------
    levels : noise to signal at its nodes, and 0
    states, slopes : at the nodes, in the coordinates of `Multistep`; a state more than there are slopes
    times : likewise
    """

    levels: tuple[float, ...]
    states: torch.Tensor
    slopes: torch.Tensor
    times: torch.Tensor


def path_of(denoise: Denoise, start: torch.Tensor, levels: Sequence[float]) -> Path:
    """The run of `ipndm` on many levels."""
    rows = Multistep(levels, levels[-2]).rows(_NONE)
    with torch.no_grad():
        states, known = Problem.of(denoise, start, start).run(*rows)
    s = torch.tensor([flow_level(k) for k in levels], dtype=torch.float64)
    scales = torch.ones_like(s) if math.isinf(levels[0]) else 1 - s
    z = torch.stack(states) / scales.view(-1, *[1] * start.ndim)
    times = s / scales
    slopes = (z[:-1] - torch.stack(known)) / times[:-1].view(-1, *[1] * start.ndim)
    return Path(tuple(levels), z, slopes, times)


def _from_line(states: torch.Tensor, path: Path) -> torch.Tensor:
    """Mean distance of states from the line between the ends of their run."""
    along = path.states[-1] - path.states[0]
    along = along / along.norm(dim=-1, keepdim=True)
    away = states - path.states[-1]
    return (away - (away * along).sum(-1, keepdim=True) * along).norm(dim=-1).flatten(1).mean(1)


def by_geometry(path: Path, steps: int) -> tuple[float, ...]:
    """GITS: choose nodes of a run so that Euler steps have the same distance as the run from the line between its ends.

    The cost of a step from node i to node j is how much further from that line Euler's method ends, on average.
    """
    count = len(path.levels)
    costs, true = np.zeros((count, count)), _from_line(path.states, path)
    for i in range(count - 1):
        lengths = (path.times[i + 1 :] - path.times[i]).view(-1, *[1] * (path.states.ndim - 1))
        costs[i, i + 1 :] = (_from_line(path.states[i] + lengths * path.slopes[i], path) - true[i + 1 :]).numpy()
    return tuple(path.levels[i] for i in cheapest(costs, steps, GROWTH))


def by_distillation(denoise: Denoise, path: Path, steps: int) -> tuple[float, ...]:
    """OSS: choose nodes of a run so that Euler steps stay close to its states.

    For every node and number of steps, the program stores the state closest to the run's, among all states that one
    Euler step reaches from the stored states with one step fewer.
    """
    count, calls = len(path.levels), len(path.levels) - 1
    s = torch.tensor([flow_level(k) for k in path.levels], dtype=torch.float64)
    scales = s / path.times.where(path.times > 0, torch.ones(()).double())
    kept, before = {0: path.states[0]}, list[dict[int, int]]()
    for _ in range(steps):
        best, nearest, origin = torch.full((count,), math.inf, dtype=torch.float64), dict[int, torch.Tensor](), {}
        for i in range(calls):
            if i not in kept:
                continue
            with torch.no_grad():
                slope = (kept[i] - denoise(kept[i] * scales[i], s[i])) / path.times[i]
            for j in range(i + 1, count):
                state = kept[i] + (path.times[j] - path.times[i]) * slope
                away = (state - path.states[j]).square().mean()
                if away < best[j]:
                    best[j], nearest[j], origin[j] = away, state, i
        kept = nearest
        before.append(origin)
    nodes = [count - 1]
    for origin in reversed(before):
        nodes.append(origin[nodes[-1]])
    return tuple(path.levels[i] for i in reversed(nodes))


# ------------------------------------------------------------------------------------------------------------- methods


class Bed(Protocol):
    """A model that solvers are fitted to.

    Attributes
    ----------
    process : what its states are
    data_std : of its data
    low : lowest level of a call, noise to signal over the std of the data
    denoise : in flow coordinates
    """

    process: Process
    data_std: float
    low: float
    denoise: Denoise

    def starts(self, items: int, seed: int) -> torch.Tensor:
        """States of pure noise."""
        ...

    def problem(self, denoise: Denoise, start: torch.Tensor) -> Problem:
        """Runs from some states, the ends of which cost calls of ``denoise``."""
        ...


@dataclass(frozen=True)
class Fitted:
    """The result of a fit.

    Attributes
    ----------
    levels, rows : as for `Problem.errors`
    numbers : how many were fitted
    calls : of the model
    """

    levels: torch.Tensor
    rows: torch.Tensor
    numbers: int
    calls: int


def nodes(bed: Bed, count: int, dense: bool = False) -> tuple[float, ...]:
    """Return levels of a common schedule: Karras's (except the lowest), or from pure noise beta or even times."""
    process = bed.process
    if math.isinf(ratio(process.level(process.sigma_max))):
        sigmas = ksched.calculate_sigmas("simple" if dense else "beta", count, process)
    else:
        sigmas = ksched.calculate_sigmas("karras", count + 1, process)
    unit = bed.data_std / process.noise_scale
    return (*(ratio(process.level(float(sigma))) / unit for sigma in sigmas[:count]), 0.0)


def ipndm(bed: Bed, calls: int, budget: int) -> Fitted:
    """The starting point of all other methods."""
    return Fitted(*Multistep(nodes(bed, calls), bed.low).rows(_NONE), 0, 0)


def gits(bed: Bed, calls: int, budget: int) -> Fitted:
    """`ipndm` on levels chosen by `by_geometry`."""
    counted = Counted(bed.denoise)
    path = path_of(counted, bed.starts(WARM_UP, SEED), nodes(bed, NODES, dense=True))
    return Fitted(*Multistep(by_geometry(path, calls), bed.low).rows(_NONE), calls - 1, counted.calls)


def oss(bed: Bed, calls: int, budget: int, width: int = ORDER) -> Fitted:
    """`ipndm` or Euler's method on levels chosen by `by_distillation`."""
    counted = Counted(bed.denoise)
    path = path_of(counted, bed.starts(RUNS, SEED), nodes(bed, NODES, dense=True))
    levels = by_distillation(counted, path, calls)
    return Fitted(*Multistep(levels, bed.low, width=width).rows(_NONE), calls - 1, counted.calls)


def _fitted(family: Family, problem: Problem, start: Array, counted: Counted, limit: float) -> Array:
    """Fit the numbers until the calls are spent or the error no longer decreases."""

    def after(loss: float) -> None:
        if counted.calls >= limit:
            raise StopIteration  # ends the optimiser

    return fit(family, [problem], start, iterations=1000, ridge=RIDGE, progress=after)


def _opened(bed: Bed, calls: int, budget: int, *stages: Sequence[str], width: int = ORDER) -> Fitted:
    """Fit free parameters of `ipndm` by gradients, in stages that share the calls evenly."""
    counted, levels = Counted(bed.denoise), nodes(bed, calls)
    problem = bed.problem(counted, bed.starts(RUNS, SEED))
    begun = counted.calls
    for k, opened in enumerate(stages):
        family = Multistep(levels, bed.low, opened, width).conditioned(problem)
        limit = begun + (budget - begun) * (k + 1) / len(stages)
        numbers = _fitted(family, problem, family.start, counted, limit)
        levels = family.levels(numbers)
    return Fitted(*family.rows(torch.from_numpy(numbers)), len(numbers), counted.calls)


def ld3(bed: Bed, calls: int, budget: int, rounds: int = ROUNDS) -> Fitted:
    """Fit levels and the levels passed to the model by gradients, with a soft teacher: start states may move.

    Parameters
    ----------
    rounds : rounds of fitting and of moving the start states; 1 is a hard teacher
    """
    counted = Counted(bed.denoise)
    exact = bed.problem(counted, bed.starts(RUNS, SEED))
    family = Multistep(nodes(bed, calls), bed.low, ("levels", "told"))
    numbers, moved, begun = family.start, torch.zeros_like(exact.start), counted.calls
    for k in range(rounds):
        problem = replace(exact, start=exact.start + moved)
        numbers = _fitted(family, problem, numbers, counted, begun + (budget - begun) * (k + 1) / rounds)
        if k + 1 < rounds:
            at = problem.start.clone().requires_grad_()
            errors = replace(problem, start=at).errors(*family.rows(torch.from_numpy(numbers)))
            slope = torch.autograd.grad(errors.sum(), at)[0]
            moved = moved - RADIUS / 2 * slope / _rms(slope)
            moved = moved * (RADIUS / _rms(moved)).clamp(max=1.0)
    return Fitted(*family.rows(torch.from_numpy(numbers)), len(numbers), counted.calls)


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean(-1, keepdim=True).sqrt() + 1e-12


def bns(bed: Bed, calls: int, budget: int) -> Fitted:
    """All rows and times."""
    counted = Counted(bed.denoise)
    problem = bed.problem(counted, bed.starts(RUNS, SEED))
    levels = nodes(bed, calls)
    table = linear_of(plan_of(bed, levels), bed.data_std)
    family = Linear(calls, levels[0], bed.low).conditioned([problem], table)
    numbers = _fitted(family, problem, family.numbers(table), counted, budget)
    return Fitted(*family.rows(torch.from_numpy(numbers)), len(numbers), counted.calls)


def plan_of(bed: Bed, levels: Sequence[float]) -> ksched.Plan:
    """The plan of `ipndm` on some levels."""
    sigmas = sigmas_of(levels, bed.process, bed.data_std)
    return ksched.build_sampler("ipndm", sigmas=sigmas, process=bed.process, order=ORDER, end="integral").plan


#: by name, in the order of the tables
METHODS: Mapping[str, Callable[[Bed, int, int], Fitted]] = {
    "ipndm": ipndm,
    "GITS": gits,
    "OSS, Euler": partial(oss, width=1),
    "OSS": oss,
    "LD3": ld3,
    "LD3, hard": partial(ld3, rounds=1),
    "levels": lambda bed, calls, budget: _opened(bed, calls, budget, ("levels",)),
    "S4S": lambda bed, calls, budget: _opened(bed, calls, budget, ("weights",)),
    "S4S-Alt": lambda bed, calls, budget: _opened(bed, calls, budget, ("levels",), ("levels", "weights")),
    "DyWeight": lambda bed, calls, budget: _opened(bed, calls, budget, ("told", "weights"), width=HISTORY),
    "BNS": bns,
}
