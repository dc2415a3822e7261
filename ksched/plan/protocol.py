"""What a sampler function may ask of its run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

from ksched.processes import Level

__all__ = ["AdaptiveContext", "SamplerContext", "SamplerFunction", "Vector"]


class Vector(Protocol):
    """What a sampler may do with a state: a tensor can, and so can a symbol."""

    def __add__(self, other: Any, /) -> Self: ...
    def __sub__(self, other: Any, /) -> Self: ...
    def __mul__(self, factor: Any, /) -> Self: ...
    def __rmul__(self, factor: Any, /) -> Self: ...
    def __truediv__(self, divisor: Any, /) -> Self: ...
    def __neg__(self) -> Self: ...


V = TypeVar("V", bound=Vector)


class SamplerContext(Protocol[V]):
    """What a sampler may ask of the run it belongs to."""

    def denoise(self, x: V, level: Level, told: Level | None = None) -> V:
        """The model's x0 prediction for state ``x`` at ``level``.

        ``told`` is the level that the model is called with, if that is another one: the denoiser as a whole hears it,
        so its input scaling, its timestep and what it makes of its network's answer are those of that level.
        """
        ...

    def denoise_both(self, x: V, level: Level, told: Level | None = None) -> tuple[V, V]:
        """The prediction and its unconditional twin, from one model call."""
        ...

    def noise(self, start: Level, end: Level, stream: int = 0, limit: float = math.inf) -> V:
        """Noise of the interval, of std `Process.noise_scale`, which is 1 as a rule; the same whenever it is asked.

        Numbers further than ``limit`` standard deviations from 0 are set to that.
        """
        ...

    def keep(self, value: V) -> V:
        """Make a state of its own of a value that later steps use more than once."""
        ...


S = TypeVar("S")


class AdaptiveContext(SamplerContext[V], Protocol[V]):
    """What a sampler that looks at its states may ask of the run besides; such a sampler has no plan."""

    def checkpoint(self, state: S) -> S:
        """Say where the run stands: ``state``, all that the sampler needs to go on from here.

        A sampler calls it with its start before its loop, and at the end of every turn of it. A run that is resumed
        calls the sampler anew, and the first call returns the state of the last checkpoint instead.
        """
        ...


SamplerFunction = Callable[..., Any]  # (run, grid, x, *, options) -> x
