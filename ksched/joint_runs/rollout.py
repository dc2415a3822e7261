"""Joint runs with the log-probability of each model call, for all parts together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple, get_args

import torch

from ksched.denoisers.answer import pair_of
from ksched.execution.run import Run
from ksched.execution.together import JointRun
from ksched.plan.rows import Register
from ksched.policy.scoring import Reduction, density, reduced
from ksched.policy.transitions import GaussianRow, transitions
from ksched.processes.agreement import check_once, process_of_model

__all__ = ["JointSteps", "JointTrajectory", "Member"]


class Member(NamedTuple):
    """A run of a joint run, and the position of its part in states and predictions.

    Attributes
    ----------
    run : Run or AdaptiveRun
        The run of the part.
    name : str or None
        Name of the part; None if states are not mappings.
    frame : int or None
        Frame of the part; None for all of it.
    """

    run: Any
    name: str | None
    frame: int | None

    def part(self, whole: Any) -> Any:
        """The member's part of a state, a prediction or a mask."""
        own = whole if self.name is None else whole[self.name]
        return own if self.frame is None else own[:, self.frame]


class MemberPath(NamedTuple):
    """The record of one run: its plan, the state of each model call and the result, and the ticks of these calls."""

    plan: str
    states: tuple[torch.Tensor, ...]
    ticks: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class JointTrajectory:
    """The record of a joint run by `rollout`: plain tensors and numbers.

    Attributes
    ----------
    x : Tensor or mapping
        The results.
    shown : tuple of tuple
        State and sigma of each model call, as the model received them.
    log_prob : Tensor
        Log-probability of all parts together, for each model call followed by noise; shape (noisy calls, batch).
    ticks : tuple of int
        Model call of each row of ``log_prob``.
    members : tuple of MemberPath
        The record of each run, in the order of the joint run's ``members``.
    """

    x: Any
    shown: tuple[tuple[Any, Any], ...]
    log_prob: torch.Tensor
    ticks: tuple[int, ...]
    members: tuple[MemberPath, ...]

    def take(self, indices: Sequence[int] | torch.Tensor) -> JointTrajectory:
        """The trajectory of some items, in the given order, such as a minibatch."""
        index = torch.as_tensor(indices)
        if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
            raise TypeError(f"indices must be a one-dimensional list of whole numbers; got {indices!r}")
        index = index.to(self.log_prob.device, torch.int64)

        def part(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: part(each) for name, each in value.items()}
            return value[index]

        members = tuple(one._replace(states=tuple(map(part, one.states))) for one in self.members)
        shown = tuple((part(x), part(sigma)) for x, sigma in self.shown)
        return replace(self, x=part(self.x), shown=shown, log_prob=self.log_prob[:, index], members=members)


