"""Which buffer holds each register of a plan, and when a buffer may be reused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ksched.plan.rows import Register

__all__ = ["BufferAllocator"]


class _Stay(NamedTuple):
    """A register's stay in a buffer, from one turn until before another."""

    register: Register
    buffer: int
    first: int
    after: int


class _Held(Sequence[tuple[tuple[Register, int], ...]]):
    """The registers held at each turn, in order of arrival.

    A tree of turns: each node stores the stays that last through all of it but not through all of its parent. Registers
    that stay all the time therefore take space once, not once per turn.
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


class BufferAllocator:
    """Buffers that are taken and returned; the last one returned is taken first, while it is still in the cache."""

    def __init__(self) -> None:
        self.count = 0
        self.turn = 0
        self.place: dict[Register, int] = {}
        self._free: list[int] = []
        self._came: dict[Register, tuple[int, int]] = {}  # order and turn of arrival
        self._stays: list[_Stay | None] = []

    def take(self, register: Register) -> int:
        """A free buffer for the register."""
        if not self._free:
            self._free.append(self.count)
            self.count += 1
        return self._put(register, self._free.pop())

    def put_back(self, registers: Iterable[Register]) -> None:
        """Free the buffers of registers that nothing reads any more."""
        self._free.extend(self._remove(register) for register in registers)

    def hand_over(self, old: Register, new: Register) -> int:
        """Pass the buffer of one register on to another, and return it."""
        return self._put(new, self._remove(old))

    def in_order(self, registers: Iterable[Register]) -> list[Register]:
        """The given registers that are held, in order of arrival."""
        return sorted((register for register in registers if register in self.place), key=self._came.__getitem__)

    def held(self) -> _Held:
        """The registers held when each turn began, including the present turn."""
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
        if first < self.turn:  # otherwise it came and went within one turn
            self._stays[number] = _Stay(register, buffer, first, self.turn)
        return buffer
