"""Linear systems in the space of observations, solved for each item separately."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ksched.guidance.tensors import item_dot

__all__ = ["conjugate_gradients"]


def conjugate_gradients(
    times: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], right: torch.Tensor, iterations: int
) -> torch.Tensor:
    """``B u`` for the solution u of ``M u = right``, with M symmetric and positive semidefinite.

    Parameters
    ----------
    times : callable
        Maps v to (M v, B v); both are linear and act on each item separately.
    right : Tensor
        Right-hand side, batch first.
    iterations : int
        Number of products with M. An item stops changing once it is solved or M is not positive along its direction.

    Returns
    -------
    Tensor
        The sum, in the shape of ``B v``. It is accumulated from the products, so no product with u itself is needed.
    """
    residual = direction = right
    size = item_dot(right, right)
    enough = size * torch.finfo(right.dtype).eps ** 2
    result: torch.Tensor | None = None
    going = size > 0
    for _ in range(iterations):
        product, image = times(direction)
        curvature = item_dot(direction, product)
        going = going & (curvature > 0)
        step = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        # Reshaped to the image's own rank: the image has the state's shape, the step that of the observation.
        share = step.reshape(-1, *[1] * (image.ndim - 1))
        result = share * image if result is None else result + share * image
        residual = residual - step * product
        left = item_dot(residual, residual)
        ratio = torch.where(going, left / torch.where(going, size, 1.0), 0.0)
        direction, size = residual + ratio * direction, left
        going = going & (size > enough)
    assert result is not None  # there is at least one iteration
    return result
