"""A plan as one step that is compiled once, and the tables that tell the steps of a run apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ksched.arrays.plans import HasPlan, Model, answered, plan_of
from ksched.execution.matrices import Matrices, product
from ksched.plan.plan import Plan
from ksched.types import Array

__all__ = ["Scan", "scan"]


# Arrays of one shape: what is held of a run between two model calls, of which the model sees the first.
State: TypeAlias = tuple[Any, ...]


class Scan(NamedTuple):
    """What `scan` returns.

    Attributes
    ----------
    init : ``(x, noise) -> state``
    step : ``(denoise, state, call) -> (state, None)``, as `jax.lax.scan` wants it of ``partial(step, denoise)``
    tables : float64, (nfe, registers, columns), read-only
    """

    init: Callable[..., State]
    step: Callable[[Model, State, Any], tuple[State, None]]
    tables: Array


def scan(plan: Plan | HasPlan) -> Scan:
    """A plan for `jax.lax.scan`, or for any loop over steps of which only the first is compiled.

    Parameters
    ----------
    plan : a `ksched.Plan`, or a `ksched.Sampler`

    Returns
    -------
    init : ``init(x)``, or ``init(x, noise[0])`` where the sampler draws noise: the state before the first model call, a
        tuple of arrays like ``x``
    step : ``step(denoise, state, call)`` is ``(next state, None)``. A call is one row of ``tables``, or (row, noises)
        where the sampler draws noise. ``denoise`` is called with the state's first array and sigma, a number without
        axes. A pure function, the same program for every step
    tables : float64, one row for every model call: the weights of what is held, of the predictions and of the noises,
        and sigma

    Notes
    -----
    ``noise`` is that of `ksched.arrays.noise` for noises of a seed, or an array of the same shape of normal numbers.
    After the last step the result is ``state[0]``.

    The state has as many arrays as the plan must hold at most, and a step multiplies all of them, so `run` does less
    arithmetic. Weights, sigma and noises are taken in the dtype of the state.

    Samplers of which ``tables[0]`` has one shape can share a compiled program if the tables are arguments of it.

    Examples
    --------
    Without JAX, the loop that `jax.lax.scan` is:

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
            raise ValueError(f"the start takes {draws} noises, noise[0]; got {len(noises)}")
        return product(([float(w) for w in row[: 1 + len(noises)]] for row in first), (x, *noises))

    def step(denoise: Model, state: State, call: Any) -> tuple[State, None]:
        table, noise = call if isinstance(call, tuple) else (call, ())
        x = state[0]
        # Numbers that are known are Python's own, which every kind of array takes.
        weights = table.tolist() if isinstance(table, np.ndarray) else _like(table, x)
        noises = [_like(value, x) for value in noise]
        if len(noises) != draws:
            raise ValueError(f"a step of this sampler takes {draws} noises, as (table, noise); got {len(noises)}")
        outputs = [_like(value, x) for value in answered(denoise, x, weights[0][-1], both)]
        return product(weights, (*state, *outputs, *noises)), None

    return Scan(init, step, form.with_sigmas)


def _like(value: Any, x: Any) -> Any:
    """An array in the dtype of another."""
    if not hasattr(value, "dtype") or value.dtype == x.dtype:
        return value
    return value.astype(x.dtype) if hasattr(value, "astype") else value.to(x.dtype)
