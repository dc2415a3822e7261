"""Noise as a value: each draw is a function of the item's seed and of where in the run it acts, and of nothing else.

So it does not depend on batch size or order, on the device, on how often anybody asked before, or on where a run was
split; the global random state is neither read nor moved.
"""

from ksched.noise.brownian import BrownianNoise
from ksched.noise.seeded import SeededNoise
from ksched.noise.sources import (
    SCHEMES,
    CallableNoise,
    NoiseSource,
    Seed,
    brownian_sampler,
    item_seeds,
    scheme_of,
    seeded_source,
    source_by_scheme,
)

__all__ = [
    "SCHEMES",
    "BrownianNoise",
    "CallableNoise",
    "NoiseSource",
    "Seed",
    "SeededNoise",
    "brownian_sampler",
    "item_seeds",
    "scheme_of",
    "seeded_source",
    "source_by_scheme",
]
