"""Posterior sampling: a denoiser of the data given an observation, ``E[x0 | x, y]`` for ``y = A x0 + noise``.

With ``x = alpha * x0 + s * eps`` the posterior mean is ``D + s ** 2 / alpha * grad log p(y | x)``, and the covariance
of x0 given x is ``C = s ** 2 / alpha * dD/dx`` (Tweedie). The rules differ in how they approximate p(y | x).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from ksched.denoisers.answer import Model
from ksched.guidance.gradients import highest_level, look, placed
from ksched.guidance.operators import Operator, check_operator, fits, operator_of
from ksched.guidance.scale import checked_number
from ksched.guidance.solving import conjugate_gradients
from ksched.guidance.tensors import check_callable, item_dot, sum_dtype
from ksched.names.spelling import did_you_mean
from ksched.options import Between, Option
from ksched.processes import Process
from ksched.processes.agreement import KnowsProcess, process_given

__all__ = ["Rule", "observed"]


#: Name of an approximation of the distribution of an observation given a noised state.
Rule: TypeAlias = Literal["mmps", "pgdm", "tmpd", "dps"]


@dataclass(frozen=True)
class _Seen:
    """The inputs of a rule: vectors of the observation's shape, and maps between it and the state's."""

    residual: torch.Tensor  # y - A D
    count: torch.Tensor | int  # observed values of an item
    noise: float  # variance of the observation's noise
    ratio: torch.Tensor  # (s / alpha) ** 2
    push: Callable[[torch.Tensor], torch.Tensor]  # A v
    pull: Callable[[torch.Tensor], torch.Tensor]  # A^T v
    covariance: Callable[[torch.Tensor], torch.Tensor]  # C v
    solve: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] | None  # (variance A A^T + noise)^-1 r


# The rules. Each returns what to add to the prediction.


def _mmps(seen: _Seen, iterations: int) -> torch.Tensor:
    """``C A^T (A C A^T + std^2)^-1 r``: p(y | x) is normal with the covariance of x0 given x, by Tweedie.

    Exact for Gaussian data once there are as many iterations as distinct eigenvalues of ``A C A^T``. For other data the
    first two moments are right and the shape is not.
    """

    def times(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        back = seen.covariance(seen.pull(p))
        return seen.noise * p + seen.push(back), back

    return conjugate_gradients(times, seen.residual, iterations)


def _pgdm(seen: _Seen, data_std: float, iterations: int) -> torch.Tensor:
    """``C A^T (v A A^T + std^2)^-1 r`` with ``v = s^2 d^2 / (s^2 + alpha^2 d^2)``, d the std of the data.

    Exact for Gaussian data with covariance ``d^2`` times the identity, and for no other.
    """
    variance = seen.ratio * data_std**2 / (seen.ratio + data_std**2)
    if seen.solve is not None:
        return seen.covariance(seen.pull(seen.solve(seen.residual, variance, seen.noise)))

    def times(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        back = seen.pull(p)
        return seen.noise * p + variance * seen.push(back), back

    return seen.covariance(conjugate_gradients(times, seen.residual, iterations))


def _tmpd(seen: _Seen) -> torch.Tensor:
    """``C A^T r / (A C A^T 1 + std^2)``: `_mmps` with the matrix replaced by a diagonal, the sums of its rows.

    Exact for Gaussian data where ``A C A^T`` is diagonal, such as data with independent coordinates under a mask.
    """
    rows = seen.push(seen.covariance(seen.pull(torch.ones_like(seen.residual))))
    return seen.covariance(seen.pull(seen.residual / (rows.clamp_min(0) + seen.noise)))


def _dps(seen: _Seen, zeta: float) -> torch.Tensor:
    """``zeta C A^T r / max(std^2, mean r^2)``: x0 is replaced by its prediction.

    Exact only for data that is a single point. The paper also divides by the norm of the residual, which keeps the step
    from diverging where the prediction is still far off. Here it is the mean square, so zeta has no unit.
    """
    mean = item_dot(seen.residual, seen.residual) / seen.count
    return zeta * seen.covariance(seen.pull(seen.residual / mean.clamp_min(seen.noise)))


def observed(
    denoiser: Model,
    operator: Any,
    y: torch.Tensor,
    std: float,
    rule: Rule = "mmps",
    *,
    process: Process | KnowsProcess | None = None,
    iterations: int | None = None,
    data_std: float | None = None,
    zeta: float | None = None,
) -> Model:
    """A denoiser for sampling given an observation: ``p(x0 | y)`` for ``y = A x0 + std * noise``.

    Parameters
    ----------
    denoiser : callable
        Denoiser, differentiable with respect to x; it may have guidance.
    operator : object
        A, in one of these forms. A mask, bool or floating point, that broadcasts to the state; values of ``y`` that it
        hides are ignored. A floating-point matrix of rank 2 that acts on flattened items. A differentiable function of
        a batch. A linear function with its transpose, ``(forward, transpose)``. An object with ``forward`` and
        ``transpose``, or with ``A`` and ``A_adjoint`` as in deepinv.
    y : Tensor
        The observation, in the shape that A returns or one that broadcasts to it: one for all items, or one for each.
    std : float
        Standard deviation of the observation's noise, at least 0; above 0 for "tmpd" and "dps".
    rule : {"mmps", "pgdm", "tmpd", "dps"}
        "mmps" is exact for Gaussian data, and the most accurate of the four for data with few modes. "pgdm" is exact
        for Gaussian data with covariance ``data_std ** 2`` times the identity. "tmpd" is exact for Gaussian data if the
        covariance of the observation is diagonal, as with independent coordinates under a mask. "dps" is an
        approximation for all data but a single point. "pgdm" and "dps" also take functions that are not linear, by
        their derivative.
    process : Process, KnowsProcess or None
        Process that the states belong to; None takes the denoiser's own if it knows one, and otherwise uses states
        ``x0 + sigma * eps``.
    iterations : int or None
        Number of conjugate-gradient iterations. For "mmps" the default is 5, and each is a product with the Jacobian of
        the denoiser. For "pgdm" with functions it is 50, which cost the denoiser nothing.
    data_std : float or None
        Standard deviation of the data, for "pgdm"; default 1.
    zeta : float or None
        Strength, for "dps"; default 1.

    Returns
    -------
    callable
        Denoiser that returns a pair or a tensor as ``denoiser`` does, without gradient; ``uncond`` is moved by as much
        as the prediction.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or size, or an option belongs to another rule; at the first call, before the
        denoiser is called, shapes do not fit, the operator is not linear or the transpose is wrong; the denoiser has no
        gradient.

    Notes
    -----
    Chung et al. 2022, arXiv:2209.14687 (DPS, with its own normalization of the step); Song et al. 2023, ICLR, PiGDM;
    Boys et al. 2023, arXiv:2310.06721 (TMPD with row sums as the diagonal; in full it is MMPS); Rozet et al. 2024,
    arXiv:2405.13712 (MMPS).

    Each model call is one call of the denoiser, plus products with its Jacobian that cost as much as a backward pass
    each: 1 for "pgdm" and "dps", 2 for "tmpd", ``iterations`` for "mmps". Nothing is read back from the device except
    in the first call, which tests functions on random vectors. Where alpha is below 1e-3, as at the start of a flow,
    the denoiser is called at the sigma where alpha is 1e-3, since a state of pure noise says nothing about the
    covariance.
    """
    check_callable("denoiser", denoiser)
    world = process_given(process, denoiser)
    correct = _rule_of(rule, {"iterations": iterations, "data_std": data_std, "zeta": zeta})
    noise = _noise_of(rule, std)
    kind = operator_of(operator, linear=rule in ("mmps", "tmpd"))
    target, highest = _target(kind, y), highest_level(world)
    fitting: set[torch.Size] = set()

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        here = placed(world, highest, x, sigma, "the observation")
        if x.shape not in fitting:
            _check_shapes(kind, target, x.detach().to(sum_dtype(x)), first=not fitting)
            fitting.add(x.shape)
        found = look(denoiser, x, here.sigma)
        view = kind.at(found.denoised)
        seen = _Seen(
            residual=target.to(view.value) - view.value,
            count=kind.count(view.value),
            noise=noise,
            ratio=((here.std / here.alpha) ** 2).reshape(-1, *[1] * (view.value.ndim - 1)),
            push=view.push,
            pull=view.pull,
            covariance=lambda v: here.std**2 / here.alpha * found.pull(v),
            solve=view.solve,
        )
        return found.moved(correct(seen), x.dtype)

    return denoise


_OPTIONS: dict[str, tuple[Callable[..., torch.Tensor], dict[str, Option]]] = {
    "mmps": (_mmps, {"iterations": Option("iterations", int, 5, 1, 10_000)}),
    "pgdm": (
        _pgdm,
        {
            "data_std": Option("data_std", float, 1.0, sys.float_info.min, sys.float_info.max),
            "iterations": Option("iterations", int, 50, 1, 10_000),
        },
    ),
    "tmpd": (_tmpd, {}),
    "dps": (_dps, {"zeta": Option("zeta", float, 1.0, 0.0, sys.float_info.max)}),
}


def _rule_of(rule: str, given: dict[str, Any]) -> Callable[[_Seen], torch.Tensor]:
    """The chosen rule with its options, checked."""
    if rule not in _OPTIONS:
        known = tuple(_OPTIONS)
        hint = did_you_mean(str(rule), known)
        raise ValueError(f"observed: rule must be one of {', '.join(map(repr, known))}; got {rule!r}{hint}")
    function, options = _OPTIONS[rule]
    values = {name: option.default for name, option in options.items()}
    for name, value in given.items():
        if value is None:
            continue
        if name not in options:
            owners = " and ".join(repr(other) for other, (_, own) in _OPTIONS.items() if name in own)
            raise ValueError(f"observed: {name} is an option of {owners}; rule {rule!r} has none of that name")
        values[name] = options[name].check("observed", value)
    return lambda seen: function(seen, **values)


def _noise_of(rule: str, std: float) -> float:
    """The variance of the observation's noise, checked."""
    number = checked_number("observed", "std", std, Between(0.0, sys.float_info.max))
    if number == 0 and rule in ("tmpd", "dps"):
        raise ValueError(f"observed: std must be above 0 for rule {rule!r}, which divides by it; got {std}")
    return number**2


def _target(operator: Operator, y: Any) -> torch.Tensor:
    """The observation as a new tensor, with 0 wherever the mask hides it."""
    if not isinstance(y, torch.Tensor) or not y.is_floating_point():
        kind = y.dtype if isinstance(y, torch.Tensor) else type(y).__name__
        raise TypeError(f"y must be a floating-point tensor; got {kind}")
    with torch.inference_mode(False):
        try:
            target = operator.seen(y.detach().clone())
        except RuntimeError:
            raise ValueError(f"y must broadcast with the mask; got shape {tuple(y.shape)}") from None
    if not bool(target.isfinite().all()):
        raise ValueError("y must be finite where it is observed; got nan or infinity")
    return target


def _check_shapes(operator: Operator, target: torch.Tensor, x: torch.Tensor, first: bool) -> None:
    """Raise an error unless operator and observation fit the state; the first time, also test a function."""
    shape = operator.at(x).value.shape
    if not fits(target, shape):
        raise ValueError(
            f"y must broadcast to the operator's result, which for a state of shape {tuple(x.shape)} has shape "
            f"{tuple(shape)}; got {tuple(target.shape)}"
        )
    if first:
        check_operator(operator, x)
