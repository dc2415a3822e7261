"""The demonstration: digits sampled from noise, and what every sampler and schedule gets wrong, measured exactly.

The model is the exact denoiser of a Gaussian mixture fitted to handwritten digits (`ksched.exact.digits`), so nothing
is trained, downloaded or estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ksched.analysis import gaussian_errors
from ksched.exact import GaussianMixture, digits
from ksched.files import check_writable, path_of
from ksched.loop import StepInfo
from ksched.noise import SeededNoise, item_seeds
from ksched.plan import Draw, Plan
from ksched.processes import Process, default_process
from ksched.registry import SamplerSpec, samplers
from ksched.runner import Run
from ksched.sampler import Sampler, build_sampler
from ksched.schedules import SCHEDULES
from ksched.threads import one_thread
from ksched.types import Array, NoiseSchedule, SamplerType

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "CALLS",
    "CURVES",
    "Error",
    "Report",
    "Trajectory",
    "from_text",
    "law_errors",
    "path_errors",
    "run",
    "trajectory",
]

#: model calls at which errors are measured; a sampler with two calls per step takes half as many steps
CALLS = (4, 6, 8, 12, 18, 27, 40)
#: schedules whose errors are measured at all of these; the others, at the steps that were asked for
CURVES = (
    NoiseSchedule.SIMPLE,
    NoiseSchedule.NORMAL,
    NoiseSchedule.KARRAS,
    NoiseSchedule.EXPONENTIAL,
    NoiseSchedule.BETA,
    NoiseSchedule.KL_OPTIMAL,
    NoiseSchedule.ALIGN_YOUR_STEPS,
)

#: samplers whose errors are drawn against model calls; of the others, those at the steps that were asked for
DRAWN = (
    SamplerType.EULER,
    SamplerType.HEUN,
    SamplerType.LMS,
    SamplerType.DEIS,
    SamplerType.DPMPP_2M,
    SamplerType.UNI_PC,
    SamplerType.SEEDS_3,
    SamplerType.RES_3S,
    SamplerType.RK4,
    SamplerType.DORMAND_PRINCE,
    SamplerType.EULER_ANCESTRAL,
    SamplerType.DPMPP_2S_ANCESTRAL,
    SamplerType.DPMPP_SDE,
    SamplerType.DPMPP_2M_SDE,
    SamplerType.DPMPP_3M_SDE,
)

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_COMPARED = [(sampler, schedule) for sampler in ("euler", "dpmpp_2m", "uni_pc") for schedule in ("karras", "beta")]

_MOMENTS = (-math.inf, -0.8, 0.3, 1.4)  # half log-SNR at which the picture of a run stops


class Trajectory(NamedTuple):
    """A run, as its callback saw it."""

    sampler: Sampler
    steps: tuple[StepInfo, ...]
    result: torch.Tensor


class Error(NamedTuple):
    """What one sampler on one schedule gets wrong, relative to the spread of the digits about their mean."""

    sampler: str
    schedule: NoiseSchedule
    steps: int
    nfe: int
    value: float


class Report(NamedTuple):
    """What `run` made."""

    pictures: tuple[Path, ...]
    sampler: Sampler
    path: tuple[Error, ...]
    law: tuple[Error, ...]

    def at_steps(self, errors: Sequence[Error]) -> list[Error]:
        """Those of ``errors`` that belong to the number of steps that was asked for."""
        return [error for error in errors if error.steps == self.sampler.steps]


def run(
    sampler: SamplerType | str = SamplerType.DPMPP_2M,
    schedule: NoiseSchedule | str = NoiseSchedule.KARRAS,
    steps: int = 20,
    *,
    process: Process | None = None,
    seed: int = 0,
    out: Path | str = "demo",
    calls: Sequence[int] = CALLS,
    images: int = 8,
    progress: bool = False,
) -> Report:
    """Sample 64 digits, measure every sampler on every schedule, and draw it all.

    Parameters
    ----------
    sampler, schedule, steps : of the run that is shown
    process : what the denoiser counts as a state at sigma; None is Stable Diffusion's VP process
    seed : of the start noise and of the sampler's own
    out : folder for ``digits.png``, ``schedules.png`` and ``errors.png``; made if it does not exist
    calls : model calls at which errors of the schedules of `CURVES` and of the one that is shown are measured, beside
        those of all schedules at ``steps`` steps
    images : digits that path errors are measured on
    progress : show progress bars (needs the extra ``cli``)

    Raises
    ------
    ImportError : matplotlib is missing (extra ``plot``)
    OSError : ``out`` cannot be written to; found out before anything is computed
    TypeError, ValueError : as for `build_sampler`

    Notes
    -----
    The pictures appear all at once, each complete, when everything has been computed.
    """
    from ksched import plots

    process = default_process() if process is None else process
    built = build_sampler(sampler, schedule, steps, process=process)
    folder = path_of("out", out)
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder / "errors.png")
    shown = trajectory(built, seed, progress=progress)
    specs = measured()
    curves = [name for name in SCHEDULES if name in (*CURVES, built.schedule)]
    here = [(spec, steps) for spec in specs]
    drawn = [spec for spec in specs if spec.name in (*DRAWN, built.spec.name)]
    others = [(spec, n) for spec in drawn for n in sorted({_steps(spec, c) for c in calls} - {steps})]
    path: list[Error] = []
    law: list[Error] = []
    with _bar(len(here) + len(others), progress) as advance:
        for jobs, names in ((here, list(SCHEDULES)), (others, curves)):
            path += path_errors([job for job in jobs if job[0].draws == 0], names, process, seed, images, advance)
            law += law_errors([job for job in jobs if job[0].draws != 0], names, process, advance)
    report = Report((), built, tuple(path), tuple(law))
    size = f"{built.steps} {'step' if built.steps == 1 else 'steps'}"
    kinds = {
        "Deterministic samplers: rms distance to the exact ODE solution, on digits": path,
        "Stochastic samplers: Wasserstein-2 distance to the exact law, on Gaussian data of the digits' covariance": law,
    }
    figures = {
        "digits.png": _draw_digits(shown, f"{built.spec.name}, {built.schedule}, {size}"),
        "schedules.png": plots.sigma_curves(list(SCHEDULES), steps, process),
        "errors.png": plots.error_curves(
            {heading: _curves(errors, {s.name for s in drawn}, curves) for heading, errors in kinds.items()},
            maps={heading: _table(report.at_steps(errors)) for heading, errors in kinds.items()},
            title="Error in units of the digits' spread, by sampler and schedule",
            map_title=f"error in % after {size}, the smallest framed; "
            "schedules from best to worst for deterministic samplers",
            curves_title="error against model calls, some samplers and schedules",
        ),
    }
    pictures = plots.save({folder / name: figure for name, figure in figures.items()})
    return report._replace(pictures=pictures)


@one_thread()
def from_text(
    model: Path | str,
    sampler: SamplerType | str = SamplerType.DPMPP_2M,
    schedule: NoiseSchedule | str = NoiseSchedule.KARRAS,
    steps: int = 20,
    *,
    seed: int = 0,
    out: Path | str = "demo",
    guidance_scale: float = 3.0,
    images: int = 4,
    compared: Sequence[int] = (4, 8, 16),
) -> tuple[Path, ...]:
    """Digits drawn of words, and one of them with some samplers, schedules and numbers of steps.

    Parameters
    ----------
    model : folder of diffusers, of a model that draws digits
    sampler, schedule, steps : of the first picture
    seed : of the first image of each word, and of the word that is compared
    out : folder for ``prompts.png`` and ``compared.png``; made if it does not exist
    guidance_scale : of classifier-free guidance
    images : of each word
    compared : numbers of steps

    Raises
    ------
    ImportError : diffusers or transformers are missing (extra ``diffusers``)
    OSError, TypeError, ValueError : as for `ksched.stable_diffusion.StableDiffusion`
    """
    from ksched.sheets import sheet
    from ksched.stable_diffusion import SamplingConfig, StableDiffusion, save_png

    drawn, folder = StableDiffusion.from_folder(model), path_of("out", out)
    how: dict[str, Any] = {"seed": seed, "guidance_scale": guidance_scale}
    shown = SamplingConfig("", sampler=str(sampler), schedule=str(schedule), steps=steps, count=images, **how)
    cells = [drawn.generate(replace(shown, prompt=f"a handwritten {word}"), batch_size=images) for word in _WORDS]
    words = f"{shown.sampler}, {shown.schedule}, {steps} step{'' if steps == 1 else 's'}, guidance {guidance_scale:g}"
    prompts = sheet([*zip(*cells, strict=True)], columns=_WORDS, title="“a handwritten …”", note=words)
    prompt = "a handwritten three"
    configs = [
        [SamplingConfig(prompt, sampler=name, schedule=rule, steps=number, **how) for number in compared]
        for name, rule in _COMPARED
    ]
    grid = sheet(
        [[drawn.generate(config)[0] for config in row] for row in configs],
        rows=[f"{name}\n{rule}" for name, rule in _COMPARED],
        columns=[f"{number} steps" for number in compared],
        title=f"“{prompt}”",
        note=f"seed {seed}, guidance {guidance_scale:g}",
    )
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {folder / "prompts.png": prompts, folder / "compared.png": grid}
    for path, picture in pictures.items():
        save_png(picture, path)
    return tuple(pictures)


@one_thread()
def trajectory(sampler: Sampler, seed: int = 0, items: int = 64, *, progress: bool = False) -> Trajectory:
    """Digits sampled from pure noise, with all that the callback saw."""
    model = _paired(digits(sampler.process))
    x = sampler.process.add_noise(torch.zeros(items, 64), _start_noise(items, seed), float(sampler.sigmas[0])).float()
    steps: list[StepInfo] = []
    result = sampler.sample(model, x, seed=seed, callback=steps.append, progress=progress)
    return Trajectory(sampler, tuple(steps), result)


@one_thread()
def path_errors(
    jobs: Sequence[tuple[SamplerSpec, int]],
    schedules: Sequence[NoiseSchedule],
    process: Process,
    seed: int = 0,
    images: int = 8,
    advance: Callable[[], object] = lambda: None,
) -> list[Error]:
    """Distance of deterministic samplers to the exact ODE solution, on digits.

    Parameters
    ----------
    jobs : (sampler, steps) pairs
    schedules : each job runs on all of them
    process : see `run`
    seed : of the start noise
    images : number of start noises
    advance : called after each job

    Returns
    -------
    root mean square distance over images and pixels, divided by that of the solutions from the mean digit

    Notes
    -----
    All runs follow the same paths: one that starts below the highest level starts at the exact state there. They run
    in float32, which is exact to 1e-5 here. Samplers whose plans are equal are run once.
    """
    model = digits(process)
    built = [[build_sampler(spec.name, name, steps, process=process) for name in schedules] for spec, steps in jobs]
    levels = sorted({process.sigma_max, *(float(s.sigmas[0]) for row in built for s in row)}, reverse=True)
    start = process.add_noise(torch.zeros(images, 64), _start_noise(images, seed), levels[0])
    exact = dict(zip([*levels, 0.0], model.solve(start, [*levels, 0.0]), strict=True))
    spread = (exact[0.0] - torch.from_numpy(model.mean)).square().mean().sqrt()
    errors = []
    known: dict[tuple[Plan, ...], list[torch.Tensor]] = {}
    for row in built:
        plans = tuple(sampler.plan for sampler in row)
        if plans not in known:
            starts = [exact[float(sampler.sigmas[0])].float() for sampler in row]
            known[plans] = _together(model, [Run(plan, x) for plan, x in zip(plans, starts, strict=True)])
        for sampler, name, result in zip(row, schedules, known[plans], strict=True):
            value = float((result - exact[0.0]).square().mean().sqrt() / spread)
            errors.append(Error(sampler.spec.name, name, sampler.steps, sampler.nfe, value))
        advance()
    return errors


def law_errors(
    jobs: Sequence[tuple[SamplerSpec, int]],
    schedules: Sequence[NoiseSchedule],
    process: Process,
    advance: Callable[[], object] = lambda: None,
) -> list[Error]:
    """Distance of the law of stochastic samplers' results to the exact one, on Gaussian data.

    Parameters
    ----------
    jobs, schedules, process, advance : as for `path_errors`

    Returns
    -------
    Wasserstein-2 distance, divided by the standard deviation of the data. The data has the mean and covariance of the
    digits; nothing is sampled
    """
    model = digits(process)
    variances, axes = np.linalg.eigh(model.covariance)
    errors = []
    known: dict[Plan, float] = {}
    for spec, steps in jobs:
        for name in schedules:
            plan = build_sampler(spec.name, name, steps, process=process).plan
            if plan not in known:
                errors_of_axes = gaussian_errors(plan, model.mean @ axes, np.sqrt(variances), weak=True)
                known[plan] = float(np.linalg.norm(errors_of_axes)) / math.sqrt(variances.sum())
            errors.append(Error(spec.name, name, steps, plan.nfe, known[plan]))
        advance()
    return errors


def _together(model: GaussianMixture, runs: Sequence[Run]) -> list[torch.Tensor]:
    """The results of runs that share their model calls: every item of a batch may stand at a level of its own."""
    while pending := [run for run in runs if not run.done]:
        answers = model(torch.cat([run.x for run in pending]), torch.cat([run.sigma for run in pending]))
        for run, denoised in zip(pending, torch.split(answers, [len(run.x) for run in pending]), strict=True):
            run.feed(denoised, denoised if run.needs_uncond else None)
    return [run.x for run in runs]


def _paired(model: GaussianMixture) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The model as samplers with an unconditional twin want it; the digits have no condition."""

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        denoised = model(x, sigma)
        return denoised, denoised

    return denoise


