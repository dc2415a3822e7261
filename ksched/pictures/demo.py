"""The demonstration: digits sampled from noise, and what every sampler and schedule gets wrong, measured exactly.

The model is the exact denoiser of a Gaussian mixture fitted to handwritten digits (`ksched.exact.digits`), so nothing
is trained, downloaded or estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ksched.exact.handwritten import digits
from ksched.execution.run import Run
from ksched.execution.threads import one_thread
from ksched.names.enums import NoiseSchedule, SamplerType
from ksched.names.sampler_type import SamplerName, ScheduleName
from ksched.noise.seeded import SeededNoise
from ksched.noise.sources import item_seeds
from ksched.pictures.digits_run import Trajectory, draw_digits, trajectory
from ksched.pictures.progress import Report as Progress
from ksched.pictures.progress import Stages, progress_line
from ksched.plan.analysis import gaussian_errors
from ksched.plan.plan import Plan
from ksched.plan.rows import Draw
from ksched.processes import Process, default_process
from ksched.sampler import Sampler, build_sampler
from ksched.samplers.registry import AUTO, families, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules import SCHEDULES
from ksched.storage.files import check_writable, path_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ksched.pictures.plots import ErrorRow


__all__ = ["CALLS", "CURVES", "MAPS", "Error", "Report", "Trajectory", "law_errors", "path_errors", "run", "trajectory"]


#: numbers of model calls at which every sampler is measured on every schedule
MAPS = (8, 20)


#: numbers of model calls at which the samplers of `DRAWN` are measured on the schedules of `CURVES`
CALLS = (4, 6, 8, 12, 20, 40)


#: schedules whose errors are drawn against model calls
CURVES = (
    NoiseSchedule.SIMPLE,
    NoiseSchedule.NORMAL,
    NoiseSchedule.KARRAS,
    NoiseSchedule.EXPONENTIAL,
    NoiseSchedule.BETA,
    NoiseSchedule.KL_OPTIMAL,
    NoiseSchedule.ALIGN_YOUR_STEPS,
)


#: samplers whose errors are drawn against model calls
DRAWN = (
    AUTO.name,
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


#: seconds of one core that the stages of a run take, for its progress: the first, the last, and a model call of a plan
_FIRST = {"sampling digits": 1.0}
_LAST = {"drawing pictures": 10.0}
_MEASURING = 0.001


class Error(NamedTuple):
    """The error of one sampler on one schedule, relative to the spread of the digits about their mean.

    Attributes
    ----------
    sampler : its name
    schedule : None for ``auto``, which has noise levels of its own
    calls : model calls that were allowed
    steps, nfe : the most steps that so many calls allow, and the model calls that these steps take
    value : the error
    """

    sampler: str
    schedule: NoiseSchedule | str | None
    calls: int
    steps: int
    nfe: int
    value: float


class Report(NamedTuple):
    """What `run` made: pictures, the run that is shown, errors of both kinds, and the calls of the maps."""

    pictures: tuple[Path, ...]
    sampler: Sampler
    path: tuple[Error, ...]
    law: tuple[Error, ...]
    maps: tuple[int, ...] = MAPS

    def at(self, calls: int) -> list[Error]:
        """The errors at one of the numbers of model calls."""
        return [error for error in (*self.path, *self.law) if error.calls == calls]


def run(
    sampler: SamplerName | SamplerType | str = SamplerType.DPMPP_2M,
    schedule: ScheduleName | NoiseSchedule | str = NoiseSchedule.KARRAS,
    steps: int = 20,
    *,
    process: Process | None = None,
    seed: int = 0,
    out: Path | str = "demo",
    calls: Sequence[int] = CALLS,
    maps: Sequence[int] = MAPS,
    images: int = 24,
    progress: bool | Progress = False,
) -> Report:
    """Sample 64 digits, measure every sampler on every schedule at equal model calls, and draw it all.

    Parameters
    ----------
    sampler, schedule, steps : of the run that is shown
    process : what the denoiser counts as a state at sigma; None is Stable Diffusion's VP process
    seed : of the start noise and of the sampler's own
    out : folder for ``digits.png``, ``schedules.png``, ``errors.png`` and ``error_curves.png``; made if it does not
        exist
    calls : numbers of model calls at which some samplers and schedules (`DRAWN`, `CURVES` and those that are shown) are
        measured, for the curves
    maps : numbers of model calls at which every sampler is measured on every schedule, for the maps
    images : digits that path errors are measured on
    progress : True shows a progress bar (needs the extra ``cli``); a function is told what is being done, and the share
        of the work that is done

    Raises
    ------
    ImportError : matplotlib is missing (extra ``plot``)
    OSError : ``out`` cannot be written to; found out before anything is computed
    TypeError, ValueError : as for `build_sampler`

    Notes
    -----
    The pictures appear all at once, each complete, when everything has been computed.
    """
    import_module("ksched.pictures.plots")  # says what is missing before anything is done
    process = default_process() if process is None else process
    built = build_sampler(sampler, schedule, steps, process=process)
    folder = path_of("out", out)
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder / "errors.png")
    with progress_line() if progress is True else nullcontext(progress or (lambda doing, share: None)) as tell:
        return _run(built, seed, folder, calls, maps, images, tell)


def _run(
    built: Sampler,
    seed: int,
    folder: Path,
    calls: Sequence[int],
    maps: Sequence[int],
    images: int,
    tell: Progress,
) -> Report:
    """`run`, of a sampler and for a folder that are known to be right."""
    from ksched.pictures import plots

    process, specs = built.process, [AUTO, *measured(built.process)]
    drawn = [spec for spec in specs if spec.name in (*DRAWN, built.spec.name)]
    curves = [name for name in SCHEDULES if name in (*CURVES, built.schedule)]
    whole = [(spec, count) for count in maps for spec in specs]
    others = [(spec, count) for count in calls if count not in maps for spec in drawn]
    parts = ((whole, list(SCHEDULES)), (others, curves))
    measuring = _MEASURING * sum(_work(*job, names) for jobs, names in parts for job in jobs)
    stages = Stages({**_FIRST, "measuring every sampler": measuring, **_LAST}, tell)
    with stages.stage(*_FIRST):
        shown = trajectory(built, seed)
    path: list[Error] = []
    law: list[Error] = []
    with stages.stage("measuring every sampler") as advance:

        def done(work: float) -> None:
            advance(_MEASURING * work)

        for jobs, names in parts:
            path += path_errors([job for job in jobs if job[0].draws == 0], names, process, seed, images, done)
            law += law_errors([job for job in jobs if job[0].draws != 0], names, process, done)
    report = Report((), built, tuple(path), tuple(law), tuple(maps))
    with stages.stage(*_LAST):
        figures = _figures(report, shown, specs, {spec.name for spec in drawn}, curves)
        pictures = plots.save({folder / name: figure for name, figure in figures.items()})
    return report._replace(pictures=pictures)


def _figures(
    report: Report,
    shown: Trajectory,
    specs: Sequence[SamplerSpec],
    drawn: Collection[str],
    curves: Sequence[NoiseSchedule],
) -> dict[str, Figure]:
    """The pictures by the names of their files; ``drawn`` and ``curves`` are samplers and schedules with curves."""
    from ksched.pictures import plots

    sampler = report.sampler
    kinds = {
        "Without noise: distance to the exact ODE solution, on digits": report.path,
        "With noise: Wasserstein-2 distance to the exact distribution, on Gaussian data of the digits' covariance": (
            report.law
        ),
    }
    title = f"{sampler.spec.name}, {sampler.schedule}, {_plural(sampler.steps, 'step')}"
    return {
        "digits.png": draw_digits(shown, title),
        "schedules.png": plots.sigma_curves(list(SCHEDULES), sampler.steps, sampler.process),
        "errors.png": plots.error_map(
            {_plural(count, "model call"): _rows(report.at(count), specs, count) for count in report.maps},
            title="Error in % of the digits' spread, at equal model calls (NFE). "
            "Framed: the smallest without noise and with it",
        ),
        "error_curves.png": plots.error_curves(
            {heading: _curves(errors, drawn, curves) for heading, errors in kinds.items()},
            title="Error in units of the digits' spread against model calls, some samplers and schedules",
        ),
    }


@one_thread()
def path_errors(
    jobs: Sequence[tuple[SamplerSpec, int]],
    schedules: Sequence[NoiseSchedule],
    process: Process,
    seed: int = 0,
    images: int = 24,
    advance: Callable[[float], object] = lambda work: None,
) -> list[Error]:
    """Distance of deterministic samplers to the exact ODE solution, on digits.

    Parameters
    ----------
    jobs : pairs of a sampler and the model calls that it may take; it runs the most steps that these allow
    schedules : each job runs on all of them, unless the sampler has noise levels of its own
    process : see `run`
    seed : of the start noise
    images : number of start noises
    advance : told after each job how long it was, in model calls of a plan

    Returns
    -------
    mean over images of the root mean square distance over pixels, divided by the root mean square distance of the
    solutions from the mean digit. A sampler that cannot run on a schedule in so many calls has no error there

    Notes
    -----
    All runs follow the same paths: one that starts below the highest level starts at the exact state there. They run
    in float32, which is exact to 1e-5 here. Samplers whose plans are equal are run once. The mean over images is taken
    because a root mean square would be dominated by the few that end as another digit.
    """
    model = digits(process)
    built = [_within(spec, calls, schedules, process) for spec, calls in jobs]
    levels = sorted({process.sigma_max, *(float(s.sigmas[0]) for row in built for s in row)}, reverse=True)
    start = process.add_noise(torch.zeros(images, 64), _start_noise(images, seed), levels[0])
    exact = dict(zip([*levels, 0.0], model.solve(start, [*levels, 0.0]), strict=True))
    spread = (exact[0.0] - torch.from_numpy(model.mean)).square().mean().sqrt()
    errors = []
    known: dict[Plan, float] = {}
    for (spec, calls), row in zip(jobs, built, strict=True):
        for sampler in row:
            plan = sampler.plan
            if plan not in known:
                run = Run(plan, exact[float(sampler.sigmas[0])].float())
                while not run.done:
                    denoised = model(run.x, run.level.label)
                    run.feed(denoised, denoised if run.needs_uncond else None)
                known[plan] = float((run.x - exact[0.0]).square().mean(-1).sqrt().mean() / spread)
            errors.append(Error(spec.name, sampler.schedule, calls, sampler.steps, sampler.nfe, known[plan]))
        advance(_work(spec, calls, schedules))
    return errors


def law_errors(
    jobs: Sequence[tuple[SamplerSpec, int]],
    schedules: Sequence[NoiseSchedule],
    process: Process,
    advance: Callable[[float], object] = lambda work: None,
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
    for spec, calls in jobs:
        for sampler in _within(spec, calls, schedules, process):
            plan = sampler.plan
            if plan not in known:
                errors_of_axes = gaussian_errors(plan, model.mean @ axes, np.sqrt(variances), weak=True)
                known[plan] = float(np.linalg.norm(errors_of_axes)) / math.sqrt(variances.sum())
            errors.append(Error(spec.name, sampler.schedule, calls, sampler.steps, plan.nfe, known[plan]))
        advance(_work(spec, calls, schedules))
    return errors


def _start_noise(items: int, seed: int) -> torch.Tensor:
    return SeededNoise(item_seeds(seed, items))(Draw(math.inf, math.inf), torch.empty(items, 64, dtype=torch.float64))


def measured(process: Process) -> list[SamplerSpec]:
    """The samplers that are measured on a process: those that have a plan there and are not for guidance.

    Without guidance, which the digits do not have, those would be others that are measured.
    """
    return [spec for spec in samplers() if not spec.adaptive and not spec.uncond and spec.runs_on(process)]


def _within(spec: SamplerSpec, calls: int, schedules: Sequence[NoiseSchedule], process: Process) -> list[Sampler]:
    """A sampler on each schedule where it can run in so many model calls, with the most steps that these allow."""
    if spec.levels is not None:
        return [build_sampler(spec.name, calls=calls, process=process)]
    if spec.calls is None:  # they depend on the levels
        can = [name for name in schedules if build_sampler(spec.name, name, 1, process=process).nfe <= calls]
        return [build_sampler(spec.name, name, calls=calls, process=process) for name in can]
    if spec.nfe(1) > calls:
        return []
    first = build_sampler(spec.name, schedules[0], calls=calls, process=process)
    return [first, *(build_sampler(spec.name, name, first.steps, process=process) for name in schedules[1:])]


def _work(spec: SamplerSpec, calls: int, schedules: Sequence[NoiseSchedule]) -> float:
    """Model calls of a sampler on all schedules, for the progress; laws take less time than runs."""
    return calls * (1 if spec.levels is not None else len(schedules)) * (1.0 if spec.draws == 0 else 0.13)


def _curves(
    errors: Sequence[Error], names: Collection[str], schedules: Collection[NoiseSchedule]
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for error in errors:
        if error.sampler in names and (error.schedule is None or error.schedule in schedules):
            label = error.sampler if error.schedule is None else str(error.schedule)
            curves.setdefault(error.sampler, {}).setdefault(label, []).append((error.nfe, error.value))
    return {sampler: {name: sorted(set(line)) for name, line in lines.items()} for sampler, lines in curves.items()}


def _rows(errors: Sequence[Error], specs: Sequence[SamplerSpec], calls: int) -> dict[str, list[ErrorRow]]:
    """The rows of a map by heading: ``auto`` first, then families in their order, without noise and with it."""
    from ksched.pictures import plots

    def row(spec: SamplerSpec) -> ErrorRow:
        own = [error for error in errors if error.sampler == spec.name]
        if not own:
            return plots.ErrorRow(spec.name, {}, note=f"needs more than {_plural(calls, 'model call')}")
        steps, nfe = ([getattr(error, what) for error in own] for what in ("steps", "nfe"))
        values = {str(error.schedule or ""): error.value for error in own}
        return plots.ErrorRow(spec.name, values, _span(steps), _span(nfe))

    rows = {"": [row(spec) for spec in specs if spec is AUTO]}
    for words, noisy in (("", False), (", with noise", True)):
        for heading, members in families(
            spec for spec in specs if spec is not AUTO and (spec.draws != 0) is noisy
        ).items():
            rows[heading + words] = [row(spec) for spec in members]
    return rows


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
