"""Runs that advance together: all answers are checked and all noise drawn before any of them moves."""

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
    """A run, what the model answered for it, and how the answer of a network becomes a prediction."""

    run: Run | AdaptiveRun
    denoised: torch.Tensor
    uncond: torch.Tensor | None = None
    conversion: tuple[float, float] | None = None


class Asked(NamedTuple):
    """What the next answer for one part of a joint run must be; nothing is asked for one that is done."""

    shape: tuple[int, ...]
    device: torch.device
    both: bool
    done: bool


class JointRun(ABC):
    """Several runs whose states the model sees in one call. They advance together or not at all.

    Attributes
    ----------
    error : why it left a batch before it was done, None if it did not; `Batch.add` clears it
    """

    error: Exception | None = None

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether all results have been reached."""

    @property
    @abstractmethod
    def items(self) -> int:
        """Size of the batch axis, which all states have."""

    @property
    @abstractmethod
    def kind(self) -> Hashable:
        """What joint runs must have in common to share a model call."""

    @property
    @abstractmethod
    def asked(self) -> Asked | Mapping[str, Asked]:
        """What the next answer must be; by the names of the parts where states are mappings."""

    @property
    @abstractmethod
    def x(self) -> Any:
        """What the model must see next."""

    @property
    @abstractmethod
    def sigma(self) -> Any:
        """Where that is."""

    @property
    @abstractmethod
    def timestep(self) -> Any:
        """The timesteps that the networks take for it."""

    @property
    @abstractmethod
    def needs_uncond(self) -> bool:
        """Whether an answer must come with its unconditional twin."""

    @property
    @abstractmethod
    def records(self) -> bool:
        """Whether a state asks for gradients."""

    @property
    @abstractmethod
    def all_levels(self) -> tuple[Levels, ...]:
        """What a model that knows its process may check, of all runs."""

    @property
    @abstractmethod
    def members(self) -> tuple[Run | AdaptiveRun, ...]:
        """The runs that it is made of."""

    @abstractmethod
    def answers(self, denoised: Any, uncond: Any = None) -> list[Answer]:
        """What each run is told that is to advance, of answers that have been checked.

        Parameters
        ----------
        denoised, uncond : predictions for all states; where these are mappings, ``denoised`` alone, one of pairs
        """

    @abstractmethod
    def advanced(self) -> None:
        """Note that the runs of `answers` have advanced."""

    def _advance(self, answers: list[Answer]) -> None:
        """Advance alone, outside of a batch; an error leaves all runs where they are."""
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
    answers : mapping from names to predictions, or to pairs; what it has for a part that is done does not matter
    asked : what they must be

    Raises
    ------
    TypeError, ValueError : no mapping; a name that is unknown, or missing; a prediction that `Run.feed` would not take
    """
    names = ", ".join(asked)
    if not isinstance(answers, Mapping):
        raise TypeError(f"predictions must be a mapping with the names {names}; got {type(answers).__name__}")
    if unknown := [name for name in answers if name not in asked]:
        raise ValueError(f"predictions must have the names of the parts, {names}; got {unknown[0]!r}")
    if missing := [name for name, part in asked.items() if not (part.done or name in answers)]:
        raise ValueError(f"a prediction is missing for {missing[0]!r}, which is not done")
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


#: a run's registers, what comes after its answer, whether that makes new tensors, and the answer's conversion
_Turn: TypeAlias = tuple[Registers, Segment, bool, tuple[float, float] | None]


def advance_together(work: Sequence[tuple[Member, Sequence[Answer]]]) -> None:
    """Take all answers and draw all noise before any run advances; then form the states of all at once.

    Parameters
    ----------
    work : members of a batch, each with the answers for the runs that it is made of. An error of one of these runs is
        the member's own: it is noted there, none of its runs advances, and the other members do

    Raises
    ------
    Exception : own noise failed, or whatever else is no run's own error; nobody has advanced, and no error is noted
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
        for member, _ in work:  # whoever calls learns of one error, and all runs stay
            member.error = None
        raise
    finally:
        for registers in held:
            registers.release()


def _advance_all(
    work: Sequence[tuple[Member, Sequence[Answer]]], adaptive: Sequence[tuple[Member, Sequence[Answer]]]
) -> None:
    """The same, of runs that nobody else feeds; ``adaptive`` are the members that have adaptive runs."""
    turns: list[tuple[Member, list[_Turn]]] = []
    for member, answers in work:
        try:
            turns.append((member, _taken(answers)))
        except Exception as error:  # its own: the others go on
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
    """The answers of plain runs, checked and held."""
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
