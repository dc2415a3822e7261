"""Where a run takes its noise from: seeds, a Brownian path, a kind that has a name, or a function of your own.

Seeded numbers are ksched's own, the same bytes with every version of numpy and torch and on every device: random words
of a published generator, Philox4x64-10, tables of float32 numbers, and single operations of float32.
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


#: The rule from (seed, draw) to numbers, for each kind of `seeded_source`.
SCHEMES = {"seeded": streams.SCHEME, "brownian": brownian.SCHEME}


class NoiseSource(Protocol):
    """What the executor asks for noise."""

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Unit-normal noise of ``like``'s shape, dtype and device; ``out`` is such a tensor that may be filled."""
        ...


@dataclass(frozen=True)
class CallableNoise:
    """Noise from the caller's own function ``(sigma_from, sigma_to) -> tensor like x``, of unit variance."""

    function: Callable[[float, float], Any]

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """The function's answer, checked; ``out`` is not used.

        Raises
        ------
        TypeError, ValueError : the answer is not a tensor of the state's shape
        """
        noise = self.function(draw.sigma_from, draw.sigma_to)
        if not isinstance(noise, torch.Tensor):
            raise TypeError(f"noise(sigma_from, sigma_to) must return a tensor; got {type(noise).__name__}")
        if noise.shape != like.shape:
            raise ValueError(f"noise must have the state's shape {tuple(like.shape)}; got {tuple(noise.shape)}")
        if draw.limit < math.inf:  # of the whole tensor, as nothing is known of how its numbers are made
            noise = limited(noise.clone(), draw, noise.std(correction=min(1, noise.numel() - 1)))
        return noise.to(device=like.device, dtype=like.dtype)


def seeded_source(
    kind: str | Correlated, seeds: tuple[int, ...], process: Process | None
) -> SeededNoise | BrownianNoise | CorrelatedNoise:
    """The noise of a kind, "seeded", "brownian" or one of `ksched.noise.kinds`, for items of these seeds.

    Raises
    ------
    ValueError : another kind; a Brownian path without a process to say where its levels are
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
    """The noise of start states, white where ``noise`` is None.

    Raises
    ------
    TypeError, ValueError : no name and no kind of noise
    """
    return seeded_source(chosen_kind(noise), seeds, process)


def reseeded(source: NoiseSource, seeds: tuple[int, ...]) -> NoiseSource:
    """The same kind of noise for items of other seeds."""
    if isinstance(source, CorrelatedNoise):
        return source.with_seeds(seeds)
    return BrownianNoise(seeds, source.process) if isinstance(source, BrownianNoise) else SeededNoise(seeds)


def scheme_of(source: NoiseSource) -> str:
    """The name of the rule that makes a source's numbers, for a state that is saved."""
    if isinstance(source, CorrelatedNoise):
        return source.kind.scheme
    return SCHEMES["brownian" if isinstance(source, BrownianNoise) else "seeded"]


def source_by_scheme(scheme: str, seeds: tuple[int, ...], process: Process | None) -> NoiseSource:
    """The noise that goes on where a state was saved.

    Raises
    ------
    ValueError : a rule that this version does not have, whose noise would be other noise
    """
    for kind, name in SCHEMES.items():
        if name == scheme:
            return seeded_source(kind, seeds, process)
    if (correlated := kind_of_scheme(scheme)) is not None:
        return seeded_source(correlated, seeds, process)
    known = " and ".join(map(repr, [*SCHEMES.values(), *(kind.SCHEME for kind in (Colored, Pyramid, Offset))]))
    raise ValueError(
        f"this version of ksched makes noise by {known}; the state needs {scheme!r}: finish it with its own"
    )


def brownian_sampler(
    x: torch.Tensor, seed: Seed, process: Process | None = None
) -> Callable[[float | torch.Tensor, float | torch.Tensor], torch.Tensor]:
    """The path of `BrownianNoise` as a function, for code that takes k-diffusion's ``noise_sampler``.

    Parameters
    ----------
    x : a tensor of the shape, dtype and device that the noise shall have, batch first
    seed : one whole number (item i takes ``seed + i``) or one per item
    process : what a sigma means; None is `default_process`, and right wherever states are ``x0 + sigma * eps``

    Returns
    -------
    ``(sigma_from, sigma_to) -> tensor like x`` of unit variance; sigmas may be floats or tensors of one element

    Raises
    ------
    TypeError, ValueError : seeds as for `item_seeds`
    """
    source = BrownianNoise(item_seeds(seed, len(x)), default_process() if process is None else process)

    def noise(sigma_from: float | torch.Tensor, sigma_to: float | torch.Tensor) -> torch.Tensor:
        return source(Draw(float(sigma_from), float(sigma_to)), x)

    return noise


Noise: TypeAlias = Callable[[float, float], Any] | NoiseName | Correlated


def noise_source(
    draws: bool, batch: int, seed: Seed | None, noise: Noise | None, process: Process | None = None
) -> tuple[NoiseSource, tuple[int, ...] | None]:
    """Where a run's noise comes from, and the seeds of its items; arguments and errors as for `Run`."""
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
