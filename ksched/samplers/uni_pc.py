"""UniPC: a unified predictor and corrector."""

from __future__ import annotations

from math import isfinite
from typing import Literal

from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import Count, Order
from ksched.plan.protocol import SamplerContext
from ksched.processes import Level
from ksched.samplers.blocks.steps import (
    adams,
    half_step,
    midpoint,
    output,
    with_last_twice,
)
from ksched.samplers.dpmpp import V
from ksched.samplers.peer_names import a1111, comfyui, diffusers, sdnext, skrample
from ksched.samplers.shipping import preset, ships
from ksched.samplers.sources import DROPS
from ksched.schedules.grid import Grid

__all__ = ["uni_pc", "uni_pc_bh2"]


@ships(
    order=2,
    source="Zhao et al. 2023, arXiv:2302.04867",
    family="exponential_multistep",
    spellings="uni_pc_bh1",
    peers=(
        comfyui(note=f"KSampler {DROPS}"),
        diffusers("UniPCMultistepScheduler"),
        a1111("UniPC", "on its own levels", schedule=NoiseSchedule.DDIM_UNIFORM),
        skrample("UniPC", "its orders go up to 9"),
        sdnext("UniPC"),
        sdnext("UniPC FlowMatch", "on `Flow(shift)`"),
    ),
    dialects={
        Dialect.COMFYUI: {"end_at": 0.001},
        Dialect.DIFFUSERS: {"order": 2, "variant": "bh2"},
        Dialect.SKRAMPLE: {"order": 2, "variant": "bh2"},
    },
)
def uni_pc(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    order: Order = 3,
    variant: Literal["bh1", "bh2"] = "bh1",
    predict: Literal["denoised", "eps"] = "denoised",
    corrector: bool = True,
    first_corrected: Count = 0,
    lower_order_final: bool = True,
    repeat_last: bool = False,
) -> V:
    """UniPC: an exponential multistep predictor, corrected with the model call of the next step.

    Nominal order 3; second order with ``lower_order_final``, which ends with a step of order 1. One model call per
    step, deterministic. ``order`` = 1 without corrector is `euler`.

    Parameters
    ----------
    order : int
        Order of the predictor; the corrector adds one.
    variant : str
        B(h) = h ("bh1") or exp(h) - 1 ("bh2"); they differ only where one difference is known.
    predict : str
        The quantity that is taken to be a polynomial: the denoised prediction, or eps.
    corrector : bool
        Whether to correct; this costs no model call.
    first_corrected : int
        Index of the first step whose result is corrected.
    lower_order_final : bool
        Lower the order towards the end, for few steps.
    repeat_last : bool
        Call the model once more at a last level above 0, to correct the state there (diffusers, where the last level is
        a repeat).

    Notes
    -----
    Zhao et al. 2023, arXiv:2302.04867, algorithms 5 to 8. With two or more differences B(h) cancels, and a step equals
    an Adams step. As in the paper's program, eps is not updated after the state is corrected. ComfyUI's
    ``uni_pc`` is bh1 with order 3, diffusers' default bh2 with order 2.
    """
    rule, eps = half_step if variant == "bh1" else midpoint, predict == "eps"
    past: list[tuple[float, V]] = []  # (lam, output), newest last
    before: tuple[Level, V, V] | None = None  # level, state and prediction of the last step
    levels = with_last_twice(grid) if repeat_last else grid.levels
    for i, (s, t) in enumerate(grid.steps(levels)):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        new = s.lam, output(run, s, x, denoised, eps)
        if corrector and i > first_corrected and before is not None:
            start, old, own = before
            corrected = run.keep(adams(start, s, old, [*past, new], 0.0, rule=rule, denoised=own if eps else None))
            denoised, x = (corrected - s.sigma * new[1]) / s.alpha if eps else denoised, corrected  # eps is not updated
        if t == s:
            return x
        past = [*(p for p in past if isfinite(p[0])), new][-order:]
        if lower_order_final:
            past = past[-(len(levels) - 1 - i) :]
        before = (s, x, denoised) if s.alpha > 0 or not eps else None
        x = adams(s, t, x, past, 0.0, rule=rule, denoised=denoised if eps else None)
    return x


@preset(
    uni_pc,
    fixed={"variant": "bh2"},
    peers=(comfyui(note="levels as for uni_pc"),),
)
def uni_pc_bh2() -> None:
    """`uni_pc` with B(h) = exp(h) - 1.

    Nominal order 3; second order with ``lower_order_final``, which ends with a step of order 1. One model call per
    step, deterministic.

    Parameters
    ----------
    order, predict, corrector, first_corrected, lower_order_final, repeat_last : as for `uni_pc`

    Notes
    -----
    Zhao et al. 2023, arXiv:2302.04867.
    """
