"""A run's only arithmetic operation, a linear combination of tensors, and the buffers that it writes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn, TypeAlias

import torch

from ksched.execution.layout import Combination, Operations
from ksched.kernels import available
from ksched.kernels.torch_internals import block_of, owners_of

__all__ = ["Buffers", "combine", "form_together"]


def combine(registers: Sequence[torch.Tensor], what: Combination, out: torch.Tensor | None = None) -> torch.Tensor:
    """Compute a linear combination of tensors, in as few passes over memory as torch's operations allow.

    Parameters
    ----------
    registers : sequence of Tensor
        Tensors of one shape, dtype and device; the combination's sources are indices into them.
    what : Combination
        The combination.
    out : Tensor or None
        A buffer for the result; it may be the tensor of the first term and overlaps no other. None makes a new tensor,
        through which gradients flow.

    Returns
    -------
    ``out``, or the new tensor; the numbers are the same either way

    Notes
    -----
    A number's value does not depend on its position in the tensor, so an item does not depend on its batch.
    `torch.addr` and `torch.addmm` would need fewer passes but do not guarantee this.
    """
    _, terms, scale, means, sums = what
    first = registers[terms[0][0]]
    if first is out:  # the same as out=, with less overhead
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
    """A combination in the form that `triton_kernels` takes; model outputs may have any dtype."""
    tensors = [registers[source] for source, _ in what.terms]
    strides, dtypes = out.stride(), module.DTYPES
    for i, tensor in enumerate(tensors):
        if tensor.stride() != strides or tensor.dtype not in dtypes or tensor.is_neg():
            tensors[i] = _laid_out(tensor, partial(torch.empty_like, out), dtypes)
    return tensors, [value for _, value in what.terms], out


def _laid_out(tensor: torch.Tensor, new: Callable[[], torch.Tensor], dtypes: Iterable[torch.dtype]) -> torch.Tensor:
    """A tensor whose elements lie in memory in the order of a new one's: itself, or a copy."""
    copy = new()
    strides = zip(tensor.shape, tensor.stride(), copy.stride(), strict=True)
    same = tensor.dtype in dtypes and all(own == other for size, own, other in strides if size > 1)
    # exclude views that torch negates when it reads them, and zero tensors without memory
    if same and not tensor.is_neg() and tensor.data_ptr():
        return tensor
    return copy.copy_(tensor)


# a tensor, its memory block, and the number of the block's owners if nobody else holds it
_Buffer: TypeAlias = tuple[Any, int, int]


# placeholder before there is a tensor, or for a block with more owners
_NOTHING = torch.empty(0, device="cpu")


_NONE: _Buffer = (None, block_of(_NOTHING), -1)


class Buffers:
    """The registers of a run: tensors like its state. Each is written only while nobody else can see it.

    Parameters
    ----------
    like : Tensor
        A state, for shape, strides and device.
    dtype : dtype
        Dtype of the registers.
    count : int
        Number of registers.
    items : int or None
        Number of items in a register, if it is not the state's.

    Attributes
    ----------
    tensors : list
        The registers; after them room for the outputs of a model call, `UNCOND` and `DENOISED`.
    shape : torch.Size
        Shape of the registers.
    device, dtype : device and dtype
        Device and dtype of the registers.
    mixed : bool
        Whether model outputs in half precision are used without conversion.

    Notes
    -----
    A tensor that leaves a run is an alias. While that alias, a view of it, or an array made from either is alive, torch
    counts more than one owner of the memory, and the register moves to a new block before it is written next.
    """

    def __init__(self, like: torch.Tensor, dtype: torch.dtype, count: int, *, items: int | None = None) -> None:
        self.shape = like.shape if items is None else torch.Size((items, *like.shape[1:]))
        self.device, self.dtype = like.device, dtype
        strides = like.stride()
        if items is not None:
            strides = torch.empty_like(torch.empty_strided(self.shape, strides, device="meta")).stride()
        elif not like.is_contiguous():
            strides = torch.empty_like(like, device="meta").stride()
        self._new = partial(torch.empty_strided, self.shape, strides, dtype=dtype, device=like.device)
        self.tensors: list[Any] = [None] * (count + 2)
        self._own: list[_Buffer] = [_NONE] * (count + 2)
        self._triton = available.triton_kernels(like.device) if dtype == torch.float32 else None
        self.mixed = self._triton is not None

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("the buffers of a run are memory of this process; save the run's state_dict() instead")

    def alias(self, register: int) -> torch.Tensor:
        """A register's contents, as a tensor that others may hold."""
        tensor: torch.Tensor = self.tensors[register]
        return tensor.detach() if tensor is self._own[register][0] else tensor

    def writable(self, register: int) -> torch.Tensor:
        """A tensor to write a register's new value to: its buffer, or a new one if others can see the buffer."""
        buffer, block, owners = self._own[register]
        if owners_of(block) != owners:
            buffer = self._moved(register)
        found: torch.Tensor = buffer
        return found

    def _moved(self, register: int) -> torch.Tensor:
        """A register in a new block of memory."""
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):  # an inference tensor could not be written outside inference mode
                buffer = self._new()
        else:
            buffer = self._new()
        block = block_of(buffer)
        self._own[register] = buffer, block, owners_of(block) or -1
        return buffer

    def form(self, operations: Operations, recorded: bool = False) -> None:
        """Execute the operations of a turn.

        Parameters
        ----------
        operations : Operations
            The operations.
        recorded : bool
            Whether to make new tensors, because gradients or something else track every value.
        """
        if recorded:
            for operation in operations:
                self.tensors[operation.out] = combine(self.tensors, operation)
        else:
            for operation in operations:
                out = self.writable(operation.out)
                if self._triton is not None:
                    self._triton.combine(*_entry(self._triton, self.tensors, operation, out))
                else:
                    combine(self.tensors, operation, out)
                self.tensors[operation.out] = out


def form_together(work: Sequence[tuple[Buffers, Operations]]) -> None:
    """`Buffers.form` for many runs: on a GPU in one launch, or as many as the longest turn has rounds."""
    together = []
    for buffers, operations in work:
        if buffers._triton is None:
            buffers.form(operations)
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
