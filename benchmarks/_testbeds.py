"""Data with exact denoisers, and the error of a sampler on it: the basis of the accuracy benchmarks.

A *range* is a process with its start noise and the spread of its data. A *testbed* is data with its exact denoiser. A
*problem* is a testbed on a range, with start states from a seed and the exact solution for each of them. The error of
a run is, for each start state, the root mean square distance from the exact solution of the probability-flow ODE,
divided by the spread of these solutions; a figure is the mean over start states.

Do not change the definitions: figures recorded from other programs are valid only for them and for seed 99.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

import ksched
from ksched import EDM, VP, Flow, NoiseSchedule, Process, Sampler
from ksched.exact.mixture import Gaussian, GaussianMixture
from ksched.samplers.registry import sampler_spec, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules import schedule_options
from ksched.types import Array

SEED, BATCH = 99, 256
TRUTHS = Path(__file__).parent / ".truths"  # cached exact solutions of problems
TRUTH_STEPS = 400


class Model(Protocol):
    """An exact denoiser."""

    @property
    def dimension(self) -> int:
        """Number of values of one item."""
        ...

    def __call__(self, x: torch.Tensor, sigma: float, /) -> torch.Tensor:
        """The prediction for states at a contract sigma."""
        ...


# -------------------------------------------------------------------------------------------------------------- ranges


@dataclass(frozen=True)
class Range:
    """A process, with the start and the data of a run on it.

    Attributes
    ----------
    name : short
    processes : by what the names of schedules end in; they differ in schedules, not in what a state is
    start : contract sigma that every run starts from
    std : of the data
    """

    name: str
    processes: Mapping[str, Process] = field(hash=False)
    start: float
    std: float

    @property
    def process(self) -> Process:
        """Process of the states."""
        return next(iter(self.processes.values()))


_VP = VP()
RANGES = {
    "sd": Range("sd", {"": _VP}, _VP.sigma_max, 1.0),
    "edm": Range("edm", {"": EDM()}, 80.0, 0.5),
    "flow": Range("flow", {"": Flow(), "@3": Flow(3.0)}, 1.0, 1.0),
}


# ---------------------------------------------------------------------------------------------------------------- data


@cache
def _digits() -> tuple[Array, Array]:
    """Handwritten digits, 8 x 8, of mean 0 and std 1, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images - images.mean()) / images.std(), labels


@cache
def _patches(count: int, seed: int, side: int = 6) -> Array:
    """Patches of scikit-learn's two photographs, alternating, all three colours, of mean 0 and std 1."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    rng = np.random.default_rng(seed)
    patches = []
    for k in range(count):
        photograph = photographs[k % len(photographs)]
        top, left = (int(rng.integers(0, length - side)) for length in photograph.shape[:2])
        patches.append(photograph[top : top + side, left : left + side].ravel())
    stacked: Array = np.array(patches, dtype=np.float64)
    stacked = (stacked - stacked.mean()) / stacked.std()
    return stacked


def _cells(points: Array, count: int, rounds: int = 30) -> Array:
    """The cell of every point after some rounds of k-means, started from points drawn with seed 0."""
    centres = points[np.random.default_rng(0).choice(len(points), count, replace=False)]
    cells = np.zeros(len(points), dtype=int)
    for _ in range(rounds):
        distances = (points**2).sum(1)[:, None] - 2 * points @ centres.T + (centres**2).sum(1)
        cells = distances.argmin(1)
        centres = np.array([points[cells == k].mean(0) if (cells == k).any() else centres[k] for k in range(count)])
    return cells


def _fitted(points: Array, cells: Array, std: float, process: Process) -> GaussianMixture:
    """A Gaussian per cell, labelled by the cell; no eigenvalue of a covariance is below 1e-4 of the variance."""
    labels = [int(k) for k in np.unique(cells) if (cells == k).sum() > 5]
    groups = [points[cells == k] * std for k in labels]
    covariances = []
    for group in groups:
        values, axes = np.linalg.eigh(np.cov(group.T))
        covariance = (axes * np.maximum(values, 1e-4 * std**2)) @ axes.T
        covariances.append((covariance + covariance.T) / 2)
    weights = np.array([len(group) for group in groups], dtype=np.float64)
    means = [group.mean(0) for group in groups]
    return GaussianMixture(weights / weights.sum(), means, covariances, process, labels=labels)


def _natural(std: float, process: Process, side: int = 32) -> Gaussian:
    """One Gaussian with the spectrum of natural images: variance over the square of the frequency."""
    frequencies = np.fft.fftfreq(side) * side
    variances = 1 / np.maximum(frequencies[:, None] ** 2 + frequencies**2, 0.5)
    return Gaussian(np.zeros(side * side), (variances / variances.mean() * std**2).ravel(), process)


class Smoothed:
    """Many points, each with the same isotropic Gaussian around it, as a denoiser: a kernel density estimate.

    Parameters
    ----------
    points : shape (points, dimension)
    width : std of the Gaussians
    process : what a state at sigma is
    """

    def __init__(self, points: Array, width: float, process: Process) -> None:
        self.points, self.width, self.process, self.dimension = points, width, process, points.shape[1]
        self._squares = (points**2).sum(1)

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The mean of the points weighted by nearness, plus the part of the remainder that is not noise."""
        points, squares = (torch.from_numpy(array).to(x) for array in (self.points, self._squares))
        alpha, std = self.process.alpha(sigma), self.process.noise_std(sigma)
        variance = (alpha * self.width) ** 2 + std**2
        mean = ((alpha * (x @ points.T) - alpha**2 / 2 * squares) / variance).softmax(1) @ points
        return mean + alpha * self.width**2 / variance * (x - alpha * mean)


