"""RES with five and six stages: exponential Runge-Kutta methods of stiff order 4."""

from __future__ import annotations

from ksched.plan.protocol import SamplerContext
from ksched.samplers.blocks.weights import V, lagrange_weights, moments, phi
from ksched.samplers.exponential_single_step import single_step
from ksched.samplers.peer_names import comfyui, res4lyf
from ksched.samplers.shipping import ships
from ksched.samplers.sources import NOISY
from ksched.schedules.grid import Grid

__all__ = ["res_5s", "res_5s_rows", "res_6s", "res_6s_rows"]


def _through(share: float, nodes: list[float], z: float) -> list[float]:
    """Weights of predictions at 0 and at ``nodes`` that integrate the polynomial through them exactly to ``share``.

    They sum to 1. All positions are shares of a step of length z.
    """
    whole = moments(-share * z, len(nodes) + 1)
    integrals = [integral / whole[0] for integral in whole]
    return lagrange_weights([0.0, *(node / share for node in nodes)], integrals)


def res_5s_rows(shares: list[float], z: float) -> list[list[float]]:
    """The five-stage method of Hochbruck & Ostermann 2005, eq. 5.19, with nodes 1/2, 1/2, 1 and 1/2."""
    (two, three), (two_half, three_half) = ([phi(k, -step) for k in (2, 3)] for step in (z, z / 2))
    one, half = phi(1, -z), phi(1, -z / 2) / 2
    second, fourth = two_half / half, two / one
    a52 = two_half / 2 - three + two / 4 - three_half / 2
    a54 = two_half / 4 - a52
    last = _through(1.0, shares[2:4], z)
    return [
        [1.0],
        [1 - second, second],
        [1 - 2 * fourth, fourth, fourth],
        [1 - (2 * a52 + a54) / half, a52 / half, a52 / half, a54 / half],
        [last[0], 0.0, 0.0, *last[1:]],
    ]


def res_6s_rows(shares: list[float], z: float) -> list[list[float]]:
    """The six-stage method of Luan 2021, whose stages come in independent pairs.

    Stages 3 and 4 follow the line through the first two predictions; stages 5 and 6 follow the parabola through the
    first, third and fourth; the step follows the parabola through the first, fifth and sixth. With c6 = (4 c5 - 3) /
    (6 c5 - 4), as between 1/3 and 5/6, that parabola is exact for cubics at small z, as order 4 requires.
    """
    c2, c3, c4, c5, c6, _ = shares
    fifth, sixth = (_through(share, [c3, c4], z) for share in (c5, c6))
    last = _through(1.0, [c5, c6], z)
    return [
        [1.0],
        _through(c3, [c2], z),
        [*_through(c4, [c2], z), 0.0],
        [fifth[0], 0.0, *fifth[1:]],
        [sixth[0], 0.0, *sixth[1:], 0.0],
        [last[0], 0.0, 0.0, 0.0, *last[1:]],
    ]


@ships(
    order=4,
    source="Hochbruck & Ostermann 2005",
    family="exponential_single_step",
    calls=5,
    peers=(
        comfyui(note=NOISY),
        comfyui("res_5s_ode", "of RES4LYF"),
        res4lyf("res_5s"),
        res4lyf("res_5s_ode"),
        res4lyf("res_5s_hochbruck-ostermann"),
    ),
)
def res_5s(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """RES, five stages: an exponential Runge-Kutta method of stiff order 4.

    Fourth order, five model calls per step and one for the step to sigma 0; deterministic. If the ODE is not stiff,
    `etdrk4` has the same order with one call fewer.

    Notes
    -----
    Hochbruck & Ostermann 2005, https://doi.org/10.1137/040611434, eq. 5.19, in data prediction.
    """
    return single_step(run, grid, x, [0.5, 0.5, 1.0, 0.5], res_5s_rows)


@ships(
    order=4,
    source="Luan 2021",
    family="exponential_single_step",
    calls=6,
    peers=(
        comfyui(note=NOISY),
        comfyui("res_6s_ode", "of RES4LYF"),
        res4lyf("res_6s"),
        res4lyf("res_6s_ode"),
    ),
)
def res_6s(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """RES, six stages: an exponential Runge-Kutta method of stiff order 4 with a smaller error than `res_5s`.

    Fourth order, six model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Luan 2021, https://doi.org/10.1007/s10543-020-00834-z, the fourth-order method with nodes 1/2, 1/2, 1/3, 1/3 and
    5/6, from its order conditions, in data prediction.
    """
    return single_step(run, grid, x, [1 / 2, 1 / 2, 1 / 3, 1 / 3, 5 / 6], res_6s_rows)
