"""Runs that advance together: all answers are checked and all noise is drawn before any run advances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from ksched.denoisers.answer import pair_of
from ksched.execution.adaptive_run import AdaptiveRun
from ksched.execution.buffers import form_together
from ksched.execution.layout import Segment
from ksched.execution.registers import Registers, check_output
from ksched.execution.run import Run
from ksched.processes.agreement import Levels

__all__ = ["Answer", "Asked", "JointRun", "Member", "advance_together", "check_answers"]


class Answer(NamedTuple):
    """A run, the model's answer for it, and the conversion of a network's output to a prediction."""

    run: Run | AdaptiveRun
    denoised: torch.Tensor
    uncond: torch.Tensor | None = None
    conversion: tuple[float, float] | None = None


class Asked(NamedTuple):
    """Requirements on the next answer for one part of a joint run; a part that is done needs no answer."""

    shape: tuple[int, ...]
    device: torch.device
    both: bool
    done: bool


class JointRun(ABC):
    """Several runs whose states the model receives in one call. Either all of them advance, or none.

    Attributes
    ----------
    error : Exception or None
        The error with which it left a batch early; None if it did not. `Batch.add` clears it.
    """

    error: Exception | None = None

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether all runs are done."""

    @property
    @abstractmethod
    def items(self) -> int:
        """Size of the batch axis, which all states share."""

    @property
    @abstractmethod
    def kind(self) -> Hashable:
        """A key that joint runs must share to share a model call."""

    @property
    @abstractmethod
    def asked(self) -> Asked | Mapping[str, Asked]:
        """Requirements on the next answer; by part name if states are mappings."""

    @property
    @abstractmethod
    def x(self) -> Any:
        """The input of the next model call."""

    @property
    @abstractmethod
    def sigma(self) -> Any:
        """The sigmas of the next model call."""

    @property
    @abstractmethod
    def timestep(self) -> Any:
        """The timesteps of the next model call, for networks."""

    @property
    @abstractmethod
    def needs_uncond(self) -> bool:
        """Whether an answer must include the unconditional prediction."""

    @property
    @abstractmethod
    def records(self) -> bool:
        """Whether a state requires gradients."""

    @property
    @abstractmethod
    def all_levels(self) -> tuple[Levels, ...]:
        """The levels of all runs, for a model that checks its process."""

    @property
    @abstractmethod
    def members(self) -> tuple[Run | AdaptiveRun, ...]:
        """The runs that it consists of."""

    @abstractmethod
    def answers(self, denoised: Any, uncond: Any = None) -> list[Answer]:
        """The answers for the runs that will advance, from predictions that have been checked.

        Parameters
        ----------
        denoised, uncond : Tensor, mapping or None
            Predictions for all states; if these are mappings, only ``denoised``, a mapping of pairs.
        """

    @abstractmethod
    def advanced(self) -> None:
        """Record that the runs of `answers` have advanced."""

    def _advance(self, answers: list[Answer]) -> None:
        """Advance outside a batch; after an error, all runs are where they were."""
        advance_together([(self, answers)])
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.advanced()

    def _check_whole(self) -> None:
        """Raise RuntimeError if it left a batch with an error."""
        if self.error is not None:
            raise RuntimeError(f"the run left its batch with an error: {self.error}") from self.error


Member: TypeAlias = Run | AdaptiveRun | JointRun


