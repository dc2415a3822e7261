"""Memory layout of a plan: which buffer holds each register, and when a buffer may be reused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from ksched.execution.buffer_allocator import BufferAllocator
from ksched.plan.plan import Plan
from ksched.plan.rows import Register

__all__ = [
    "DENOISED",
    "UNCOND",
    "Combination",
    "Layout",
    "Operations",
    "Segment",
    "combination",
    "layout",
]


#: sources of a combination that are not buffers: the outputs of the model call being answered
DENOISED, UNCOND = -1, -2


_OUTPUT = {"D": DENOISED, "U": UNCOND}


# number of prediction types (and conversions) cached per segment; nearly all programs use one
_KEPT = 8


# largest number of terms among which means are looked for, which takes quadratic time; methods' rows have at most ten
_LONGEST = 256


Terms = tuple[tuple[int, float], ...]


class Combination(NamedTuple):
    """A state to form, and the passes over memory that form it.

    The result starts as ``scale`` times the first term, or as the first term itself if there are ``means``. Each mean
    then makes it ``(1 - weight) * result + weight * term``, and each sum ``result + coefficient * term``.

    Attributes
    ----------
    out : int
        The buffer of the result; it may be the buffer of the first term, which is then overwritten, but of no other.
    terms : tuple
        (source, coefficient) pairs; a source is a buffer index, `DENOISED` or `UNCOND`.
    scale : float
        Coefficient of the first term.
    means : tuple
        (source, weight) pairs.
    sums : tuple
        (source, coefficient) pairs.
    """

    out: int
    terms: Terms
    scale: float
    means: Terms
    sums: Terms


def combination(out: int, terms: Terms, noises: int = 0) -> Combination:
    """The fewest passes for a sum.

    Parameters
    ----------
    out : as for `Combination`
    terms : as for `Combination`, with the first term first
    noises : int
        Number of last terms that take no part in means.

    Notes
    -----
    Coefficients that add up to 1, as in most rows where alpha is 1, make weighted means; each is one pass and saves the
    scaling. Means are not used if one would cancel numbers much larger than its result.
    """
    scale = terms[0][1]
    if len(terms) > _LONGEST:
        return Combination(out, terms, scale, (), terms[1:])
    rest, last = list(terms[1 : len(terms) - noises]), terms[len(terms) - noises :]
    total, size = scale, abs(scale) + sum(abs(value) for _, value in rest)
    if scale != 1 and rest and abs(scale + sum(value for _, value in rest) - 1) < 1e-15 * (4 + size):
        means = []
        while rest:
            rest.sort(key=lambda term: abs(total + term[1]))
            source, value = rest.pop()
            total += value
            if abs(total) < 0.25 * max(1, abs(value)):
                break
            means.append((source, value / total))
        else:
            return Combination(out, terms, 1.0, tuple(means), tuple(last))
    return Combination(out, terms, scale, (), terms[1:])


class Operations(tuple[Combination, ...]):
    """Operations in execution order."""

    @cached_property
    def rounds(self) -> tuple[tuple[Combination, ...], ...]:
        """The same operations in as few rounds as possible; operations of one round are independent.

        A kept model output is read where the model left it, so copying it delays nothing.
        """
        rounds: list[list[Combination]] = []
        kept: dict[int, int] = {}
        for operation in self:
            terms = tuple((kept.get(source, source), value) for source, value in operation.terms)
            if len(terms) == 1 and terms[0][0] in (DENOISED, UNCOND) and terms[0][1] == 1:
                kept[operation.out] = terms[0][0]
            out, touched = operation.out, {operation.out, *(source for source, _ in terms)}
            number = len(rounds)
            while number and not any(o.out in touched or out in dict(o.terms) for o in rounds[number - 1]):
                number -= 1
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(combination(out, terms))
        return tuple(map(tuple, rounds))


@dataclass(frozen=True, eq=False)
class Segment:
    """The work between a model answer and the next model call.

    Attributes
    ----------
    x : int
        The buffer of the state on which the model was called.
    both : bool
        Whether the answer includes the unconditional prediction.
    draws : tuple of tuple of int
        (noise index, buffer) of the noises to draw first.
    operations : Operations
        In order; first copies of outputs that are read again after the next call, then the states to form.
    reader : int or None
        The only operation that reads `DENOISED`, while the state of the call still exists; None if there is none.
    state : tuple
        The terms of that state, if ``reader`` reads all of them; else empty.
    earlier : tuple of int
        The buffers of earlier calls' states that are read; whoever was called on one may still hold it.
    """

    x: int
    both: bool
    draws: tuple[tuple[int, int], ...]
    operations: Operations
    reader: int | None
    state: Terms
    earlier: tuple[int, ...]
    _of_output: dict[tuple[float, float, bool], Operations] = field(default_factory=dict, init=False, repr=False)

    def of_output(self, of_x: float, of_output: float, *, replaced: bool = False) -> Operations:
        """The operations for an answer with `DENOISED` replaced by ``of_output`` times it plus ``of_x`` times x.

        Parameters
        ----------
        of_x, of_output : float
            Host numbers.
        replaced : bool
            Whether x is another state than the one that the plan formed.
        """
        found = self._of_output.get((of_x, of_output, replaced))
        if found is None:
            operations = list(self.operations)
            if self.reader is None:
                operations.insert(0, combination(DENOISED, ((self.x, of_x), (DENOISED, of_output))))
            else:
                # The terms of a stage are read anyway, so x need not be. Where the step is a slope at a small sigma,
                # its share cancels, and here it cancels in float64.
                state = self.state if self.state and not replaced else ((self.x, 1.0),)
                operations[self.reader] = _folded(operations[self.reader], state, of_x, of_output)
            if len(self._of_output) >= _KEPT:
                self._of_output.clear()
            found = self._of_output[of_x, of_output, replaced] = Operations(operations)
        return found


class Layout(NamedTuple):
    """The segments of a plan, with their buffers.

    Attributes
    ----------
    before : Segment
        The work before the first model call.
    segments : tuple of Segment
        One for each model call.
    states : tuple of int
        The buffer of each model call's state, and of the result.
    held : sequence of tuple of tuple
        The registers, with their buffers, that exist at the start of each segment, and at the end.
    buffers : int
        Number of buffers needed.
    both : bool
        Whether any answer must include the unconditional prediction.
    """

    before: Segment
    segments: tuple[Segment, ...]
    states: tuple[int, ...]
    held: Sequence[tuple[tuple[Register, int], ...]]
    buffers: int
    both: bool


def layout(plan: Plan) -> Layout:
    """The rows of a plan laid out in memory, in the executor's form.

    It is computed once and cached with the plan, because both are immutable and every run of a plan needs it.
    """
    found: Layout | None = vars(plan).get(_LAYOUT)
    if found is None:
        found = vars(plan)[_LAYOUT] = _laid_out(plan)
    return found


_LAYOUT = "_layout"


def _laid_out(plan: Plan) -> Layout:
    """A linear scan over the rows that writes states over registers that are no longer read."""
    rows = plan.rows
    calls = [k for k, row in enumerate(rows) if row.level is not None]
    shelf = BufferAllocator()
    shelf.take(Register("x", 0))
    ends = [*calls, len(rows) - 1]
    # The registers that each row may overwrite, if they exist. A state that no row reads stays until the next one is
    # formed, because the model's answer may be expressed in terms of it.
    going: list[list[Register]] = [[] for _ in range(len(rows) + 1)]
    for register, k in plan.last_use.items():
        going[k].append(register)
    for k in range(len(rows)):
        if Register("x", k) not in plan.last_use:
            going[k + 1].append(Register("x", k))
    before = _turn(plan, shelf, 0, ends[0], [], going)
    segments = []
    for call, (row, after) in enumerate(pairwise(ends)):
        shelf.turn += 1
        outputs = [Register(kind, call) for kind in ("DU" if rows[row].both else "D")]
        segments.append(_turn(plan, shelf, row, after, outputs, going))
    states = (*(segment.x for segment in segments), shelf.place[Register("x", len(rows) - 1)])
    return Layout(before, tuple(segments), states, shelf.held(), shelf.count, any(segment.both for segment in segments))


def _turn(
    plan: Plan,
    shelf: BufferAllocator,
    row: int,
    after: int,
    outputs: list[Register],
    going: Sequence[Sequence[Register]],
) -> Segment:
    """The segment from one row's state to another's."""
    rows, state, formed = plan.rows, Register("x", row), range(row + 1, after + 1)
    x = shelf.place[state]
    noises = dict.fromkeys(r for j in formed for r, _ in sorted(rows[j].terms) if r.kind == "xi")
    draws = tuple((r.number, shelf.take(r)) for r in noises if r not in shelf.place)
    earlier, formed_of = _earlier(plan, shelf, formed), _formed_of(plan, shelf, row)
    kept = [r for r in outputs if plan.last_use.get(r, -1) > after]
    operations = [combination(shelf.take(r), ((_OUTPUT[r.kind], 1.0),)) for r in kept]
    denoised = outputs[0] if outputs else None
    readers = [0] if denoised in kept else []
    for j in formed:
        if denoised not in kept and denoised in dict(rows[j].terms):
            readers.append(len(operations) if state in shelf.place else -1)
        operations.append(_formed(plan, shelf, j, state, shelf.in_order(going[j])))
    reader = _sole(readers)
    if reader is not None and not _reads_all(operations, reader, formed_of, x):
        formed_of = ()
    return Segment(x, len(outputs) == 2, draws, Operations(operations), reader, formed_of, earlier)


def _sole(readers: Sequence[int]) -> int | None:
    """The only operation that reads the prediction while its call's state exists; None if there is none."""
    return readers[0] if len(readers) == 1 and readers[0] >= 0 else None


