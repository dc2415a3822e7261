"""CFG++: samplers that step to the guided prediction with the noise of the unconditional one.

They ask the model for both predictions. If the two are equal, each equals the sampler of its name without ``_cfg_pp``.
"""

from __future__ import annotations

from math import expm1
from typing import Annotated, Literal, TypeVar

from ksched.names.enums import Dialect
from ksched.options import Dial, Finite, PeerValue, Share
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import ancestral, length, renoise
from ksched.samplers.blocks.stages import middle
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.blocks.weights import phi
from ksched.samplers.peer_names import a1111, comfyui, sd_cpp
from ksched.samplers.shipping import preset, ships
from ksched.samplers.sources import CFG_PP, OF_REFORGE
from ksched.schedules.grid import Grid

__all__ = [
    "cfgpp_ud10_ab",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2s_ancestral_cfg_pp",
    "euler_ancestral_cfg_pp",
    "euler_cfg_pp",
    "gradient_estimation_cfg_pp",
    "res_multistep_ancestral_cfg_pp",
    "res_multistep_cfg_pp",
]

V = TypeVar("V", bound=Vector)


def _guided(s: Level, t: Level, x: V, denoised: V, uncond: V) -> V:
    """`ddim` with the unconditional prediction's noise: Chung et al. 2024, arXiv:2406.08070, eq. 14."""
    r = t.sigma / s.sigma
    return r * x + t.alpha * denoised - r * s.alpha * uncond


@ships(
    order=1,
    source=CFG_PP,
    family="cfg_pp",
    draws=1,
    weak_order=1,
    uncond=True,
    spellings="euler_a_cfg++",
    peers=(
        comfyui(),
        comfyui("SamplerEulerAncestralCFGPP"),
        a1111("Euler Ancestral CFG++", OF_REFORGE),
        sd_cpp("euler_a_cfg_pp"),
    ),
    dialects={Dialect.COMFYUI: {"as_ve": False, "from_pure_noise": "all_new"}},
)
def euler_ancestral_cfg_pp(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    from_pure_noise: Literal["eta", "all_new"] = "eta",
) -> V:
    """CFG++ with Euler's method: a step to less noise than the next level has, then fresh noise up to that level.

    First order, one model call and one noise per step. ``eta`` = 0 is `euler_cfg_pp`.

    Parameters
    ----------
    eta : float or sequence of float
        Share of the noise that is drawn afresh.
    s_noise : float or sequence of float
        Factor on the noise.
    from_pure_noise : str
        Share of the noise that a step from pure noise draws afresh: "eta", as in every other step; "all_new" draws all
        of it unless eta is 0, as in ComfyUI, whose formula is undefined there.

    Notes
    -----
    Chung et al. 2024, arXiv:2406.08070, with noise as in DDIM; ComfyUI's ``sample_euler_ancestral_cfg_pp``.
    """
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        all_new = from_pure_noise == "all_new" and s.alpha == 0 and eta > 0
        down, up = ancestral(grid, s, t, 1.0 if all_new else eta)
        denoised, uncond = run.denoise_both(x, s)
        x = renoise(run, s, t, _guided(s, down, x, denoised, uncond), s_noise * up)
    return x


@ships(
    order=1,
    source=CFG_PP,
    family="cfg_pp",
    uncond=True,
    peers=(
        comfyui(),
        comfyui("SamplerEulerCFGpp", 'its version "alternative" is an option of the same name'),
        a1111("DDIM CFG++", "of Forge and later A1111; the scale is divided by 12.5 there"),
        a1111("Euler CFG++", OF_REFORGE),
        sd_cpp("euler_cfg_pp"),
    ),
    dialects={Dialect.COMFYUI: {"as_ve": False}},
)
def euler_cfg_pp(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    version: Annotated[Literal["regular", "alternative"], PeerValue("alternative")] = "regular",
) -> V:
    """CFG++ with Euler's method.

    First order, one model call per step, deterministic.

    Parameters
    ----------
    version : str
        "regular" is the paper's; "alternative" is an older one: Euler's method with twice the guided prediction minus
        the unconditional one, including in the step to sigma 0.

    Notes
    -----
    Chung et al. 2024, arXiv:2406.08070, algorithm 2; ComfyUI's node SamplerEulerCFGpp has both versions.
    """
    if version == "regular":
        return euler_ancestral_cfg_pp(run, grid, x, eta=0.0)
    for s, t in grid.steps():
        denoised, uncond = run.denoise_both(x, s)
        x = ddim(s, t, x, 2.0 * denoised - uncond)
    return x


