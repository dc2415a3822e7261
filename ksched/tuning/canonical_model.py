"""A user's denoiser as one in flow coordinates of data of standard deviation 1, and what can be wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ksched.denoisers.answer import answer
from ksched.processes import Process
from ksched.samplers.linear_multistep import ratio
from ksched.tuning.canonical_plan import flow_level

__all__ = ["Canonical"]


class Canonical:
    """``(y, s) -> prediction`` for states (items, dimension).

    Parameters
    ----------
    denoiser : ``(x, sigma) -> denoised``, as for `ksched.Sampler.sample`
    process : what a state is
    shape : of one item
    data_std : standard deviation of the data
    like : a tensor of the dtype and on the device that the denoiser wants
    batch : items of one call, at most

    Attributes
    ----------
    calls : model calls so far, every item counted
    """

    def __init__(
        self,
        denoiser: Callable[..., Any],
        process: Process,
        shape: tuple[int, ...],
        data_std: float,
        like: torch.Tensor,
        batch: int,
    ) -> None:
        self._denoiser, self.process, self.shape, self.data_std = denoiser, process, shape, data_std
        self._like, self._batch = like, batch
        self._unit_std = data_std / process.noise_scale
        self.calls = 0

    def scaled(self, data_std: float) -> Canonical:
        """The same for another standard deviation of the data."""
        made = Canonical(self._denoiser, self.process, self.shape, data_std, self._like, self._batch)
        made.calls = self.calls
        return made

    @property
    def first(self) -> float:
        """Level that a run starts from, noise to signal over the std of the data."""
        return ratio(self.process.level(self.process.sigma_max)) / self._unit_std

    @property
    def low(self) -> float:
        """Lowest level of training, likewise."""
        return ratio(self.process.level(self.process.sigma_min)) / self._unit_std

    @property
    def s(self) -> float:
        """The first level in flow coordinates."""
        return flow_level(self.first)

    def __call__(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Predictions.

        Raises
        ------
        TypeError, ValueError : a denoiser that answers with another shape or with what is no number
        """
        sigma: torch.Tensor = _Sigma.apply(s.double(), self)  # type: ignore[no-untyped-call]
        scale = self.process.alpha(sigma) * self.data_std + self.process.noise_std(sigma)
        parts = []
        for first in range(0, len(y), self._batch):
            part = y[first : first + self._batch]
            x = (scale * part).reshape(len(part), *self.shape).to(self._like)
            told = sigma.to(device=x.device, dtype=torch.float32).expand(len(part))
            found, _ = answer(self._denoiser, x, told, False)
            self._check(found, x, sigma)
            parts.append(found.reshape(len(part), -1).to(y))
        self.calls += len(y)
        return torch.cat(parts) / self.data_std

    def _check(self, found: Any, x: torch.Tensor, sigma: torch.Tensor) -> None:
        if not isinstance(found, torch.Tensor) or found.shape != x.shape:
            got = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(
                f"the denoiser must answer with a tensor like the state, {tuple(x.shape)}; got {got}. "
                "See ksched.Denoiser for networks that predict noise or velocity"
            )
        if not bool(found.isfinite().all()):
            raise ValueError(
                f"the denoiser must answer with finite numbers; got nan or infinity at sigma {sigma.item():.6g}. "
                "Half precision overflows like that: try float32"
            )

    def sigma_of(self, s: float) -> float:
        """Contract sigma of a level."""
        if s >= self.s:
            return self.process.sigma_max
        return self.process.level_at(-math.log(s / (1 - s) * self._unit_std)).label

    def check_gradients(self, y: torch.Tensor) -> None:
        """Raise if gradients do not go through it."""
        with torch.enable_grad():
            answer = self(y[:1].detach().requires_grad_(), torch.tensor(0.5, dtype=torch.float64))
        if not answer.requires_grad:
            raise ValueError(
                "level 2 goes through the denoiser by autograd, and its answer has no gradient: take away "
                "torch.no_grad() and detach() in it, or take level 1"
            )

    def check(self, ends: torch.Tensor, generator: torch.Generator) -> float:
        """Raise if it is no denoiser; else how much two answers to the same question differ, over the std of the data.

        Parameters
        ----------
        ends : clean data, as it makes it
        """

        def typical(apart: torch.Tensor) -> float:  # of items, since some few may have exploded
            return apart.square().mean(1).sqrt().median().item()

        s = 0.2
        noise = torch.randn(ends.shape, generator=generator, dtype=ends.dtype)
        y, level = (1 - s) * ends + s * noise, torch.tensor(s, dtype=torch.float64)
        with torch.no_grad():
            one, two = self(y, level), self(y, level)
        added, size = s / (1 - s), typical(ends)
        away, kept = typical(one - ends), typical(one - y / (1 - s))
        if not 0.2 < size < 5 or away > 1.5 * added or kept < 0.02 * added:
            raise ValueError(
                "the denoiser must return the clean data that it predicts, denoiser(x, sigma) -> x0. What it samples "
                f"has {size:.3g} times the std of the data; with noise of {added:.3g} of that added, its answer is "
                f"{away:.3g} away from the data and {kept:.3g} from the state. Wrap the network in ksched.Denoiser; "
                "ksched.check_model finds out what it predicts"
            )
        return (one - two).square().mean().sqrt().item() / math.sqrt(2)


class _Sigma(torch.autograd.Function):
    """Contract sigma of a level, with its derivative by differences, as a process may read a table."""

    @staticmethod
    def forward(ctx: Any, s: torch.Tensor, model: Canonical) -> torch.Tensor:
        ctx.model, ctx.s = model, s.item()
        return s.new_tensor(model.sigma_of(s.item()))

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor, None]:
        step = 1e-5 * min(ctx.s, 1 - ctx.s)
        if step == 0:
            return above[0] * 0, None
        high, low = ctx.model.sigma_of(ctx.s + step), ctx.model.sigma_of(ctx.s - step)
        return above[0] * ((high - low) / (2 * step)), None
