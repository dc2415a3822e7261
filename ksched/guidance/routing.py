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
from ksched.processes.host_levels import carry_rows, host_levels

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
        """The prediction of the expert of this sigma, or of each item's, or of each frame's."""
        if not isinstance(sigma, torch.Tensor):
            raise TypeError(
                "experts choose by one tensor of sigmas, shape (batch,) or (batch, frames); got "
                f"{type(sigma).__name__}. In streams give each part experts of its own: "
                "lambda x, sigma: {name: experts_of[name](x[name], sigma[name]) for name in x}"
            )
        owners = self._owners_of(sigma)
        if len(set(owners)) == 1:
            return self._owners[owners[0]](x, sigma)
        width = sigma[0].numel()
        of_items = [owners[row * width : (row + 1) * width] for row in range(len(sigma))]
        if all(len(set(row)) == 1 for row in of_items):
            return self._of_each(x, sigma, [row[0] for row in of_items])
        return self._of_frames(x, sigma, torch.tensor(of_items, device="cpu").reshape(sigma.shape))

    def _owners_of(self, sigma: torch.Tensor) -> list[int]:
        """Which expert answers for each item."""
        levels, lowest = host_levels(sigma), self._lowest
        if levels is None and torch.compiler.is_compiling():
            raise RuntimeError(
                "experts choose by noise levels on the host, which a compiled step does not have: compile the networks "
                "instead, and give the experts to Sampler.sample"
            )
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
        answers: dict[int, list[Any]] = {}  # by the first row of each part
        for owner in sorted(set(owners)):
            own = [part for k, part in parts if k == owner]
            near = torch.cat([sigma[part] for part in own])
            if carried := marks_of(sigma):
                mark(near, carried)
            carry_rows(near, sigma, (row for part in own for row in range(part.start, part.stop)))
            states = torch.cat([x[part] for part in own])
            denoised, uncond = pair_of(self._owners[owner](states, near))
            sizes = [part.stop - part.start for part in own]
            pieces = [_split(value, states, sizes) for value in (denoised, uncond)]
            answers |= {part.start: found for part, *found in zip(own, *pieces, strict=True)}
        found = [answers[part.start] for _, part in parts]
        return _joined(found, torch.cat)

    def _of_frames(self, x: torch.Tensor, sigma: torch.Tensor, owners: torch.Tensor) -> Any:
        """Every expert is asked for all frames, which it sees together, and answers for its own."""
        owners = owners.to(x.device, non_blocking=True).reshape(owners.shape + (1,) * (x.ndim - owners.ndim))
        asked = sorted(set(self._owners_of(sigma)))
        found = [
            tuple(None if part is None else checked_prediction("an expert", part, x).to(x.dtype) for part in pair)
            for pair in (pair_of(self._owners[owner](x, sigma)) for owner in asked)
        ]

        def chosen(parts: Sequence[torch.Tensor]) -> torch.Tensor:
            result = parts[0]
            for owner, part in zip(asked[1:], parts[1:], strict=True):
                result = torch.where(owners == owner, part, result)
            return result

        return _joined(found, chosen)


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
    rows. In a clip of `ksched.frames` whose frames are at levels of different experts, each of them is asked for the
    whole clip, as frames see one another, and answers for its own frames. Sigmas that come from a run carry their
    values on the host, and nothing is read back; others are read.
    Wan 2.2's boundary is 0.875 for text and 0.9 for images, in sigma after the shift.
    """
    if not isinstance(models, Mapping) or not models:
        raise TypeError(f"experts takes a mapping from the lowest sigma of each denoiser to it; got {models!r}")
    checked: dict[float, Model] = {}
    for lowest, model in models.items():
        check_callable(f"the expert of {lowest!r}", model)
        checked[checked_number("experts", "lowest sigma", lowest, NOT_NEGATIVE)] = model
    return _Experts(checked)


def _joined(pairs: Sequence[Sequence[Any]], join: Callable[[Any], torch.Tensor]) -> Any:
    """Answers of several experts as one: pairs (denoised, uncond) if all are."""
    together, unconds = join([denoised for denoised, _ in pairs]), [uncond for _, uncond in pairs]
    if all(uncond is None for uncond in unconds):
        return together
    if any(uncond is None for uncond in unconds):
        raise ValueError("experts must all return (denoised, uncond), or none; wrap each in the same guidance")
    return together, join(unconds)


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