def _start_noise(items: int, seed: int) -> torch.Tensor:
    return SeededNoise(item_seeds(seed, items))(Draw(math.inf, math.inf), torch.empty(items, 64, dtype=torch.float64))


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], object]]:
    if not shown:
        yield lambda: None
        return
    from tqdm.auto import tqdm  # `trajectory` has said so if it is missing

    with tqdm(total=total, desc="errors", unit="job") as bar:
        yield bar.update


def _draw_digits(shown: Trajectory, title: str) -> Figure:
    from ksched import plots

    process = shown.sampler.process
    model = digits(process)
    parts = model.responsibilities(shown.result, float(shown.sampler.sigmas[-1])).argmax(1)
    order = torch.tensor(model.labels)[parts].argsort(stable=True)
    levels = [process.level(step.sigma) for step in shown.steps]
    chosen = [min(range(len(levels)), key=lambda k: abs(max(levels[k].lam, -99) - max(lam, -99))) for lam in _MOMENTS]
    moments = sorted(set(chosen))

    def pictures(tensors: Iterable[torch.Tensor]) -> Array:
        return torch.stack([tensor[order].reshape(-1, 8, 8) for tensor in tensors]).double().numpy()

    states = pictures(shown.steps[k].x for k in moments)
    return plots.digit_strip(
        states,
        pictures(shown.steps[k].denoised for k in moments),
        [f"sigma {shown.steps[k].sigma:.3g}" for k in moments],
        pictures([shown.result])[0],
        scales=np.sqrt((states**2).mean((1, 2, 3))).tolist(),
        title=f"64 digits from noise to image: {title}",
    )


