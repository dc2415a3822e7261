"""`tune`: a plan for one model and number of steps, returned only if it beats every plan not made for that model."""

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
    """A plan fitted to one model: its sigmas and weights, if they are better than every untuned pair.

    A pair is a sampler with a schedule.

    Parameters
    ----------
    source : callable, ndarray of float64 or Tensor
        Samples of the data, or latents, shape ``(samples, *shape)``, a few hundred or more; no model is called then. Or
        a denoiser ``(x, sigma) -> denoised`` as for `ksched.Sampler.sample`, with its guidance inside.
    steps : int
        Number of steps of the plan, 1 to 50. This is also its number of model calls (NFE), unless the sampler makes
        several calls per step.
    process : Process or None
        The process that the model was trained on. None takes it from a source that knows it, such as a `Denoiser`, and
        otherwise uses Stable Diffusion's VP table.
    sampler : str or None
        Keep this sampler and tune only the sigmas; None allows any plan with one model call per step.
    level : {0, 1, 2}
        How much work is done. 0 chooses among the shipped plans and the best pairs of sampler and schedule. 1 also fits
        a mixture of Gaussians to the samples, or to what the model draws, and then fits a plan to exact runs of that
        mixture; with a denoiser it also fits one to 40 runs of the model, by differences instead of gradients. 2, for
        a denoiser that gradients pass through, goes on with 160 runs.
    consistent : bool
        Fit only plans whose steps take means of predictions, with the model given the sigma of its state; at level 2 by
        gradients through the model. Otherwise rows and sigmas are also free: without restriction if they are fitted to
        the model; from samples, only from six steps on, and so that a constant prediction comes out unchanged.
    end : {"integral", "denoised"} or None
        "denoised" returns the last prediction, for models whose predictions are noisy; None takes whichever is better.
    guidance : float
        With samples, scale of the classifier-free guidance (CFG) that the plan is for.
    labels : sequence of int, ndarray of float64, Tensor or None
        With guidance, the class of each sample; None guides towards the clusters found in the samples.
    data_std : float or None
        Standard deviation of the data; None measures it.
    shape : sequence of int or None
        Shape of one item, for a denoiser; None reads the denoiser's attribute ``dimension``.
    items : int or None
        Number of start states on which plans are compared; half of them are held out. None is 128 for a denoiser, which
        is called about 200 times on each, and 1024 for samples, where that costs little.
    batch : int
        Largest number of items in one call of a denoiser.
    device, dtype : device, str, dtype or None
        Device and dtype of the states passed to a denoiser.
    seed : int
        Seed of all random numbers; the same seed gives the same plan on the same machine.
    progress : bool
        Show a progress bar (needs the extra ``cli``).
    options : object
        Options of the sampler.

    Returns
    -------
    Plan
        A plan like any other. Its `Plan.report` says what was compared and why this plan was chosen. Errors in the
        report are root mean squares over the values of an item, relative to the spread of the data. Each plan has the
        mean, the 90th percentile and the worst error of the held-out items; with more than 64 of them, "worst" is the
        worst of 64 on average.

    Raises
    ------
    TypeError, ValueError
        If the samples are too few or not finite; the denoiser answers with another shape, with nan or with something
        that is not the clean data, or knows a process with other states than ``process``; an argument is out of range.

    Notes
    -----
    A tuned plan is returned only if it beats the best untuned pair on start states that it was not chosen on: its mean,
    90th-percentile and worst error must all be lower, and its mean without outliers at least 8 % lower, since a smaller
    gain may be chance. If mean and 90th percentile are lower by 30 %, the worst error may be up to 1.5 times the
    pair's. Without a model, those runs come from a second mixture. Otherwise you get the best untuned pair, or the plan
    of ``auto`` if that is better, and the report says so.

    No mixture matches the model exactly. A tenth of the runs that a plan is fitted to are therefore those of other
    mixtures, which ``auto`` was fitted to (`ksched.tuning.reference_mixtures`). If a single Gaussian describes the
    samples best, it is half of the runs.

    Fitting a table of weights by gradients to runs with known results follows Bespoke solvers (Shaul et al. 2023,
    arXiv:2310.19075), LD3 (Tong et al. 2024, arXiv:2405.15506) and S4S (Frankel et al. 2025, arXiv:2502.17423). Running
    a mixture in place of the model is new as far as we know.
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
    with torch.inference_mode(False):  # tensors made in inference mode cannot be fitted to
        if callable(source) and not isinstance(source, torch.Tensor):
            if job.labels is not None or guidance != 1:
                raise ValueError("guidance and labels are for samples; apply guidance inside the denoiser instead")
            like = torch.empty(0, dtype=dtype, device=device)
            return Tuning(job, of_denoiser(job, source, _shape_of(source, shape), data_std, like, batch)).plan()
        with one_thread():
            return Tuning(job, of_samples(job, _samples_of(source), data_std)).plan()


def _checked_steps(steps: int) -> int:
    check_steps(steps)
    if steps > _MOST_STEPS:
        raise ValueError(f"steps must be at most {_MOST_STEPS}; got {steps}. With more, any good pair is accurate")
    return steps


def _samples_of(source: Any) -> Array:
    """Samples as a matrix, checked."""
    try:
        raw = source.detach().cpu().double().numpy() if isinstance(source, torch.Tensor) else np.asarray(source, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"source must be samples or a denoiser; got {type(source).__name__}") from error
    if raw.ndim < 1 or raw.size == 0 or len(raw) < _LEAST_SAMPLES:
        raise ValueError(
            f"samples must have shape (samples, *shape) with at least {_LEAST_SAMPLES} samples, better a few hundred; "
            f"got shape {raw.shape}"
        )
    if not np.isfinite(raw).all():
        raise ValueError(f"samples must be finite; got {(~np.isfinite(raw)).sum()} of {raw.size} values that are not")
    flat: Array = raw.reshape(len(raw), -1)
    if not (flat.std(0) > 0).any() or len(np.unique(flat, axis=0)) < len(flat) // 2:
        raise ValueError("samples must differ from each other; more than half of these are repeated")
    return flat


def _shape_of(denoiser: Any, shape: Sequence[int] | None) -> tuple[int, ...]:
    if shape is None and isinstance(getattr(denoiser, "dimension", None), int):
        return (denoiser.dimension,)
    if shape is None:
        raise ValueError("shape must be the shape of one item, such as shape=(4, 64, 64); the denoiser has none")
    made = tuple(int(n) for n in shape)
    if not made or min(made) < 1:
        raise ValueError(f"shape must be positive integers; got {tuple(shape)}")
    return made
