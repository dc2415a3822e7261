"""Posterior sampling: a denoiser of the data given an observation, ``E[x0 | x, y]`` for ``y = A x0 + noise``.

With ``x = alpha * x0 + s * eps`` the posterior mean is ``D + s ** 2 / alpha * grad log p(y | x)``, and the covariance
of x0 given x is ``C = s ** 2 / alpha * dD/dx`` (Tweedie). The rules differ in what they take for p(y | x).
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


#: How the law of an observation given a noised state is approximated.
Rule: TypeAlias = Literal["mmps", "pgdm", "tmpd", "dps"]


@dataclass(frozen=True)
class _Seen:
    """What a rule works with: vectors of the observation's shape, and maps to and from the state's."""

    residual: torch.Tensor  # y - A D
    count: torch.Tensor | int  # observed values of an item
    noise: float  # variance of the observation's noise
    ratio: torch.Tensor  # (s / alpha) ** 2
    push: Callable[[torch.Tensor], torch.Tensor]  # A v
    pull: Callable[[torch.Tensor], torch.Tensor]  # A^T v
    covariance: Callable[[torch.Tensor], torch.Tensor]  # C v
    solve: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] | None  # (variance A A^T + noise)^-1 r


# The rules: what to add to the prediction.


def _mmps(seen: _Seen, iterations: int) -> torch.Tensor:
    """``C A^T (A C A^T + std^2)^-1 r``: p(y | x) is normal with the covariance of x0 given x, by Tweedie.

    Exact for Gaussian data, once there are as many iterations as different eigenvalues of ``A C A^T``. For other data
    the first two moments are right and the shape is not.
    """

    def times(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        back = seen.covariance(seen.pull(p))
        return seen.noise * p + seen.push(back), back

    return conjugate_gradients(times, seen.residual, iterations)


def _pgdm(seen: _Seen, data_std: float, iterations: int) -> torch.Tensor:
    """``C A^T (v A A^T + std^2)^-1 r`` with ``v = s^2 d^2 / (s^2 + alpha^2 d^2)``, d the std of the data.

    Exact for Gaussian data of covariance ``d^2`` times one, and for no other.
    """
    variance = seen.ratio * data_std**2 / (seen.ratio + data_std**2)
    if seen.solve is not None:
        return seen.covariance(seen.pull(seen.solve(seen.residual, variance, seen.noise)))

    def times(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        back = seen.pull(p)
        return seen.noise * p + variance * seen.push(back), back

    return seen.covariance(conjugate_gradients(times, seen.residual, iterations))


def _tmpd(seen: _Seen) -> torch.Tensor:
    """``C A^T r / (A C A^T 1 + std^2)``: `_mmps` with a diagonal in place of the matrix, the sums of its rows.

    Exact for Gaussian data where ``A C A^T`` is diagonal, as under a mask of data with independent coordinates.
    """
    rows = seen.push(seen.covariance(seen.pull(torch.ones_like(seen.residual))))
    return seen.covariance(seen.pull(seen.residual / (rows.clamp_min(0) + seen.noise)))


def _dps(seen: _Seen, zeta: float) -> torch.Tensor:
    """``zeta C A^T r / max(std^2, mean r^2)``: x0 is taken for its prediction.

    Exact for data of one point alone. The paper divides by the norm of the residual as well, which keeps the step from
    running away where the prediction is still far off; here it is the mean square, so that zeta has no unit.
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
    """The denoiser of what an observation leaves open: samples of ``p(x0 | y)`` for ``y = A x0 + std * noise``.

    Parameters
    ----------
    denoiser : denoiser, differentiable by x; guidance too
    operator : A. A mask, bool or floating point, that broadcasts to the state, and what it hides in ``y`` is not looked
        at; a matrix, floating point of rank 2, on flattened items; a differentiable function of a batch; a linear one
        with its transpose, ``(forward, transpose)``; an object with ``forward`` and ``transpose``, or with ``A`` and
        ``A_adjoint`` as in deepinv
    y : the observation, of the shape that A makes, or of one that broadcasts to it: one for all items, or one for each
    std : of its noise, at least 0; above 0 for "tmpd" and "dps"
    rule : "mmps" is exact for Gaussian data, and for data of few modes the nearest of the four. "pgdm" is exact for
        Gaussian data of covariance ``data_std ** 2`` times one. "tmpd" is exact for Gaussian data where the covariance
        of the observation is diagonal, as under a mask of independent coordinates. "dps" is an approximation for all
        data but a single point. "pgdm" and "dps" take functions that are not linear, by their derivative
    process : what a state is; None is the denoiser's own if it knows one, else states ``x0 + sigma * eps``
    iterations : of conjugate gradients, for "mmps" (5; each is a product with the Jacobian of the denoiser) and for
        "pgdm" with functions (50; no work for the denoiser)
    data_std : standard deviation of the data, for "pgdm"; 1
    zeta : strength, for "dps"; 1

    Returns
    -------
    denoiser that returns what ``denoiser`` does, a pair or a tensor, without gradient; ``uncond`` is moved by as much
    as the prediction

    Raises
    ------
    TypeError, ValueError : arguments of the wrong type or size, an option of another rule; at the first call, before
        the denoiser's, shapes that do not fit, an operator that is not linear or a wrong transpose; a denoiser without
        gradient

    Notes
    -----
    Chung et al. 2022, arXiv:2209.14687 (DPS, with its own normalization of the step); Song et al. 2023, ICLR, PiGDM;
    Boys et al. 2023, arXiv:2310.06721 (TMPD with the sums of rows as diagonal; in full it is MMPS); Rozet et al. 2024,
    arXiv:2405.13712 (MMPS).

    Model calls are those of the denoiser; beside each, the products with its Jacobian, each of the cost of a backward
    pass: 1 for "pgdm" and "dps", 2 for "tmpd", ``iterations`` for "mmps". Nothing is read back from the device but at
    the first call, which tries a function on random vectors. Where alpha is less than 1e-3, as at the start of a flow,
    the denoiser is called at the level where it is 1e-3, since a state of pure noise does not show the covariance.
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
    """The rule with its options, checked."""
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
    """The variance of an observation's noise, checked."""
    number = checked_number("observed", "std", std, Between(0.0, sys.float_info.max))
    if number == 0 and rule in ("tmpd", "dps"):
        raise ValueError(f"observed: std must be above 0 for rule {rule!r}, which divides by it; got {std}")
    return number**2


def _target(operator: Operator, y: Any) -> torch.Tensor:
    """The observation, a tensor of its own, with nothing in it that a mask hides."""
    if not isinstance(y, torch.Tensor) or not y.is_floating_point():
        kind = y.dtype if isinstance(y, torch.Tensor) else type(y).__name__
        raise TypeError(f"y must be a floating-point tensor; got {kind}")
    with torch.inference_mode(False):
        try:
            target = operator.seen(y.detach().clone())
        except RuntimeError:
            raise ValueError(f"y must fit the mask; got shape {tuple(y.shape)}") from None
    if not bool(target.isfinite().all()):
        raise ValueError("y must be finite where it is observed; got nan or infinity")
    return target


def _check_shapes(operator: Operator, target: torch.Tensor, x: torch.Tensor, first: bool) -> None:
    """Raise unless operator and observation fit the state, and, the first time, a function is what it must be."""
    shape = operator.at(x).value.shape
    if not fits(target, shape):
        raise ValueError(
            f"y must broadcast to what the operator makes of a state of shape {tuple(x.shape)}, which is "
            f"{tuple(shape)}; got {tuple(target.shape)}"
        )
    if first:
        check_operator(operator, x)
