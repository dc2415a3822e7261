"""Noise as a value: each draw depends only on the item's seed and on where in the run it acts.

It does not depend on batch size or order, on the device, on earlier draws, or on where a run was split. The global
random state is neither read nor changed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ksched.noise.streams import Seed, item_seeds

if TYPE_CHECKING:
    from ksched.noise.brownian import BrownianNoise
    from ksched.noise.kinds import Colored, Correlated, Offset, Pyramid
    from ksched.noise.seeded import SeededNoise
    from ksched.noise.sources import (
        SCHEMES,
        CallableNoise,
        NoiseSource,
        brownian_sampler,
        scheme_of,
        seeded_source,
        source_by_scheme,
    )

__all__ = [
    "SCHEMES",
    "BrownianNoise",
    "CallableNoise",
    "Colored",
    "Correlated",
    "NoiseSource",
    "Offset",
    "Pyramid",
    "Seed",
    "SeededNoise",
    "brownian_sampler",
    "item_seeds",
    "scheme_of",
    "seeded_source",
    "source_by_scheme",
]

# Names that draw tensors are imported on first use, so that the numbers alone need no torch.
_FILES = {"BrownianNoise": "brownian", "SeededNoise": "seeded"} | dict.fromkeys(
    ("Colored", "Correlated", "Offset", "Pyramid"), "kinds"
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"ksched.noise.{_FILES.get(name, 'sources')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