def _earlier(plan: Plan, shelf: BufferAllocator, formed: range) -> tuple[int, ...]:
    """The buffers of earlier model calls' states that the rows read."""
    rows = plan.rows
    read = {r for j in formed for r, _ in rows[j].terms if r.kind == "x" and r.number < formed.start - 1}
    return tuple(shelf.place[r] for r in sorted(read) if rows[r.number].level is not None)


def _formed_of(plan: Plan, shelf: BufferAllocator, row: int) -> Terms:
    """The terms of a state by buffer, if all of them still exist; else empty."""
    terms = plan.rows[row].terms
    return tuple((shelf.place[r], value) for r, value in terms) if all(r in shelf.place for r, _ in terms) else ()


def _formed(plan: Plan, shelf: BufferAllocator, row: int, state: Register, going: Iterable[Register]) -> Combination:
    """A row's state, written over a register that is no longer read, if there is one."""
    terms, dead, target = dict(plan.rows[row].terms), dict.fromkeys(going), Register("x", row)
    over = next((r for r in _by_use(terms, state) if r in dead), state if state in dead else None)
    sources = {r: shelf.place[r] if r in shelf.place else _OUTPUT[r.kind] for r in terms}
    order = _in_order(terms, over, state)
    if over is None:
        out = shelf.take(target)
    else:
        del dead[over]
        out = shelf.hand_over(over, target)
    shelf.put_back(dead)
    noise = sum(r.kind == "xi" for r in order[1:]) if order[0].kind != "xi" else len(order) - 1
    return combination(out, tuple((sources[r], terms[r]) for r in order), noise)


