"""The one arithmetic operation of a run, a linear combination of tensors, and the buffers that it writes into."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch.autograd import forward_ad

from ksched.program import Combination, Operations

__all__ = ["Buffers", "combine", "numba_kernels", "out_of_place", "triton_kernels"]

# How many owners a memory block has: tensors, and one more for torch itself once Python has seen the block. Without it
# (it is torch's own) every state gets a new block.
_use_count: Any = getattr(torch._C, "_storage_Use_Count", lambda _: 0)

# What `torch.func` is in the middle of, None if nothing.
_transforms: Any = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]

_PLAIN = (torch.Tensor, torch.nn.Parameter)


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


_loaded: dict[torch.device, ModuleType | None] = {}


def triton_kernels(device: torch.device) -> ModuleType | None:
    """The module `ksched.triton_kernels` if a device can run it, which is a CUDA or ROCm device with a working Triton.

    Found out by a first launch, since Triton may be there without a C compiler or for newer devices only; torch's own
    operations then do the same work in more passes. While a CUDA graph is captured or code compiled nothing is tried.
    """
    if device.type != "cuda":
        return None
    if device not in _loaded:
        if torch.cuda.is_current_stream_capturing() or out_of_place():
            return None
        try:
            from ksched import triton_kernels as module

            trial = torch.zeros(16, device=device)
            module.combine([trial], [1.0], trial)
        except Exception:  # whatever it is, there is a way without
            _loaded[device] = None
        else:
            _loaded[device] = module
    return _loaded[device]


@cache
def numba_kernels() -> ModuleType | None:
    """The module `ksched.numba_kernels` if Numba is there and works."""
    try:
        from ksched import numba_kernels as module
    except Exception:  # whatever it is, torch's own operations do the same work in more passes
        return None
    return module


def _launched(
    module: Any, registers: Sequence[torch.Tensor], what: Combination, out: torch.Tensor | None = None
) -> torch.Tensor:
    """`combine` in one launch of `triton_kernels`; no gradients flow, and outputs of the model may be of any dtype."""
    tensors = [registers[source] for source, _ in what.terms]
    if out is None:
        out = torch.empty_like(tensors[0], dtype=torch.float32)
    strides, dtypes = out.stride(), module.DTYPES
    for i, tensor in enumerate(tensors):
        if tensor.stride() != strides or tensor.dtype not in dtypes:
            tensors[i] = _laid_out(tensor, partial(torch.empty_like, out), dtypes)
    module.combine(tensors, [value for _, value in what.terms], out)
    return out


def _laid_out(
    tensor: torch.Tensor, new: Callable[[], torch.Tensor], dtypes: Iterable[torch.dtype]
) -> torch.Tensor:
    """A tensor whose elements lie in memory in the order of a new one's: itself, or else a copy."""
    copy = new()
    strides = zip(tensor.shape, tensor.stride(), copy.stride(), strict=True)
    same = tensor.dtype in dtypes and all(own == other for size, own, other in strides if size > 1)
    # Neither a view that torch negates when it is read, nor zeros that are nowhere.
    if same and not tensor.is_neg() and tensor.data_ptr():
        return tensor
    return copy.copy_(tensor)


def out_of_place(*tensors: torch.Tensor) -> bool:
    """Whether what is made of these must be new tensors: gradients, a transform or a compiler follow every value."""
    if forward_ad._current_level >= 0 or _transforms() is not None or torch.compiler.is_compiling():
        return True
    recording = torch.is_grad_enabled()
    for tensor in tensors:  # noqa: SIM110 - any() costs more than all the rest
        if type(tensor) not in _PLAIN or (recording and tensor.requires_grad):
            return True
    return False


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
        self._strides = torch.empty_like(like, device="meta").stride()
        self._new = partial(torch.empty_strided, like.shape, self._strides, dtype=dtype, device=like.device)
        self.tensors: list[Any] = [None] * (count + 2)
        # buffer, its memory block, the owners of that if we are alone, and its address
        self._own: list[tuple[Any, int, int, int]] = [(None, 0, 0, 0)] * count
        single = dtype == torch.float32
        self._triton = triton_kernels(like.device) if single else None
        self._numba: Any = numba_kernels() if single and like.device.type == "cpu" else None
        self.mixed = self._triton is not None
        if self._numba is not None:
            # Addresses, as slots of a table are numbered, and those of the results of a turn.
            self._sources, self._results = array("q", [0] * (count + 2)), array("q", [0] * 8)
            self._count = like.numel()

    def alias(self, register: int) -> torch.Tensor:
        """What a register holds, for others to see."""
        tensor: torch.Tensor = self.tensors[register]
        return tensor.detach() if tensor is self._own[register][0] else tensor

    def writable(self, register: int) -> torch.Tensor:
        """A tensor for what a register shall hold: its buffer, or a new one if others can see that."""
        buffer, block, owners, _ = self._own[register]
        if buffer is None or _use_count(block) != owners:
            with torch.inference_mode(False):  # else it could not be written to outside of inference mode
                buffer = self._new()
            block = buffer.untyped_storage()._cdata
            self._own[register] = buffer, block, _use_count(block) or -1, buffer.data_ptr()
        found: torch.Tensor = buffer
        return found

    def form(self, operations: Operations, recorded: bool = False) -> None:
        """Do the operations of a turn; ``recorded``: on new tensors, since something follows every value."""
        if recorded:
            for operation in operations:
                self.tensors[operation.out] = combine(self.tensors, operation)
        elif self._numba is not None:
            self._form_at_once(operations)
        else:
            form: Any = combine if self._triton is None else partial(_launched, self._triton)
            for operation in operations:
                out = operation.out
                # a prediction that stands for one turn only has no buffer
                self.tensors[out] = form(self.tensors, operation, self.writable(out) if out >= 0 else None)

    def _form_at_once(self, operations: Operations) -> None:
        """By Numba, all in one pass over memory."""
        table, tensors, own = operations.table, self.tensors, self._own
        for source in table.sources:
            tensor = tensors[source]
            if source >= 0 and tensor is own[source][0]:
                self._sources[source + 2] = own[source][3]
            else:
                self._sources[source + 2] = self._address(source)
        formed = []
        self._results.extend([0] * (len(table.results) - len(self._results)))
        for k, register in enumerate(table.results):
            tensor = self._new() if register < 0 else self.writable(register)  # a prediction for one turn has no buffer
            self._results[k] = tensor.data_ptr() if register < 0 else own[register][3]
            formed.append(tensor)
        self._numba.form(self._sources.buffer_info()[0], self._results.buffer_info()[0], table, self._count)
        for register, tensor in zip(table.results, formed, strict=True):
            tensors[register] = tensor

    def _address(self, source: int) -> int:
        """Where a tensor begins that somebody else made, once its numbers lie in memory as ours do."""
        tensor = self.tensors[source]
        if tensor.stride() != self._strides or tensor.is_neg() or not tensor.data_ptr():
            tensor = self.tensors[source] = _laid_out(tensor, self._new, (self.dtype,))
        address: int = tensor.data_ptr()
        return address
