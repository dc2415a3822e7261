"""The noise source of a run: seeds, a Brownian path, a named kind, or your own function.

Seeded numbers are ksched's own, with the same bytes for every version of NumPy and torch and on every device: random
words of a published generator, Philox4x64-10, tables of float32 numbers, and single float32 operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from ksched.noise import brownian, streams
from ksched.noise.brownian import BrownianNoise
from ksched.noise.clip import FrameNoise
from ksched.noise.correlated import CorrelatedNoise
from ksched.noise.kinds import Colored, Correlated, NoiseName, Offset, Pyramid, chosen_kind, kind_of, kind_of_scheme
from ksched.noise.seeded import SeededNoise, limited
from ksched.noise.streams import Seed, item_seeds
from ksched.plan.rows import Draw
from ksched.processes import Process, default_process

__all__ = [
    "SCHEMES",
    "CallableNoise",
    "Noise",
    "NoiseSource",
    "Seed",
    "brownian_sampler",
    "item_seeds",
    "noise_source",
    "reseeded",
    "scheme_of",
    "seeded_source",
    "source_by_scheme",
    "start_source",
]


#: the rule from (seed, draw) to numbers, for each kind of `seeded_source`
SCHEMES = {"seeded": streams.SCHEME, "brownian": brownian.SCHEME}


class NoiseSource(Protocol):
    """The noise interface that the executor uses."""

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Unit-normal noise with ``like``'s shape, dtype and device; ``out`` is such a tensor that may be filled."""
        ...


@dataclass(frozen=True)
class CallableNoise:
    """Noise from your own function ``(sigma_from, sigma_to) -> tensor like x``, of unit variance."""

    function: Callable[[float, float], Any]

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """The function's result, checked; ``out`` is not used.

        Raises
        ------
        TypeError, ValueError
            If the result is not a tensor of the state's shape.
        """
        noise = self.function(draw.sigma_from, draw.sigma_to)
        if not isinstance(noise, torch.Tensor):
            raise TypeError(f"noise(sigma_from, sigma_to) must return a tensor; got {type(noise).__name__}")
        if noise.shape != like.shape:
            raise ValueError(f"noise must have the state's shape {tuple(like.shape)}; got {tuple(noise.shape)}")
        if draw.limit < math.inf:  # relative to the whole tensor, because the law of its numbers is unknown
            noise = limited(noise.clone(), draw, noise.std(correction=min(1, noise.numel() - 1)))
        return noise.to(device=like.device, dtype=like.dtype)


def seeded_source(
    kind: str | Correlated, seeds: tuple[int, ...], process: Process | None
) -> SeededNoise | BrownianNoise | CorrelatedNoise:
    """The noise of a kind ("seeded", "brownian" or one of `ksched.noise.kinds`) for items with these seeds.

    Raises
    ------
    ValueError
        For an unknown kind; a Brownian path without a process to place its levels.
    """
    if isinstance(kind, Correlated):
        base = seeded_source("brownian" if kind.brownian else "seeded", seeds, process)
        assert not isinstance(base, CorrelatedNoise)
        return CorrelatedNoise(kind, base)
    if kind == "seeded":
        return SeededNoise(seeds)
    if kind != "brownian":
        raise ValueError(f'the kind of seeded noise must be "seeded" or "brownian"; got {kind!r}')
    if process is None:
        raise ValueError('noise="brownian" needs a process; start the run from a Sampler, or give a process')
    return BrownianNoise(seeds, process)


def start_source(seeds: tuple[int, ...], noise: Any, process: Process) -> NoiseSource:
    """The noise of start states; white if ``noise`` is None.

    Raises
    ------
    TypeError, ValueError
        For anything that is neither a name nor a kind of noise.
    """
    return seeded_source(chosen_kind(noise), seeds, process)


def reseeded(source: NoiseSource, seeds: tuple[int, ...]) -> NoiseSource:
    """The same kind of noise, for items with other seeds."""
    if isinstance(source, CorrelatedNoise):
        return source.with_seeds(seeds)
    return BrownianNoise(seeds, source.process) if isinstance(source, BrownianNoise) else SeededNoise(seeds)


def scheme_of(source: NoiseSource) -> str:
    """Name of the rule behind a source's numbers, for saved states."""
    if isinstance(source, CorrelatedNoise):
        return source.kind.scheme
    return SCHEMES["brownian" if isinstance(source, BrownianNoise) else "seeded"]


def source_by_scheme(scheme: str, seeds: tuple[int, ...], process: Process | None) -> NoiseSource:
    """The noise with which a saved state continues.

    Raises
    ------
    ValueError
        For a rule that this version does not have, so the noise would differ.
    """
    for kind, name in SCHEMES.items():
        if name == scheme:
            return seeded_source(kind, seeds, process)
    if (correlated := kind_of_scheme(scheme)) is not None:
        return seeded_source(correlated, seeds, process)
    known = " and ".join(map(repr, [*SCHEMES.values(), *(kind.SCHEME for kind in (Colored, Pyramid, Offset))]))
    raise ValueError(
        f"this version of ksched makes noise by {known}; the state needs {scheme!r}: finish it with the version that "
        f"saved it"
    )


def brownian_sampler(
    x: torch.Tensor, seed: Seed, process: Process | None = None
) -> Callable[[float | torch.Tensor, float | torch.Tensor], torch.Tensor]:
    """The path of `BrownianNoise` as a function, for code that takes a ``noise_sampler`` as k-diffusion does.

    Parameters
    ----------
    x : Tensor
        A tensor with the shape, dtype and device that the noise should have, batch first.
    seed : int or sequence of int
        One whole number (item i takes ``seed + i``) or one per item.
    process : Process or None
        The meaning of a sigma; None is `default_process`, correct wherever states are ``x0 + sigma * eps``.

    Returns
    -------
    ``(sigma_from, sigma_to) -> tensor like x`` of unit variance; sigmas may be floats or one-element tensors

    Raises
    ------
    TypeError, ValueError
        For seeds as for `item_seeds`.
    """
    source = BrownianNoise(item_seeds(seed, len(x)), default_process() if process is None else process)

    def noise(sigma_from: float | torch.Tensor, sigma_to: float | torch.Tensor) -> torch.Tensor:
        return source(Draw(float(sigma_from), float(sigma_to)), x)

    return noise


Noise: TypeAlias = Callable[[float, float], Any] | NoiseName | Correlated


def noise_source(
    draws: bool, batch: int, seed: Seed | None, noise: Noise | None, process: Process | None = None
) -> tuple[NoiseSource, tuple[int, ...] | None]:
    """A run's noise source, and the seeds of its items; arguments and errors are those of `Run`."""
    if isinstance(noise, FrameNoise):
        return noise, None
    kind = kind_of(noise)
    if kind is not None:
        noise = None
    if seed is not None and noise is not None:
        raise ValueError("give either seed or noise, not both")
    if noise is not None:
        if isinstance(noise, str | Correlated) or not callable(noise):
            raise TypeError(f"noise must be callable, (sigma_from, sigma_to) -> tensor; got {type(noise).__name__}")
        return CallableNoise(noise), None
    if seed is None:
        if draws:
            raise ValueError("this sampler draws noise: give seed=<int>, one seed per batch item, or noise=<callable>")
        return SeededNoise(()), None
    seeds = item_seeds(seed, batch)
    return seeded_source("seeded" if kind is None else kind, seeds, process), seeds
