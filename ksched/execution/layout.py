"""How a plan is laid out in memory: which buffer every register lives in, and when a buffer may be used again."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from ksched.kernels.slots import NOWHERE, RESULTS
from ksched.plan.plan import Plan
from ksched.plan.rows import Register

__all__ = ["DENOISED", "UNCOND", "Combination", "Operations", "Program", "Table", "Turn", "combination", "layout"]


#: Sources of a combination that are no buffer: the outputs of the model call that is being answered.
DENOISED, UNCOND = -1, -2


_OUTPUT = {"D": DENOISED, "U": UNCOND}


# Predictions, and with them conversions, that a turn is asked for: one kind for nearly all programs.
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


class Table(NamedTuple):
    """Operations as numbers, for a kernel that runs them one after the other on every part of the states.

    Attributes
    ----------
    integers : how many operations there are; for each the slot that it writes, the slot that it also puts a copy of its
        second term in or `NOWHERE`, the number of its terms, and the slots of these. Slots from `RESULTS` on are those
        of the results of the operations, which later ones read; all others are sources, as they are before
    coefficients : of all terms in order, float32
    addresses : where in memory these two begin
    sources : the sources among the slots
    results : the buffer of every result
    """

    integers: array[int]
    coefficients: array[float]
    addresses: tuple[int, int]
    sources: tuple[int, ...]
    results: tuple[int, ...]


class Operations(tuple[Combination, ...]):
    """Operations in the order in which they are done."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the table: its addresses are those of this process.
        return Operations, (tuple(self),)

    @cached_property
    def table(self) -> Table:
        """The same as numbers. An output that is kept is copied by an operation that reads it anyway, if one does."""
        slots: dict[int, int] = {}
        copies: dict[int, int] = {}
        lines: list[tuple[int, int, Terms]] = []
        for k, operation in enumerate(self):
            terms = tuple((slots.get(source, source), value) for source, value in operation.terms)
            if len(terms) == 1 and terms[0][0] in (DENOISED, UNCOND) and terms[0][1] == 1:
                copies[terms[0][0]] = RESULTS + k
                slots[operation.out] = terms[0][0]
                continue
            copy = NOWHERE
            for also, (source, _) in enumerate(terms):
                if also and source in copies:
                    copy = copies.pop(source)
                    terms = (terms[0], terms[also], *terms[1:also], *terms[also + 1 :])
                    break
            lines.append((RESULTS + k, copy, terms))
            slots[operation.out] = RESULTS + k
        lines += [(slot, NOWHERE, ((source, 1.0),)) for source, slot in copies.items()]
        integers, coefficients = array("q", [len(lines)]), array("f")
        for out, copy, terms in lines:
            integers.extend((out, copy, len(terms), *(source for source, _ in terms)))
            coefficients.extend(value for _, value in terms)
        coefficients.extend([0.0] * 3)  # a kernel takes four at a time
        sources = {source for _, _, terms in lines for source, _ in terms if source < RESULTS}
        addresses = integers.buffer_info()[0], coefficients.buffer_info()[0]
        results = tuple(operation.out for operation in self)
        return Table(integers, coefficients, addresses, tuple(sorted(sources)), results)

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
class Turn:
    """What happens between an answer of the model and the next call of it.

    Attributes
    ----------
    x : the buffer of the state that the model was called on
    both : whether the answer comes with the unconditional prediction
    draws : (number of the noise, its buffer) of the noises to draw first
    passing : those of them that nothing reads after the turn, and so need no buffer if they are made on the way
    operations : in order; first copies of outputs that are read again after the next call, then the states to form
    reader : the operation that alone reads `DENOISED`, while the state of the call is still there; None if there is no
        such
    state : that state as it was formed, if ``reader`` reads all it was formed of, else nothing
    earlier : the buffers of states of earlier calls that are read: whoever was called on one may hold it still
    """

    x: int
    both: bool
    draws: tuple[tuple[int, int], ...]
    passing: tuple[tuple[int, int], ...]
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


class Program(NamedTuple):
    """The turns of a plan.

    Attributes
    ----------
    before : what happens before the first model call
    turns : one for every model call
    states : the buffer of the state of every model call, and of the result
    held : for every turn, and the result after them, the registers that are there when it begins, with their buffers
    buffers : how many buffers are needed
    both : whether an answer must come with the unconditional prediction
    """

    before: Turn
    turns: tuple[Turn, ...]
    states: tuple[int, ...]
    held: Sequence[tuple[tuple[Register, int], ...]]
    buffers: int
    both: bool


class _Stay(NamedTuple):
    """A register in a buffer, from one turn to the one before another."""

    register: Register
    buffer: int
    first: int
    after: int


class _Held(Sequence[tuple[tuple[Register, int], ...]]):
    """The registers that are held at every turn, in the order in which they came.

    A tree of turns, each node of which has the stays that last all through it and not all through the node above: so
    even registers that stay all the time take room once, and not once a turn.
    """

    def __init__(self, stays: Sequence[_Stay], turns: int) -> None:
        self._stays, self._turns = stays, turns
        self._nodes: list[list[int]] = [[] for _ in range(2 * turns)]
        for number, stay in enumerate(stays):
            first, after = stay.first + turns, stay.after + turns
            while first < after:
                if first % 2:
                    self._nodes[first].append(number)
                    first += 1
                if after % 2:
                    after -= 1
                    self._nodes[after].append(number)
                first, after = first // 2, after // 2

    def __len__(self) -> int:
        return self._turns

    def __getitem__(self, turn: Any) -> Any:
        if isinstance(turn, slice):
            return tuple(self[k] for k in range(*turn.indices(self._turns)))
        node, found = range(self._turns)[turn] + self._turns, list[int]()
        while node:
            found += self._nodes[node]
            node //= 2
        return tuple((self._stays[number].register, self._stays[number].buffer) for number in sorted(found))


