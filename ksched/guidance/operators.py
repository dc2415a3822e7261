"""Operators that turn an item into an observation: masks, matrices and functions, with their transposes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias, cast

import torch

from ksched.guidance.gradients import gradients
from ksched.guidance.tensors import item_dot, item_rows

__all__ = ["Function", "Mask", "Matrix", "Observed", "Operator", "Pair", "check_operator", "fits", "operator_of"]


_Map: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


_Solve: TypeAlias = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Observed:
    """An operator applied to one batch of predictions.

    Attributes
    ----------
    value : Tensor
        Observation of the predictions.
    push : callable
        Multiplies a change of the predictions by the operator, or by its derivative there.
    pull : callable
        Multiplies a vector of ``value``'s shape by the transpose.
    solve : callable or None
        The solution u of ``(variance * A A^T + noise) u = r`` from r, variance and noise; None if only products are
        available.
    """

    value: torch.Tensor
    push: _Map
    pull: _Map
    solve: _Solve | None = None


class Operator(Protocol):
    """A map from items to observations."""

    def at(self, denoised: torch.Tensor) -> Observed:
        """The operator applied to a batch of predictions."""
        ...

    def seen(self, values: torch.Tensor) -> torch.Tensor:
        """Observations, with 0 where nothing is observed."""
        ...

    def count(self, value: torch.Tensor) -> torch.Tensor | int:
        """The number of observed values of an item."""
        ...


class _Whole:
    """An operator whose values are all observed."""

    def seen(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def count(self, value: torch.Tensor) -> int:
        return item_rows(value).shape[1]


@dataclass(frozen=True)
class Mask:
    """Multiplies every value by a weight; where it is 0, nothing is observed."""

    weights: torch.Tensor

    def at(self, denoised: torch.Tensor) -> Observed:
        """The masked predictions, in the state's shape."""
        weights = self.weights.to(denoised)
        if not fits(weights, denoised.shape):
            raise ValueError(
                f"a mask must broadcast to the state's shape {tuple(denoised.shape)}; got {tuple(weights.shape)}"
            )

        def solve(r: torch.Tensor, variance: torch.Tensor, noise: float) -> torch.Tensor:
            return _divided(r, variance * weights**2 + noise)

        return Observed(weights * denoised, lambda v: weights * v, lambda v: weights * v, solve)

    def seen(self, values: torch.Tensor) -> torch.Tensor:
        """Values with zeros where the mask is 0."""
        return torch.where(self.weights.to(values.device) != 0, values, torch.zeros_like(values))

    def count(self, value: torch.Tensor) -> torch.Tensor:
        """The number of values of each item whose weight is not 0."""
        shown = (self.weights.to(value.device) != 0).expand(value.shape)
        return shown.flatten(1).sum(1).clamp_min(1).reshape(-1, *[1] * (value.ndim - 1))


