"""Euler's method and its stochastic relatives: one model call per step and no memory."""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeVar

from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import Bound, Dial, DialShare, NonNegative, PeerValue, one_number
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import AncestralRule, ancestral, churn, renoise
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.peer_names import a1111, comfyui, diffusers, k_diffusion, res4lyf, sd_cpp, sdnext, skrample
from ksched.samplers.shipping import ships
from ksched.samplers.sources import EDM, OF_FORGE, PORTED
from ksched.schedules.grid import Grid

__all__ = ["boundary_scaling", "ddim_eta", "ddpm", "euler", "euler_ancestral", "lcm", "tcd"]

V = TypeVar("V", bound=Vector)


@ships(
    order=1,
    source=EDM,
    family="euler",
    spellings="k_euler FlowMatchEuler",
    peers=(
        comfyui(),
        k_diffusion("s_churn s_tmin s_tmax s_noise"),
        diffusers("EulerDiscreteScheduler", arguments="s_churn s_tmin s_tmax s_noise"),
        diffusers("EDMEulerScheduler", "on `EDM()`"),
        diffusers("FlowMatchEulerDiscreteScheduler", "on `Flow(shift)`"),
        diffusers("FlowMapEulerDiscreteScheduler", "on `Flow(shift)`, for networks of two times", read=False),
        diffusers("MiniMaxH3Scheduler", "on `Flow(12)`, for a velocity of the other sign"),
        a1111("Euler"),
        sd_cpp("euler"),
        skrample("Euler"),
        res4lyf("euler"),
        sdnext("Euler"),
        sdnext("Euler SGM", "on trailing levels, for networks that predict the sample", read=False),
        sdnext("Euler EDM", "on `EDM()`"),
        sdnext("Euler FlowMatch", "on `Flow(shift)`"),
        sdnext("Linear-RK Euler", PORTED),
    ),
    dialects={Dialect.DIFFUSERS: {"churn_after": True}},
)
def euler(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    s_churn: Dial = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Bound = math.inf,
    s_noise: Dial = 1.0,
    capped: bool = True,
    churn_after: Annotated[bool, PeerValue(True)] = False,
) -> V:
    """Euler's method on the probability-flow ODE, with EDM's churn.

    First order, one model call per step; deterministic unless ``s_churn`` > 0. The same as DDIM.

    Parameters
    ----------
    s_churn : float or sequence of float
        Total churn: before each step, sigma is raised by the share ``s_churn / steps`` of itself.
    s_tmin, s_tmax : float
        Range of sigmas in which noise is added.
    s_noise : float or sequence of float
        Factor on the noise.
    capped : bool
        Raise sigma by at most 41 % in a step, as EDM does.
    churn_after : bool
        Add the noise after the model call and continue with the eps from before it, as diffusers does.

    Notes
    -----
    Karras et al. 2022, arXiv:2206.00364, algorithm 2 without its second-order part. Churn is applied in sigma / alpha,
    so it is correct for flow processes too; k-diffusion's formula is not.
    """
    for s, t, s_churn, s_noise in grid.steps_with(s_churn, s_noise):
        if churn_after and s_churn > 0 and s.alpha > 0:
            denoised = run.denoise(x, s)
            eps = run.keep((x - s.alpha * denoised) / s.sigma)
            hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise, capped)
            x = (t.alpha / hat.alpha) * x + (t.sigma - t.alpha / hat.alpha * hat.sigma) * eps
        else:
            hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise, capped)
            x = ddim(hat, t, x, run.denoise(x, hat))
    return x


