"""`tune`: a plan for one model and one number of calls, if it is better than all that are not made for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from ksched.execution.threads import one_thread
from ksched.options import check_steps
from ksched.plan.plan import Plan
from ksched.processes import Process
from ksched.processes.agreement import check_agreement, process_given
from ksched.samplers.auto import AutoEnd
from ksched.samplers.registry import sampler_spec
from ksched.tuning.from_denoiser import of_denoiser
from ksched.tuning.from_samples import of_samples
from ksched.tuning.job import Job
from ksched.tuning.search import Tuning
from ksched.types import Array

__all__ = ["Level", "tune"]

Level = Literal[0, 1, 2]

_LEAST_SAMPLES = 64
_MOST_STEPS = 50


def tune(
    source: Callable[..., Any] | Array | torch.Tensor,
    steps: int,
    *,
    process: Process | None = None,
    sampler: str | None = None,
    level: Level = 1,
    consistent: bool = False,
    end: AutoEnd | None = None,
    guidance: float = 1.0,
    labels: Sequence[int] | Array | torch.Tensor | None = None,
    data_std: float | None = None,
    shape: Sequence[int] | None = None,
    items: int | None = None,
    batch: int = 64,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> Plan:
    """A plan of so many steps for one model: levels and weights that fit it, if they are better than all others.

    Parameters
    ----------
    source : samples of the data, or latents, shape ``(samples, *shape)``, a few hundred or more: no model is called; or
        a denoiser, ``(x, sigma) -> denoised`` as for `ksched.Sampler.sample`, guidance and all
    steps : of the plan, 1 to 50; model calls, unless the sampler makes several a step
    process : what the model was trained on; None is that of the source if it knows one, as a `Denoiser` does, else
        Stable Diffusion's VP table
    sampler : keep this sampler and choose the levels alone; None is any plan of one model call per step
    level : how much is done. 0, choose among the shipped plans and the best pairs of sampler and schedule; 1, fit a
        mixture of Gaussians to the samples, or to what the model draws, and a plan to exact runs of it; 2, go on from
        there through the model itself by autograd, which needs a denoiser
    consistent : fit only plans that are exact for a constant prediction, whose steps take means of predictions and
        whose model is told the level of its state; otherwise level 2 frees the rows, and what the model is told
    end : "denoised", the result is the last prediction, for models that are noisy; None, what is better
    guidance : with samples, scale of the classifier-free guidance that the plan is for
    labels : with guidance, what every sample is; None guides towards the parts that are found in the samples
    data_std : standard deviation of the data; None measures it
    shape : of one item that a denoiser takes; None asks its attribute ``dimension``
    items : start states that plans are compared on, half of them held out; None is 128 for a denoiser, which is called
        about 200 times on each, and 1024 for samples, where that costs little
    batch : items of one call of a denoiser, at most
    device, dtype : of the states that a denoiser is called on
    seed : of everything random; the same seed makes the same plan on the same machine
    progress : show a progress bar (needs the extra ``cli``)
    options : of the sampler

    Returns
    -------
    a plan like any other, whose `Plan.report` says what was compared and why it was chosen. Errors there are root mean
    squares over the values of an item, relative to the spread of the data; those of a plan are mean, 90th percentile
    and worst of the items that were held out, the worst of 64 in the mean where there are more

    Raises
    ------
    TypeError, ValueError : too few samples, or such as are not finite; a denoiser that answers with another shape, nan,
        or something that is not the clean data, or that knows its process where it means other states than ``process``;
        arguments out of range

    Notes
    -----
    A plan is accepted only if, on the start states that it was not chosen on, it is better than the best pair that was
    not tuned, in the mean, in the 90th percentile and in the worst item; and by 8 % in the mean without outliers, since
    less may be chance. Without a model these are runs of a second mixture. A pair is returned otherwise, and the report
    says so.

    No mixture is quite the model, so half of what a plan is fitted to are runs of other mixtures, some of those that
    ``auto`` was fitted to (`ksched.tuning.reference_mixtures`): samples that mislead cost little then.

    Fitting a table of weights by gradients to runs whose ends are known is in the line of Bespoke solvers (Shaul et al.
    2023, arXiv:2310.19075), LD3 (Tong et al. 2024, arXiv:2405.15506) and S4S (Frankel et al. 2025, arXiv:2502.17423);
    running a mixture in place of the model is new as far as we know.
    """
    process = process_given(process, source)
    check_agreement(source, process, process.sigmas)
    job = Job(
        steps=_checked_steps(steps),
        process=process,
        sampler=None if sampler is None else sampler_spec(sampler).name,
        options=options,
        level=level,
        consistent=consistent,
        end=end,
        guidance=guidance,
        labels=None if labels is None else np.asarray(labels).ravel(),
        items=(128 if callable(source) and not isinstance(source, torch.Tensor) else 1024) if items is None else items,
        seed=seed,
        progress=progress,
    )
    job.check()
    with torch.inference_mode(False):  # tensors that are made in that mode cannot be fitted to
        if callable(source) and not isinstance(source, torch.Tensor):
            if job.labels is not None or guidance != 1:
                raise ValueError("guidance and labels are for samples; a denoiser has its guidance inside")
            like = torch.empty(0, dtype=dtype, device=device)
            return Tuning(job, of_denoiser(job, source, _shape_of(source, shape), data_std, like, batch)).plan()
        with one_thread():
            return Tuning(job, of_samples(job, _samples_of(source), data_std)).plan()


def _checked_steps(steps: int) -> int:
    check_steps(steps)
    if steps > _MOST_STEPS:
        raise ValueError(f"steps must be at most {_MOST_STEPS}; got {steps}. With more, any good pair is exact enough")
    return steps


def _samples_of(source: Any) -> Array:
    """Samples as a matrix, checked."""
    try:
        raw = source.detach().cpu().double().numpy() if isinstance(source, torch.Tensor) else np.asarray(source, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"source must be samples or a denoiser; got {type(source).__name__}") from error
    if raw.ndim < 1 or raw.size == 0 or len(raw) < _LEAST_SAMPLES:
        raise ValueError(
            f"samples must have shape (samples, *shape) with at least {_LEAST_SAMPLES} samples, better some hundred; "
            f"got shape {raw.shape}"
        )
    if not np.isfinite(raw).all():
        raise ValueError(f"samples must be finite; got {(~np.isfinite(raw)).sum()} values of {raw.size} that are not")
    flat: Array = raw.reshape(len(raw), -1)
    if not (flat.std(0) > 0).any() or len(np.unique(flat, axis=0)) < len(flat) // 2:
        raise ValueError("samples must differ; most of those given are the same")
    return flat


def _shape_of(denoiser: Any, shape: Sequence[int] | None) -> tuple[int, ...]:
    if shape is None and isinstance(getattr(denoiser, "dimension", None), int):
        return (denoiser.dimension,)
    if shape is None:
        raise ValueError("shape must say what one item is, such as shape=(4, 64, 64); a denoiser does not tell")
    made = tuple(int(n) for n in shape)
    if not made or min(made) < 1:
        raise ValueError(f"shape must be numbers of at least 1; got {tuple(shape)}")
    return made
