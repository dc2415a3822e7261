"""The demo: digits sampled from noise, and the error of every sampler on every schedule, measured exactly.

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


#: NFE at which every sampler is measured on every schedule
MAPS = (8, 20)


#: NFE at which the samplers of `DRAWN` are measured on the schedules of `CURVES`
CALLS = (4, 6, 8, 12, 20, 40)


#: schedules whose errors are drawn against NFE
CURVES = (
    NoiseSchedule.SIMPLE,
    NoiseSchedule.NORMAL,
    NoiseSchedule.KARRAS,
    NoiseSchedule.EXPONENTIAL,
    NoiseSchedule.BETA,
    NoiseSchedule.KL_OPTIMAL,
    NoiseSchedule.ALIGN_YOUR_STEPS,
)


#: samplers whose errors are drawn against NFE
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


#: for the progress bar, seconds on one core: of the first stages, of the last ones, and of one model call
_FIRST = {"sampling digits": 1.0}
_LAST = {"drawing pictures": 10.0}
_MEASURING = 0.001


class Error(NamedTuple):
    """The error of one sampler on one schedule, relative to the spread of the digits about their mean.

    Attributes
    ----------
    sampler : str
        Name of the sampler.
    schedule : NoiseSchedule or None
        None for ``auto``, which has its own noise levels.
    calls : int
        Budget of model calls.
    steps : int
        Largest number of steps within the budget.
    nfe : int
        Model calls that these steps make.
    value : float
        The error.
    """

    sampler: str
    schedule: NoiseSchedule | str | None
    calls: int
    steps: int
    nfe: int
    value: float


class Report(NamedTuple):
    """Result of `run`: pictures, the sampler shown, errors of both kinds, and the NFE of the error maps."""

    pictures: tuple[Path, ...]
    sampler: Sampler
    path: tuple[Error, ...]
    law: tuple[Error, ...]
    maps: tuple[int, ...] = MAPS

    def at(self, calls: int) -> list[Error]:
        """Return the errors at one NFE."""
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
    """Sample 64 digits, measure every sampler on every schedule at equal NFE, and draw the results.

    Parameters
    ----------
    sampler, schedule : str
        Sampler and schedule of the run that is shown.
    steps : int
        Number of steps of the run that is shown.
    process : Process, optional
        Process of the denoiser; None is Stable Diffusion's VP process.
    seed : int
        Seed of the start noise and of the noise in the steps.
    out : path
        Folder for ``digits.png``, ``schedules.png``, ``errors.png`` and ``error_curves.png``, created if necessary.
    calls : sequence of int
        NFE of the error curves, at which `DRAWN` and the shown sampler are measured on `CURVES` and the shown schedule.
    maps : sequence of int
        NFE of the error maps, at which every sampler is measured on every schedule.
    images : int
        Number of digits for measuring path errors.
    progress : bool or callable
        True shows a progress bar (needs the extra ``cli``). A function is called with the name of the current stage and
        the share of the work that is done.

    Raises
    ------
    ImportError
        If matplotlib is missing (extra ``plot``).
    OSError
        If ``out`` cannot be written to; checked before anything is computed.
    TypeError, ValueError
        As `build_sampler` raises them.

    Notes
    -----
    All pictures are written at the end, each complete or not at all.
    """
    import_module("ksched.pictures.plots")  # fails early if matplotlib is missing
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
    """Do the work of `run`, after its arguments were checked."""
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
    """Draw the pictures, by file name; ``drawn`` and ``curves`` are the samplers and schedules with curves."""
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
            "Framed: the smallest error without noise and with noise",
        ),
        "error_curves.png": plots.error_curves(
            {heading: _curves(errors, drawn, curves) for heading, errors in kinds.items()},
            title="Error in units of the digits' spread against model calls (NFE), selected samplers and schedules",
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
    jobs : sequence of (SamplerSpec, int)
        Samplers with their budgets of model calls. Each runs as many steps as fit into its budget.
    schedules : sequence of NoiseSchedule
        Every job runs on all of them, unless the sampler has its own noise levels.
    process : Process
        See `run`.
    seed : int
        Seed of the start noise.
    images : int
        Number of start noises.
    advance : callable
        Called after each job with its length, in model calls.

    Returns
    -------
    list of Error
        The mean over images of the root mean square distance over pixels, divided by the root mean square distance of
        the solutions from the mean digit. A sampler that cannot run on a schedule within the budget has no error there.

    Notes
    -----
    All runs follow the same ODE paths: a schedule that starts below the highest sigma starts from the exact state
    there. Runs use float32, whose error is about 1e-5 here. Samplers with equal plans run once. The mean over images
    is reported because a root mean square would be dominated by the few images that end as another digit.
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
    """Distance between the distribution that stochastic samplers produce and the exact one, on Gaussian data.

    Parameters
    ----------
    jobs, schedules, process, advance
        As for `path_errors`.

    Returns
    -------
    list of Error
        The Wasserstein-2 distance, divided by the standard deviation of the data. The data has the mean and covariance
        of the digits. The distance is computed in closed form, without sampling.
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
    """List the samplers to measure on a process: those that have a plan there.

    Samplers for guidance are left out: without guidance, as here, each equals another sampler.
    """
    return [spec for spec in samplers() if not spec.adaptive and not spec.uncond and spec.runs_on(process)]


def _within(spec: SamplerSpec, calls: int, schedules: Sequence[NoiseSchedule], process: Process) -> list[Sampler]:
    """Build a sampler on every schedule where it fits into a budget of model calls, with as many steps as fit."""
    if spec.levels is not None:
        return [build_sampler(spec.name, calls=calls, process=process)]
    if spec.calls is None:  # the number of calls depends on the noise levels
        can = [name for name in schedules if build_sampler(spec.name, name, 1, process=process).nfe <= calls]
        return [build_sampler(spec.name, name, calls=calls, process=process) for name in can]
    if spec.nfe(1) > calls:
        return []
    first = build_sampler(spec.name, schedules[0], calls=calls, process=process)
    return [first, *(build_sampler(spec.name, name, first.steps, process=process) for name in schedules[1:])]


def _work(spec: SamplerSpec, calls: int, schedules: Sequence[NoiseSchedule]) -> float:
    """Count the model calls of a sampler on all schedules for the progress bar; stochastic ones need less time."""
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
    """Return the rows of an error map by heading: ``auto`` first, then the families, without and with noise."""
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