@dataclass(frozen=True)
class Matrix(_Whole):
    """Multiplies the flattened item by a matrix of shape (observations, values)."""

    matrix: torch.Tensor

    def at(self, denoised: torch.Tensor) -> Observed:
        """Rows of observations, (batch, observations)."""
        matrix, shape = self.matrix.to(denoised), denoised.shape
        if matrix.shape[1] != math.prod(shape[1:]):
            raise ValueError(
                f"a matrix must have a column for each of the {math.prod(shape[1:])} values of an item of shape "
                f"{tuple(shape[1:])}; got shape {tuple(matrix.shape)}. A float tensor of rank 2 is taken as a matrix; "
                "make a mask of that rank bool, or add an axis, as in mask[None]"
            )

        def solve(r: torch.Tensor, variance: torch.Tensor, noise: float) -> torch.Tensor:
            sizes, axes = (part.to(r) for part in self._gram)
            return _divided(r @ axes, variance * sizes + noise) @ axes.T

        value = denoised.flatten(1) @ matrix.T
        return Observed(value, lambda v: v.flatten(1) @ matrix.T, lambda v: (v @ matrix).reshape(shape), solve)

    @cached_property
    def _gram(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvalues and eigenvectors of ``A A^T``; eigenvalues that are 0 to rounding are set to 0."""
        with torch.inference_mode(False), torch.no_grad():
            matrix = self.matrix.detach().double()
            sizes, axes = torch.linalg.eigh(matrix @ matrix.T)
            return torch.where(sizes > 1e-12 * sizes.amax(), sizes, 0.0), axes


@dataclass(frozen=True)
class Pair(_Whole):
    """A linear function and its transpose."""

    forward: _Map
    transpose: _Map

    def at(self, denoised: torch.Tensor) -> Observed:
        """The function's result for a batch."""

        def pull(v: torch.Tensor) -> torch.Tensor:
            back = _tensor("transpose", self.transpose(v), v)
            if back.shape != denoised.shape:
                raise ValueError(
                    f"the operator's transpose must return the state's shape {tuple(denoised.shape)}; got "
                    f"{tuple(back.shape)}"
                )
            return back

        def push(v: torch.Tensor) -> torch.Tensor:
            return _tensor("forward", self.forward(v), denoised)

        return Observed(push(denoised), push, pull)


@dataclass(frozen=True)
class Function(_Whole):
    """A differentiable function; its transpose is that of its derivative, by autograd."""

    forward: _Map
    linear: bool

    def at(self, denoised: torch.Tensor) -> Observed:
        """The function's result for a batch, and its derivative there."""
        with gradients():
            leaf = denoised.detach().clone().requires_grad_()
            value = _tensor("operator", self.forward(leaf), denoised)
        if not value.requires_grad:
            raise ValueError(
                "the operator must be differentiable by torch, and its result has no gradient; remove torch.no_grad() "
                "and detach() from it, or pass (forward, transpose)"
            )

        def pull(v: torch.Tensor) -> torch.Tensor:
            (product,) = torch.autograd.grad(value, leaf, v, retain_graph=True)
            return product

        def push(v: torch.Tensor) -> torch.Tensor:
            if self.linear:
                return _tensor("operator", self.forward(v), denoised)
            # The transposed product is linear in its vector, so its derivative is the product itself.
            with gradients():
                probe = torch.zeros_like(value).requires_grad_()
                (back,) = torch.autograd.grad(value, leaf, probe, create_graph=True)
                (product,) = torch.autograd.grad(back, probe, v)
            return product

        return Observed(value.detach(), push, pull)


def operator_of(operator: Any, linear: bool) -> Operator:
    """An operator from any of the accepted forms.

    Parameters
    ----------
    operator : object
        The user's argument.
    linear : bool
        Whether a function without a transpose must be linear.

    Raises
    ------
    TypeError, ValueError
        If the argument has none of these forms.
    """
    if isinstance(operator, torch.Tensor):
        if operator.dtype != torch.bool and not operator.is_floating_point():
            raise TypeError(f"operator must be a bool or floating-point tensor; got {operator.dtype}")
        if not bool(operator.isfinite().all()):
            raise ValueError("operator must be finite; got nan or infinity in it")
        return Matrix(operator) if operator.ndim == 2 and operator.is_floating_point() else Mask(operator)
    for forward, transpose in (("forward", "transpose"), ("A", "A_adjoint")):
        if callable(getattr(operator, forward, None)) and callable(getattr(operator, transpose, None)):
            return Pair(getattr(operator, forward), getattr(operator, transpose))
    if isinstance(operator, tuple) and len(operator) == 2 and all(map(callable, operator)):
        return Pair(*operator)
    if callable(operator):
        return Function(cast(_Map, operator), linear)
    raise TypeError(
        "operator must be a mask, a matrix, a differentiable function, (forward, transpose), or an object with "
        f"both; got {type(operator).__name__}"
    )


def check_operator(operator: Operator, x: torch.Tensor) -> None:
    """Raise an error unless a function is linear and its transpose correct, tested on random vectors.

    Parameters
    ----------
    operator : Operator
        Operator to test; masks and matrices are always linear.
    x : Tensor
        States that give the shape.

    Raises
    ------
    ValueError
        If the function is not linear, or the transpose is wrong.
    """
    if isinstance(operator, (Mask, Matrix)):
        return
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(x.shape, generator=generator).to(x) for _ in range(2))
    one, two, both = (operator.at(v) for v in (a, b, a + 2 * b))
    size = float(both.value.abs().amax()) if both.value.numel() else 0.0
    linear = isinstance(operator, Pair) or (isinstance(operator, Function) and operator.linear)
    if linear and not torch.allclose(both.value, one.value + 2 * two.value, rtol=0, atol=1e-3 * size):
        raise ValueError(
            "the operator must be linear for this rule, A(a + 2 b) = A(a) + 2 A(b), and it is not; subtract a constant "
            "from it and from y, or use rule='dps' or 'pgdm', which work with its derivative"
        )
    if isinstance(operator, Pair):
        v = torch.randn(one.value.shape, generator=generator).to(x)
        forth, back = item_dot(one.value, v).flatten(), item_dot(a, one.pull(v)).flatten()
        scale = (item_dot(one.value, one.value) * item_dot(v, v)).flatten().sqrt()
        if not bool(((forth - back).abs() <= 1e-3 * scale).all()):
            raise ValueError(
                f"the operator's transpose must match its forward: (A a) . v is {float(forth[0]):.6g}, but "
                f"a . (A^T v) is {float(back[0]):.6g}"
            )


def _tensor(name: str, value: Any, like: torch.Tensor) -> torch.Tensor:
    """The return value of a user's function, checked to be a batch."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"the operator's {name} must return a tensor; got {type(value).__name__}")
    if value.ndim == 0 or value.shape[0] != like.shape[0]:
        raise ValueError(
            f"the operator's {name} must return a batch of {like.shape[0]}, one observation per item; got shape "
            f"{tuple(value.shape)}"
        )
    return value.to(like.dtype)


def _divided(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The quotient, with 0 where the divisor is 0."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1.0), 0.0)


def fits(a: torch.Tensor, shape: torch.Size) -> bool:
    """Whether a tensor broadcasts to a shape."""
    short = (1,) * (len(shape) - a.ndim) + tuple(a.shape)
    return len(short) == len(shape) and all(m in (1, n) for m, n in zip(short, shape, strict=True))
