"""Single-step exponential methods in log-SNR: several model calls per step and no memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import Annotated, Literal, TypeVar

from ksched.names.enums import Dialect
from ksched.options import Between, Dial
from ksched.plan.protocol import SamplerContext, Vector
from ksched.samplers.blocks.stages import Rows, inner, stages
from ksched.samplers.blocks.weights import phi
from ksched.samplers.peer_names import a1111, comfyui, res4lyf, sd_cpp, sdnext
from ksched.samplers.shipping import IN_LOG_SNR, preset, ships
from ksched.samplers.sources import COX_MATTHEWS, NOISY, OF_REFORGE, PORTED, RES, SEEDS
from ksched.schedules.grid import Grid

__all__ = [
    "etdrk4",
    "exp_heun_2_x0",
    "exp_heun_2_x0_sde",
    "halves",
    "linear",
    "res_2s",
    "res_3s",
    "res_3s_rows",
    "seeds_2",
    "seeds_3",
    "single_step",
    "thirds",
]


V = TypeVar("V", bound=Vector)


Node = Annotated[float, Between(0.01, 1.0)]  # position of a stage, as a share of the step


InnerNode = Annotated[float, Between(0.01, 0.99)]


# --------------------------------------------------------------- the methods as rows of weights; each row sums to 1
def _ramp(z: float) -> float:
    """Weight of a change of the prediction that grows linearly over a step of length z; 1/2 for small z."""
    return phi(2, -z) / phi(1, -z)


def halves(shares: list[float], z: float) -> list[list[float]]:
    """DPM-Solver-2 and SEEDS-2: the second prediction has the weight 1 / (2 r)."""
    r = shares[0]
    return [[1.0], [1 - 1 / (2 * r), 1 / (2 * r)]]


def linear(shares: list[float], z: float) -> list[list[float]]:
    """The exact integral of the line through two predictions (ETD2RK, RES 2S)."""
    second = _ramp(z) / shares[0]
    return [[1.0], [1 - second, second]]


def thirds(shares: list[float], z: float) -> list[list[float]]:
    """DPM-Solver-3 and SEEDS-3: only the last stage counts."""
    r1, r2, _ = shares
    second, third = r2 / r1 * _ramp(r2 * z), _ramp(z) / r2
    return [[1.0], [1 - second, second], [1 - third, 0.0, third]]


def res_3s_rows(shares: list[float], z: float) -> list[list[float]]:
    """The family of three-stage methods of stiff order 3: Hochbruck & Ostermann 2005, eq. 5.9."""
    c2, c3, _ = shares
    gamma = (3 * c3 - 2) * c3 / ((2 - 3 * c2) * c2)
    a32 = (gamma * c2 * phi(2, -c2 * z) + c3**2 / c2 * phi(2, -c3 * z)) / (c3 * phi(1, -c3 * z))
    b3 = _ramp(z) / (gamma * c2 + c3)
    return [[1.0], [1 - a32, a32], [1 - (1 + gamma) * b3, gamma * b3, b3]]


def _etdrk4(shares: list[float], z: float) -> list[list[float]]:
    """ETDRK4: Cox & Matthews 2002, eq. 26 to 29."""
    one, two, three = (phi(k, -z) for k in (1, 2, 3))
    half = phi(1, -z / 2)
    first, middle = 0.5 * half * (exp(-z / 2) - 1) / one, (2 * two - 4 * three) / one
    last = (4 * three - two) / one
    return [[1.0], [0.0, 1.0], [first, 0.0, 1 - first], [1 - 2 * middle - last, middle, middle, last]]


def single_step(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    nodes: Sequence[float],
    rows: Rows,
    eta: Dial = 0.0,
    s_noise: Dial = 1.0,
) -> V:
    """A method with inner levels at given shares of each step; the step to sigma 0 makes one model call."""
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        if t.sigma == 0:
            return run.denoise(x, s)
        levels = [*(inner(grid, s, t, node) for node in nodes), t]
        x = stages(run, s, levels, x, rows, nodes=nodes, eta=eta, s_noise=s_noise)
    return x


# --------------------------------------------------------------------------------------------------------- samplers
@ships(
    order=2,
    source=SEEDS,
    family="exponential_single_step",
    calls=2,
    draws=2,
    weak_order=2,
    peers=(
        comfyui(),
        comfyui("SamplerSEEDS2"),
        a1111("SEEDS 2 DP", OF_REFORGE),
    ),
    dialects={Dialect.COMFYUI: IN_LOG_SNR},
)
def seeds_2(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    r: Node = 0.5,
    solver_type: Literal["phi_1", "phi_2"] = "phi_1",
) -> V:
    """SEEDS-2: a two-stage exponential method on the reverse SDE; its stages share their noise.

    Second order at ``eta`` = 0, where it is DPM-Solver++ (2S); two model calls per step and one for the step to sigma
    0, two noises per step.

    Parameters
    ----------
    eta : float or sequence of float
        Noise of the reverse SDE; 0 is the ODE.
    s_noise : float or sequence of float
        Factor on the noise.
    r : float
        How far into the step the second call is, in log-SNR.
    solver_type : str
        Weights of the two predictions: "phi_1" gives the second 1 / (2 r); "phi_2" is the exact integral of the line
        through them.

    Notes
    -----
    Gonzalez et al. 2023, arXiv:2305.14267, algorithm 2.
    """
    return single_step(run, grid, x, [r], halves if solver_type == "phi_1" else linear, eta, s_noise)


@preset(
    seeds_2,
    fixed={"eta": 0.0, "s_noise": 1.0, "r": 1.0, "solver_type": "phi_2"},
    source=COX_MATTHEWS,
    draws=0,
    weak_order=None,
    peers=(
        comfyui(),
        res4lyf("etdrk2_2s"),
        sdnext("ETD-RK 2S", PORTED),
    ),
)
def exp_heun_2_x0() -> None:
    """Heun's method as an exponential integrator of the prediction: `seeds_2` without noise and with r = 1.

    Second order, two model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    ETD2RK of Cox & Matthews 2002 in data prediction; ComfyUI's ``exp_heun_2_x0``.
    """


@preset(
    seeds_2,
    fixed={"r": 1.0, "solver_type": "phi_2"},
    source="ComfyUI",
    draws=1,
    peers=(comfyui(),),
)
def exp_heun_2_x0_sde() -> None:
    """`exp_heun_2_x0` on the reverse SDE: `seeds_2` with r = 1.

    Second order at ``eta`` = 0; two model calls per step and one for the step to sigma 0, one noise per step.

    Parameters
    ----------
    eta : float or sequence of float
        Noise of the reverse SDE; 0 is the ODE.
    s_noise : float or sequence of float
        Factor on the noise.

    Notes
    -----
    ComfyUI's ``exp_heun_2_x0_sde``.
    """


@ships(
    order=3,
    source=SEEDS,
    family="exponential_single_step",
    calls=3,
    draws=3,
    weak_order=2,
    peers=(
        comfyui(),
        a1111("SEEDS 3 DP", OF_REFORGE),
        res4lyf("dpmpp_3s", "DPM-Solver-3 in data prediction", read=False, eta=0.0),
    ),
    dialects={Dialect.COMFYUI: IN_LOG_SNR},
)
def seeds_3(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    r_1: InnerNode = 1 / 3,
    r_2: InnerNode = 2 / 3,
) -> V:
    """SEEDS-3: a three-stage exponential method on the reverse SDE; its stages share their noise.

    Third order at ``eta`` = 0, where it is DPM-Solver-3 in data prediction; three model calls per step and one for the
    step to sigma 0, three noises per step.

    Parameters
    ----------
    eta : float or sequence of float
        Noise of the reverse SDE; 0 is the ODE.
    s_noise : float or sequence of float
        Factor on the noise.
    r_1, r_2 : float
        How far into the step the second and third calls are, in log-SNR; third order needs r_2 = 2/3.

    Notes
    -----
    Gonzalez et al. 2023, arXiv:2305.14267, algorithm 4.
    """
    if not r_1 < r_2:
        raise ValueError(f"seeds_3: r_1 must be below r_2; got r_1={r_1}, r_2={r_2}")
    return single_step(run, grid, x, [r_1, r_2], thirds, eta, s_noise)


@ships(
    order=2,
    source=RES,
    family="exponential_single_step",
    calls=2,
    peers=(
        comfyui(note=NOISY),
        comfyui("res_2s_ode", "of RES4LYF"),
        sd_cpp("res_2s", "its eta adds noise as `euler_ancestral` does"),
        res4lyf("res_2s"),
        res4lyf("res_2s_ode"),
        sdnext("RES-Unified 2S", PORTED),
        sdnext("RES-Singlestep 2S", PORTED),
    ),
)
def res_2s(run: SamplerContext[V], grid: Grid, x: V, *, c2: Node = 0.5) -> V:
    """RES, two stages: the exact integral of the line through two predictions.

    Second order, two model calls per step and one for the step to sigma 0; deterministic. `seeds_2` with eta 0 and
    solver_type "phi_2".

    Parameters
    ----------
    c2 : float
        How far into the step the second call is, in log-SNR.

    Notes
    -----
    Zhang et al. 2023, arXiv:2308.02157, algorithm 1 without its noise.
    """
    return single_step(run, grid, x, [c2], linear)


@ships(
    order=3,
    source="Hochbruck & Ostermann 2005",
    family="exponential_single_step",
    calls=3,
    peers=(
        comfyui(note=NOISY),
        comfyui("res_3s_ode", "of RES4LYF"),
        res4lyf("res_3s"),
        res4lyf("res_3s_ode"),
        sdnext("RES-Unified 3S", PORTED),
        sdnext("RES-Singlestep 3S", PORTED),
    ),
)
def res_3s(
    run: SamplerContext[V], grid: Grid, x: V, *, c2: Annotated[float, Between(0.1, 0.66)] = 0.5, c3: Node = 1.0
) -> V:
    """RES, three stages: an exponential Runge-Kutta method of stiff order 3.

    Third order, three model calls per step and one for the step to sigma 0; deterministic.

    Parameters
    ----------
    c2, c3 : float
        How far into the step the second and third calls are, in log-SNR.

    Notes
    -----
    Hochbruck & Ostermann 2005, eq. 5.9; RES4LYF's ``res_3s``.
    """
    if not c2 < c3:
        raise ValueError(f"res_3s: c2 must be below c3; got c2={c2}, c3={c3}")
    return single_step(run, grid, x, [c2, c3], res_3s_rows)


@ships(
    order=4,
    source=COX_MATTHEWS,
    family="exponential_single_step",
    calls=4,
    peers=(
        res4lyf("etdrk4_4s"),
        res4lyf("res_4s_cox_matthews"),
        sdnext("ETD-RK 4S A", PORTED),
    ),
)
def etdrk4(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """ETDRK4, the classical Runge-Kutta method as an exponential integrator.

    Fourth order, four model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Cox & Matthews 2002, https://doi.org/10.1006/jcph.2002.6995, in data prediction; RES4LYF's ``etdrk4``.
    """
    return single_step(run, grid, x, [0.5, 0.5, 1.0], _etdrk4)
