"""Distance of posterior sampling from the exact posterior, for every rule, several samplers and numbers of model calls.

The data are a Gaussian and a mixture of four in 16 dimensions, smooth as signals are, with variance about 1, and the
digits of `ksched.exact.digits` in 64 dimensions. The observations are every other value or half of a picture (mask),
or blurred values (blur), with noise. The posteriors are known in closed form. There are three errors, each the mean
over observations: of the mean, divided by the root of the posterior's total variance; of the covariance, in Frobenius
norms; and the sliced 2-Wasserstein distance to exact samples, divided by the root of the mean variance. "exact" is a
second set of exact samples: what a perfect method would show.

``python benchmarks/posterior.py``. Writes posterior.json and, with ``--pictures FILE``, a picture; with ``--checkpoint
FILE``, one of the handwritten-digit checkpoint, a latent diffusion model whose pixels are observed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from _measure import arguments, facts, table, write

import ksched
from ksched import guidance
from ksched.exact.mixture import Gaussian, GaussianMixture
from ksched.guidance.posterior import Rule
from ksched.types import Array

PROCESS = ksched.EDM(sigma_max=40.0)
CALLS = (8, 16, 32, 64)
SAMPLERS = ("dpmpp_2m", "uni_pc", "heun", "dpmpp_2m_sde")
#: rules with their options, by name in the tables
RULES: Mapping[str, tuple[Rule, dict[str, Any]]] = {
    "mmps": ("mmps", {}),
    "mmps, 1 iteration": ("mmps", {"iterations": 1}),
    "pgdm": ("pgdm", {}),
    "tmpd": ("tmpd", {}),
    "dps": ("dps", {}),
}
DIMENSION, OBSERVATIONS, SAMPLES, DIRECTIONS = 16, 4, 512, 64
FAILED = 1e3  # times the spread of the posterior: a run that went to infinity


@dataclass(frozen=True)
class Problem:
    """Data, an observation operator, and the exact posteriors of some observations.

    Attributes
    ----------
    prior : exact denoiser of the data
    operator : shape (observed values, dimension)
    std : of the noise
    ys : one observation each, shape (observations, observed values)
    """

    prior: GaussianMixture
    operator: Array
    std: float
    ys: Array

    @classmethod
    def of(cls, prior: GaussianMixture, operator: Array, std: float, observations: int = OBSERVATIONS) -> Problem:
        """Observations of draws of the data."""
        noise = np.random.default_rng(2).standard_normal((observations, len(operator)))
        return cls(prior, operator, std, prior.sample(observations, 1) @ operator.T + std * noise)


def smooth(width: float, variance: float = 1.0) -> Array:
    """The covariance of a smooth signal."""
    place = np.arange(DIMENSION)
    return cast(
        Array, variance * (np.exp(-((place[:, None] - place) ** 2) / (2 * width**2)) + 0.01 * np.eye(DIMENSION))
    )


def blur(dimension: int, width: float = 1.5) -> Array:
    """Every other value of a blurred signal."""
    place = np.arange(dimension)
    weights = np.exp(-((place[::2, None] - place) ** 2) / (2 * width**2))
    return cast(Array, weights / weights.sum(1, keepdims=True))


def pooled() -> Array:
    """Means of 2x2 pixels of 8x8."""
    rows = np.zeros((16, 64))
    for i in range(64):
        rows[i // 16 * 4 + i % 8 // 2, i] = 0.25
    return rows


def problems() -> dict[str, Problem]:
    """The problems by name."""
    rng = np.random.default_rng(0)
    gauss = Gaussian(np.zeros(DIMENSION), smooth(2.0), PROCESS)
    wave = np.sin(np.arange(DIMENSION) * rng.uniform(0.2, 1.2, (4, 1)) + rng.uniform(0, 6, (4, 1)))
    covariances = np.stack([smooth(w, 0.2) for w in (1.0, 2.0, 3.0, 1.5)])
    mixture = GaussianMixture([0.4, 0.3, 0.2, 0.1], 1.2 * wave, covariances, PROCESS)
    mask = np.eye(DIMENSION)[::2]
    half = np.eye(64)[np.arange(64) % 8 < 4]
    return {
        "Gaussian, mask": Problem.of(gauss, mask, 0.1),
        "Gaussian, blur": Problem.of(gauss, blur(DIMENSION), 0.1),
        "mixture, mask": Problem.of(mixture, mask, 0.1),
        "mixture, blur": Problem.of(mixture, blur(DIMENSION), 0.1),
        "digits, left half": Problem.of(ksched.exact.digits(PROCESS), half, 0.1),
        "digits, 4x4 of 8x8": Problem.of(ksched.exact.digits(PROCESS), pooled(), 0.1),
    }


def errors(found: Array, exact: Array, truth: GaussianMixture) -> tuple[float, float, float]:
    """Of the mean, of the covariance, and the sliced distance."""
    covariance = truth.covariance
    total = float(np.trace(covariance))
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((truth.dimension, DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    lines = np.sort(found @ directions, axis=0) - np.sort(exact @ directions, axis=0)
    return (
        float(np.linalg.norm(found.mean(0) - truth.mean) / np.sqrt(total)),
        float(np.linalg.norm(np.cov(found.T) - covariance) / np.linalg.norm(covariance)),
        float(np.sqrt((lines**2).mean() / (total / truth.dimension))),
    )


def within(name: str, calls: int) -> ksched.Sampler | None:
    """A sampler with at most a given NFE; None if there is none."""
    for steps in range(calls, 0, -1):
        sampler = ksched.build_sampler(name, "karras", steps, process=PROCESS)
        if sampler.nfe <= calls:
            return sampler
    return None


def measured(
    problem: Problem, samplers: tuple[str, ...], counts: tuple[int, ...], samples: int
) -> Iterator[dict[str, Any]]:
    """Errors of every rule with every sampler, all observations in one batch."""
    truths = [problem.prior.given(problem.operator, y, problem.std) for y in problem.ys]
    exact = [truth.sample(samples, 10 + i) for i, truth in enumerate(truths)]
    again = [truth.sample(samples, 90 + i) for i, truth in enumerate(truths)]

    def row(results: list[Array], **named: Any) -> dict[str, Any]:
        parts = np.mean([errors(*three) for three in zip(results, exact, truths, strict=True)], axis=0)
        keys = ("mean", "covariance", "distance")
        return named | {key: float(v) if v < FAILED else None for key, v in zip(keys, parts, strict=True)}

    yield row(again, rule="exact", sampler="", calls=0)
    y = torch.from_numpy(np.repeat(problem.ys, samples, axis=0)).float()
    operator = torch.from_numpy(problem.operator).float()
    for name in samplers:
        for calls in counts:
            sampler = within(name, calls)
            if sampler is None:
                continue
            x = sampler.initial_state((len(y), problem.prior.dimension), seed=5)
            for label, (rule, options) in RULES.items():
                model = guidance.observed(problem.prior, operator, y, problem.std, rule, **options)
                with torch.no_grad():
                    result = sampler.sample(model, x, seed=6).nan_to_num(1e9, 1e9, -1e9).numpy()
                yield row(list(result.reshape(len(truths), samples, -1)), rule=label, sampler=name, calls=calls)


def picture(path: Path, each: int = 5) -> None:
    """Plot partly observed digits: the original, the observation, exact samples, and those of the rules."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.6, 5.6), layout="constrained")
    halves = figure.subfigures(1, 2)
    prior = ksched.exact.digits(PROCESS)
    sampler = ksched.build_sampler("dpmpp_2m", "karras", 25, process=PROCESS)
    titles = {
        "digits, left half": "Inpainting: the left half is seen",
        "digits, 4x4 of 8x8": "Super-resolution: 4x4 of 8x8",
    }
    for half, (name, title) in zip(halves, titles.items(), strict=True):
        operator = problems()[name].operator
        originals = np.stack([prior.only(label).sample(1, 4)[0] for label in (2, 3, 5, 8)])
        half.suptitle(title)
        columns = ["original", "seen", "exact", *(rule for rule in RULES if "1" not in rule)]
        axes = half.subplots(2 * len(originals), len(columns), gridspec_kw={"wspace": 0.05, "hspace": 0.05})
        for i, original in enumerate(originals):
            y = original @ operator.T + 0.1 * np.random.default_rng(7 + i).standard_normal(len(operator))
            seen = np.linalg.pinv(operator) @ y  # grey, which is 0, where nothing is seen
            shown = {"original": [original], "seen": [seen], "exact": prior.given(operator, y, 0.1).sample(2, 8)}
            for label in columns[3:]:
                model = guidance.observed(prior, torch.from_numpy(operator), torch.from_numpy(y), 0.1, RULES[label][0])
                x = sampler.initial_state((2, 64), seed=3).double()
                shown[label] = sampler.sample(model, x).numpy()
            for column, label in enumerate(columns):
                for j in range(2):
                    at = axes[2 * i + j, column]
                    at.set_axis_off()
                    if i == j == 0:
                        at.set_title(label, fontsize=10)
                    if j < len(shown[label]):
                        at.imshow(-np.reshape(shown[label][j], (8, 8)), cmap="gray", vmin=-1, vmax=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def picture_of_checkpoint(path: Path, draws: int = 3) -> None:
    """Plot held-out digits observed in part through the autoencoder, by "dps", which supports nonlinear operators."""
    from _handwriting import WORDS, real
    from digits_recognised import FOLDER, Checkpoint
    from matplotlib.figure import Figure

    checkpoint, held = Checkpoint(FOLDER), real()[1]
    labels = (2, 3, 5, 8)
    originals = torch.stack([held.images[np.flatnonzero(held.labels == label)[0]] for label in labels])
    prompts = [text for label in labels for text in ("", f"a handwritten {WORDS[label]}") for _ in range(draws)]
    denoiser = checkpoint.denoiser.given(encoder_hidden_states=checkpoint.embedded(prompts).detach())
    sampler = ksched.build_sampler("dpmpp_2m", "karras", 25, process=checkpoint.process)
    x = sampler.initial_state((draws, 4, 8, 8), seed=1).repeat(len(prompts) // draws, 1, 1, 1)

    def decoded(latents: torch.Tensor) -> torch.Tensor:
        return cast(
            torch.Tensor, checkpoint.vae.decode(latents / checkpoint.vae.config.scaling_factor).sample.mean(1, True)
        )

    parts: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "Inpainting: the left half is seen": lambda images: images[..., :16],
        "Super-resolution: 8x8 of 32x32": torch.nn.AvgPool2d(4),
    }
    figure = Figure(figsize=(13.6, 4.2), layout="constrained")
    for half, (title, part) in zip(figure.subfigures(1, 2), parts.items(), strict=True):
        clean = part(originals)
        y = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
        repeated = y.repeat_interleave(2 * draws, 0)
        model = guidance.observed(denoiser, lambda z, part=part: part(decoded(z)), repeated, 0.1, "dps")
        with torch.no_grad():
            results = decoded(sampler.sample(model, x))
        off = (part(results) - repeated).square().mean().sqrt()
        wrong = (results - originals.repeat_interleave(2 * draws, 0)).square().mean().sqrt()
        print(f"{title}: error {off:.3f} against the observation, {wrong:.3f} against the original")
        half.suptitle(title)
        axes = half.subplots(len(labels), 2 + 2 * draws, gridspec_kw={"wspace": 0.05, "hspace": 0.05})
        for i, row in enumerate(axes):
            seen = torch.nn.functional.pad(y[i], (0, 16)) if y.shape[-1] == 16 else y[i]
            shown = [originals[i], seen, *results[2 * draws * i : 2 * draws * (i + 1)]]
            for at, image in zip(row, shown, strict=True):
                at.set_axis_off()
                at.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        for column, label in {0: "original", 1: "seen", 3: "no prompt", 3 + draws: "prompted"}.items():
            axes[0, column].set_title(label, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Measure and write."""
    parser = arguments(__doc__, 0.0)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="draws for each observation")
    parser.add_argument("--pictures", type=Path, help="draw digits into this file, and measure nothing")
    parser.add_argument("--checkpoint", type=Path, help="draw the checkpoint's digits into this file instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.pictures:
        picture(args.pictures)
    if args.checkpoint:
        picture_of_checkpoint(args.checkpoint)
    if args.pictures or args.checkpoint:
        return
    data: dict[str, Any] = {**facts(), "samples": args.samples, "observations": OBSERVATIONS, "problems": {}}
    for name, problem in problems().items():
        start = time.perf_counter()
        if problem.prior.dimension > DIMENSION:  # the whole of these would take hours
            rows = list(measured(problem, (SAMPLERS[0], SAMPLERS[-1]), CALLS[1::2], args.samples // 4))
        else:
            rows = list(measured(problem, SAMPLERS, CALLS, args.samples))
        data["problems"][name] = rows
        shown = [
            [
                r["rule"],
                r["sampler"],
                str(r["calls"]),
                *(f"{r[k] or np.inf:.3f}" for k in ("mean", "covariance", "distance")),
            ]
            for r in rows
        ]
        print(f"\n{name}, {time.perf_counter() - start:.0f} s", flush=True)
        print(table(["rule", "sampler", "calls", "mean", "covariance", "distance"], shown))
        write(args.out, "posterior", data)


if __name__ == "__main__":
    main()