@ships(
    order=1,
    source="k-diffusion",
    family="euler",
    draws=1,
    weak_order=1,
    spellings="k_euler_a k_euler_ancestral",
    peers=(
        comfyui(),
        comfyui("SamplerEulerAncestral"),
        k_diffusion("eta s_noise noise_sampler"),
        diffusers("EulerAncestralDiscreteScheduler"),
        diffusers("LTXEulerAncestralRFScheduler", "on `Flow`, with levels given"),
        a1111("Euler a"),
        sd_cpp("euler_a"),
        sdnext("Euler a"),
    ),
    dialects={
        Dialect.COMFYUI: {"as_ve": False, "split": "comfyui"},
        Dialect.SD_CPP: {"as_ve": False, "split": "comfyui"},
        Dialect.DIFFUSERS: {"split": "comfyui"},
    },
)
def euler_ancestral(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    split: AncestralRule = "variance",
) -> V:
    """Euler's method to less noise than the next level has, then fresh noise up to that level.

    First order, one model call and one noise per step. ``eta`` = 0 is `euler`.

    Parameters
    ----------
    eta : float or sequence of float
        Share of the noise that is drawn afresh; 1 is DDPM.
    s_noise : float or sequence of float
        Factor on the noise.
    split : str
        How eta divides the noise on flow processes: "variance", as everywhere else; "comfyui" is linear in eta.

    Notes
    -----
    k-diffusion's ``sample_euler_ancestral``, in units of sigma / alpha.
    """
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        down, up = ancestral(grid, s, t, eta, split)
        x = renoise(run, s, t, ddim(s, down, x, run.denoise(x, s)), s_noise * up)
    return x


@ships(
    name="ddim",
    order=1,
    source="Song et al. 2020, arXiv:2010.02502",
    family="euler",
    weak_order=1,
    spellings="k_ddim",
    peers=(
        comfyui(note="its `euler`", inpaint={"random": True}),
        diffusers(
            "DDIMScheduler", "clips the prediction by default; its eta is an option of the same name", arguments="eta"
        ),
        diffusers("DDIMParallelScheduler", "as DDIMScheduler"),
        diffusers("CogVideoXDDIMScheduler", "on `VP(snr_shift=3.0)`"),
        diffusers("DDIMInverseScheduler", "runs upwards, from data to noise: `Sampler.invert` does better", read=False),
        a1111("DDIM", "on its own levels; its eta is an option of the same name", schedule=NoiseSchedule.DDIM_UNIFORM),
        sd_cpp("ddim_trailing", "its `euler_ancestral` without noise, on simple levels", read=False),
        res4lyf("ddim"),
        sdnext("DDIM"),
        sdnext("DDIM Parallel", "as DDIM"),
        sdnext("CogX DDIM", "on `VP(snr_shift=3.0)`"),
    ),
)
def ddim_eta(run: SamplerContext[V], grid: Grid, x: V, *, eta: Dial = 0.0, s_noise: Dial = 1.0) -> V:
    """DDIM: deterministic at ``eta`` = 0, DDPM's posterior at 1. It has the table of `euler_ancestral` at the same eta.

    First order, one model call per step, one noise per step if ``eta`` > 0.

    Parameters
    ----------
    eta : float or sequence of float
        Share of the noise that is drawn afresh.
    s_noise : float or sequence of float
        Factor on the noise.

    Notes
    -----
    Song et al. 2020, arXiv:2010.02502, eq. 12 and 16.
    """
    return euler_ancestral(run, grid, x, eta=eta, s_noise=s_noise)