class JointSteps(JointRun):
    """Rollouts and log-probabilities of a joint run."""

    @property
    @abstractmethod
    def places(self) -> tuple[Member, ...]:
        """Its runs, and the positions of their parts."""

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Number of model calls answered so far."""

    @abstractmethod
    def tell(self, answer: Any) -> None:
        """Feed a model's output."""

    def rollout(self, model: Callable[[Any, Any], Any]) -> JointTrajectory:
        """Drive the run to its end and record it, with the log-probability of each model call.

        Parameters
        ----------
        model : as for `sample`

        Returns
        -------
        the record; its ``x`` is the result of `sample`, bit for bit. The log-probability of a call is that of all
        states formed after it, given everything before: the sum over the parts

        Raises
        ------
        TypeError, ValueError
            As for `sample`; a run that has already started; an adaptive part; no part that draws noise.

        Notes
        -----
        No gradients are recorded. Noise that is added to the first state of a part is not counted.
        """
        self._check_rollout(model)
        records = [_Record(member, rows) for member, rows in zip(self.places, self._rows(), strict=True)]
        by_tick: dict[int, list[torch.Tensor]] = {}
        shown = []
        with torch.no_grad():
            while not self.done:
                tick, call = self.nfe, (self.x, self.sigma)
                shown.append(call)
                told = model(*call)
                for record in records:
                    record.hold(told)
                self.tell(told)
                for record in records:
                    by_tick.setdefault(tick, []).extend(record.note(tick))
        ticks = tuple(tick for tick, scores in by_tick.items() if scores)
        table = torch.stack([_total(by_tick[tick]) for tick in ticks])
        members = tuple(record.path() for record in records)
        return JointTrajectory(self.x, tuple(shown), table, ticks, members)

    def log_prob(
        self,
        model: Callable[[Any, Any], Any],
        path: JointTrajectory,
        ticks: Sequence[int] | None = None,
        reduce: Reduction = "sum",
        *,
        mask: Any = None,
    ) -> torch.Tensor:
        """Log-probabilities of a recorded joint run's calls under a model, with gradients into the model.

        Parameters
        ----------
        model : as for `sample`
        path : JointTrajectory
            From `rollout` of a joint run of the same samplers, which need not be this one.
        ticks : sequence of int or None
            The noisy model calls to use; None means all. The model is called at these, and where the means of their
            steps read an earlier prediction.
        reduce : str
            "sum" or "mean" over all numbers that the call draws.
        mask : Tensor, mapping or None
            Weights of the numbers, in the form of a state and broadcast to it; the mean divides by their sum.

        Returns
        -------
        tensor of shape (ticks, batch), in the order of ``ticks``; with the rollout's model and batch, the ``log_prob``
        of the path, bit for bit

        Raises
        ------
        TypeError, ValueError
            For anything that is not a recorded path, or one of other plans; calls that draw no noise.
        """
        if not isinstance(path, JointTrajectory):
            raise TypeError(f"path must come from rollout; got {type(path).__name__}")
        members, rows = self.places, self._rows()
        if [member.run.plan.digest for member in members] != [one.plan for one in path.members]:
            raise ValueError("the path belongs to other plans: build the samplers with the same options and sigmas")
        if reduce not in get_args(Reduction):
            raise ValueError(f'reduce must be "sum" or "mean"; got {reduce!r}')
        self._check_model(model)
        wanted = _wanted(path, ticks)
        replayed = _Replayed(model, path, members)
        found = {}
        for tick in sorted(wanted):
            sums, counts = [], []
            for k, one in enumerate(path.members):
                for row in rows[k]:
                    if one.ticks[row.state - 1] != tick:
                        continue
                    known = replayed.known(k, row)
                    own = None if mask is None else members[k].part(_expanded(mask, path.shown[tick][0]))
                    values = density(row, one.states, known)
                    sums.append(reduced(values, "sum", own))
                    counts.append(values[:1].numel() if own is None else reduced(own.to(values.dtype), "sum", None))
            total = _total(sums)
            found[tick] = total if reduce == "sum" else total / sum(counts)
        if not wanted:
            return path.log_prob[:0]
        return torch.stack([found[tick] for tick in wanted])

    def _check_rollout(self, model: Any) -> None:
        """Raise unless a rollout can start."""
        if not callable(model):
            raise TypeError(f"model must be callable, (x, sigma) -> predictions; got {type(model).__name__}")
        if self.nfe or any(member.run.nfe for member in self.places):
            raise ValueError("a rollout must start with a new run; this run has already started")
        self._check_model(model)

    def _check_model(self, model: Any) -> None:
        if (own := process_of_model(model)) is not None:
            for levels in self.all_levels:
                check_once(own, levels)

    def _rows(self) -> list[tuple[GaussianRow, ...]]:
        """The laws of each member, row by row."""
        found = []
        for member in self.places:
            if not isinstance(member.run, Run):
                raise ValueError("a rollout needs parts with plans; an adaptive part's steps have no probability law")
            found.append(tuple(row for law in transitions(member.run.plan) for row in law.rows))
        if not any(found):
            raise ValueError(
                "no part draws noise, so the steps have no probabilities: use a sampler that does, such as "
                "euler_ancestral or dpmpp_2m_sde, or set eta > 0 in one"
            )
        return found