class Guided:
    """Classifier-free guidance on a labelled mixture: item i is guided towards label i modulo their number.

    It is not the denoiser of any data: it is stiff, and its solutions spread at high noise.
    """

    def __init__(self, mixture: GaussianMixture, scale: float) -> None:
        self.mixture, self.scale, self.dimension = mixture, scale, mixture.dimension
        self.parts = [mixture.only(label) for label in sorted(set(mixture.labels))]

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the unconditional prediction plus ``scale`` times the difference from it to the conditional one."""
        uncond, count = self.mixture(x, sigma), len(self.parts)
        cond = torch.empty_like(x)
        for k, part in enumerate(self.parts):
            cond[k::count] = part(x[k::count], sigma)
        return uncond + self.scale * (cond - uncond)


def _smoothed(points: Array, std: float, process: Process) -> Smoothed:
    return Smoothed(points * std, 0.3 * std, process)


def _digit_mixture(std: float, process: Process) -> GaussianMixture:
    return _fitted(*_digits(), std, process)


def _patch_mixture(std: float, process: Process) -> GaussianMixture:
    points = _patches(20000, 0)
    return _fitted(points, _cells(points, 12), std, process)


TESTBEDS: Mapping[str, Callable[[float, Process], Model]] = {
    "gauss": _natural,
    "gmm_digits": _digit_mixture,
    "gmm_patches": _patch_mixture,
    "kde_digits": lambda std, process: _smoothed(_digits()[0], std, process),
    "kde_patches": lambda std, process: _smoothed(_patches(2000, 1), std, process),
    "cfg3_digits": lambda std, process: Guided(_digit_mixture(std, process), 3.0),
    "cfg6_digits": lambda std, process: Guided(_digit_mixture(std, process), 6.0),
}
MAIN = ("gauss", "gmm_digits", "gmm_patches")  # headline figures are geometric means over these
HELD_OUT = ("kde_digits", "kde_patches", "cfg3_digits", "cfg6_digits")


@cache
def model_of(testbed: str, of: str) -> Model:
    """The exact denoiser of a testbed on a range."""
    return TESTBEDS[testbed](RANGES[of].std, RANGES[of].process)


# ------------------------------------------------------------------------------------------------------------ problems


def run(sampler: Sampler, model: Model, x: torch.Tensor, seed: int | None = None) -> torch.Tensor:
    """The result of a run in which the model gets its sigmas in float64."""
    going = sampler.start(x, seed=seed)
    with torch.no_grad():
        for level in sampler.plan.levels:
            going.feed(model(going.x, level.label))
    return going.x


@dataclass(frozen=True)
class Problem:
    """A testbed on a range with start states.

    Attributes
    ----------
    testbed, of : names of the testbed and the range
    seed : of the start states
    batch : how many there are
    """

    testbed: str
    of: str
    seed: int = SEED
    batch: int = BATCH
    _cast: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def range(self) -> Range:
        """The range itself."""
        return RANGES[self.of]

    @property
    def model(self) -> Model:
        """The exact denoiser."""
        return model_of(self.testbed, self.of)

    @cached_property
    def x(self) -> torch.Tensor:
        """Start states, float64."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.batch, self.model.dimension, generator=generator, dtype=torch.float64)
        return noise * self.range.start

    @cached_property
    def truth(self) -> torch.Tensor:
        """Where the exact ODE ends, float64; cached in a file."""
        path = TRUTHS / f"{self.testbed}_{self.of}_{self.seed}_{self.batch}.npy"
        if not path.exists():
            TRUTHS.mkdir(exist_ok=True)
            ends = self._solved(self.x).numpy()
            part = path.with_suffix(f".{id(self)}.part.npy")
            np.save(part, ends)
            part.rename(path)
        return torch.from_numpy(np.load(path))

    def _solved(self, x: torch.Tensor) -> torch.Tensor:
        """The solution of the exact ODE: closed form, or 400 steps of order 4, evenly spaced in log-SNR.

        For eight states of each main mixture and range, the largest difference from `GaussianMixture.solve` was 1.5e-5
        of the spread, the mean at most 2.3e-6, and this takes a fraction of the time.
        """
        model, of = self.model, self.range
        if isinstance(model, Gaussian):
            return model.solve(x, [of.start, 0.0])[-1]
        first = of.process.level(of.start).lam
        lams = np.linspace(max(first, -math.log(1e5)), math.log(1e5), TRUTH_STEPS + 1).tolist()
        sigmas = [of.start, *(of.process.level_at(lam).label for lam in lams if lam > first), 0.0]
        how: dict[str, Any] = {"predictor_order": 4, "start": "runge_kutta"}
        return run(ksched.build_sampler("exp_pc", sigmas=sigmas, process=of.process, **how), model, x)

    @cached_property
    def spread(self) -> float:
        """Root mean square distance of the exact ends from their mean."""
        return float((self.truth - self.truth.mean(0)).square().mean().sqrt())

    def errors(self, sampler: Sampler, items: int | None = None, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Relative error of every item, or of the first few."""
        key = items, dtype
        if key not in self._cast:
            self._cast[key] = self.x[:items].to(dtype), self.truth[:items]
        x, truth = self._cast[key]
        away: torch.Tensor = run(sampler, self.model, x).double() - truth
        return away.square().mean(1).sqrt() / self.spread


@cache
def problem(testbed: str, of: str, seed: int = SEED) -> Problem:
    """A cached problem."""
    return Problem(testbed, of, seed)


def score(errors: torch.Tensor) -> dict[str, float]:
    """Statistics of the errors of items; comparisons use the mean."""
    return {
        "mean": float(errors.mean()),
        "median": float(errors.median()),
        "p90": float(errors.quantile(0.9)),
        "rms": float(errors.square().mean().sqrt()),
    }


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of errors; infinite if one of them is infinite or missing."""
    found = [value if math.isfinite(value) else math.inf for value in values]
    return math.exp(sum(math.log(max(value, 1e-300)) for value in found) / len(found))


# -------------------------------------------------------------------------------------------------------------- entries


@dataclass(frozen=True)
class Entry:
    """A sampler or schedule with options, written ``name`` or ``name:option=value,option=value``."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def read(cls, text: str) -> Entry:
        """Parse the written form; values are Python literals, words need no quotes."""
        name, _, rest = text.partition(":")
        pairs = [part.partition("=") for part in rest.split(",") if part]
        return cls(name, tuple((key, _value(value)) for key, _, value in pairs))

    def __str__(self) -> str:
        """As it is read."""
        return self.name + (":" + ",".join(f"{key}={value}" for key, value in self.options) if self.options else "")


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


#: options that are measured in addition to the defaults
ALSO = (
    "lms:end=integral",
    "exp_pc:predictor_order=2,corrector_order=3",
    "exp_pc:start=runge_kutta",
    "exp_pc:end=integral",
    "exp_pc:predictor_order=2,corrector_order=3,end=integral",
    "exp_pc:predictor_order=2,corrector_order=3,end=integral,start_after=0.0001",
)


def deterministic() -> list[Entry]:
    """Every sampler that converges and can run without noise, run without noise; some also with other options."""
    found = []
    for spec in samplers():
        silent = {name: 0.0 for name in ("eta", "tau") if name in spec.own_options and spec.draws != 0}
        if not spec.adaptive and not spec.uncond and spec.order and (spec.draws == 0 or silent):
            found.append(Entry(spec.name, tuple(silent.items())))
    return [*found, *map(Entry.read, ALSO)]


def stochastic() -> list[Entry]:
    """Every sampler that draws noise by default, on every process."""
    return [Entry(s.name) for s in samplers() if s.draws != 0 and not (s.uncond or s.adaptive or s.flow_only)]


def schedules() -> list[Entry]:
    """Every schedule with its defaults, and the published tables that are not a default."""
    found = []
    for name in NoiseSchedule:
        found.append(Entry(name.value))
        if name is NoiseSchedule.ALIGN_YOUR_STEPS:
            found += [Entry(name.value, (("model", model),)) for model in ("sdxl", "svd")]
        if name is NoiseSchedule.POLYEXPONENTIAL:
            found += [Entry(name.value, (("rho", 1.5),))]
    return found


@cache
def levels(schedule: Entry, ending: str, steps: int, of: Range, dialect: str = "ksched") -> Array | None:
    """Sigmas of a schedule on a range, from the common start to 0; None if it has none for that process or count."""
    options = dict(schedule.options)
    if unknown := options.keys() - schedule_options(NoiseSchedule.parse(schedule.name)).keys():
        raise SystemExit(f"schedule {schedule.name} has no option {min(unknown)!r}")
    try:
        found = ksched.calculate_sigmas(schedule.name, steps, of.processes[ending], dialect=dialect, **options)
    except ValueError:
        return None
    sigmas = np.array(found)
    if len(sigmas) != steps + 1 or sigmas[-1] != 0 or (steps > 1 and sigmas[1] >= of.start):
        return None
    sigmas[0] = of.start
    return sigmas


def affordable(spec: SamplerSpec, calls: int) -> Iterator[int]:
    """Numbers of steps that fit into that many model calls, the largest first."""
    for steps in range(calls, 0, -1):
        if spec.calls is None or spec.nfe(steps) <= calls:
            yield steps


def built(
    sampler: Entry, schedule: Entry, ending: str, calls: int, of: Range, dialect: str = "ksched"
) -> Sampler | None:
    """The sampler with as many steps as an NFE allows; None if it allows no step."""
    for steps in affordable(sampler_spec(sampler.name), calls):
        sigmas = levels(schedule, ending, steps, of, dialect)
        if sigmas is None:
            return None
        made = ksched.build_sampler(
            sampler.name, sigmas=sigmas, process=of.processes[ending], dialect=dialect, **dict(sampler.options)
        )
        if made.nfe <= calls:
            return made
    return None


# -------------------------------------------------------------------------------------------------------- distributions


def sliced_wasserstein(a: torch.Tensor, b: torch.Tensor, directions: int = 256) -> float:
    """Root mean square distance of the quantiles of two samples along fixed random directions."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(a.shape[1], directions, generator=generator, dtype=torch.float64)
    axes /= axes.norm(dim=0)
    places = torch.linspace(0.5 / 1000, 1 - 0.5 / 1000, 1000, dtype=torch.float64)
    first, second = ((sample.double() @ axes).quantile(places, dim=0) for sample in (a, b))
    return float((first - second).square().mean().sqrt())
