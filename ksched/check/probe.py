"""Calls a model on noised data and stores what is needed of its answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ksched.check.readings import Claim, InputScaling, TimestepConvention, noise_to_signal, sigma_at
from ksched.denoisers.calling import ask, tensor_of, time_name
from ksched.types import Array

__all__ = ["Probe", "mean_squares"]


#: smallest number of noised states at every level
_ROWS = 16


class Probe:
    """Noises clean data at every level, calls the model on the states, and caches inner products of its answers.

    All stored values are in units of the noise: the model is called at the process's own scale, and its answers are
    scaled back.

    Attributes
    ----------
    count : int
        Number of items in the data and in every batch that the model is called on.
    x0 : Tensor
        The data, repeated until there are enough noised states at a level, shape (rows, *shape).
    noise : Tensor
        Noise, shape (levels, rows, *shape).
    ratios : ndarray of float64
        Ratios of noise to signal, shape (levels,).
    mean, variance : float
        Mean and variance of the data.
    calls : int
        Number of calls of the model so far.
    """

    def __init__(self, claim: Claim, data: Any, noise: Any, levels: int, seed: int, rows: int = _ROWS) -> None:
        self.claim = claim
        self._arguments = data, noise, levels, seed
        self._argument_name = time_name(claim.model) if claim.prediction is not None else None
        self.data = _checked("data", data)
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 3:
            raise ValueError(f"levels must be a whole number, at least 3; got {levels!r}")
        self.calls = 0
        self.count = len(self.data)
        repeats = max(1, math.ceil(rows / self.count)) if noise is None else 1
        self.scale = claim.process.noise_scale
        self.x0 = self.data.detach().cpu().double().repeat(repeats, *[1] * (self.data.ndim - 1)) / self.scale
        values = self.x0[: self.count]
        self.mean, self.variance = float(values.mean()), float(values.var(correction=0))
        if not self.variance > 0:
            raise ValueError("data must not be constant; all its values are the same, so the check has nothing to see")
        self.ratios = self._spread_ratios(levels)
        if noise is None:
            generator = torch.Generator().manual_seed(seed)
            shape = (len(self.ratios), *self.x0.shape)
            self.noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        else:
            eps = _checked("noise", noise, like=self.data).detach().cpu().double()
            self.noise = eps.expand(len(self.ratios), *eps.shape)
        self._products: dict[tuple[str, str], Array | None] = {}

    def _spread_ratios(self, levels: int) -> Array:
        """Noise-to-signal ratios of all levels: around the size of the data, and at the ends of the process's range."""
        process = self.claim.process
        ends = [noise_to_signal(process, sigma) for sigma in (process.sigma_min, process.sigma_max)]
        std = math.sqrt(self.variance)
        low, high = max(ends[0], 0.03 * std), min(ends[1], 30 * std)
        if not low < high:
            low, high = ends
        grid = np.geomspace(low, high, levels)
        return np.array([*ends[: ends[0] < low / 2], *grid, *ends[1 : 1 + (ends[1] > 2 * high)]])

    def finer(self, rows: int) -> Probe | None:
        """The same with more noised states per level; None if the noise was given or there are already as many."""
        if rows <= len(self.x0) or self._arguments[1] is not None:
            return None
        return Probe(self.claim, *self._arguments, rows=rows)

    def sigma(self, rho: float) -> float:
        """Contract sigma of a noise-to-signal ratio."""
        return sigma_at(self.claim.process, rho)

    # Calls

    def call(self, state: torch.Tensor, timestep: float) -> Any:
        """The model's answer to one call, unchecked."""
        self.calls += 1
        claim = self.claim
        dtype = torch.promote_types(self.data.dtype, torch.float32)
        value = torch.full((self.count,), timestep, dtype=dtype, device=self.data.device)
        with torch.no_grad():
            if claim.prediction is None:
                answer = claim.model(state, value)
                return answer[0] if isinstance(answer, tuple) and len(answer) == 2 else answer
            return tensor_of(ask(claim.model, self._argument_name, state, value, {}), state)

    def states(self, level: int, scaling: InputScaling) -> Iterator[torch.Tensor]:
        """The states of a level as they are passed to the model, one batch at a time."""
        rho = float(self.ratios[level])
        scaled = (self.x0 + rho * self.noise[level]) * (self.scale / scaling.divisor(rho))
        for part in torch.split(scaled, self.count):
            yield part.to(self.data.device, self.data.dtype)

    def answers(self, scaling: InputScaling, timesteps: TimestepConvention) -> Iterator[tuple[int, int, Any]]:
        """(level, first row, answer) of every call."""
        for level, rho in enumerate(self.ratios):
            timestep = timesteps.timestep(float(rho))
            for i, state in enumerate(self.states(level, scaling)):
                yield level, i * self.count, self.call(state, timestep)

    # Inner products of the answers

    def products(self, scaling: InputScaling, timesteps: TimestepConvention) -> Array | None:
        """Inner products of (answer, x0, eps, 1) for every level and row: (levels, rows, 4, 4).

        They hold all that any reading needs of the answers. None if the model cannot be called that way.
        """
        key = (scaling.description, timesteps.description)
        if key not in self._products:
            try:
                answers = self.answers(scaling, timesteps)
                parts = [(level, row, self.products_of(level, row, answer)) for level, row, answer in answers]
            except Exception:  # the model may not have been made for such a call
                self._products[key] = None
            else:
                whole = self.no_products()
                for level, row, part in parts:
                    whole[level, row : row + self.count] = part
                self.hold(scaling, timesteps, whole if np.isfinite(whole).all() else None)
        return self._products[key]

    def no_products(self) -> Array:
        """An empty array for the products of one way of calling."""
        return np.empty((len(self.ratios), len(self.x0), 4, 4))

    def products_of(self, level: int, row: int, answer: torch.Tensor) -> Array:
        """Inner products of the rows of one call: (rows, 4, 4)."""
        rows = slice(row, row + self.count)
        output = answer.detach().cpu().double().reshape(self.count, -1) / self.scale
        x0, eps = (part[rows].reshape(self.count, -1) for part in (self.x0, self.noise[level]))
        vectors = torch.stack([output, x0, eps, torch.ones_like(x0)], dim=1)
        products: Array = (vectors @ vectors.mT / x0.shape[1]).numpy()
        return products

    def hold(self, scaling: InputScaling, timesteps: TimestepConvention, products: Array | None) -> None:
        """Cache the products of one way of calling."""
        self._products[scaling.description, timesteps.description] = products

    @property
    def claimed_products(self) -> Array:
        """Products of the answers to the claimed way of calling."""
        products = self.products(self.claim.scaling, self.claim.timesteps)
        assert products is not None
        return products

    def linear_error(self, rho: float, products: Array) -> float:
        """Mean squared error of the best linear x0 prediction."""
        gain = self.variance / (self.variance + rho * rho)
        miss = np.array([0.0, 1 - gain, -gain * rho, -self.mean * (1 - gain)])
        return float(mean_squares(miss, products).mean())


def mean_squares(vector: Array, products: Array) -> Array:
    """Mean square of a combination of (answer, x0, eps, 1) for every row."""
    values: Array = np.einsum("a,rab,b->r", vector, products, vector)
    return values


def _checked(name: str, value: Any, like: torch.Tensor | None = None) -> torch.Tensor:
    """A finite floating-point tensor with a batch axis."""
    try:
        tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
    except TypeError:
        raise TypeError(f"{name} must be a tensor or an array of numbers; got {type(value).__name__}") from None
    if not tensor.numel():
        raise ValueError(f"{name} must hold at least one item and number; got shape {tuple(tensor.shape)}")
    if not tensor.is_floating_point() or tensor.ndim < 1:
        raise TypeError(
            f"{name} must be a floating-point tensor with a batch axis; got {tensor.dtype}, {tensor.ndim}-D"
        )
    if like is not None and tensor.shape != like.shape:
        raise ValueError(f"{name} must have the shape of data, {tuple(like.shape)}; got {tuple(tensor.shape)}")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite; got nan or infinity")
    return tensor