@ships(
    order=2,
    source="ComfyUI",
    family="cfg_pp",
    uncond=True,
    peers=(
        comfyui(),
        a1111("DPM++ 2M CFG++", OF_REFORGE),
    ),
)
def dpmpp_2m_cfg_pp(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """CFG++ with DPM-Solver++ (2M): the guided prediction extrapolated from the last unconditional one.

    Second order without guidance, one model call per step, deterministic.

    Notes
    -----
    ComfyUI's ``sample_dpmpp_2m_cfg_pp``, in true log-SNR.
    """
    last: tuple[V, float] | None = None
    for s, t in grid.steps():
        denoised, uncond = run.denoise_both(x, s)
        h = t.lam - s.lam
        x = _guided(s, t, x, denoised, uncond)
        if last is not None and t.sigma > 0:
            x = x - (t.alpha * expm1(-h) / 2 * h / last[1]) * (denoised - last[0])
        last = uncond, h
    return x


@ships(
    order=2,
    source="ComfyUI",
    family="cfg_pp",
    calls=2,
    draws=1,
    weak_order=2,
    uncond=True,
    spellings="dpmpp_2s_a_cfg++",
    peers=(
        comfyui(),
        a1111("DPM++ 2S Ancestral CFG++", OF_REFORGE),
    ),
    dialects={Dialect.COMFYUI: {"shift_by": "second"}},
)
def dpmpp_2s_ancestral_cfg_pp(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    shift_by: Annotated[Literal["first", "second"], PeerValue("second")] = "first",
) -> V:
    """CFG++ with `dpmpp_2s_ancestral`: guidance shifts the state, then the state steps to the guided predictions.

    Second order without guidance; two model calls per step and one for the step to sigma 0, one noise per step.

    Parameters
    ----------
    eta : float or sequence of float
        Share of the noise that is drawn afresh.
    s_noise : float or sequence of float
        Factor on the noise.
    shift_by : str
        Unconditional prediction that shifts the state in the second half: that of the "first" call, or of the "second",
        with which an older ComfyUI overwrote it.

    Notes
    -----
    ComfyUI's ``sample_dpmpp_2s_ancestral_cfg_pp``, in units of sigma / alpha.
    """
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        down, up = ancestral(grid, s, t, eta)
        denoised, uncond = run.denoise_both(x, s)
        if t.sigma == 0:
            x = _guided(s, down, x, denoised, uncond)
        else:
            mid = middle(grid, s, down, t)
            moved = x + s.alpha * (denoised - uncond)
            after, later = run.denoise_both(ddim(s, mid, moved, denoised), mid)
            if shift_by == "second":
                moved = x + s.alpha * (denoised - later)
            x = ddim(s, down, moved, after)
        x = renoise(run, s, t, x, s_noise * up)
    return x


@ships(
    order=2,
    source="ComfyUI",
    family="cfg_pp",
    draws=1,
    weak_order=2,
    uncond=True,
    peers=(
        comfyui(),
        a1111("RES Multistep Ancestral CFG++", OF_REFORGE),
    ),
)
def res_multistep_ancestral_cfg_pp(
    run: SamplerContext[V], grid: Grid, x: V, *, eta: Dial = 1.0, s_noise: Dial = 1.0
) -> V:
    """CFG++ with `res_multistep_ancestral`: guidance shifts the state, then the state steps unconditionally.

    Second order without guidance; one model call per step, one noise per step if ``eta`` > 0. The first step is
    Euler's.

    Parameters
    ----------
    eta : float or sequence of float
        Share of the noise that is drawn afresh.
    s_noise : float or sequence of float
        Factor on the noise.

    Notes
    -----
    ComfyUI's ``sample_res_multistep_ancestral_cfg_pp``, in units of sigma / alpha.
    """
    last: tuple[V, Level] | None = None  # unconditional prediction and its level
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        down, up = ancestral(grid, s, t, eta)
        denoised, uncond = run.denoise_both(x, s)
        h = down.lam - s.lam
        if last is None or down.sigma == 0:
            x = _guided(s, down, x, denoised, uncond)
        else:
            moved = x + s.alpha * (denoised - uncond)
            before = length(grid, last[1], s, eta)
            x = ddim(s, down, moved, uncond) + (t.alpha * h * phi(2, -h) * h / before) * (uncond - last[0])
        x = renoise(run, s, t, x, s_noise * up)
        last = uncond, s
    return x


@preset(
    res_multistep_ancestral_cfg_pp,
    fixed={"eta": 0.0, "s_noise": 1.0},
    draws=0,
    weak_order=None,
    peers=(
        comfyui(),
        a1111("RES Multistep CFG++", OF_REFORGE),
    ),
)
def res_multistep_cfg_pp() -> None:
    """CFG++ with `res_multistep`.

    Second order without guidance; one model call per step, deterministic. The first step is Euler's.

    Notes
    -----
    ComfyUI's ``sample_res_multistep_cfg_pp``.
    """


@ships(
    order=1,
    source="ComfyUI",
    family="cfg_pp",
    uncond=True,
    peers=(
        comfyui(),
        a1111("Gradient Estimation CFG++", OF_REFORGE),
    ),
)
def gradient_estimation_cfg_pp(run: SamplerContext[V], grid: Grid, x: V, *, ge_gamma: Finite = 2.0) -> V:
    """CFG++ with `gradient_estimation`: the slope comes from the unconditional prediction.

    First order, one model call per step, deterministic. ``ge_gamma`` = 1 is `euler_cfg_pp`.

    Parameters
    ----------
    ge_gamma : float
        How far to extrapolate the slope; 1 does not extrapolate.

    Notes
    -----
    ComfyUI's ``sample_gradient_estimation_cfg_pp``, on every process.
    """
    straight = StraightLine(grid)
    last: V | None = None
    for s, t in grid.steps():
        denoised, uncond = run.denoise_both(x, s)
        if t.sigma == 0:
            return denoised
        slope = straight.slope(s, x, uncond)
        slope = slope if ge_gamma == 1 else run.keep(slope)
        x = _guided(s, t, x, denoised, uncond)
        if last is not None:
            x = x + (ge_gamma - 1) * straight.advance(s, t, slope - last)
        last = slope
    return x


@ships(
    order=0,
    source="ComfyUI",
    family="cfg_pp",
    uncond=True,
    ends_at_denoised=False,
    peers=(comfyui(),),
    dialects={Dialect.COMFYUI: {"as_ve": False}},
)
def cfgpp_ud10_ab(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    history: Share = 0.25,
    uncond_history: Share = 0.1,
    zero: Share = 1.0,
) -> V:
    """CFG++ that blends each step with the step before and extrapolates the end to sigma 0.

    One model call per step, deterministic. All weights 0 is `euler_cfg_pp`. With ``uncond_history`` above 0 it does not
    converge to the ODE: every step, however small, adds a share of the last change of the noise.

    Parameters
    ----------
    history : float
        Weight of a two-step Adams-Bashforth step within each step.
    uncond_history : float
        How far the unconditional slope is extrapolated, as a share of its last change.
    zero : float
        Weight, in the step to sigma 0, of the line through the last two predictions, extended to 0.

    Notes
    -----
    No paper; ComfyUI's ``sample_cfgpp_ud10_ab``, with its three constants as defaults.
    """
    straight = StraightLine(grid)
    last: tuple[Level, V, V, V] | None = None  # level, prediction, unconditional eps, slope of the step
    for s, t in grid.steps():
        denoised, uncond = run.denoise_both(x, s)
        back = 0.0
        eps = ahead = run.keep((x - s.alpha * uncond) / s.sigma)
        if last is not None:
            back = -1 / straight.nodes(s, t, [t, last[0]])[1]  # this step over the one before
            ahead = eps + (uncond_history * back) * (eps - last[2])
        target = t.alpha * denoised + t.sigma * ahead
        slope = run.keep(straight.slope_to(s, t, x, target))
        x = target
        if last is not None:
            x = x + (history * back / 2) * straight.advance(s, t, slope - last[3])
            if t.sigma == 0:
                x = (1 - zero) * x + zero * (denoised + back * (denoised - last[1]))
        last = s, denoised, eps, slope
    return x
