"""The one arithmetic operation of a run, a linear combination of tensors, and the buffers that it writes into."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, TypeAlias

import torch

from ksched.execution.layout import Combination, Operations
from ksched.kernels import available
from ksched.kernels.philox import Key
from ksched.kernels.torch_internals import block_of, owners_of

__all__ = ["Buffers", "Noises", "combine", "form_together", "release_memory"]


def combine(registers: Sequence[torch.Tensor], what: Combination, out: torch.Tensor | None = None) -> torch.Tensor:
    """A linear combination of tensors, in as few passes over memory as torch has operations for.

    Parameters
    ----------
    registers : tensors of one shape, dtype and device, to which the sources of the combination are indices
    what : the combination
    out : a buffer for the result; it may be the tensor of the first term, and overlaps no other. None: a new tensor,
        through which gradients flow

    Returns
    -------
    ``out``, or the new tensor; the numbers are the same

    Notes
    -----
    A number comes out the same wherever in a tensor it stands, so that an item does not depend on its batch;
    `torch.addr` and `torch.addmm` would be fewer passes but do not give that.
    """
    _, terms, scale, means, sums = what
    first = registers[terms[0][0]]
    if first is out:  # the same as out=, with less to do before it begins
        total = first if scale == 1 else first.mul_(scale)
    elif means:
        (source, weight), means = means[0], means[1:]
        total = torch.lerp(first, registers[source], weight, out=out)
    elif scale == 1 and sums:
        (source, coefficient), sums = sums[0], sums[1:]
        total = torch.add(first, registers[source], alpha=coefficient, out=out)
    elif scale == 1:
        total = first.clone() if out is None else out.copy_(first)
    else:
        total = torch.mul(first, scale, out=out)
    if out is None:
        for source, weight in means:
            total = torch.lerp(total, registers[source], weight)
        for source, coefficient in sums:
            total = torch.add(total, registers[source], alpha=coefficient)
    else:
        for source, weight in means:
            total.lerp_(registers[source], weight)
        for source, coefficient in sums:
            total.add_(registers[source], alpha=coefficient)
    return total


def _entry(
    module: Any, registers: Sequence[torch.Tensor], what: Combination, out: torch.Tensor
) -> tuple[list[torch.Tensor], list[float], torch.Tensor]:
    """A combination as `triton_kernels` takes it; outputs of the model may be of any dtype."""
    tensors = [registers[source] for source, _ in what.terms]
    strides, dtypes = out.stride(), module.DTYPES
    for i, tensor in enumerate(tensors):
        if tensor.stride() != strides or tensor.dtype not in dtypes or tensor.is_neg():
            tensors[i] = _laid_out(tensor, partial(torch.empty_like, out), dtypes)
    return tensors, [value for _, value in what.terms], out


def _laid_out(tensor: torch.Tensor, new: Callable[[], torch.Tensor], dtypes: Iterable[torch.dtype]) -> torch.Tensor:
    """A tensor whose elements lie in memory in the order of a new one's: itself, or else a copy."""
    copy = new()
    strides = zip(tensor.shape, tensor.stride(), copy.stride(), strict=True)
    same = tensor.dtype in dtypes and all(own == other for size, own, other in strides if size > 1)
    # Neither a view that torch negates when it is read, nor zeros that are nowhere.
    if same and not tensor.is_neg() and tensor.data_ptr():
        return tensor
    return copy.copy_(tensor)


# Registers, and for each the key of every item's noise.
Noises: TypeAlias = tuple[Sequence[int], Sequence[Sequence[Key]]]


# A tensor, its memory block, the owners of that if we are alone, and its address.
_Buffer: TypeAlias = tuple[Any, int, int, int]


# Before there is one; of a block that has more owners than that.
_NOTHING = torch.empty(0, device="cpu")


_NONE: _Buffer = (None, block_of(_NOTHING), -1, 0)


