"""Several networks for one model, each for the noise levels that it was trained on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from ksched.denoisers.answer import Model, pair_of
from ksched.guidance.scale import checked_number
from ksched.guidance.tensors import NOT_NEGATIVE, check_callable, checked_prediction
from ksched.processes import Process
from ksched.processes.agreement import mark, marks_of, process_of_model
from ksched.processes.host_levels import carry, host_levels

__all__ = ["experts"]


class _Experts:
    """A denoiser that asks one of several; made by `experts`.

    Attributes
    ----------
    models : by the lowest sigma of each, rising
    process : what they were trained on, if all know it and it is the same
    """

    def __init__(self, models: Mapping[float, Model]) -> None:
        self.models = dict(sorted(models.items()))
        self._lowest, self._owners = list(self.models), list(self.models.values())
        known = [process_of_model(model) for model in self._owners]
        self.process: Process | None = known[0] if all(own == known[0] for own in known) else None

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> Any:
        """The prediction of the expert of this sigma, or of each item's."""
        owners = self._owners_of(sigma)
        if len(set(owners)) == 1:
            return self._owners[owners[0]](x, sigma)
        return self._of_each(x, sigma, owners)

    def _owners_of(self, sigma: torch.Tensor) -> list[int]:
        """Which expert answers for each item."""
        levels, lowest = host_levels(sigma), self._lowest
        if levels is None:  # read back, where a bound is as near as its dtype has it
            levels = tuple(sigma.reshape(-1).tolist())
            lowest = torch.tensor(lowest, dtype=torch.float64).to(sigma.dtype).tolist()
        owners = [bisect_right(lowest, level) - 1 for level in levels]
        if min(owners) < 0:
            raise ValueError(
                f"experts: none is for sigma {min(levels):g}, the lowest is for {self._lowest[0]:g} and above. Add one "
                "for 0, or end the run there"
            )
        return owners

    def _of_each(self, x: torch.Tensor, sigma: torch.Tensor, owners: Sequence[int]) -> Any:
        """Every expert is asked once, for its own items."""
        parts = _parts(owners)
        levels = host_levels(sigma)
        answers: dict[int, list[Any]] = {}  # by the first row of each part
        for owner in sorted(set(owners)):
            own = [part for k, part in parts if k == owner]
            near = torch.cat([sigma[part] for part in own])
            if carried := marks_of(sigma):
                mark(near, carried)
            carry(near, None if levels is None else (level for part in own for level in levels[part]))
            states = torch.cat([x[part] for part in own])
            denoised, uncond = pair_of(self._owners[owner](states, near))
            sizes = [part.stop - part.start for part in own]
            pieces = [_split(value, states, sizes) for value in (denoised, uncond)]
            answers |= {part.start: found for part, *found in zip(own, *pieces, strict=True)}
        found = [answers[part.start] for _, part in parts]
        unconds = [uncond for _, uncond in found]
        together = torch.cat([denoised for denoised, _ in found])
        if all(uncond is None for uncond in unconds):
            return together
        if any(uncond is None for uncond in unconds):
            raise ValueError("experts must all return (denoised, uncond), or none; wrap each in the same guidance")
        return together, torch.cat(unconds)


def experts(models: Mapping[float, Model]) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """A denoiser that asks one of several networks, by the noise level: one network per model call.

    Parameters
    ----------
    models : denoisers by the lowest sigma that each is for, inclusive: ``{0.875: high, 0.0: low}`` asks ``high`` at
        sigma 0.875 and above, ``low`` below

    Returns
    -------
    denoiser. It returns pairs if its denoisers do, and has their ``process`` if they all know the same one

    Raises
    ------
    TypeError, ValueError : no mapping, or an empty one; keys that are no levels; something that cannot be called. At a
        call, a sigma below all keys, predictions of the wrong type or shape

    Notes
    -----
    In a `ksched.batch.Batch` whose rows are at levels of different experts, each of them is asked once, for its own
    rows. Sigmas that come from a run carry their values on the host, and nothing is read back; others are read.
    Wan 2.2's boundary is 0.875 for text and 0.9 for images, in sigma after the shift.
    """
    if not isinstance(models, Mapping) or not models:
        raise TypeError(f"experts takes a mapping from the lowest sigma of each denoiser to it; got {models!r}")
    checked: dict[float, Model] = {}
    for lowest, model in models.items():
        check_callable(f"the expert of {lowest!r}", model)
        checked[checked_number("experts", "lowest sigma", lowest, NOT_NEGATIVE)] = model
    return _Experts(checked)


def _parts(owners: Sequence[int]) -> list[tuple[int, slice]]:
    """Rows that follow one another and have one owner."""
    parts, start = [], 0
    for owner, group in groupby(owners):
        stop = start + len(list(group))
        parts.append((owner, slice(start, stop)))
        start = stop
    return parts


def _split(value: Any, states: torch.Tensor, sizes: list[int]) -> Sequence[torch.Tensor | None]:
    if value is None:
        return [None] * len(sizes)
    return torch.split(checked_prediction("an expert", value, states).to(states.dtype), sizes)