class _Shelf:
    """Buffers that are taken and put back; the last one put back is taken first, while a processor still caches it."""

    def __init__(self) -> None:
        self.count = 0
        self.turn = 0
        self.place: dict[Register, int] = {}
        self._free: list[int] = []
        self._came: dict[Register, tuple[int, int]] = {}  # in which order, and at which turn
        self._stays: list[_Stay | None] = []

    def take(self, register: Register) -> int:
        if not self._free:
            self._free.append(self.count)
            self.count += 1
        return self._put(register, self._free.pop())

    def put_back(self, registers: Iterable[Register]) -> None:
        self._free.extend(self._remove(register) for register in registers)

    def hand_over(self, old: Register, new: Register) -> int:
        return self._put(new, self._remove(old))

    def in_order(self, registers: Iterable[Register]) -> list[Register]:
        """Those of some registers that are here, in the order in which they came."""
        return sorted((register for register in registers if register in self.place), key=self._came.__getitem__)

    def held(self) -> _Held:
        """What was here when each turn began, the one that begins now included."""
        self.turn += 1
        for register in [*self.place]:
            self._remove(register)
        return _Held([stay for stay in self._stays if stay is not None], self.turn)

    def _put(self, register: Register, buffer: int) -> int:
        self.place[register] = buffer
        self._came[register] = len(self._stays), self.turn
        self._stays.append(None)
        return buffer

    def _remove(self, register: Register) -> int:
        buffer = self.place.pop(register)
        number, first = self._came.pop(register)
        if first < self.turn:  # it came and went within a turn otherwise
            self._stays[number] = _Stay(register, buffer, first, self.turn)
        return buffer


def layout(plan: Plan) -> Program:
    """The rows of a plan laid out in memory, as the executor runs them.

    It is made once and kept with the plan, since both never change, and every run of a plan needs it.
    """
    found: Program | None = vars(plan).get(_LAYOUT)
    if found is None:
        found = vars(plan)[_LAYOUT] = _laid_out(plan)
    return found


_LAYOUT = "_layout"


def _laid_out(plan: Plan) -> Program:
    """A linear scan over the rows that writes states over those nobody reads any more."""
    rows = plan.rows
    calls = [k for k, row in enumerate(rows) if row.level is not None]
    shelf = _Shelf()
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
    turns = []
    for call, (row, after) in enumerate(pairwise(ends)):
        shelf.turn += 1
        outputs = [Register(kind, call) for kind in ("DU" if rows[row].both else "D")]
        turns.append(_turn(plan, shelf, row, after, outputs, going))
    states = (*(turn.x for turn in turns), shelf.place[Register("x", len(rows) - 1)])
    return Program(before, tuple(turns), states, shelf.held(), shelf.count, any(turn.both for turn in turns))


def _turn(
    plan: Plan, shelf: _Shelf, row: int, after: int, outputs: list[Register], going: Sequence[Sequence[Register]]
) -> Turn:
    """The turn from the state of one row to that of another."""
    rows, last_use = plan.rows, plan.last_use
    state = Register("x", row)
    x = shelf.place[state]
    formed = range(row + 1, after + 1)
    noises = dict.fromkeys(r for j in formed for r, _ in sorted(rows[j].terms) if r.kind == "xi")
    draws = tuple((r.number, shelf.take(r)) for r in noises if r not in shelf.place)
    kept = [r for r in outputs if last_use.get(r, -1) > after]
    older = {r for j in formed for r, _ in rows[j].terms if r.kind == "x" and r.number < row}
    earlier = tuple(shelf.place[r] for r in sorted(older) if rows[r.number].level is not None)
    past = rows[row].terms if all(r in shelf.place for r, _ in rows[row].terms) else ()
    formed_of = tuple((shelf.place[r], value) for r, value in past)
    operations = [combination(shelf.take(r), ((_OUTPUT[r.kind], 1.0),)) for r in kept]
    readers = [0] if outputs and outputs[0] in kept else []
    for j in formed:
        terms = dict(rows[j].terms)
        if outputs and outputs[0] in terms and outputs[0] not in kept:
            readers.append(len(operations) if state in shelf.place else -1)
        dead = dict.fromkeys(shelf.in_order(going[j]))
        over = next((r for r in _by_use(terms, state) if r in dead), state if state in dead else None)
        sources = {r: shelf.place[r] if r in shelf.place else _OUTPUT[r.kind] for r in terms}
        order = _in_order(terms, over, state)
        target = Register("x", j)
        if over is None:
            out = shelf.take(target)
        else:
            del dead[over]
            out = shelf.hand_over(over, target)
        shelf.put_back(dead)
        noise = sum(r.kind == "xi" for r in order[1:]) if order[0].kind != "xi" else len(order) - 1
        operations.append(combination(out, tuple((sources[r], terms[r]) for r in order), noise))
    alone = len(readers) == 1 and readers[0] >= 0
    passing = tuple(drawn for drawn in draws if Register("xi", drawn[0]) not in shelf.place)
    reader = readers[0] if alone else None
    if reader is not None:
        read = {source for source, _ in operations[reader].terms}
        written = {operation.out for operation in operations[:reader]}
        if any(source not in read or source in written for source, _ in formed_of) or x in read:
            formed_of = ()
    return Turn(x, len(outputs) == 2, draws, passing, Operations(operations), reader, formed_of, earlier)


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