def _reads_all(operations: Sequence[Combination], reader: int, formed_of: Terms, x: int) -> bool:
    """Whether an operation reads all terms of the state, unchanged, and not the state itself."""
    read = {source for source, _ in operations[reader].terms}
    written = {operation.out for operation in operations[:reader]}
    return x not in read and all(source in read and source not in written for source, _ in formed_of)


def _by_use(terms: dict[Register, float], state: Register) -> list[Register]:
    """Registers in order of preference for being overwritten by a new state: the call's own state first."""
    return sorted(terms, key=lambda register: (register != state, register.kind != "x", register))


def _in_order(terms: dict[Register, float], over: Register | None, state: Register) -> list[Register]:
    """The order of the sum: the overwritten register first, noises last."""
    return sorted(_by_use(terms, state), key=lambda register: (register != over, register.kind == "xi"))


def _folded(old: Combination, state: Terms, of_x: float, of_output: float) -> Combination:
    """A combination with `DENOISED` replaced by ``of_x`` times a state plus ``of_output`` times an output."""
    (weight,) = (value for source, value in old.terms if source == DENOISED)
    terms = [(source, value * of_output if source == DENOISED else value) for source, value in old.terms]
    for x, share in state:
        at = next((i for i, (source, _) in enumerate(terms) if source == x), None)
        if at is not None:
            terms[at] = x, terms[at][1] + weight * of_x * share
        else:
            terms.insert(0 if old.out == x else len(terms), (x, weight * of_x * share))
    return combination(old.out, tuple(terms))
