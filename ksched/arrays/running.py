"""A plan run on arrays, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ksched.arrays.plans import HasPlan, Model, answered, plan_of
from ksched.noise.streams import Seed, item_seeds, seeded_numbers
from ksched.plan.plan import Plan
from ksched.plan.rows import Draw, Register, Row

__all__ = ["run"]

A = TypeVar("A")


def run(
    plan: Plan | HasPlan,
    denoise: Model,
    x: A,
    noise: Callable[[float, float], A] | None = None,
    *,
    seed: Seed | None = None,
    asarray: Callable[[Any], A] | None = None,
) -> A:
    """The result of a plan on arrays of any kind that add, and multiply by floats.

    Parameters
    ----------
    plan : a `ksched.Plan`, or a `ksched.Sampler`
    denoise : ``(x, sigma) -> denoised``, sigma a float; or (denoised, uncond), where the sampler needs both. It must
        leave x as it is
    x : start state at the level ``sigmas[0]``, such as that of `initial_state`
    noise : ``(sigma_from, sigma_to) -> array like x`` of unit variance, where the sampler draws noise
    seed : instead of ``noise``, the seed of `ksched.Sampler.sample`, whose noises these are: one whole number (item i
        takes ``seed + i``) or one per item
    asarray : with a seed, what makes an array like ``x`` of one of NumPy, such as ``mlx.core.array``; None knows what
        to do for NumPy and for arrays that have ``__array_namespace__``, such as those of JAX and CuPy

    Returns
    -------
    array like ``x``: the state at ``sigmas[-1]``, x0 itself where that is 0

    Raises
    ------
    TypeError, ValueError : no plan; a plan that draws noise without ``noise`` or ``seed``, or both given; an answer of
        another shape

    Notes
    -----
    Every sum is made of new arrays, and nothing is written into ``x`` or into what the model returned, which may be the
    same buffer at every call. An array is let go as soon as no later row reads it.

    All arithmetic is that of the arrays: in float32 a result is that of `ksched.Sampler.sample` to rounding, in float64
    to 1e-12. With 16-bit numbers, let the state be float32 and the model convert it.

    A loop in Python, which a compiler unrolls: `scan` is for `jax.lax.scan`.

    Examples
    --------
    >>> import ksched
    >>> sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 20)
    >>> x = ksched.arrays.initial_state(sampler, (2, 10000), seed=7)
    >>> x0 = ksched.arrays.run(sampler, lambda x, sigma: x / (1 + sigma**2), x, seed=7)
    >>> print(f"{x0.std():.1f}")  # the model is that of standard normal data
    1.0
    """
    plan = plan_of(plan)
    drawn = _source(plan, x, noise, seed, asarray)
    state, held = x, dict[Register, Any]()
    ends = [k for k, row in enumerate(plan.rows) if row.level is not None] + [len(plan.rows)]
    calls = 0
    for k, row in enumerate(plan.rows):
        if row.terms:
            state = _formed(row, held, drawn)
        held = {register: value for register, value in held.items() if plan.last_use[register] > k}
        if row.level is not None:
            outputs = answered(denoise, state, row.level.label, row.both)
            calls += 1
            held |= _kept(plan, calls - 1, ends[calls], outputs)
            del outputs
        if Register("x", k) in plan.last_use:
            held[Register("x", k)] = state
    return state


def _kept(plan: Plan, call: int, after: int, outputs: tuple[Any, ...]) -> dict[Register, Any]:
    """What later rows read of an answer; copies of what they read after the next call, at the row ``after``.

    A model may use its buffers again then.
    """
    registers = (Register("D", call), Register("U", call))[: len(outputs)]
    return {
        register: value if plan.last_use[register] <= after else 1.0 * value
        for register, value in zip(registers, outputs, strict=True)
        if register in plan.last_use
    }


def _formed(row: Row, held: dict[Register, Any], drawn: Callable[[int], Any]) -> Any:
    """The state of a row; noises are drawn when they are first read, and put with what is held."""
    for register, _ in sorted(row.terms):
        if register.kind == "xi" and register not in held:
            held[register] = drawn(register.number)
    (first, scale), *rest = row.terms
    total = float(scale) * held[first]
    for register, value in rest:
        total = total + float(value) * held[register]
    return total


def _source(
    plan: Plan,
    x: Any,
    noise: Callable[[float, float], Any] | None,
    seed: Seed | None,
    asarray: Callable[[Any], Any] | None,
) -> Callable[[int], Any]:
    """The noise of each number of the plan's draws."""
    if noise is not None and seed is not None:
        raise ValueError("give either seed or noise, not both")
    if noise is not None:
        return partial(_asked, plan.draws, noise)
    if seed is None:
        if plan.draws:
            raise ValueError("this sampler draws noise: give seed=<int>, one seed per batch item, or noise=<callable>")
        return plan.draws.__getitem__  # which is never asked
    shape = tuple(x.shape)
    seeds, made = item_seeds(seed, shape[0]), asarray or _maker(x)
    return lambda number: made(seeded_numbers(seeds, plan.draws[number], shape))


def _asked(draws: tuple[Draw, ...], noise: Callable[[float, float], Any], number: int) -> Any:
    """A noise of the caller's own, cut off where the draw has a limit: of the whole array, whose law nobody knows."""
    draw = draws[number]
    answer = noise(draw.sigma_from, draw.sigma_to)
    if draw.limit == math.inf:
        return 1.0 * answer
    bound = draw.limit * answer.std(ddof=min(1, answer.size - 1))
    return answer.clip(-bound, bound)


def _maker(x: Any) -> Callable[[Any], Any]:
    """What makes an array like ``x`` of one of NumPy."""
    if isinstance(x, np.ndarray):
        return lambda numbers: numbers.astype(x.dtype)
    if hasattr(x, "__array_namespace__"):
        return partial(x.__array_namespace__().asarray, dtype=x.dtype)
    raise TypeError(
        f"seed= makes NumPy arrays, and how to make a {type(x).__name__} of one is not known: give asarray=<function>"
    )