@ships(
    order=1,
    source="Ho et al. 2020, arXiv:2006.11239",
    family="euler",
    draws=1,
    weak_order=1,
    spellings="k_ddpm",
    peers=(
        comfyui(note="leaves out a flow model's noise scale, which ours includes"),
        diffusers("DDPMScheduler", "with its default variance_type; clips the prediction by default"),
        diffusers("DDPMParallelScheduler", "as DDPMScheduler"),
        diffusers("DDPMWuerstchenScheduler", "on `Cascade()`"),
        diffusers("UnCLIPScheduler", "on `VP.cosine()`; there the model predicts the variance too"),
        a1111("DDPM", OF_FORGE),
        sdnext("DDPM"),
        sdnext("DDPM Parallel", "as DDPM"),
    ),
)
def ddpm(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    s_noise: Dial = 1.0,
    variance: Annotated[Literal["posterior", "beta", "beta_to_end"], PeerValue("beta", "beta_to_end")] = "posterior",
) -> V:
    """Ancestral sampling of DDPM with the posterior variance. It has the table of `euler_ancestral` at eta 1.

    First order, one model call and one noise per step.

    Parameters
    ----------
    s_noise : float or sequence of float
        Factor on the noise.
    variance : str
        Variance of the noise: "posterior" is the paper's smaller one, correct for data of a single point; "beta" is the
        larger one, correct for normal data of variance 1 (other data then has states with too much noise);
        "beta_to_end" is the larger one in the step to sigma 0 too, as in diffusers unless the last timestep is 0.

    Notes
    -----
    Ho et al. 2020, arXiv:2006.11239, algorithm 2, section 3.2.
    """
    if variance == "posterior":
        return euler_ancestral(run, grid, x, eta=1.0, s_noise=s_noise)
    for s, t, s_noise in grid.steps_with(s_noise):
        down, _ = ancestral(grid, s, t, 1.0)
        size = math.hypot(t.alpha, t.sigma)  # of a state scaled to variance 1
        kept = s.alpha * size / (math.hypot(s.alpha, s.sigma) * t.alpha)
        beta = (1 - kept) * (1 + kept) if t.sigma > 0 or variance == "beta_to_end" else 0.0
        x = renoise(run, s, t, ddim(s, down, x, run.denoise(x, s)), s_noise * size * math.sqrt(beta))
    return x


def boundary_scaling(s: Level, timestep: float, boundary: float, sigma_data: float = 0.5) -> tuple[float, float]:
    """Factors by which a consistency function multiplies a state and the prediction there, in this order.

    Parameters
    ----------
    s : Level
        Noise level of the state.
    timestep : float
        Timestep of that level.
    boundary, sigma_data : as for `lcm`
    """
    time = boundary * timestep
    skip, out = sigma_data**2 / (time**2 + sigma_data**2), time / math.hypot(time, sigma_data)
    return skip / math.hypot(s.alpha, s.sigma), out


