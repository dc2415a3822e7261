"""A plan as one step that is compiled once, and the tables in which the steps of a run differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ksched.arrays.plans import HasPlan, Model, answered, plan_of
from ksched.execution.matrices import Matrices, product
from ksched.plan.plan import Plan
from ksched.types import Array

__all__ = ["Scan", "scan"]


# Arrays of one shape: the registers held between two model calls; the model receives the first.
State: TypeAlias = tuple[Any, ...]


class Scan(NamedTuple):
    """The result of `scan`.

    Attributes
    ----------
    init : callable
        ``(x, noise) -> state``.
    step : callable
        ``(denoise, state, call) -> (state, None)``; pass ``partial(step, denoise)`` to `jax.lax.scan`.
    tables : ndarray
        float64, (nfe, registers, columns), read-only.
    """

    init: Callable[..., State]
    step: Callable[[Model, State, Any], tuple[State, None]]
    tables: Array


def scan(plan: Plan | HasPlan) -> Scan:
    """A plan for `jax.lax.scan`, or for any loop over steps that compiles only the first.

    Parameters
    ----------
    plan : Plan or Sampler
        A `ksched.Plan`, or a `ksched.Sampler`.

    Returns
    -------
    init : ``init(x)``, or ``init(x, noise[0])`` if the sampler draws noise: the state before the first model call, a
        tuple of arrays like ``x``
    step : ``step(denoise, state, call)`` is ``(next state, None)``. A call is one row of ``tables``, or (row, noises)
        if the sampler draws noise. ``denoise`` is called with the state's first array and sigma, a scalar. It is a
        pure function, the same program for every step
    tables : float64, one row for each model call: the weights of the held registers, of the predictions and of the
        noises, and sigma

    Notes
    -----
    ``noise`` comes from `ksched.arrays.noise` for seeded noise, or is an array of normal numbers with the same shape.
    After the last step, the result is ``state[0]``.

    The state has as many arrays as the plan ever holds at once, and a step multiplies all of them, so `run` does less
    arithmetic. Weights, sigma and noises are converted to the dtype of the state.

    Samplers whose ``tables[0]`` have the same shape can share a compiled program if the tables are its arguments.

    Examples
    --------
    The loop that `jax.lax.scan` runs, without JAX:

    >>> import ksched
    >>> sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 8)
    >>> def denoise(x, sigma):
    ...     return x / (1 + sigma**2)
    >>> x = ksched.arrays.initial_state(sampler, (2, 3), seed=7)
    >>> noise = ksched.arrays.noise(sampler, x.shape, seed=7)
    >>> init, step, tables = ksched.arrays.scan(sampler)
    >>> state = init(x, noise[0])
    >>> for call in zip(tables, noise[1:]):
    ...     state, _ = step(denoise, state, call)
    >>> bool(abs(state[0] - ksched.arrays.run(sampler, denoise, x, seed=7)).max() < 1e-5)
    True
    """
    form = Matrices(plan_of(plan))
    both, draws = form.both, form.draws
    first = form.first.tolist()
    early = any(any(row[1:]) for row in first)

    def init(x: Any, noise: Iterable[Any] = ()) -> State:
        noises = [_like(value, x) for value in noise]
        if len(noises) != draws and (early or noises):
            raise ValueError(f"the start needs {draws} noises, noise[0]; got {len(noises)}")
        return product(([float(w) for w in row[: 1 + len(noises)]] for row in first), (x, *noises))

    def step(denoise: Model, state: State, call: Any) -> tuple[State, None]:
        table, noise = call if isinstance(call, tuple) else (call, ())
        x = state[0]
        # known numbers become Python floats, which every kind of array accepts
        weights = table.tolist() if isinstance(table, np.ndarray) else _like(table, x)
        noises = [_like(value, x) for value in noise]
        if len(noises) != draws:
            raise ValueError(f"a step of this sampler needs {draws} noises, as (table, noise); got {len(noises)}")
        outputs = [_like(value, x) for value in answered(denoise, x, weights[0][-1], both)]
        return product(weights, (*state, *outputs, *noises)), None

    return Scan(init, step, form.with_sigmas)


def _like(value: Any, x: Any) -> Any:
    """An array converted to another's dtype."""
    if not hasattr(value, "dtype") or value.dtype == x.dtype:
        return value
    return value.astype(x.dtype) if hasattr(value, "astype") else value.to(x.dtype)
