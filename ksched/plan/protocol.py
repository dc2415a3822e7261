"""What a sampler function may ask of its run: the protocols of states and contexts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

from ksched.processes import Level

__all__ = ["AdaptiveContext", "SamplerContext", "SamplerFunction", "Vector"]


class Vector(Protocol):
    """Operations that a sampler may apply to a state; tensors and symbols support them."""

    def __add__(self, other: Any, /) -> Self: ...
    def __sub__(self, other: Any, /) -> Self: ...
    def __mul__(self, factor: Any, /) -> Self: ...
    def __rmul__(self, factor: Any, /) -> Self: ...
    def __truediv__(self, divisor: Any, /) -> Self: ...
    def __neg__(self) -> Self: ...


V = TypeVar("V", bound=Vector)


class SamplerContext(Protocol[V]):
    """The run as its sampler function sees it."""

    def denoise(self, x: V, level: Level, told: Level | None = None) -> V:
        """The model's x0 prediction for state ``x`` at ``level``.

        ``told`` is the level that the model receives, if that is another one. It applies to the whole denoiser: input
        scaling, timestep and the reading of the network's answer follow it.
        """
        ...

    def denoise_both(self, x: V, level: Level, told: Level | None = None) -> tuple[V, V]:
        """The prediction and its unconditional twin, from one model call."""
        ...

    def noise(self, start: Level, end: Level, stream: int = 0, limit: float = math.inf) -> V:
        """Noise of an interval, of std `Process.noise_scale` (usually 1); asking again returns the same noise.

        Numbers further than ``limit`` standard deviations from 0 are clipped to it.
        """
        ...

    def keep(self, value: V) -> V:
        """Store a value that later steps use more than once as a state of its own."""
        ...


S = TypeVar("S")


class AdaptiveContext(SamplerContext[V], Protocol[V]):
    """The run as a sampler that looks at its states sees it; such a sampler has no plan."""

    def checkpoint(self, state: S) -> S:
        """Record where the run stands: ``state`` has everything that the sampler needs to continue.

        A sampler calls it with its start before its loop, and at the end of each iteration. When a run is resumed, the
        sampler is called again, and its first call of this method returns the state of the last checkpoint.
        """
        ...


SamplerFunction = Callable[..., Any]  # (run, grid, x, *, options) -> x
