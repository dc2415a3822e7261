"""Joint runs with the log-probability of every model call: that of all parts together."""

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
    """A run of a joint run, and where in states and predictions its part is.

    Attributes
    ----------
    run : of the part
    name : of the part; None where states are no mappings
    frame : which frame of the part; None: all of it
    """

    run: Any
    name: str | None
    frame: int | None

    def part(self, whole: Any) -> Any:
        """Its part of a state, a prediction or a mask."""
        own = whole if self.name is None else whole[self.name]
        return own if self.frame is None else own[:, self.frame]


class MemberPath(NamedTuple):
    """The record of one run: its plan, the state of each model call and the result, and the ticks of these calls."""

    plan: str
    states: tuple[torch.Tensor, ...]
    ticks: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class JointTrajectory:
    """What `rollout` records of a joint run: plain tensors and numbers.

    Attributes
    ----------
    x : the results
    shown : state and sigma of every model call, as the model saw them
    log_prob : of all parts together, for every model call that noise was drawn after; shape (noisy calls, batch)
    ticks : which model call each row of ``log_prob`` is of
    members : the record of every run, in the order of ``members`` of the joint run
    """

    x: Any
    shown: tuple[tuple[Any, Any], ...]
    log_prob: torch.Tensor
    ticks: tuple[int, ...]
    members: tuple[MemberPath, ...]

    def take(self, indices: Sequence[int] | torch.Tensor) -> JointTrajectory:
        """The trajectory of some items, in that order, such as a minibatch."""
        index = torch.as_tensor(indices)
        if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
            raise TypeError(f"indices must be one list of whole numbers; got {indices!r}")
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
        """Its runs, and where their parts are."""

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Model calls answered so far."""

    @abstractmethod
    def tell(self, answer: Any) -> None:
        """Feed what a model returned."""

    def rollout(self, model: Callable[[Any, Any], Any]) -> JointTrajectory:
        """Drive the run to its end and record it, with the log-probability of every model call.

        Parameters
        ----------
        model : as for `sample`

        Returns
        -------
        the record; its ``x`` is the result of `sample`, bit for bit. The log-probability of a call is that of all
        states that are formed after it, given everything before: the sum over the parts

        Raises
        ------
        TypeError, ValueError : as for `sample`; a run that is under way; an adaptive part; no part that draws noise

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
        """Log-probabilities of the calls of a recorded joint run under a model, with gradients into it.

        Parameters
        ----------
        model : as for `sample`
        path : from `rollout` of a joint run of the same samplers, which need not be this one
        ticks : which noisy model calls; None is all of them. The model is called at these, and where the means of their
            steps read an earlier prediction
        reduce : "sum" or "mean" over all numbers that the call draws
        mask : weights of the numbers, of the form of a state and broadcast to it; the mean is over what they add up to

        Returns
        -------
        tensor of shape (ticks, batch), in the order of ``ticks``; the ``log_prob`` of the path, bit for bit, with the
        model and the batch of the rollout

        Raises
        ------
        TypeError, ValueError : no such path, or one of other plans; calls that draw no noise
        """
        if not isinstance(path, JointTrajectory):
            raise TypeError(f"path must come from rollout; got {type(path).__name__}")
        members, rows = self.places, self._rows()
        if [member.run.plan.digest for member in members] != [one.plan for one in path.members]:
            raise ValueError("the path is of other plans: build the samplers with the same options and sigmas")
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
        """Raise unless a rollout can begin."""
        if not callable(model):
            raise TypeError(f"model must be callable, (x, sigma) -> predictions; got {type(model).__name__}")
        if self.nfe or any(member.run.nfe for member in self.places):
            raise ValueError("a rollout records a run from its start; this one is under way")
        self._check_model(model)

    def _check_model(self, model: Any) -> None:
        if (own := process_of_model(model)) is not None:
            for levels in self.all_levels:
                check_once(own, levels)

    def _rows(self) -> list[tuple[GaussianRow, ...]]:
        """The laws of every member, row by row."""
        found = []
        for member in self.places:
            if not isinstance(member.run, Run):
                raise ValueError("an adaptive part chooses its steps by what the model answers, so they have no law")
            found.append(tuple(row for law in transitions(member.run.plan) for row in law.rows))
        if not any(found):
            raise ValueError(
                "no part draws noise, so the steps have no probabilities: take a sampler that does, such as "
                "euler_ancestral or dpmpp_2m_sde, or give one eta > 0"
            )
        return found


class _Record:
    """One run while it is recorded."""

    def __init__(self, member: Member, rows: Sequence[GaussianRow]) -> None:
        self.member, self.run = member, member.run
        self.waiting = list(rows)
        self.states: list[torch.Tensor] = []
        self.ticks: list[int] = []
        self.known: dict[Register, torch.Tensor] = {}
        self._held: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None

    def hold(self, told: Any) -> None:
        """Hold the state of a model call, and the predictions, which the model may write over at its next call."""
        self._held = None
        if not self.run.done:
            denoised, uncond = _own(self.member, told)
            compute = self.run.registers.compute
            twin = None if uncond is None else uncond.to(compute, copy=True)
            self._held = self.run.registers.full_state(), denoised.to(compute, copy=True), twin

    def note(self, tick: int) -> Iterator[torch.Tensor]:
        """Record the call, if the run has moved on; yields the log-probability of what was formed after it."""
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
    """The predictions of a model at the recorded calls, each asked for once."""

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
        """An answer that no later one is written over; gradients go through it."""
        if isinstance(told, Mapping):
            return {name: self._kept(value) for name, value in told.items()}
        if isinstance(told, tuple):
            return tuple(map(self._kept, told))
        return told if not isinstance(told, torch.Tensor) or told.requires_grad else told.clone()


def _total(scores: list[torch.Tensor]) -> torch.Tensor:
    """Sum of the log-probabilities of all parts."""
    return torch.stack(scores).sum(0) if len(scores) > 1 else scores[0]


def _own(member: Member, told: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A member's predictions in what a model returned."""
    whole = told if member.name is None else told[member.name]
    denoised, uncond = pair_of(whole)
    if member.frame is None:
        return denoised, uncond
    return denoised[:, member.frame], None if uncond is None else uncond[:, member.frame]


def _named(call: int, denoised: torch.Tensor, uncond: torch.Tensor | None) -> dict[Register, torch.Tensor]:
    found = {Register("D", call): denoised}
    return found if uncond is None else {**found, Register("U", call): uncond}


def _expanded(mask: Any, state: Any) -> Any:
    """A mask of the form of a state."""
    if isinstance(state, Mapping):
        return {name: _expanded(mask[name], value) if name in mask else None for name, value in state.items()}
    return mask.expand_as(state)


def _wanted(path: JointTrajectory, ticks: Sequence[int] | None) -> list[int]:
    """The calls that were asked for, checked."""
    if ticks is None:
        return list(path.ticks)
    for tick in ticks:
        if isinstance(tick, bool) or not isinstance(tick, Integral):
            raise TypeError(f"ticks must be whole numbers, model calls of the run; got {tick!r}")
        if tick not in path.ticks:
            raise ValueError(f"ticks must be calls that draw noise, {', '.join(map(str, path.ticks))}; got {tick}")
    if len(set(ticks)) < len(ticks):
        raise ValueError(f"ticks must be different ones; got {list(ticks)}")
    return [int(tick) for tick in ticks]