def measured() -> list[SamplerSpec]:
    """The samplers that are measured: those that have a plan and are not for guidance.

    Without guidance, which the digits do not have, those would be others that are measured.
    """
    return [spec for spec in samplers() if not spec.adaptive and not spec.uncond]


def _steps(spec: SamplerSpec, calls: int) -> int:
    """The fewest steps that make so many model calls; for samplers that do not know, as if each step made two."""
    if spec.calls is None:
        return math.ceil(calls / 2)
    return next(steps for steps in range(1, calls + 1) if spec.nfe(steps, to_zero=False) >= calls)


def _curves(
    errors: Sequence[Error], names: Collection[str], schedules: Collection[NoiseSchedule]
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for error in errors:
        if error.sampler not in names or error.schedule not in schedules:
            continue
        curves.setdefault(error.sampler, {}).setdefault(error.schedule.value, []).append((error.nfe, error.value))
    return {sampler: {name: sorted(line) for name, line in lines.items()} for sampler, lines in curves.items()}


def _table(errors: Sequence[Error]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    rows: dict[str, str] = {}  # one for a sampler, though the calls of some depend on the levels
    for error in errors:
        row = rows.setdefault(error.sampler, f"{error.sampler}, {error.nfe} call{'' if error.nfe == 1 else 's'}")
        table.setdefault(row, {})[error.schedule.value] = error.value
    return table
