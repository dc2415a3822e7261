"""A user's denoiser in flow coordinates for data of standard deviation 1, with checks of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ksched.denoisers.answer import answer
from ksched.processes import Process
from ksched.samplers.linear_multistep import ratio
from ksched.tuning.canonical_plan import flow_level

__all__ = ["Canonical"]


class Canonical:
    """A model ``(y, s) -> prediction`` of states (items, dimension).

    Parameters
    ----------
    denoiser : callable
        ``(x, sigma) -> denoised``, as for `ksched.Sampler.sample`.
    process : Process
        Process that the denoiser's states belong to.
    shape : tuple of int
        Shape of one item.
    data_std : float
        Standard deviation of the data.
    like : Tensor
        A tensor with the dtype and device that the denoiser expects.
    batch : int
        Largest number of items in one call.

    Attributes
    ----------
    calls : int
        Model calls so far, counted per item.
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
        """The same model with another standard deviation of the data."""
        made = Canonical(self._denoiser, self.process, self.shape, data_std, self._like, self._batch)
        made.calls = self.calls
        return made

    @property
    def first(self) -> float:
        """Level that a run starts from: noise-to-signal ratio divided by the std of the data."""
        return ratio(self.process.level(self.process.sigma_max)) / self._unit_std

    @property
    def low(self) -> float:
        """Lowest level of training, in the same unit."""
        return ratio(self.process.level(self.process.sigma_min)) / self._unit_std

    @property
    def s(self) -> float:
        """The first level in flow coordinates."""
        return flow_level(self.first)

    def __call__(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Predictions.

        Raises
        ------
        TypeError, ValueError
            If the denoiser answers with another shape, or with values that are not finite.
        """
        sigma: torch.Tensor = _Sigma.apply(s.double(), self)  # type: ignore[no-untyped-call]  # torch's stub
        scale = self.process.alpha(sigma) * self.data_std + self.process.noise_std(sigma)
        parts = []
        for first in range(0, len(y), self._batch):
            part = y[first : first + self._batch]
            x = (scale * part).reshape(len(part), *self.shape).to(self._like)
            told = sigma.to(device=x.device, dtype=torch.float32).expand(len(part))
            found = self._answered(x, told)
            self._check(found, x, sigma)
            parts.append(found.reshape(len(part), -1).to(y))
        self.calls += len(y)
        return torch.cat(parts) / self.data_std

    def _answered(self, x: torch.Tensor, told: torch.Tensor) -> Any:
        """One call. For gradients, activations are recomputed in the backward pass instead of stored.

        A fit through a run of many calls and items then needs the memory of one batch.
        """

        def ask(x: torch.Tensor, told: torch.Tensor) -> Any:
            return answer(self._denoiser, x, told, False)[0]

        if torch.is_grad_enabled() and (x.requires_grad or told.requires_grad):
            return checkpoint(ask, x, told, use_reentrant=False)
        return ask(x, told)

    def _check(self, found: Any, x: torch.Tensor, sigma: torch.Tensor) -> None:
        if not isinstance(found, torch.Tensor) or found.shape != x.shape:
            got = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(
                f"the denoiser must return a tensor of the state's shape, {tuple(x.shape)}; got {got}. "
                "For networks that predict noise or velocity, use ksched.Denoiser"
            )
        if not bool(found.isfinite().all()):
            raise ValueError(
                f"the denoiser must return finite numbers; got nan or infinity at sigma {sigma.item():.6g}. "
                "If it runs in half precision, that may overflow: try float32"
            )

    def sigma_of(self, s: float) -> float:
        """Contract sigma of a level."""
        if s >= self.s:
            return self.process.sigma_max
        return self.process.level_at(-math.log(s / (1 - s) * self._unit_std)).label

    def check_gradients(self, y: torch.Tensor) -> None:
        """Raise an error if gradients do not pass through the denoiser."""
        with torch.enable_grad():
            answer = self(y[:1].detach().requires_grad_(), torch.tensor(0.5, dtype=torch.float64))
        if not answer.requires_grad:
            raise ValueError(
                "level 2 needs gradients through the denoiser, and its answer has none; remove torch.no_grad() and "
                "detach() from it, or pass level=1"
            )

    def check(self, ends: torch.Tensor, generator: torch.Generator) -> float:
        """The difference between two answers to the same question, over the std of the data; an error if no denoiser.

        Parameters
        ----------
        ends : Tensor
            Clean data made with the denoiser.
        """

        def typical(apart: torch.Tensor) -> float:  # the median over items, since a few may have exploded
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
                "the denoiser must return the clean data that it predicts: denoiser(x, sigma) -> x0. Its samples have "
                f"{size:.3g} times the std of the data. With noise of {added:.3g} of that std added, its answer is "
                f"{away:.3g} away from the data and {kept:.3g} from the state. Wrap the network in ksched.Denoiser; "
                "ksched.check_model finds out what it predicts"
            )
        return (one - two).square().mean().sqrt().item() / math.sqrt(2)


class _Sigma(torch.autograd.Function):
    """Contract sigma of a level, differentiated by differences, because a process may read a table."""

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