class _Record:
    """One run while it is being recorded."""

    def __init__(self, member: Member, rows: Sequence[GaussianRow]) -> None:
        self.member, self.run = member, member.run
        self.waiting = list(rows)
        self.states: list[torch.Tensor] = []
        self.ticks: list[int] = []
        self.known: dict[Register, torch.Tensor] = {}
        self._held: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None

    def hold(self, told: Any) -> None:
        """Store the state of a model call, and the predictions, which the model may overwrite at its next call."""
        self._held = None
        if not self.run.done:
            denoised, uncond = _own(self.member, told)
            compute = self.run.registers.compute
            twin = None if uncond is None else uncond.to(compute, copy=True)
            self._held = self.run.registers.full_state(), denoised.to(compute, copy=True), twin

    def note(self, tick: int) -> Iterator[torch.Tensor]:
        """Record the call if the run has advanced; yields the log-probability of the states formed after it."""
        if self._held is None or self.run.nfe == len(self.ticks):
            return
        state, denoised, uncond = self._held
        call = len(self.ticks)
        self.states.append(state)
        self.ticks.append(tick)
        self.known |= _named(call, denoised, uncond)
        after = [*self.states, self.run.registers.full_state()]
        while self.waiting and self.waiting[0].state == len(self.states):
            yield reduced(density(self.waiting.pop(0), after, self.known), "sum", None)
        first = min((r.number for row in self.waiting for r, _ in row.mean if r.kind != "x"), default=call + 1)
        self.known = {register: value for register, value in self.known.items() if register.number >= first}

    def path(self) -> MemberPath:
        """The record."""
        states = (*self.states, self.run.registers.full_state())
        return MemberPath(self.run.plan.digest, states, tuple(self.ticks))


class _Replayed:
    """The predictions of a model at the recorded calls, each requested once."""

    def __init__(self, model: Callable[[Any, Any], Any], path: JointTrajectory, members: Sequence[Member]) -> None:
        self._model, self._path, self._members = model, path, members
        self._told: dict[int, Any] = {}

    def known(self, member: int, row: GaussianRow) -> dict[Register, torch.Tensor]:
        """The predictions that the mean of a row reads."""
        one, place = self._path.members[member], self._members[member]
        found: dict[Register, torch.Tensor] = {}
        for call in {r.number for r, _ in row.mean if r.kind != "x"}:
            tick = one.ticks[call]
            if tick not in self._told:
                self._told[tick] = self._kept(self._model(*self._path.shown[tick]))
            denoised, uncond = _own(place, self._told[tick])
            compute = one.states[call].dtype
            found |= _named(call, denoised.to(compute), None if uncond is None else uncond.to(compute))
        return found

    def _kept(self, told: Any) -> Any:
        """An answer that no later one overwrites; gradients flow through it."""
        if isinstance(told, Mapping):
            return {name: self._kept(value) for name, value in told.items()}
        if isinstance(told, tuple):
            return tuple(map(self._kept, told))
        return told if not isinstance(told, torch.Tensor) or told.requires_grad else told.clone()


def _total(scores: list[torch.Tensor]) -> torch.Tensor:
    """Sum of the log-probabilities of all parts."""
    return torch.stack(scores).sum(0) if len(scores) > 1 else scores[0]


def _own(member: Member, told: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A member's predictions from a model's output."""
    whole = told if member.name is None else told[member.name]
    denoised, uncond = pair_of(whole)
    if member.frame is None:
        return denoised, uncond
    return denoised[:, member.frame], None if uncond is None else uncond[:, member.frame]


def _named(call: int, denoised: torch.Tensor, uncond: torch.Tensor | None) -> dict[Register, torch.Tensor]:
    found = {Register("D", call): denoised}
    return found if uncond is None else {**found, Register("U", call): uncond}


def _expanded(mask: Any, state: Any) -> Any:
    """A mask expanded to the form of a state."""
    if isinstance(state, Mapping):
        return {name: _expanded(mask[name], value) if name in mask else None for name, value in state.items()}
    return mask.expand_as(state)


def _wanted(path: JointTrajectory, ticks: Sequence[int] | None) -> list[int]:
    """The requested calls, checked."""
    if ticks is None:
        return list(path.ticks)
    for tick in ticks:
        if isinstance(tick, bool) or not isinstance(tick, Integral):
            raise TypeError(f"ticks must be whole numbers, indices of model calls; got {tick!r}")
        if tick not in path.ticks:
            raise ValueError(f"ticks must be calls that draw noise, {', '.join(map(str, path.ticks))}; got {tick}")
    if len(set(ticks)) < len(ticks):
        raise ValueError(f"ticks must all be different; got {list(ticks)}")
    return [int(tick) for tick in ticks]
