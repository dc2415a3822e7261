"""Several networks that act as one model, each for the sigmas that it was trained on."""

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
    """A denoiser that calls one of several networks; made by `experts`.

    Attributes
    ----------
    models : mapping of float to callable
        Networks by the lowest sigma of each, in rising order.
    process : Process or None
        The process they were trained on, if all know it and agree.
    """

    def __init__(self, models: Mapping[float, Model]) -> None:
        self.models = dict(sorted(models.items()))
        self._lowest, self._owners = list(self.models), list(self.models.values())
        known = [process_of_model(model) for model in self._owners]
        self.process: Process | None = known[0] if all(own == known[0] for own in known) else None

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> Any:
        """The prediction of the expert for this sigma, or for that of each item or frame."""
        if not isinstance(sigma, torch.Tensor):
            raise TypeError(
                "experts choose by one tensor of sigmas, shape (batch,) or (batch, frames); got "
                f"{type(sigma).__name__}. For streams, give each part its own experts: "
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
        """The index of the expert for each item."""
        levels, lowest = host_levels(sigma), self._lowest
        if levels is None and torch.compiler.is_compiling():
            raise RuntimeError(
                "experts choose by noise levels on the host, which a compiled step does not have; compile the networks "
                "instead, and pass the experts to Sampler.sample"
            )
        if levels is None:  # read back; bounds are then rounded to sigma's dtype too
            levels = tuple(sigma.reshape(-1).tolist())
            lowest = torch.tensor(lowest, dtype=torch.float64).to(sigma.dtype).tolist()
        owners = [bisect_right(lowest, level) - 1 for level in levels]
        if min(owners) < 0:
            raise ValueError(
                f"experts: no expert is for sigma {min(levels):g}; the lowest is for {self._lowest[0]:g} and above. "
                "Add one for 0, or end the run there"
            )
        return owners

    def _of_each(self, x: torch.Tensor, sigma: torch.Tensor, owners: Sequence[int]) -> Any:
        """Call every expert once, on its own items."""
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
        """Call every expert on all frames, since frames depend on each other, and keep its own frames' predictions."""
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
    """A denoiser that chooses one of several networks by sigma, such as Wan 2.2's two experts.

    Each model call is one call of one network.

    Parameters
    ----------
    models : mapping of float to callable
        Denoisers by the lowest sigma that each is for, inclusive: ``{0.875: high, 0.0: low}`` calls ``high`` at sigma
        0.875 and above, ``low`` below.

    Returns
    -------
    callable
        A denoiser. It returns pairs if its denoisers do, and has their ``process`` if they all know the same one.

    Raises
    ------
    TypeError, ValueError
        If ``models`` is not a mapping or is empty, a key is not a sigma, or a value cannot be called; at a call, a
        sigma is below all keys, or a prediction has the wrong type or shape.

    Notes
    -----
    If the rows of a `ksched.batch.Batch` need different experts, each expert is called once, on its own rows. If the
    frames of a `ksched.frames` clip need different experts, each of them is called on the whole clip, because frames
    depend on each other, and predicts its own frames. Sigmas that come from a run carry their values on the host, so
    nothing is read back from the device; other sigmas are read back.
    Wan 2.2's boundary is 0.875 for text and 0.9 for images, in sigma after the shift.
    """
    if not isinstance(models, Mapping) or not models:
        raise TypeError(f"experts takes a mapping from lowest sigmas to denoisers; got {models!r}")
    checked: dict[float, Model] = {}
    for lowest, model in models.items():
        check_callable(f"the expert of {lowest!r}", model)
        checked[checked_number("experts", "lowest sigma", lowest, NOT_NEGATIVE)] = model
    return _Experts(checked)


def _joined(pairs: Sequence[Sequence[Any]], join: Callable[[Any], torch.Tensor]) -> Any:
    """Answers of several experts as one: pairs (denoised, uncond) if all are pairs."""
    together, unconds = join([denoised for denoised, _ in pairs]), [uncond for _, uncond in pairs]
    if all(uncond is None for uncond in unconds):
        return together
    if any(uncond is None for uncond in unconds):
        raise ValueError("either all experts or none must return (denoised, uncond); wrap each in the same guidance")
    return together, join(unconds)


def _parts(owners: Sequence[int]) -> list[tuple[int, slice]]:
    """Runs of consecutive rows with the same owner."""
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
