"""Running a plan on arrays, row by row."""

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
    """The result of a plan, on any arrays that can be added and multiplied by floats.

    Parameters
    ----------
    plan : Plan or Sampler
        A `ksched.Plan`, or a `ksched.Sampler`.
    denoise : callable
        ``(x, sigma) -> denoised``, sigma a float; or (denoised, uncond), if the sampler needs both. It must not modify
        x.
    x : array
        Start state at ``sigmas[0]``, such as that of `initial_state`.
    noise : callable or None
        ``(sigma_from, sigma_to) -> array like x`` of unit variance, if the sampler draws noise.
    seed : int, sequence of int or None
        Instead of ``noise``, a seed as for `ksched.Sampler.sample`, with the same noises: one whole number (item i
        takes ``seed + i``) or one per item.
    asarray : callable or None
        With a seed, a function that converts a NumPy array to an array like ``x``, such as ``mlx.core.array``. None
        works for NumPy and for arrays with ``__array_namespace__``, such as those of JAX and CuPy.

    Returns
    -------
    array like ``x``: the state at ``sigmas[-1]``, which is x0 if that is 0

    Raises
    ------
    TypeError, ValueError
        For anything that is not a plan; a plan that draws noise with neither ``noise`` nor ``seed``, or both given; an
        answer of the wrong shape.

    Notes
    -----
    Every sum makes new arrays. Nothing is written to ``x`` or to the model's output, which may be the same buffer at
    every call. An array is released as soon as no later row reads it.

    All arithmetic is that of the arrays: a float32 result equals that of `ksched.Sampler.sample` up to rounding, a
    float64 result to 1e-12. For 16-bit models, keep the state in float32 and let the model convert it.

    This is a Python loop, which a compiler unrolls; use `scan` with `jax.lax.scan`.

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
    given: object = x  # a narrowed x would no longer be of the caller's type
    if isinstance(given, list | tuple | str):
        raise TypeError(f"x must be an array with the batch first; got {type(given).__name__}")
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
    """The values that later rows read of an answer; copies of those read after the next call, at row ``after``.

    The model may reuse its buffers at the next call.
    """
    registers = (Register("D", call), Register("U", call))[: len(outputs)]
    return {
        register: value if plan.last_use[register] <= after else 1.0 * value
        for register, value in zip(registers, outputs, strict=True)
        if register in plan.last_use
    }


def _formed(row: Row, held: dict[Register, Any], drawn: Callable[[int], Any]) -> Any:
    """The state of a row; noises are drawn on first use and stored with the held registers."""
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
    """A function that makes the noise of each of the plan's draws."""
    if noise is not None and seed is not None:
        raise ValueError("give either seed or noise, not both")
    if noise is not None:
        return partial(_asked, plan.draws, noise)
    if seed is None:
        if plan.draws:
            raise ValueError("this sampler draws noise: give seed=<int>, one seed per batch item, or noise=<callable>")
        return plan.draws.__getitem__  # never called
    shape = tuple(x.shape)
    seeds, made = item_seeds(seed, shape[0]), asarray or _maker(x)
    return lambda number: made(seeded_numbers(seeds, plan.draws[number], shape))


def _asked(draws: tuple[Draw, ...], noise: Callable[[float, float], Any], number: int) -> Any:
    """Your own noise for a draw, clipped at the draw's limit relative to the whole array, whose law is unknown."""
    draw = draws[number]
    answer = noise(draw.sigma_from, draw.sigma_to)
    if draw.limit == math.inf:
        return 1.0 * answer
    bound = draw.limit * answer.std(ddof=min(1, answer.size - 1))
    return answer.clip(-bound, bound)


def _maker(x: Any) -> Callable[[Any], Any]:
    """A function that converts a NumPy array to an array like ``x``."""
    if isinstance(x, np.ndarray):
        return lambda numbers: numbers.astype(x.dtype)
    if hasattr(x, "__array_namespace__"):
        return partial(x.__array_namespace__().asarray, dtype=x.dtype)
    raise TypeError(
        f"asarray must be given with seed= here: no way is known to make a {type(x).__name__} from a NumPy array; give "
        "asarray=<function>"
    )
