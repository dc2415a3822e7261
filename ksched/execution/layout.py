"""How a plan is laid out in memory: which buffer every register lives in, and when a buffer may be used again."""

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


#: Sources of a combination that are no buffer: the outputs of the model call that is being answered.
DENOISED, UNCOND = -1, -2


_OUTPUT = {"D": DENOISED, "U": UNCOND}


# Predictions, and with them conversions, that a segment is asked for: one kind for nearly all programs.
_KEPT = 8


# Terms that means are looked for among, since that takes the square of the time; rows of methods have ten at most.
_LONGEST = 256


Terms = tuple[tuple[int, float], ...]


class Combination(NamedTuple):
    """A state to be formed, and the passes over memory that form it.

    ``scale`` times the first term, or the first term itself where there are ``means``; then for every mean ``(1 -
    weight) * result + weight * term``, and for every sum ``result + coefficient * term``.

    Attributes
    ----------
    out : the buffer it goes to; it may be that of the first term, which is then overwritten, and of no other
    terms : (source, coefficient) pairs; a source is the number of a buffer, `DENOISED` or `UNCOND`
    scale : coefficient of the first term
    means : (source, weight) pairs
    sums : (source, coefficient) pairs
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
    terms : as for `Combination`, the first one first
    noises : how many of the last terms have no part in means

    Notes
    -----
    Coefficients that add up to 1, as those of most rows do where alpha is 1, make weighted means, of which each is a
    pass that saves the scaling. They are left alone if a mean would cancel numbers much larger than itself.
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
    """Operations in the order in which they are done."""

    @cached_property
    def rounds(self) -> tuple[tuple[Combination, ...], ...]:
        """The same in as few rounds as may be, of operations that need nothing of each other.

        An output that is kept is read where the model left it, so that its copy holds nothing up.
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
    """What happens between an answer of the model and the next call of it.

    Attributes
    ----------
    x : the buffer of the state that the model was called on
    both : whether the answer comes with the unconditional prediction
    draws : (number of the noise, its buffer) of the noises to draw first
    operations : in order; first copies of outputs that are read again after the next call, then the states to form
    reader : the operation that alone reads `DENOISED`, while the state of the call is still there; None if there is no
        such
    state : that state as it was formed, if ``reader`` reads all it was formed of, else nothing
    earlier : the buffers of states of earlier calls that are read: whoever was called on one may hold it still
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
        """The operations for an answer where `DENOISED` is ``of_output`` times what is there, and ``of_x`` times x.

        Parameters
        ----------
        of_x, of_output : host numbers
        replaced : whether x is another state than the one that was formed
        """
        found = self._of_output.get((of_x, of_output, replaced))
        if found is None:
            operations = list(self.operations)
            if self.reader is None:
                operations.insert(0, combination(DENOISED, ((self.x, of_x), (DENOISED, of_output))))
            else:
                # What a stage was formed of is read anyway. So x is not, and its share, which cancels where the step
                # is a slope of a small sigma, cancels in float64 here.
                state = self.state if self.state and not replaced else ((self.x, 1.0),)
                operations[self.reader] = _folded(operations[self.reader], state, of_x, of_output)
            if len(self._of_output) >= _KEPT:
                self._of_output.clear()
            found = self._of_output[of_x, of_output, replaced] = Operations(operations)
        return found


class Layout(NamedTuple):
    """The segments of a plan.

    Attributes
    ----------
    before : what happens before the first model call
    segments : one for every model call
    states : the buffer of the state of every model call, and of the result
    held : for every segment, and the result after them, the registers that are there when it begins, with their buffers
    buffers : how many buffers are needed
    both : whether an answer must come with the unconditional prediction
    """

    before: Segment
    segments: tuple[Segment, ...]
    states: tuple[int, ...]
    held: Sequence[tuple[tuple[Register, int], ...]]
    buffers: int
    both: bool


def layout(plan: Plan) -> Layout:
    """The rows of a plan laid out in memory, as the executor runs them.

    It is made once and kept with the plan, since both never change, and every run of a plan needs it.
    """
    found: Layout | None = vars(plan).get(_LAYOUT)
    if found is None:
        found = vars(plan)[_LAYOUT] = _laid_out(plan)
    return found


_LAYOUT = "_layout"


def _laid_out(plan: Plan) -> Layout:
    """A linear scan over the rows that writes states over those nobody reads any more."""
    rows = plan.rows
    calls = [k for k, row in enumerate(rows) if row.level is not None]
    shelf = BufferAllocator()
    shelf.take(Register("x", 0))
    ends = [*calls, len(rows) - 1]
    # The registers that may be written over by each row, if they are there at all. A state that no row reads stays
    # until the next one is formed, since the answer of the model may be told in terms of it.
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
    """The segment from the state of one row to that of another."""
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
    """The operation that alone reads the prediction while the state of its call is there; None if there is no such."""
    return readers[0] if len(readers) == 1 and readers[0] >= 0 else None


def _earlier(plan: Plan, shelf: BufferAllocator, formed: range) -> tuple[int, ...]:
    """The buffers of states of earlier model calls that the rows read."""
    rows = plan.rows
    read = {r for j in formed for r, _ in rows[j].terms if r.kind == "x" and r.number < formed.start - 1}
    return tuple(shelf.place[r] for r in sorted(read) if rows[r.number].level is not None)


def _formed_of(plan: Plan, shelf: BufferAllocator, row: int) -> Terms:
    """The terms of a state by buffers, if all that it was formed of is still there, else nothing."""
    terms = plan.rows[row].terms
    return tuple((shelf.place[r], value) for r, value in terms) if all(r in shelf.place for r, _ in terms) else ()


def _formed(plan: Plan, shelf: BufferAllocator, row: int, state: Register, going: Iterable[Register]) -> Combination:
    """The state of a row, written over a register that nobody reads any more, if there is one."""
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
    """Whether an operation reads all that the state was formed of, unchanged, and not the state itself."""
    read = {source for source, _ in operations[reader].terms}
    written = {operation.out for operation in operations[:reader]}
    return x not in read and all(source in read and source not in written for source, _ in formed_of)


def _by_use(terms: dict[Register, float], state: Register) -> list[Register]:
    """Registers in the order in which a new state should rather be written over them: the state of the call first."""
    return sorted(terms, key=lambda register: (register != state, register.kind != "x", register))


def _in_order(terms: dict[Register, float], over: Register | None, state: Register) -> list[Register]:
    """The order of the sum: what is written over first, noises last."""
    return sorted(_by_use(terms, state), key=lambda register: (register != over, register.kind == "xi"))


def _folded(old: Combination, state: Terms, of_x: float, of_output: float) -> Combination:
    """A combination where `DENOISED` is ``of_x`` times a state and ``of_output`` times an output."""
    (weight,) = (value for source, value in old.terms if source == DENOISED)
    terms = [(source, value * of_output if source == DENOISED else value) for source, value in old.terms]
    for x, share in state:
        at = next((i for i, (source, _) in enumerate(terms) if source == x), None)
        if at is not None:
            terms[at] = x, terms[at][1] + weight * of_x * share
        else:
            terms.insert(0 if old.out == x else len(terms), (x, weight * of_x * share))
    return combination(old.out, tuple(terms))