@ships(
    order=0,
    source="Luo et al. 2023, arXiv:2310.04378",
    family="euler",
    draws=1,
    spellings="latent_consistency pingpong",
    peers=(
        comfyui(),
        comfyui("SamplerLCM", s_noise_end=1.0),
        diffusers("LCMScheduler", "on `VP(keep_every=20)`"),
        diffusers("FlowMatchLCMScheduler", "on `Flow(shift)`; without its scale_factors", boundary=0.0),
        diffusers(
            "CMStochasticIterativeScheduler",
            "on `EDM(0.002, 80)` with karras levels; adds a little less noise, and clips the prediction",
            boundary=0.0,
        ),
        diffusers("SCMScheduler", "on `AngleV`: its timesteps are angles", boundary=0.0),
        a1111("LCM"),
        sd_cpp("lcm"),
        sdnext("LCM", "on `VP(keep_every=20)`"),
        sdnext("LCM FlowMatch", "on `Flow(shift)`", boundary=0.0),
        sdnext("CMSI", "diffusers' CMStochasticIterativeScheduler", boundary=0.0),
    ),
    dialects={
        Dialect.COMFYUI: {"as_ve": False},
        Dialect.SD_CPP: {"as_ve": False},
        Dialect.DIFFUSERS: {"boundary": 10.0},
    },
)
def lcm(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    s_noise: Dial = 1.0,
    s_noise_end: NonNegative | None = None,
    noise_clip_std: NonNegative = 0.0,
    boundary: Annotated[NonNegative, PeerValue(10.0)] = 0.0,
    sigma_data: NonNegative = 0.5,
) -> V:
    """Multistep consistency sampling: the prediction, noised up to the next level with fresh noise only.

    For distilled models, which predict the end point of the ODE. One model call and one noise per step. With any other
    model the variance collapses, so no order is declared.

    Parameters
    ----------
    s_noise : float or sequence of float
        Factor on the noise.
    s_noise_end : float or None
        Factor on the noise in the last step, reached linearly over the steps; None keeps ``s_noise``.
    noise_clip_std : float
        Clip the noise at this many of its standard deviations (HiDream-O1: 2.5); 0 does not clip.
    boundary : float
        Apply the consistency function's boundary scaling, with timesteps multiplied by this number (diffusers: 10); 0
        if the model applies the scaling itself.
    sigma_data : float
        Data std of the boundary scaling.

    Notes
    -----
    Song et al. 2023, arXiv:2303.01469, algorithm 1; Luo et al. 2023, arXiv:2310.04378. The noise is scaled for the
    process (ComfyUI's ``noise_scaling``), so the sampler is correct on flow too. The last step goes to the last level;
    no noise is added if that is 0. Noise that a run draws counts as std 1, whatever its values; for noise of your own,
    and in ComfyUI, the std of the drawn tensor counts. With boundary scaling, the prediction becomes
    ``c_out * D + c_skip * x``, where x is the variance-preserving state.
    """
    if s_noise_end is not None:
        one_number("lcm: s_noise", s_noise, "s_noise_end sets how it changes")
    last, limit = max(len(grid) - 1, 1), noise_clip_std if noise_clip_std > 0 else math.inf
    for i, (s, t, s_noise) in enumerate(grid.steps_with(s_noise)):
        denoised = run.denoise(x, s)
        if boundary > 0:
            skip, out = boundary_scaling(s, grid.process.timestep(s.label), boundary, sigma_data)
            denoised = out * denoised + skip * x
        factor = s_noise if s_noise_end is None else s_noise + (s_noise_end - s_noise) * i / last
        x = renoise(run, s, t, t.alpha * denoised, factor * t.sigma, limit=limit)
    return x


@ships(
    order=1,
    source="Zheng et al. 2024, arXiv:2402.19159",
    family="euler",
    draws=None,
    peers=(
        diffusers("TCDScheduler", "on `VP(keep_every=20)`", arguments="eta"),
        sd_cpp("tcd"),
        sdnext("TCD", "on `VP(keep_every=20)`"),
    ),
    dialects={Dialect.DIFFUSERS: {"whole_timesteps": True}},
)
def tcd(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: DialShare = 0.3,
    s_noise: Dial = 1.0,
    whole_timesteps: bool = False,
) -> V:
    """Trajectory consistency sampling: a step to a lower level of the table, then noise up to the next level.

    First order, one model call and one noise per step. ``eta`` = 0 is `euler`. 1 is `lcm`, except that no step goes
    below the lowest level of the training table.

    Parameters
    ----------
    eta : float or sequence of float
        How far below the next level a step goes, as a share of that level's position in the table (the paper's gamma).
    s_noise : float or sequence of float
        Factor on the noise.
    whole_timesteps : bool
        Round that position down to a whole number, as the paper's program and diffusers do.

    Notes
    -----
    Zheng et al. 2024, arXiv:2402.19159, algorithm 4.
    """
    process = grid.process
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        place = max(process.position(t.label), 0.0)
        # round before flooring, both before and after the product: a whole position must not fall to the one below
        share = 1 - eta
        place = float(math.floor(round(share * round(place), 6))) if whole_timesteps else share * place
        low = process.level(process.sigma_at_position(place))
        if eta == 0 or low.lam <= t.lam:
            low = t
        # the lower state is scaled to the next level's alpha, then noise is added
        down = t._replace(sigma=t.alpha / low.alpha * low.sigma)
        x = renoise(run, s, t, ddim(s, down, x, denoised), s_noise * math.sqrt(max(t.sigma**2 - down.sigma**2, 0.0)))
    return x
