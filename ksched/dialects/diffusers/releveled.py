"""Iterations at sigmas that a program has written over those of ``set_timesteps``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ksched.dialects.diffusers.conversions import conversions_of
from ksched.dialects.diffusers.iterations import Iterations
from ksched.dialects.diffusers.process import Settings, prediction_of
from ksched.dialects.diffusers.request import falling
from ksched.types import Array

__all__ = ["releveled"]


def releveled(made: Iterations, levels: Array, config: Settings, stock: str | None) -> Iterations:
    """Iterations of a ksched sampler at other sigmas, with unchanged timesteps for the network.

    Parameters
    ----------
    made : Iterations
        The original iterations.
    levels : ndarray of float64
        Contract sigma of each iteration, and of the end.
    config, stock : mapping, str or None
        Configuration and class of the model's scheduler.

    Raises
    ------
    ValueError
        If the sampler cannot run at these sigmas.
    """
    grid = [_written(made, levels, float(level)) for level in made.method.sigmas]
    method = replace(made.method, sigmas=tuple(falling(grid)[0]))
    calls = method.whole.call_sigmas
    missing = len(made) - len(calls)
    if not 0 <= missing <= 2:
        raise ValueError(f"sampler {method.sampler} must make {len(made)} calls at these sigmas; it makes {len(calls)}")
    calls = np.append(calls, [method.sigmas[-1]] * missing)
    conversions = conversions_of(method.process, prediction_of(config, stock), calls)
    return replace(made, method=method, sigmas=np.append(calls, method.sigmas[-1]), conversions=conversions)


def _written(made: Iterations, levels: Array, level: float) -> float:
    """The sigma that was written over a sigma of the grid."""
    became = {float(new) for old, new in zip(made.sigmas, levels, strict=True) if old == level}
    if len(became) != 1:
        raise ValueError(
            f"sigmas cannot be written here, because sampler {made.method.sampler} calls the model at sigmas between "
            "these; pass a list to set_timesteps"
        )
    return became.pop()
