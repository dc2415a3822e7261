"""Parallel-in-time runs: model calls are guessed, answered together, and corrected until they no longer change.

The states of a run follow from the start, the noises and the model's answers, by the sums in the plan. So guessed
answers give all states, one model call on all of them gives new answers, and these give new states (Picard iteration).
The answer at a state is correct once all earlier answers are. After as many rounds as the run has calls, all are
correct; in practice far fewer rounds are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ksched.denoisers.answer import Model, answer
from ksched.execution.layout import layout
from ksched.execution.registers import Registers, check_output
from ksched.noise.sources import NoiseSource
from ksched.plan.plan import Plan
from ksched.plan.rows import Draw
from ksched.processes.agreement import Levels, mark
from ksched.processes.host_levels import carry

__all__ = ["RoundInfo", "answered_in_rounds"]


# regularisation of Anderson acceleration, as a share of the squares; float32 resolves nothing smaller
_RIDGE = 1e-6


@dataclass(frozen=True)
class RoundInfo:
    """What a callback of `Sampler.parallel` receives after each round.

    Attributes
    ----------
    round : int
        Index of the round, from 1.
    rows : int
        Rows of the model's batch in this round.
    calls : int
        Rows of all rounds so far; `Sampler.sample` would need ``nfe`` times the batch.
    settled : tuple of int
        For each item, the number of its model calls that are final; the result is final when all ``nfe`` are.
    nfe : int
        Model calls of the run.
    """

    round: int
    rows: int
    calls: int
    settled: tuple[int, ...]
    nfe: int


class _FixedNoise:
    """Noise of a whole batch, drawn on first use and kept until all items are past it."""

    def __init__(self, source: NoiseSource, like: torch.Tensor) -> None:
        self._source, self._like = source, like
        self._drawn: dict[Draw, torch.Tensor] = {}

    def of_item(self, item: int) -> NoiseSource:
        """The noise source of one item, as a run of that item alone would use it."""

        def noise(draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
            if draw not in self._drawn:
                self._drawn[draw] = self._source(draw, self._like).clone()
            part = self._drawn[draw][item : item + 1]
            return part.clone() if out is None else out.copy_(part)

        return noise

    def forget(self, draws: set[Draw]) -> None:
        """Drop all noises except these."""
        self._drawn = {draw: noise for draw, noise in self._drawn.items() if draw in draws}


class _Item:
    """One item in progress: its settled calls, and the guessed calls after them.

    Attributes
    ----------
    settled : int
        Number of final answers; the state of the next call is then final too.
    states : Tensor
        States of the calls from there on, in the working dtype; only the result when all are final.
    guesses : Tensor or None
        Answers of these calls, from which the later states were formed; None before there are any.
    """

    def __init__(self, plan: Plan, x: torch.Tensor, noise: NoiseSource) -> None:
        self._registers = registers = Registers(plan, x)
        registers.noise = self._noise = noise
        registers.begin(x)
        self._nfe, self.settled = plan.nfe, 0
        self._held = list(registers.held().values())
        self.states = [self._state()]
        self.guesses: torch.Tensor | None = None
        self._history: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    @property
    def done(self) -> bool:
        """Whether the result is final."""
        return self.settled == self._nfe

    def shown(self) -> torch.Tensor:
        """The states as the model receives them, concatenated along the batch."""
        return torch.cat(self.states).to(self._registers.dtype)

    def moves(self, answers: torch.Tensor) -> torch.Tensor:
        """Distance, as a root mean square, of each state from the state that this round's answers give.

        Parameters
        ----------
        answers : Tensor
            Answers to the calls of `states`, shape (calls, parts, *state).
        """
        formed = torch.cat([self._settled_state(), *map(self._formed, answers[:-1])])
        return (formed - torch.cat(self.states)).flatten(1).square().mean(1).sqrt()

    def settle(self, answers: torch.Tensor, guesses: torch.Tensor) -> None:
        """Accept answers as final, and form the states of the next calls from guesses."""
        self._settled_state()
        for each in answers:
            self._formed(each)
        self.settled += len(answers)
        self._held = list(self._registers.held().values())
        self.guesses = guesses
        self.states = [self._state(), *map(self._formed, guesses[:-1])]

    def mixed(self, answers: torch.Tensor, memory: int) -> torch.Tensor:
        """Answers extrapolated over the last rounds by Anderson acceleration.

        Each call has its own weights, which minimise the residuals of the calls up to it (triangular Anderson
        acceleration, Tang et al. 2024, arXiv:2402.09970), so no call is affected by later ones.
        """
        if self.guesses is None:
            return answers
        self._history = [*self._history[-memory:], (self.settled, answers, answers - self.guesses)]
        common = min(first + len(values) for first, values, _ in self._history) - self.settled
        if len(self._history) < 2 or common < 2:
            return answers
        shared = [slice(self.settled - first, self.settled - first + common) for first, *_ in self._history]
        found = torch.stack([part[at].flatten(1) for at, (_, part, _) in zip(shared, self._history, strict=True)])
        left = torch.stack([part[at].flatten(1) for at, (*_, part) in zip(shared, self._history, strict=True)])
        steps, falls = found.diff(dim=0), left.diff(dim=0)
        gram = torch.einsum("awd,bwd->wab", falls, falls).cumsum(0)
        aim = torch.einsum("awd,wd->wa", falls, left[-1]).cumsum(0)
        ridge = _RIDGE * gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True) + torch.finfo(gram.dtype).tiny
        gram.diagonal(dim1=1, dim2=2).add_(ridge)
        weights = torch.linalg.solve_ex(gram, aim)[0].nan_to_num(0.0, 0.0, 0.0)
        result = answers.clone()
        result[1:common] -= torch.einsum("wa,awd->wd", weights, steps)[1:].view_as(result[1:common])
        return result

    def _settled_state(self) -> torch.Tensor:
        """Return to the state of the first call that is not final."""
        self._registers.resume(self.settled, False, self._held, self._noise)
        return self._state()

    def _formed(self, parts: torch.Tensor) -> torch.Tensor:
        """The state after an answer, (denoised,) or (denoised, uncond)."""
        denoised, *uncond = (part[None] for part in parts)
        self._registers.answer(denoised, uncond[0] if uncond else None)
        return self._state()

    def _state(self) -> torch.Tensor:
        return self._registers.buffers.alias(self._registers.place)


class _Asked:
    """The model, called once on the states of many items."""

    def __init__(self, plan: Plan, denoiser: Model, levels: Levels, dtype: torch.dtype) -> None:
        self._sigmas, self._goals = plan.call_sigmas.tolist(), plan.goals
        self._denoiser, self._levels, self._dtype = denoiser, levels, dtype
        self._both = any(row.both for row in plan.rows)

    def __call__(self, items: Sequence[_Item]) -> list[torch.Tensor]:
        """The answers for each item, of shape (calls, parts, *state), in the working dtype."""
        shown = [item.shown() for item in items]
        x = torch.cat(shown)
        calls = [item.settled + k for item, part in zip(items, shown, strict=True) for k in range(len(part))]
        at = [self._sigmas[call] for call in calls]
        sigma = torch.tensor(at, dtype=self._dtype, device="cpu").to(x.device, non_blocking=True)
        mark(sigma, (self._levels,))
        carry(sigma, at, [self._goals[call] for call in calls])
        denoised, uncond = answer(self._denoiser, x, sigma, self._both)
        check_output("D", denoised, x.shape, x.device)
        parts = [denoised]
        if self._both:
            check_output("U", uncond, x.shape, x.device)
            parts.append(uncond)
        # a copy, because a model may return the same buffer at every call
        together = torch.stack([part.to(self._dtype) for part in parts], 1)
        return list(torch.split(together, [len(part) for part in shown]))


class _Rounds:
    """The rounds, until all items are done."""

    def __init__(self, plan: Plan, items: Sequence[_Item], tolerance: float, window: int, anderson: int) -> None:
        self._plan, self._items, self._window, self._anderson = plan, items, window, anderson
        self._allowed = [tolerance * plan.noise_scale * level.sigma for level in plan.state_levels]
        draws = [{plan.draws[number] for number, _ in segment.draws} for segment in layout(plan).segments]
        self._needed = [set[Draw]().union(*draws[call:]) for call in range(plan.nfe + 1)]

    def over(self, asked: _Asked, noise: _FixedNoise) -> Iterator[RoundInfo]:
        """Run the rounds and yield a `RoundInfo` for each."""
        number = calls = 0
        while going := [item for item in self._items if not item.done]:
            answers = asked(going)
            self._settle(going, answers)
            settled = tuple(item.settled for item in self._items)
            noise.forget(self._needed[min(settled)])
            rows = sum(map(len, answers))
            number, calls = number + 1, calls + rows
            yield RoundInfo(number, rows, calls, settled, self._plan.nfe)

    def _settle(self, items: Sequence[_Item], answers: Sequence[torch.Tensor]) -> None:
        """Accept what no longer changes after a round, and guess again after it."""
        # the only device synchronisation
        told = torch.cat([item.moves(own) for item, own in zip(items, answers, strict=True)]).tolist()
        for item, own in zip(items, answers, strict=True):
            moves, told = told[: len(own)], told[len(own) :]
            stands = 1
            while stands < len(own) and moves[stands] <= self._allowed[item.settled + stands]:
                stands += 1
            behind = min(self._window, self._plan.nfe - item.settled - stands)
            mixed = item.mixed(own, self._anderson) if self._anderson else own
            guesses = torch.cat([mixed[stands:], mixed[-1:].expand(self._window, *mixed.shape[1:])])[:behind]
            item.settle(own[:stands], guesses)


def answered_in_rounds(
    plan: Plan,
    denoiser: Model,
    x: torch.Tensor,
    noise: NoiseSource,
    levels: Levels,
    window: int,
    tolerance: float,
    anderson: int,
    told: Callable[[RoundInfo], object],
) -> torch.Tensor:
    """The run of `ksched.Sampler.parallel`, with its arguments checked; ``told`` is called after each round."""
    with torch.no_grad():
        x = x.detach()
        wide = torch.promote_types(x.dtype, torch.float32)
        fixed = _FixedNoise(noise, torch.empty_like(x, dtype=wide))
        items = [_Item(plan, x[i : i + 1], fixed.of_item(i)) for i in range(len(x))]
        asked = _Asked(plan, denoiser, levels, wide)
        for info in _Rounds(plan, items, tolerance, window, anderson).over(asked, fixed):
            told(info)
        return torch.cat([x[:0], *(item.shown() for item in items)])
