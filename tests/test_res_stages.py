"""Exponential Runge-Kutta methods of stiff order: their order conditions, and the order on a stiff problem."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from representatives import each

from ksched import build_sampler
from ksched.samplers.blocks.weights import phi
from ksched.samplers.exponential_single_step import _etdrk4, linear, res_3s_rows
from ksched.samplers.res_stages import res_5s_rows, res_6s_rows
from ksched.types import Array


class Tableau(NamedTuple):
    """A method, the levels of its stages behind the first, and the order that it keeps on stiff problems."""

    name: str
    rows: Callable[[list[float], float], list[list[float]]]
    nodes: tuple[float, ...]
    stiff_order: int

    def weights(self, z: float) -> tuple[Array, Array]:
        """Weights a of the stages and b of the step, for a step of length z."""
        nodes = [*self.nodes, 1.0]
        count = len(nodes)
        table = np.zeros((count + 1, count))
        for k, (share, row) in enumerate(zip(nodes, self.rows(nodes, z), strict=True), 1):
            table[k, : len(row)] = np.array(row) * share * phi(1, -share * z)
        return table[:-1], table[-1]


METHODS = [
    Tableau("res_2s", linear, (0.5,), 2),
    Tableau("res_3s", res_3s_rows, (0.5, 1.0), 3),
    Tableau("res_5s", res_5s_rows, (0.5, 0.5, 1.0, 0.5), 4),
    Tableau("res_6s", res_6s_rows, (1 / 2, 1 / 2, 1 / 3, 1 / 3, 5 / 6), 4),
]
ETDRK4 = Tableau("etdrk4", _etdrk4, (0.5, 0.5, 1.0), 2)
STEPS = (0.0, 0.3, 1.0, 5.0)


def defects(method: Tableau, z: float) -> dict[str, Array]:
    """How far stages and step are from the integrals of 1, t and t squared over two."""
    nodes = np.array([0.0, *method.nodes])
    a, b = method.weights(z)
    stage = {
        k: a @ nodes ** (k - 1) / math.factorial(k - 1) - np.array([c**k * phi(k, -c * z) for c in nodes])
        for k in (1, 2, 3)
    }
    step = np.array([b @ nodes ** (k - 1) / math.factorial(k - 1) - phi(k, -z) for k in (1, 2, 3, 4)])
    return {"step": step, **{f"stage {k}": value for k, value in stage.items()}}


@each("method", METHODS)
def test_the_stiff_order_conditions_hold(method: Tableau) -> None:
    """Hochbruck & Ostermann 2005, table 5.2, those of the last order with the weights of z = 0, which is enough.

    Operators do not commute, so that a weight times a defect must vanish for two values of z, one for each.
    """
    order, nodes = method.stiff_order, np.array([0.0, *method.nodes])
    at_0 = method.weights(0.0)[1]
    assert abs(defects(method, 0.0)["step"][:order]).max() < 1e-13
    for z in STEPS:
        here = defects(method, z)
        assert abs(here["stage 1"]).max() < 1e-13
        assert abs(here["step"][: order - 1]).max() < 1e-12
        if order >= 3:
            assert abs(at_0 @ here["stage 2"]) < 1e-13
        if order >= 4:
            assert abs(at_0 @ here["stage 3"]) < 1e-13
            assert abs((at_0 * nodes) @ here["stage 2"]) < 1e-13
            for a, b in map(method.weights, STEPS):
                assert abs(b @ here["stage 2"]) < 1e-12
                assert abs(at_0 @ (a @ here["stage 2"])) < 1e-12


def parabolic_error(method: Tableau, steps: int, points: int = 63) -> float:
    """Largest error at time 1 on u' = u'' + 1 / (1 + u ** 2) + f, u = x (1 - x) exp(t), in sine waves.

    Hochbruck & Ostermann 2005, section 6: f is such that u is the solution. Its values of u'' do not vanish at the
    ends, which is what makes methods without the stiff conditions lose order.
    """
    x = np.arange(1, points + 1) / (points + 1)
    waves = math.sqrt(2 / (points + 1)) * np.sin(math.pi * np.outer(np.arange(1, points + 1), x))
    eigenvalues = (2 * (points + 1) * np.sin(math.pi * np.arange(1, points + 1) / (2 * points + 2))) ** 2
    h = 1 / steps
    nodes = [0.0, *method.nodes, 1.0]
    tables = np.array([np.vstack(method.weights(h * value)) for value in eigenvalues])
    decays = np.exp(-h * np.outer(nodes, eigenvalues))

    def force(u: Array, t: float) -> Array:
        exact = x * (1 - x) * math.exp(t)
        return 1 / (1 + u**2) + exact + 2 * math.exp(t) - 1 / (1 + exact**2)

    state = waves @ (x * (1 - x))
    for n in range(steps):
        outputs = [waves @ force(waves @ state, n * h)]
        for k in range(1, len(nodes)):
            reached = decays[k] * state + h * sum(tables[:, k, j] * outputs[j] for j in range(len(outputs)))
            if k < len(nodes) - 1:
                outputs.append(waves @ force(waves @ reached, (n + nodes[k]) * h))
        state = reached
    return float(abs(waves @ state - math.e * x * (1 - x)).max())


@each("method", [*METHODS, ETDRK4])
def test_the_order_on_a_parabolic_problem(method: Tableau) -> None:
    """If the linear part is stiff, methods of stiff order keep their order; ETDRK4 of order 4 loses it."""
    coarse, fine = (parabolic_error(method, steps) for steps in (32, 64))
    measured = math.log2(coarse / fine)
    if method is ETDRK4:
        assert measured < 3.0
        assert fine > 5 * parabolic_error(METHODS[2], 64)
    else:
        assert measured > method.stiff_order - 0.15


def test_five_stages_are_the_published_tableau() -> None:
    """Hochbruck & Ostermann 2005, eq. 5.19, entry by entry; and Simpson's rule where z is 0."""
    for z in STEPS:
        (one, two, three), (one_half, two_half, three_half) = ([phi(k, -s) for k in (1, 2, 3)] for s in (z, z / 2))
        a52 = two_half / 2 - three + two / 4 - three_half / 2
        a54 = two_half / 4 - a52
        published: list[list[float]] = [
            [0, 0, 0, 0, 0],
            [one_half / 2, 0, 0, 0, 0],
            [one_half / 2 - two_half, two_half, 0, 0, 0],
            [one - 2 * two, two, two, 0, 0],
            [one_half / 2 - 2 * a52 - a54, a52, a52, a54, 0],
        ]
        a, b = METHODS[2].weights(z)
        np.testing.assert_allclose(a, published, atol=1e-14)
        np.testing.assert_allclose(
            b, [one - 3 * two + 4 * three, 0, 0, 4 * three - two, 4 * two - 8 * three], atol=1e-13
        )
    np.testing.assert_allclose(METHODS[2].weights(0.0)[1], [1 / 6, 0, 0, 1 / 6, 2 / 3], atol=1e-15)


def test_six_stages_ask_for_pairs_that_do_not_need_each_other() -> None:
    for z in STEPS:
        a, b = METHODS[3].weights(z)
        assert a[3, 2] == a[5, 4] == 0
        assert not b[1:4].any()


@each("name", ["dpmpp_3m", "deis_2m", "exp_ab", "deis"])
def test_names_of_one_method_are_one_table(name: str) -> None:
    """A preset has the table of the sampler that it is, with the options that its name says."""
    sigmas = [14.0, 6.0, 2.5, 1.1, 0.4, 0.03, 0.0]
    same: dict[str, tuple[str, dict[str, Any]]] = {
        "dpmpp_3m": ("dpmpp_3m_sde", {"eta": 0.0}),
        "deis_2m": ("deis", {"order": 2}),
        "exp_ab": ("res_3m", {}),
        "deis": ("deis_3m", {}),
    }
    other, options = same[name]
    assert build_sampler(name, sigmas=sigmas).plan == build_sampler(other, sigmas=sigmas, **options).plan
