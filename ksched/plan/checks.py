"""Checks that a table of numbers is a plan that can be run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence, Set

from ksched.plan.rows import Draw, Register, Row
from ksched.processes import Level

__all__ = ["check_draws", "check_level", "check_rows", "check_sigmas"]

_LIMIT = 1 << 63  # bound on the integers that name a noise


def check_rows(rows: Sequence[Row], draws: int, steps: int, ends: Iterable[Level]) -> None:
    """Raise unless these rows can be run in order.

    Parameters
    ----------
    draws : int
        Number of noises.
    steps : int
        Number of schedule steps.
    ends : iterable of Level
        Levels of the first and last state, already checked.
    """
    if len(rows) < 2 or rows[0].terms or rows[-1].level is not None:
        raise ValueError("a plan must have a first row, which is given, and a last row, which is the result")
    calls = 0
    pairs = set[int]()  # calls that return the unconditional prediction too
    last, steps = 0, max(steps, 1)
    checked = {*ends}
    for k, row in enumerate(rows):
        if not last <= row.step < steps:
            raise ValueError(
                f"steps of rows must not decrease and must be below {steps}, the number of schedule steps; got "
                f"{row.step} in row x{k}"
            )
        last = row.step
        _check_terms(k, row, {"x": k, "D": calls, "xi": draws}, pairs)
        if row.level is not None:
            _check_told(k, row)
            for level in (row.level, row.state_level):
                if level is not None and level not in checked:
                    check_level(f"row x{k}", level)
                    checked.add(level)
            if row.both:
                pairs.add(calls)
            calls += 1
        elif row.state_level is not None:
            raise ValueError(f"row x{k} must have no state_level, because the model is not called on it")


def check_draws(draws: Sequence[Draw], read: Container[Register]) -> None:
    """Raise unless these noises are valid, all different, and all read by a row."""
    for m, draw in enumerate(draws):
        if not (draw.sigma_from >= 0 and draw.sigma_to >= 0):  # catches NaN too
            raise ValueError(f"noise xi{m} must be between sigmas of at least 0; got {draw}")
        if not (0 <= draw.visit < _LIMIT and -_LIMIT <= draw.stream < _LIMIT):
            raise ValueError(f"noise xi{m} must have a visit of at least 0 and a stream, both of 64 bits; got {draw}")
        if not draw.limit > 0:
            raise ValueError(f"noise xi{m} must have a limit above 0; got {draw}")
        if Register("xi", m) not in read:
            raise ValueError(
                f"noise xi{m} ({draw.sigma_from:g} to {draw.sigma_to:g}) must be used by a row; none uses it"
            )
    if len(set(draws)) < len(draws):
        (draw, _), *_ = Counter(draws).most_common(1)
        raise ValueError(f"every noise of a plan must be different; {draw} occurs twice")


def _check_terms(k: int, row: Row, known: Mapping[str, int], pairs: Set[int]) -> None:
    """Raise unless row ``k`` reads registers that already exist, each once, with finite coefficients.

    Parameters
    ----------
    known : mapping
        Number of registers of each kind so far.
    pairs : set of int
        Calls that return the unconditional prediction too.
    """
    for register, value in row.terms:
        kind, number = register
        if not (0 <= number < known.get(kind, 0) or (kind == "U" and number in pairs)):
            raise ValueError(f"row x{k} refers to {register}, which does not exist yet")
        if not math.isfinite(value):
            raise ValueError(f"row x{k} (step {row.step}) must have finite coefficients; got {value} for {register}")
    if k and not row.terms:
        raise ValueError(f"row x{k} must have terms; only the first row is empty, because its state is given")
    if len(dict(row.terms)) < len(row.terms):
        raise ValueError(f"row x{k} must read each register once; it has two coefficients for one register")


def _check_told(k: int, row: Row) -> None:
    """Raise for a row that gives its state's level twice."""
    if row.state_level == row.level:
        raise ValueError(f"row x{k} must leave out state_level if it equals the level given to the model")


def check_sigmas(sigmas: tuple[float, ...]) -> None:
    """Raise unless these can be levels; a run may rise, and a caller's list may repeat one."""
    if not sigmas or not all(sigma >= 0 for sigma in sigmas) or math.inf in sigmas[1:-1]:  # catches NaN too
        raise ValueError("the sigmas of a plan must be one or more numbers >= 0, finite except at the two ends")


def check_level(where: str, level: Level) -> None:
    """Raise unless a level is valid: alpha, sigma and lam are numbers that agree.

    Notes
    -----
    How a process computes alpha and sigma is not checked. Only the half log-SNR is, up to the errors that float32
    formulas, and differences such as 1 - sigma, may introduce.
    """
    label, alpha, sigma, lam = level
    # Other programs' churn goes beyond a flow's pure noise, where alpha is negative. NaN fails here too.
    if not (label >= 0 and math.isfinite(alpha) and 0 <= sigma < math.inf and (alpha > 0 or sigma > 0)):
        raise ValueError(f"{where} must have a level of finite numbers, with label and sigma >= 0; got {level}")
    if alpha <= 0 or sigma == 0:
        fits = lam == (math.inf if sigma == 0 else -math.inf) or (lam > 30 if sigma == 0 else lam < -30)
    else:
        rounding = 1e-6 * (1 + abs(lam)) + 1e-15 * (1 / alpha + 1 / sigma)
        fits = math.isfinite(lam) and abs(math.log(alpha) - math.log(sigma) - lam) <= rounding
    if not fits:
        raise ValueError(f"{where} must have a level with lam = log(alpha / sigma); got {level}")
