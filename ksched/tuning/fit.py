"""Methods with free numbers, fitted to runs whose exact results are known.

Everything is in flow coordinates for data of standard deviation 1, whatever the process: states are
``y = a * x0 + s * eps`` with a = 1 - s; s = 1 is pure noise and s = 0 the data. A step is then
``y' = r * y + (1 - r) * mean`` with r = s' / s and a weighted mean of the predictions so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy.linalg import block_diag
from scipy.optimize import minimize

from ksched.plan.plan import Plan
from ksched.sampler import build_sampler
from ksched.samplers.linear_multistep import Table
from ksched.samplers.linear_table import LinearTable
from ksched.tuning.canonical_plan import canonical, flow_level, on_flow
from ksched.types import Array

__all__ = ["NO_SIGNAL", "Denoise", "Family", "Free", "Linear", "OnGrid", "Problem", "bounded", "exact_ends", "fit"]

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (y, s of shape ()) -> prediction

#: Noise-to-signal ratio above which a state of an exact run is treated as pure noise.
NO_SIGNAL = 1e4
#: Ratio that stands for infinity when levels are laid out in log noise to signal.
_INFINITE = 100.0
#: Error below which a problem counts as solved: a further gain there is not worth a loss elsewhere.
_SOLVED = 0.001
#: Weight of the worst models relative to that of all.
_WORST = 0.2
_TEACHER: Mapping[str, Any] = {"predictor_order": 4, "start": "runge_kutta"}
#: for fewer steps than this, where order 4 explodes under guidance
_SAFE: Mapping[str, Any] = {"predictor_order": 2, "corrector_order": 3}
_SAFE_BELOW = 64
#: Share of white noise that predictions are assumed to contain when their similarity is measured.
_ALIKE = 1e-3
#: Largest value of a state, in standard deviations of the data, that counts there.
_FAR = 10.0


@dataclass(frozen=True, eq=False)
class Problem:
    """A denoiser, start states, and the exact results of the ODE.

    Attributes
    ----------
    denoise : callable
        Exact denoiser in flow coordinates.
    start, ends : Tensor
        States of shape (items, ...), or (models, items, ...) for several models at once.
    spread : Tensor
        Standard deviation of the exact results for every model, shape () or (models, 1).
    noise : float
        Relative white noise that every prediction of a network is assumed to add; what reaches the result counts as an
        error.
    weight : float
        Weight of this problem among all.
    tail : float
        Weight of the root mean square of the errors relative to their mean, so that no item is left far behind.
    """

    denoise: Denoise
    start: torch.Tensor
    ends: torch.Tensor
    spread: torch.Tensor
    noise: float = 0.0
    weight: float = 1.0
    tail: float = 0.0

    @classmethod
    def of(
        cls,
        denoise: Denoise,
        start: torch.Tensor,
        ends: torch.Tensor,
        *,
        models: bool = False,
        noise: float = 0.0,
        weight: float = 1.0,
    ) -> Problem:
        """A problem with its spread computed; ``models`` says that the first axis counts models."""
        apart = ends - ends.mean(int(models), keepdim=True)
        spread = apart.square().flatten(1 + models).mean(-1).mean(-1, keepdim=models).sqrt()
        return cls(denoise, start, ends, spread, noise, weight)

    def errors(self, levels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Relative error of every item.

        Parameters
        ----------
        levels : Tensor
            s of every model call, shape (calls,).
        rows : Tensor
            Every state and the result as combinations of the start and predictions, shape (calls + 1, calls + 1).
        """
        levels, rows = levels.to(self.start.dtype), rows.to(self.start.dtype)
        *_, y = self.run(levels, rows)[0]
        return self.errors_of(y, rows)

    def errors_of(self, result: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Relative error of every item of a result that some rows made."""
        lead = self.spread.ndim + (self.spread.ndim == 0)
        away = (result - self.ends).square().flatten(lead).mean(-1) / self.spread**2
        if self.noise:
            away = away + self.noise**2 * rows[-1, 1:].square().sum()
        return (away + 1e-12).sqrt()

    def run(
        self, levels: torch.Tensor, rows: torch.Tensor, first: Sequence[torch.Tensor] = ()
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """All states, with the result last, and all predictions; arguments as for `errors`, in the start's dtype.

        Parameters
        ----------
        first : sequence of Tensor
            The first predictions, where they are known from another run.
        """
        states, known = [self.start], list[torch.Tensor]()
        for i, s in enumerate(levels):
            known.append(first[i] if i < len(first) else self.denoise(states[-1], s))
            states.append(rows[i + 1, 0] * self.start + torch.stack(known, -1) @ rows[i + 1, 1 : i + 2])
        return states, known

    def means(self, levels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Mean of the `bounded` errors of every model, float64."""
        errors = bounded(self.errors(levels, rows))
        means = errors.mean(-1)
        if self.tail:
            means = (means + self.tail * errors.square().mean(-1).sqrt()) / (1 + self.tail)
        return means.reshape(-1)


def bounded(errors: torch.Tensor) -> torch.Tensor:
    """Errors of which those above 1 count by their logarithm, float64.

    The few items that end in another mode, or explode under guidance, then neither dominate a mean nor are given up.
    """
    return errors.double().nan_to_num(nan=1e6, posinf=1e6).asinh()


def exact_ends(
    denoise: Denoise, start: torch.Tensor, s: float, *, steps: int = 150, low: float = 1e-4, end: str = "integral"
) -> torch.Tensor:
    """Results of the ODE from states at ``s``, by a method of order 4 (3 in few steps) on levels uniform in log-SNR.

    Parameters
    ----------
    steps : int
        Number of steps, more than a few; three of them take more than one call.
    low : float
        Last level above 0, as noise-to-signal ratio.
    end : str
        As for `exp_pc`; "integral" is more accurate, and many times as sensitive to noise of the denoiser.
    """
    top = math.log(s / (1 - s)) if s < 1 else math.log(max(NO_SIGNAL, 10 * low))
    levels = np.exp(np.linspace(top, math.log(low), steps + 1)).tolist()
    grid = on_flow([*([math.inf] if s == 1 else []), *levels, 0.0])
    sigmas = [s, *(level.label for level in grid.levels[1:])]
    how = _TEACHER if steps >= _SAFE_BELOW else _SAFE
    run = build_sampler("exp_pc", sigmas=sigmas, process=grid.process, end=end, **how).start(start)
    with torch.no_grad():
        while not run.done:
            run.feed(denoise(run.x, start.new_tensor(run.level.label)))
    return run.x


class Family(Protocol):
    """Methods with free numbers."""

    def rows(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels of the model calls, and rows as for `Problem.errors`; both differentiable in the numbers."""
        ...


class Free:
    """All tables with a given number of calls: free levels and free weights.

    The numbers are first the logits of the gaps between the levels, in log noise to signal, from the first level down
    to the lowest allowed one; the last gap lies below the last call. Then come the weights, row by row.

    Parameters
    ----------
    calls : int
        Number of model calls.
    first : float
        Level of the first call, which is fixed; infinity is pure noise.
    low : float
        Lowest level of a call.
    end : str
        "denoised" makes the last prediction the result, "integral" a mean of all predictions.
    """

    def __init__(self, calls: int, first: float, low: float, end: str) -> None:
        self.calls = calls
        self._top = math.log(first if math.isfinite(first) else _INFINITE)
        self._depth = self._top - math.log(low)
        self._s = flow_level(first)
        self._free = torch.ones(calls, calls, dtype=torch.bool).tril(-1)
        if end == "denoised":
            self._free[-1] = False

    def numbers(self, table: Table) -> Array:
        """The numbers of a table, whose first level is taken to be the family's."""
        logs = [self._top, *(math.log(level) for level in table.levels[1:-1]), self._top - self._depth]
        gaps = np.maximum(-np.diff(logs) / self._depth, 2 * self._least)
        weights = np.zeros((self.calls, self.calls))
        for i, row in enumerate(table.weights):
            weights[i, :i] = row
        return np.concatenate([np.log(gaps / gaps.sum()), weights[self._free.numpy()]])

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return self.calls + int(self._free.sum())

    @property
    def _least(self) -> float:
        """Smallest gap, as a share of the sum of all gaps."""
        return 1e-3 / self.calls

    def _parts(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels s, including the final 0, and weights."""
        gaps = (numbers[: self.calls].softmax(0) + self._least) / (1 + self.calls * self._least)
        logs = self._top - self._depth * gaps.cumsum(0)[:-1]
        levels = torch.cat([numbers.new_tensor([self._s]), logs.sigmoid(), numbers.new_zeros(1)])
        return levels, numbers.new_zeros(self.calls, self.calls).masked_scatter(self._free, numbers[self.calls :])

    def rows(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As for `Family`."""
        levels, weights = self._parts(numbers)
        rows = [torch.eye(self.calls + 1, dtype=numbers.dtype)[0]]
        for i in range(self.calls):
            kept = levels[i + 1] / levels[i]
            own = 1 - weights[i].sum()
            mean = torch.cat([weights.new_zeros(1), weights[i, :i], own[None], weights.new_zeros(self.calls - 1 - i)])
            rows.append(kept * rows[-1] + (1 - kept) * mean)
        return levels[:-1], torch.stack(rows)

    def table(self, numbers: Array) -> Table:
        """The table that the numbers stand for."""
        levels, weights = self._parts(torch.from_numpy(numbers))
        first = math.inf if self._s == 1 else self._s / (1 - self._s)
        ratios = [first, *(level / (1 - level) for level in levels[1:-1].tolist()), 0.0]
        return Table(tuple(ratios), tuple(tuple(row[:i]) for i, row in enumerate(weights.tolist())))


class Linear:
    """All linear methods with a given number of calls: free rows, and free sigmas told to the model.

    The numbers are first the logits of the levels told at each call but the first, between the lowest level and the
    first one, all as s. Then come the rows of a `LinearTable`, one after the other, in the units of `conditioned`. At
    the first call the model receives the level of its state.

    Parameters
    ----------
    calls, first, low : int or float
        As for `Free`.
    constant : bool
        Whether a constant prediction comes out unchanged: then the last row is a mean of the predictions. The states
        before it need not be what a constant prediction would make of them.
    """

    def __init__(self, calls: int, first: float, low: float, constant: bool = False) -> None:
        self.calls, self.constant = calls, constant
        self._high, self._low = flow_level(first), flow_level(low)
        self._free = torch.ones(calls, calls + 1, dtype=torch.bool).tril(1)  # the weight of the state, then the others
        if constant:
            self._free[-1, 0] = self._free[-1, -1] = False
        self._units = torch.eye(calls - 1 + int(self._free.sum()), dtype=torch.float64)

    def conditioned(self, problems: Sequence[Problem], table: LinearTable) -> Linear:
        """The same family, with units for the numbers in which each of them moves the state of its row equally far.

        Predictions resemble each other. The difference of two weights therefore moves a state little, and their sum
        moves it far. In these units a quasi-Newton method needs a third of the steps.

        Parameters
        ----------
        problems : sequence of Problem
            Problems on which runs of the table give the states and predictions.
        """
        levels, rows = self.rows(torch.from_numpy(self.numbers(table)))
        grams = [torch.zeros(i + 2, i + 2, dtype=torch.float64) for i in range(self.calls)]
        for problem in problems:
            with torch.no_grad():
                states, known = problem.run(levels.to(problem.start.dtype), rows.to(problem.start.dtype))
            for i, gram in enumerate(grams):
                read = torch.stack([part.flatten().double() for part in (states[i], *known[: i + 1])])
                read = read.nan_to_num(0, 0, 0).clamp(-_FAR, _FAR)  # runs that explode say nothing
                gram += problem.weight * read @ read.T / read.shape[1]
        if self.constant:  # the last prediction takes what is left
            apart = torch.eye(self.calls + 1, dtype=torch.float64)[1:-1]
            apart[:, -1] = -1
            grams[-1] = apart @ grams[-1] @ apart.T
        parts = [torch.eye(self.calls - 1, dtype=torch.float64)]
        for gram in grams:
            gram = gram / gram.diagonal().mean()
            gram += _ALIKE * torch.eye(len(gram), dtype=gram.dtype)
            parts.append(torch.linalg.inv(torch.linalg.cholesky(gram)).T)
        made = copy(self)
        made._units = _block_diagonal(parts)
        return made

    def numbers(self, table: LinearTable) -> Array:
        """The numbers of a table; the level told at its first call is taken to be the first level."""
        told = np.array([flow_level(level) for level in table.told[1:]])
        shares = np.clip((told - self._low) / (self._high - self._low), 1e-4, 1 - 1e-4)
        *rows, last = table.rows
        plain = np.concatenate([np.log(shares / (1 - shares)), *rows, last[1:-1] if self.constant else last])
        found: Array = np.linalg.solve(self._units.numpy(), plain)
        return found

    def _parts(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels told to the model, as s, and rows padded with 0."""
        plain = self._units @ numbers
        others = self._low + (self._high - self._low) * plain[: self.calls - 1].sigmoid()
        told = torch.cat([plain.new_tensor([self._high]), others])
        rows = plain.new_zeros(self.calls, self.calls + 1)
        rows = rows.masked_scatter(self._free, plain[self.calls - 1 :])
        if self.constant:
            rows = torch.cat([rows[:-1], torch.cat([rows[-1, :-1], 1 - rows[-1].sum()[None]])[None]])
        return told, rows

    def rows(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As for `Family`."""
        told, steps = self._parts(numbers)
        rows = [torch.eye(self.calls + 1, dtype=numbers.dtype)[0]]
        for step in steps:
            rows.append(step[0] * rows[-1] + torch.cat([step.new_zeros(1), step[1:]]))
        return told, torch.stack(rows)

    def table(self, numbers: Array, levels: tuple[float, ...]) -> LinearTable:
        """The table that the numbers stand for, for states at the given levels."""
        told, steps = (part.tolist() for part in self._parts(torch.from_numpy(numbers)))
        ratios = [levels[0], *(s / (1 - s) for s in told[1:])]
        return LinearTable(levels, tuple(ratios), tuple(tuple(row[: i + 2]) for i, row in enumerate(steps)))


def _block_diagonal(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(block_diag(*(part.numpy() for part in parts))))


class OnGrid:
    """One sampler with free levels.

    The numbers are those of `Free` without the weights: logits of the gaps between the levels.

    Parameters
    ----------
    plan_of : callable
        Makes the plan on levels given as noise-to-signal ratios divided by the std of the data.
    data_std : float
        Standard deviation of the data.
    steps, first, low : int or float
        As for `Free`.
    """

    def __init__(
        self, plan_of: Callable[[Sequence[float]], Plan], data_std: float, steps: int, first: float, low: float
    ) -> None:
        self._plan_of, self._data_std, self._first = plan_of, data_std, first
        self._gaps = Free(steps, first, low, "denoised")
        self._steps = steps

    def numbers(self, levels: Sequence[float]) -> Array:
        """The numbers of a list of levels."""
        euler = Table(tuple(levels), tuple((0.0,) * i for i in range(self._steps)))
        return self._gaps.numbers(euler)[: self._steps]

    def levels(self, numbers: Array) -> tuple[float, ...]:
        """Noise-to-signal ratios divided by the std of the data."""
        padded = np.concatenate([numbers, np.zeros(self._gaps.size - self._steps)])
        return self._gaps.table(padded).levels

    def _flat(self, numbers: Array) -> Array:
        """Levels of the calls and rows, one after the other."""
        levels, rows = canonical(self._plan_of(self.levels(numbers)), self._data_std)
        return np.concatenate([levels, rows.ravel()])

    def rows(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As for `Family`; derivatives are differences, since a sampler is only known as a function of its levels."""
        flat: torch.Tensor = _Differences.apply(numbers, self._flat)  # type: ignore[no-untyped-call]  # torch's stub
        calls = math.isqrt(len(flat))  # calls + (calls + 1) ** 2 numbers
        calls -= 1 if calls + (calls + 1) ** 2 > len(flat) else 0
        return flat[:calls], flat[calls:].view(calls + 1, calls + 1)


class _Differences(torch.autograd.Function):
    """A function on the host, differentiated by central differences."""

    @staticmethod
    def forward(ctx: Any, numbers: torch.Tensor, function: Callable[[Array], Array]) -> torch.Tensor:
        ctx.function = function
        ctx.save_for_backward(numbers)
        return torch.from_numpy(function(numbers.detach().numpy())).to(numbers)

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None]:
        (saved,) = ctx.saved_tensors
        at = saved.detach().numpy()
        slopes = []
        for k in range(len(at)):
            step = np.zeros_like(at)
            step[k] = 1e-4
            slopes.append((ctx.function(at + step) - ctx.function(at - step)) / 2e-4)
        return torch.from_numpy(np.array(slopes)).to(above[0]) @ above[0], None


def _loss(means: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Log of the geometric mean error, to reward any gain, and of the root mean square, to hold the worst models."""
    return weights @ (means + _SOLVED).log() + _WORST / 2 * (weights @ means.square()).log()


def fit(
    family: Family,
    problems: Sequence[Problem],
    start: Array,
    *,
    iterations: int = 150,
    ridge: float = 1e-4,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = _loss,
    progress: Callable[[float], object] | None = None,
) -> Array:
    """Numbers of a family with small errors on some problems, near the numbers that the fit starts from.

    Parameters
    ----------
    iterations : int
        Largest number of L-BFGS iterations.
    ridge : float
        Cost of the squared distance from the start.
    loss_of : callable
        Function of the mean errors of all models, in the order of the problems, and of their weights, whose sum is 1.
    progress : callable or None
        Called with the loss after every iteration.
    """
    origin = torch.from_numpy(np.array(start, dtype=np.float64))
    best, done = (math.inf, origin.numpy().copy()), 0

    @torch.enable_grad()
    def loss(values: Array) -> tuple[float, Array]:
        nonlocal best
        numbers = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        levels, rows = family.rows(numbers)
        means = [problem.means(levels, rows) for problem in problems]
        weights = torch.cat([torch.full_like(m, p.weight) for m, p in zip(means, problems, strict=True)])
        total = loss_of(torch.cat(means), weights / weights.sum()) + ridge * (numbers - origin).square().sum()
        torch.autograd.backward(total)
        if total.item() < best[0]:
            best = (total.item(), values.copy())
        assert numbers.grad is not None
        return total.item(), numbers.grad.nan_to_num().numpy().copy()

    def after(intermediate_result: object) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(best[0])

    while done < iterations:
        before, begun = best[0], done
        limits = {"maxiter": iterations - done, "maxfun": 2 * (iterations - done), "maxcor": 30}
        # SciPy's stubs know only one-dimensional arrays, and no callbacks by name
        minimize(loss, best[1], jac=True, method="L-BFGS-B", callback=after, options=limits)  # type: ignore[call-overload]
        # Rounding of float32 may end a line search early. Restarted from the best point, it usually continues.
        if done < begun + 3 or best[0] > before - 1e-3:
            break
    return best[1]
