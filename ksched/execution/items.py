"""The items with which a run continues, and the seeds of their copies."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["copy_seed", "item_numbers", "seeds_of"]


#: name of the rule of `copy_seed`; a new rule gets a new name, and an old one never changes
SCHEME = "ksched copy 1"


_WANTED = (
    "indices must be a list of whole numbers, each the index of an item, or a mask of True and False for all {} items"
)


def item_numbers(indices: Any, batch: int) -> list[int]:
    """Item indices, from 0, from the argument of `ksched.Run.take`; read back if they are on a device.

    Raises
    ------
    TypeError, ValueError, IndexError
        For anything that is not a list of whole numbers or a mask of the batch; an index without an item.
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
            raise IndexError(f"indices must be from {-batch} to {batch - 1}, the run's items; got {number}")
        numbers.append(number + batch if number < 0 else number)
    return numbers


def _listed(indices: Any, batch: int) -> list[Any]:
    """The argument as a list."""
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
    """Seeds of the items at these indices: an item's first copy keeps its seed, each further copy gets a new one.

    Copies of an item are numbered from 1. A number is skipped if its seed belongs to an item of the run, so copies of
    copies, and later copies of the same item, all get their own seed.
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
    """Number and seed of the next copy whose seed no item has."""
    copy = last + 1
    while (found := copy_seed(seed, copy)) in taken:
        copy += 1
    return copy, found
