"""Synthetic mixtures of Gaussians that stand in for all models: `auto` is fitted to them, and `tune` also uses some.

Members have a standard deviation of 1, give or take a quarter, as data is scaled for a network. There are single
Gaussians with the spectrum of images; mixtures of 4 to 12 Gaussians in 16 to 64 dimensions with partly similar
covariances, whose variance falls as a power of the axis number; clouds of 100 smoothed points; and mixtures under
classifier-free guidance of scale 2 to 9, where each item is guided to its own component.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ksched.tuning.batched_mixtures import Mixtures
from ksched.tuning.fit import Problem, exact_ends
from ksched.tuning.mixture_shapes import SHAPES

__all__ = ["GUIDED", "LARGE", "SMALL", "SMALLEST", "WIDE", "Kind", "zoo"]


@dataclass(frozen=True)
class Kind:
    """Members of one shape.

    Attributes
    ----------
    members : int
        Number of members.
    dimension, components : int
        Dimension and number of components of each member.
    of : str
        Name of the shape, one of `ksched.tuning.mixture_shapes.SHAPES`.
    guided : bool
        Whether each run is guided to a component of its own.
    items : int
        Runs of each member; guided members need more, since few of their runs explode.
    scales : tuple of float
        Range of the guidance scales.
    blocks : int
        Number of independent draws that together make one item, whose modes are the combinations of theirs.
    """

    members: int
    dimension: int
    components: int
    of: str = "mixture"
    guided: bool = False
    items: int = 16
    scales: tuple[float, float] = (2.0, 9.0)
    blocks: int = 1


#: members of every kind, for tables that are fitted once and shipped
LARGE = (
    Kind(4, 16, 12),
    Kind(4, 32, 5),
    Kind(6, 64, 10),
    Kind(6, 48, 100, "cloud"),
    Kind(5, 256, 1, "gaussian"),
    Kind(6, 24, 8, guided=True, items=40),
    Kind(6, 64, 10, guided=True, items=40),
)


#: many more kinds: from 2 dimensions to 1000, from white to steep spectra, from one mode to thousands. The time of a
#: step hardly depends on the size of a kind, so there are few kinds with many members each
WIDE = (
    Kind(10, 1000, 1, "spectra", items=6),
    Kind(12, 24, 8, items=12),
    Kind(8, 64, 10, items=12),
    Kind(10, 48, 100, "cloud", items=12),
    Kind(8, 2, 40, "tree", items=24),
    Kind(8, 16, 160, "tree"),
    Kind(6, 3, 60, "curve", items=24),
    Kind(6, 24, 120, "curve", items=12),
    Kind(8, 12, 20, "flakes", items=12),
    Kind(10, 20, 30, "flakes", items=12),
    Kind(6, 3, 6, "flakes", items=12, blocks=8),
    Kind(6, 1, 3, "flakes", items=8, blocks=32),
    Kind(10, 64, 12, "scales", items=12),
    Kind(10, 24, 8, "scales", items=12),
    Kind(8, 24, 8, guided=True, items=40),
    Kind(6, 64, 10, guided=True, items=40),
    Kind(6, 48, 100, "cloud", guided=True, items=32),
    Kind(6, 16, 120, "tree", guided=True, items=32),
    Kind(6, 20, 30, "flakes", guided=True, items=32),
)


#: guided members only, for tables that take the guidance scale
GUIDED = (
    Kind(6, 24, 8, guided=True, items=32),
    Kind(4, 64, 10, guided=True, items=32),
    Kind(6, 48, 100, "cloud", guided=True, items=24),
    Kind(6, 16, 120, "tree", guided=True, items=24),
)


#: some members, for tables that are fitted on the spot
SMALL = (
    Kind(4, 16, 6),
    Kind(2, 32, 10),
    Kind(2, 32, 40, "cloud"),
    Kind(3, 16, 6, guided=True, items=40),
    Kind(1, 32, 10, guided=True, items=40),
)


#: fewer, for fits with many calls
SMALLEST = (
    Kind(4, 16, 6),
    Kind(2, 32, 40, "cloud"),
    Kind(3, 16, 6, guided=True, items=24),
)


def _members(kind: Kind, seed: int) -> Mixtures:
    rng = np.random.default_rng(seed)
    made = [SHAPES[kind.of](rng, kind.dimension, kind.components) for _ in range(kind.members)]
    scale = np.exp(rng.uniform(-0.25, 0.25, kind.members))[:, None, None]
    logs, means = np.stack([m.logs for m in made]), np.stack([m.means for m in made])
    variances = np.stack([m.variances for m in made])
    variances *= scale**2 if variances.ndim == 3 else scale[..., 0] ** 2
    axes = None if made[0].axes is None else np.stack([m.axes for m in made if m.axes is not None])
    outside = scales = None
    if kind.guided:
        outside = np.full((kind.members, kind.items, kind.components), -1e9)
        for member, one in zip(outside, made, strict=True):
            for item in member:
                item[one.clusters == rng.choice(one.clusters)] = 0
        scales = rng.uniform(*kind.scales, (kind.members, 1, 1))
    return Mixtures(logs, means * scale, variances, axes, outside, scales)


@dataclass(frozen=True)
class _InBlocks:
    """Items made of several independent draws of a mixture, one after the other."""

    members: Mixtures
    dimension: int

    def to(self, dtype: torch.dtype) -> _InBlocks:
        """The same in another dtype."""
        return _InBlocks(self.members.to(dtype), self.dimension)

    def __call__(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """As `Mixtures`."""
        apart = y.reshape(len(y), -1, self.dimension)
        return self.members(apart, s).reshape(y.shape)


def zoo(
    s: float, kinds: Sequence[Kind], seed: int, *, steps: int = 200, dtype: torch.dtype = torch.float32
) -> list[Problem]:
    """Problems of every kind.

    Parameters
    ----------
    s : float
        Level that the runs start from, in flow coordinates.
    seed : int
        Seed of the members and their start states.
    steps : int
        Steps of the reference runs, whose results are taken as exact.
    dtype : dtype
        Dtype of the problems; in float32 a line search may end early.
    """
    problems = []
    for number, kind in enumerate(kinds):
        members = _members(kind, seed + number)
        generator = torch.Generator().manual_seed(seed + 100 + number)
        denoise: Mixtures | _InBlocks = members if kind.blocks == 1 else _InBlocks(members, kind.dimension)
        shape = (kind.members, kind.items, kind.dimension * kind.blocks)
        start = s * torch.randn(shape, generator=generator, dtype=torch.float64)
        ends = exact_ends(denoise, start, s, steps=steps)
        made = denoise.to(dtype), start.to(dtype), ends.to(dtype)
        problems.append(Problem.of(*made, models=True))
    return problems
