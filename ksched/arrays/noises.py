"""Seeded noise as NumPy arrays: the same numbers that a run on tensors draws from the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ksched.arrays.plans import HasPlan, plan_of
from ksched.execution.matrices import Matrices
from ksched.kernels.normal_table import Floats
from ksched.noise.kinds import Correlated, NoiseName, named_numbers
from ksched.noise.streams import Seed, checked_shape, item_seeds
from ksched.plan.plan import Plan
from ksched.plan.rows import Draw

__all__ = ["initial_state", "noise"]


def initial_state(
    plan: Plan | HasPlan,
    shape: Sequence[int],
    *,
    seed: Seed,
    dtype: npt.DTypeLike = np.float32,
    noise: NoiseName | Correlated | None = None,
) -> npt.NDArray[Any]:
    """`ksched.Sampler.initial_state` as a NumPy array: pure noise at the level where a run starts.

    Parameters
    ----------
    plan : Plan or Sampler
        A `ksched.Plan`, or a `ksched.Sampler`.
    shape : sequence of int
        Shape of the state, batch first.
    seed : int or sequence of int
        One whole number (item i takes ``seed + i``) or one per item.
    dtype : dtype_like
        A floating point dtype.
    noise : as for `ksched.Sampler.initial_state`

    Returns
    -------
    array of that shape, with the same numbers as the tensor that the sampler makes from the seed

    Raises
    ------
    TypeError, ValueError
        For a shape without a batch axis; seeds that are not whole numbers or not one per item; unknown noise.
    """
    plan, shape = plan_of(plan), checked_shape(shape)
    eps = named_numbers(noise, item_seeds(seed, shape[0]), Draw(math.inf, math.inf), shape).astype(dtype)
    eps *= plan.start.sigma * plan.noise_scale
    return eps


def noise(
    plan: Plan | HasPlan, shape: Sequence[int], *, seed: Seed, noise: NoiseName | Correlated | None = None
) -> Floats:
    """All noises of a run in one array, for `scan`.

    Parameters
    ----------
    plan : Plan or Sampler
        A `ksched.Plan`, or a `ksched.Sampler`.
    shape : sequence of int
        Shape of the state, batch first.
    seed : as for `ksched.Sampler.sample`, which draws the same noises
    noise : str, Correlated or None
        None is white; else a name, such as "pink", or a kind of noise, as for `ksched.Sampler.sample`, except noise on
        a Brownian path.

    Returns
    -------
    float32, of shape (nfe + 1, draws of a step) followed by that of the state: first the noises before the first model
    call, for ``init``, then those after each call, for ``step``. If a step draws fewer than the others, the rest is 0

    Raises
    ------
    TypeError, ValueError
        As for `initial_state`.
    """
    form, shape = Matrices(plan_of(plan)), checked_shape(shape)
    seeds = item_seeds(seed, shape[0])
    result = np.zeros((form.nfe + 1, form.draws, *shape), np.float32)
    for call in range(-1, form.nfe):
        for place, (number, _) in enumerate(form.turn(call).draws):
            result[call + 1, place] = named_numbers(noise, seeds, form.plan.draws[number], shape)
    return result