def check_answers(answers: Any, asked: Mapping[str, Asked]) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
    """The predictions for all parts that are not done, as (denoised, uncond).

    Parameters
    ----------
    answers : mapping
        Mapping from names to predictions, or to pairs; entries for parts that are done are ignored.
    asked : mapping
        Requirements on them.

    Raises
    ------
    TypeError, ValueError
        For anything that is not a mapping; an unknown or missing name; a prediction that `Run.feed` would refuse.
    """
    names = ", ".join(asked)
    if not isinstance(answers, Mapping):
        raise TypeError(f"predictions must be a mapping with the names {names}; got {type(answers).__name__}")
    if unknown := [name for name in answers if name not in asked]:
        raise ValueError(f"predictions must have the names of the parts, {names}; got {unknown[0]!r}")
    if missing := [name for name, part in asked.items() if not (part.done or name in answers)]:
        raise ValueError(f"predictions must have an entry for every part that is not done; {missing[0]!r} is missing")
    checked = {}
    for name, part in asked.items():
        if part.done:
            continue
        denoised, uncond = pair_of(answers[name])
        try:
            check_output("D", denoised, part.shape, part.device)
            if part.both:
                check_output("U", uncond, part.shape, part.device)
        except (TypeError, ValueError) as error:
            raise type(error)(f"the prediction for {name!r} does not fit: {error}") from None
        checked[name] = denoised, uncond if part.both else None
    return checked


#: a run's registers, the work after its answer, whether it makes new tensors, and the answer's conversion
_Turn: TypeAlias = tuple[Registers, Segment, bool, tuple[float, float] | None]


def advance_together(work: Sequence[tuple[Member, Sequence[Answer]]]) -> None:
    """Take all answers and draw all noise before any run advances, then form all states together.

    Parameters
    ----------
    work : sequence of tuple
        Members of a batch, each with the answers for its runs. An error of one of these runs is recorded on the member;
        none of the member's runs advances, and the other members do.

    Raises
    ------
    Exception
        Your own noise failed, or another error that belongs to no run; no run has advanced.
    """
    held: list[Registers] = []
    adaptive: list[tuple[Member, Sequence[Answer]]] = []
    try:
        for each in work:
            for answer in each[1]:
                if isinstance(answer.run, Run):
                    registers = answer.run.registers
                    registers.hold()
                    held.append(registers)
                elif not adaptive or adaptive[-1] is not each:
                    adaptive.append(each)
        _advance_all(work, adaptive)
    except BaseException:
        for member, _ in work:  # the caller gets one error, and no run advances
            member.error = None
        raise
    finally:
        for registers in held:
            registers.release()


def _advance_all(
    work: Sequence[tuple[Member, Sequence[Answer]]], adaptive: Sequence[tuple[Member, Sequence[Answer]]]
) -> None:
    """`advance_together` for runs that nobody else feeds; ``adaptive`` are the members with adaptive runs."""
    turns: list[tuple[Member, list[_Turn]]] = []
    for member, answers in work:
        try:
            turns.append((member, _taken(answers)))
        except Exception as error:  # this member's own error: the others continue
            member.error = error
    for _, taken in turns:
        for registers, turn, recorded, _ in taken:
            registers.draw(turn, recorded)
    for member, answers in adaptive:
        if member.error is None:
            try:
                _feed_adaptive(answers)
            except Exception as error:
                member.error = error
    together = []
    going = [turn for member, taken in turns if member.error is None for turn in taken]
    for registers, turn, recorded, numbers in going:
        operations = registers.operations(turn, numbers)
        registers.whole = False
        if recorded:
            registers.buffers.form(operations, recorded)
        else:
            together.append((registers.buffers, operations))
    form_together(together)
    for registers, *_ in going:
        registers.reach(registers.calls + 1)


def _taken(answers: Sequence[Answer]) -> list[_Turn]:
    """The answers of plan runs, checked and stored."""
    taken = []
    for run, denoised, uncond, conversion in answers:
        if isinstance(run, Run):
            turn, recorded = run.hold_answer(denoised, uncond)
            taken.append((run.registers, turn, recorded, conversion))
    return taken


def _feed_adaptive(answers: Sequence[Answer]) -> None:
    """Feed the adaptive runs of one member: all of them, or none if one fails."""
    fed: list[tuple[AdaptiveRun, dict[str, Any]]] = []
    try:
        for run, denoised, uncond, _ in answers:
            if isinstance(run, AdaptiveRun):
                before = dict(vars(run))
                run.feed(denoised, uncond)
                fed.append((run, before))
    except BaseException:
        for run, before in fed:
            vars(run).update(before)
        raise
