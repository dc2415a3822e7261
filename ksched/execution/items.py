"""Which items a run goes on with, and the seeds of their copies."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["copy_seed", "item_numbers", "seeds_of"]


#: The name of the rule of `copy_seed`. A new rule gets a new name; an old one never changes.
SCHEME = "ksched copy 1"


_WANTED = (
    "indices must be a list of whole numbers, each the number of an item, or a mask of True and False for all {} items"
)


def item_numbers(indices: Any, batch: int) -> list[int]:
    """Numbers of items, from 0, from what `ksched.Run.take` is given; read back if they are on a device.

    Raises
    ------
    TypeError, ValueError, IndexError : no list of whole numbers, or mask of the batch; a number of no item
    """
    given = _listed(indices, batch)
    if given and all(isinstance(value, bool | np.bool_) for value in given):
        if len(given) != batch:
            raise ValueError(f"{_WANTED.format(batch)}; got a mask of {len(given)}")
        return [number for number, value in enumerate(given) if value]
    numbers = []
    for value in given:
        try:
            if isinstance(value, bool | np.bool_):
                raise TypeError
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"{_WANTED.format(batch)}; got {value!r} among them") from None
        if not -batch <= number < batch:
            raise IndexError(f"indices must be those of the {batch} items of the run, from {-batch} on; got {number}")
        numbers.append(number + batch if number < 0 else number)
    return numbers


def _listed(indices: Any, batch: int) -> list[Any]:
    """What was given, as a list."""
    if isinstance(indices, torch.Tensor | np.ndarray):
        whole = (
            not (indices.is_floating_point() or indices.is_complex())
            if isinstance(indices, torch.Tensor)
            else (indices.dtype.kind in "iub" or not indices.size)
        )
        if not whole or indices.ndim != 1:
            got = f"{indices.dtype} of shape {tuple(indices.shape)}"
            raise TypeError(f"{_WANTED.format(batch)}; got {got}")
        found: list[Any] = indices.tolist()
        return found
    if isinstance(indices, Sequence) and not isinstance(indices, str | bytes):
        return list(indices)
    raise TypeError(f"{_WANTED.format(batch)}; got {type(indices).__name__}")


def copy_seed(seed: int, copy: int) -> int:
    """The seed of a copy of an item, a whole number below 2**63: a hash of the item's seed and the copy's number."""
    salt = (seed % (1 << 128)).to_bytes(16, "little")
    digest = hashlib.blake2b(copy.to_bytes(8, "little"), digest_size=8, key=SCHEME.encode(), salt=salt).digest()
    return int.from_bytes(digest, "little") >> 1


def seeds_of(seeds: Sequence[int], numbers: Sequence[int]) -> tuple[int, ...]:
    """Seeds of the items of these numbers: the first copy of an item has the item's own, each further one a new one.

    Copies of an item are numbered from 1. A number whose seed an item of the run has is passed over, so that copies of
    copies, and those of an item that was copied before, are all of their own.
    """
    taken, used, last = set(seeds), set[int](), dict[int, int]()
    found = []
    for number in numbers:
        seed = seeds[number]
        if number in used:
            copy, seed = _free(seed, last.get(seed, 0), taken)
            last[seeds[number]] = copy
            taken.add(seed)
        used.add(number)
        found.append(seed)
    return tuple(found)


def _free(seed: int, last: int, taken: set[int]) -> tuple[int, int]:
    """Number and seed of the next copy that no item has."""
    copy = last + 1
    while (found := copy_seed(seed, copy)) in taken:
        copy += 1
    return copy, found