# Memory of runs that are over, by size in bytes. New memory is cleared by the system first, page by page, which takes
# as long as many passes; and anything of the least size here or more is new each time.
_spares: dict[int, list[torch.UntypedStorage]] = {}


_LEAST_SPARED, _MOST_SPARED = 1 << 17, 1 << 28


def release_memory() -> None:
    """Give back to the system what finished runs on the processor left for the next ones, at most 256 MiB."""
    _spares.clear()


def _room_for(size: int) -> bool:
    """Whether so many bytes more may be spared; larger and older sizes go first."""
    total = size + sum(each * len(blocks) for each, blocks in list(_spares.items()))
    for blocks in list(_spares.values()):
        while total > _MOST_SPARED and blocks and size <= _MOST_SPARED:
            with suppress(IndexError):
                total -= blocks.pop().nbytes()
    return total <= _MOST_SPARED


class Buffers:
    """The registers of a run: tensors like its state, of which each is written to only while nobody else can see it.

    Parameters
    ----------
    like : a state, for shape, strides and device
    dtype : what the registers are held in
    count : how many registers there are

    Attributes
    ----------
    tensors : what the registers hold; after them room for the outputs of a model call, `UNCOND` and `DENOISED`
    shape, device, dtype : of the registers
    mixed : whether model outputs of half precision are taken as they are

    Notes
    -----
    A tensor that leaves a run leaves as an alias. As long as that, a view of it, or an array made of either is alive,
    torch counts more than one owner of the memory, and the register moves to a new block when it is next written.
    """

    def __init__(self, like: torch.Tensor, dtype: torch.dtype, count: int) -> None:
        self.shape, self.device, self.dtype = like.shape, like.device, dtype
        self._in_order = like.is_contiguous()
        self._strides = like.stride() if self._in_order else torch.empty_like(like, device="meta").stride()
        self._new = partial(torch.empty_strided, like.shape, self._strides, dtype=dtype, device=like.device)
        self.tensors: list[Any] = [None] * (count + 2)
        self._own: list[_Buffer] = [_NONE] * (count + 2)
        size = like.numel() * dtype.itemsize
        spared = like.device.type == "cpu" and size >= _LEAST_SPARED
        self._spares = _spares.setdefault(size, []) if spared else None
        single = dtype == torch.float32
        self._triton = available.triton_kernels(like.device) if single else None
        self.mixed = self._triton is not None
        self._numba: Any = (
            available.numba_kernels() if single and like.device.type == "cpu" and not self.mixed else None
        )
        if self._numba is not None:
            # Room for addresses: of the sources, as slots of a table are numbered, and of the results.
            self._sources, self._results = array("q", [0] * (count + 2)), array("q", [0] * (count + 2))
            self._at = self._sources.buffer_info()[0]
            self._count = like.numel()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("the buffers of a run are memory of this process; save the run's state_dict() instead")

    def alias(self, register: int) -> torch.Tensor:
        """What a register holds, for others to see."""
        tensor: torch.Tensor = self.tensors[register]
        return tensor.detach() if tensor is self._own[register][0] else tensor

    def writable(self, register: int) -> torch.Tensor:
        """A tensor for what a register shall hold: its buffer, or a new one if others can see that."""
        buffer, block, owners, _ = self._own[register]
        if owners_of(block) != owners:
            buffer = self._moved(register)[0]
        found: torch.Tensor = buffer
        return found

    def _moved(self, register: int) -> _Buffer:
        """A register in a new block of memory."""
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):  # else it could not be written to outside of inference mode
                buffer = self._block()
        else:
            buffer = self._block()
        block = block_of(buffer)
        self._own[register] = found = buffer, block, owners_of(block) or -1, buffer.data_ptr()
        return found

    def _block(self) -> torch.Tensor:
        if not self._spares:
            return self._new()
        with suppress(IndexError):
            empty = torch.empty(0, dtype=self.dtype, device=self.device)
            return empty.set_(self._spares.pop(), 0, self.shape, self._strides)
        return self._new()

    def __del__(self) -> None:
        # What others still see is theirs; the rest saves the next run new memory.
        spares = getattr(self, "_spares", None)
        if spares is not None:
            for buffer, block, owners, _ in self._own:
                if buffer is not None and owners_of(block) == owners and _room_for(buffer.untyped_storage().nbytes()):
                    spares.append(buffer.untyped_storage())

    @property
    def makes_noise(self) -> bool:
        """Whether `form` takes noises as keys of `ksched.noise.seeded.SeededNoise`."""
        return self._numba is not None and self._in_order and available.noise_kernels() is not None

    def form(self, operations: Operations, recorded: bool = False, noises: Noises | None = None) -> None:
        """Do the operations of a turn.

        Parameters
        ----------
        operations : what to do
        recorded : on new tensors, since something follows every value
        noises : where it `makes_noise`, those that are not among the registers: their registers, and the keys of each
        """
        if recorded:
            for operation in operations:
                self.tensors[operation.out] = combine(self.tensors, operation)
        elif self._numba is not None:
            self._form_at_once(operations, noises)
        else:
            for operation in operations:
                out = self.writable(operation.out)
                if self._triton is not None:
                    self._triton.combine(*_entry(self._triton, self.tensors, operation, out))
                else:
                    combine(self.tensors, operation, out)
                self.tensors[operation.out] = out

    def _form_at_once(self, operations: Operations, noises: Noises | None) -> None:
        """By Numba, all in one pass over memory."""
        table = operations.table  # held, since only the addresses of its numbers are handed on
        _, _, (integers, coefficients), read, written = table
        tensors, own, sources, results = self.tensors, self._own, self._sources, self._results
        for source in read:
            if noises is not None and source in noises[0]:
                continue
            buffer, _, _, address = own[source]
            sources[source + 2] = address if tensors[source] is buffer else self._address(source)
        while len(results) < len(written):
            results.append(0)
        for k, register in enumerate(written):
            _, block, alone, address = own[register]
            if owners_of(block) != alone:
                address = self._moved(register)[3]
            results[k] = address
        # What keeps the memory that is read and written, should an exception end this before threads are done with it.
        owners = (self, table, tuple(tensors)) if self._count >= self._numba.LEAST_SHARED else None
        if noises is None:
            self._numba.form(self._at, results.buffer_info()[0], integers, coefficients, self._count, owners)
        else:
            where = self._at, len(sources), results.buffer_info()[0]
            self._numba.form_with_noise(*where, integers, coefficients, self._count, *noises, owners)
        for register in written:
            tensors[register] = own[register][0]

    def _address(self, source: int) -> int:
        """Where a tensor begins that is not the buffer whose address is known, once it lies in memory as ours do."""
        tensor = self.tensors[source]
        address: int = tensor.data_ptr()
        if tensor.stride() != self._strides or tensor.is_neg() or not address:
            tensor = self.tensors[source] = _laid_out(tensor, self._new, (self.dtype,))
            address = tensor.data_ptr()
        return address


def form_together(work: Sequence[tuple[Buffers, Operations, Noises | None]]) -> None:
    """`Buffers.form` for many runs; on a GPU in one launch for all, or as many as the longest turn has rounds."""
    together = []
    for buffers, operations, noises in work:
        if buffers._triton is None:
            buffers.form(operations, noises=noises)
        else:
            together.append((buffers, operations.rounds))
    for number in range(max((len(rounds) for _, rounds in together), default=0)):
        entries, module = [], together[0][0]._triton
        formed: list[tuple[Buffers, int, torch.Tensor]] = []
        for buffers, rounds in together:
            for operation in rounds[number] if number < len(rounds) else ():
                out = buffers.writable(operation.out)
                entries.append(_entry(module, buffers.tensors, operation, out))
                formed.append((buffers, operation.out, out))
        assert module is not None
        module.combine_many(entries)
        for buffers, register, out in formed:
            buffers.tensors[register] = out
