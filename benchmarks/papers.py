"""Published claims about samplers, tested on data with exact denoisers. Writes papers.json.

Every function below tests one claim: it measures, and decides by a rule in its code whether the figures agree with
the claim. The model is exact, so claims about trained networks alone cannot be tested here. `tests/test_papers.py`
measures everything again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import _papers_learned as learned
import numpy as np
import torch
from _measure import arguments, table, write
from _testbeds import Guided, run
from ksched.analysis import Law, gaussian_error, gaussian_errors, gaussian_law, marginals, measured_order
from scipy.optimize import minimize

import ksched
from ksched import EDM, VE, VP, Flow, Plan
from ksched.types import Array


@dataclass(frozen=True)
class Finding:
    """The outcome of a claim.

    Attributes
    ----------
    key : short name
    paper, link : its source
    claim : what the paper says, in our words
    agrees : whether the figures support it
    figures : measured values by name
    """

    key: str
    paper: str
    link: str
    claim: str
    agrees: bool
    figures: Mapping[str, float]


CLAIMS: list[Callable[[], Finding]] = []


def claim(key: str, paper: str, link: str, says: str) -> Callable[[Callable[[], tuple[bool, dict[str, float]]]], Any]:
    """Register a function that tests a claim."""

    def enter(measure: Callable[[], tuple[bool, dict[str, float]]]) -> Callable[[], Finding]:
        def found() -> Finding:
            agrees, figures = measure()
            return Finding(key, paper, f"https://arxiv.org/abs/{link}", says, bool(agrees), figures)

        CLAIMS.append(found)
        return found

    return enter


# ------------------------------------------------------------------------------------------- what several of them need


def image_stds(std: float = 0.5, side: int = 32) -> Array:
    """Standard deviations along the axes of one Gaussian with the spectrum of natural images."""
    frequencies = np.fft.fftfreq(side) * side
    variances = 1 / np.maximum(frequencies[:, None] ** 2 + frequencies**2, 0.5)
    stds: Array = std * np.sqrt(variances / variances.mean()).ravel()
    return stds


def spread_error(plan: Plan, stds: Array, *, weak: bool = False) -> float:
    """Root mean square over axes of `gaussian_error`, for data of mean 0."""
    different, counts = np.unique(stds, return_counts=True)
    errors = gaussian_errors(plan, np.zeros(len(different)), different, weak=weak)
    return math.sqrt(counts @ errors**2 / counts.sum())


def guided_error(name: str, calls: int, scale: float, **options: Any) -> float:
    """Mean relative error on digits under guidance: VP, sigmas even in log-SNR, each item towards its own digit."""
    model, x, truth = guided_digits(scale)
    end = run(ksched.build_sampler(name, "exponential", calls, process=VP(), **options), model, x)
    return float((end - truth).square().mean(1).sqrt().mean() / (truth - truth.mean(0)).square().mean().sqrt())


@cache
def guided_digits(scale: float) -> tuple[Guided, torch.Tensor, torch.Tensor]:
    """The model, start states, and where they end."""
    process = VP()
    model = Guided(ksched.exact.digits(process), scale)
    x = process.sigma_max * torch.randn(10, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return model, x, run(ksched.build_sampler("dpmpp_2m", "exponential", 120, process=process), model, x)


# -------------------------------------------------------------------------------------------------------------- claims


@claim(
    "high-order-under-guidance",
    "DPM-Solver++ (Lu et al. 2022)",
    "2211.01095",
    "Under a large guidance scale, solvers of order 3 become unstable at few steps; use order 2.",
)
def high_order_under_guidance() -> tuple[bool, dict[str, float]]:
    """Errors of orders 2 and 3 with and without guidance."""
    errors = {
        f"order {order}, scale {scale}, 10 calls": guided_error("dpm_multistep", 10, scale, order=order)
        for order in (2, 3)
        for scale in (1, 12)
    }
    return errors["order 3, scale 12, 10 calls"] > 1 > 4 * errors["order 2, scale 12, 10 calls"], errors


@claim(
    "data-or-noise",
    "DPM-Solver++ (Lu et al. 2022)",
    "2211.01095",
    "Under a large guidance scale, a multistep solver that extrapolates predicted data is more accurate than one that "
    "extrapolates predicted noise.",
)
def data_or_noise() -> tuple[bool, dict[str, float]]:
    """Errors of the second-order multistep solver with data and with noise prediction."""
    errors = {
        f"{predict}, scale 12, {calls} calls": guided_error("dpm_multistep", calls, 12, order=2, predict=predict)
        for predict in ("denoised", "eps")
        for calls in (10, 20)
    }
    return all(errors[f"denoised, scale 12, {n} calls"] < errors[f"eps, scale 12, {n} calls"] for n in (10, 20)), errors


@claim(
    "corrector",
    "UniPC (Zhao et al. 2023)",
    "2302.04867",
    "The corrector raises the order by one without another model call.",
)
def corrector() -> tuple[bool, dict[str, float]]:
    """Measured orders with and without the corrector."""
    orders = {}
    for order in (1, 2):
        for on in (False, True):

            def build(sigmas: Array, order: int = order, on: bool = on) -> Plan:
                how: dict[str, Any] = {"order": order, "corrector": on, "lower_order_final": False}
                return ksched.build_sampler("uni_pc", process=EDM(), sigmas=sigmas, **how).plan

            orders[f"order {order}, corrector {'on' if on else 'off'}"] = measured_order(build, EDM())
    raised = [orders[f"order {n}, corrector on"] - orders[f"order {n}, corrector off"] for n in (1, 2)]
    return all(0.75 < rise < 1.25 for rise in raised), orders


@claim(
    "rho",
    "EDM (Karras et al. 2022)",
    "2206.00364",
    "The exponent of the schedule is best between 5 and 10; 7 is near the best for Heun's method.",
)
def rho() -> tuple[bool, dict[str, float]]:
    """Errors on the spectrum of images by exponent, 18 steps (35 calls), as in the paper."""
    stds = image_stds()
    errors = {}
    for exponent in (1, 2, 3, 5, 7, 8, 9, 10, 15, 40):
        plan = ksched.build_sampler("heun", "karras", 18, process=EDM(), rho=exponent).plan
        errors[f"rho {exponent}"] = spread_error(plan, stds) / 0.5
    least = min(errors.values())
    return all(errors[f"rho {n}"] < 1.15 * least for n in (7, 8, 9, 10)) and errors["rho 3"] > 1.15 * least, errors


@claim(
    "churn",
    "EDM (Karras et al. 2022)",
    "2206.00364",
    "Churn repairs errors of the model; the better the model, the less it helps. With an exact one it only costs.",
)
def churn() -> tuple[bool, dict[str, float]]:
    """Wasserstein-2 distance on the spectrum of images by churn."""
    stds = image_stds()
    errors = {}
    for steps in (18, 64):
        for amount in (0, 10, 40):
            plan = ksched.build_sampler("heun", "karras", steps, process=EDM(), s_churn=amount).plan
            errors[f"churn {amount}, {plan.nfe} calls"] = spread_error(plan, stds, weak=True) / 0.5
    rising = [list(errors.values())[:3], list(errors.values())[3:]]
    return all(figures == sorted(figures) for figures in rising), errors


@claim(
    "tangent-law",
    "Align Your Steps (Sabour et al. 2024); Sun, Poor and Zhang 2026",
    "2404.14507",
    "For Gaussian data of std c the best sigmas are c times the tangents of evenly spaced angles.",
)
def tangent_law() -> tuple[bool, dict[str, float]]:
    """The best grid that a search finds for Euler's method, beside the grid of the law."""
    std, first, last, steps = 0.5, 80.0, 0.002, 6
    angles = np.linspace(math.atan(first / std), math.atan(last / std), steps + 1)

    def error(sigmas: Array) -> float:
        plan = ksched.build_sampler("euler", process=EDM(), sigmas=sigmas).plan
        return gaussian_error(plan, 0.0, std, weak=True)

    def grid(logits: Array) -> Array:
        shares = np.exp(logits - logits.max())
        inner = first * (last / first) ** (np.cumsum(shares)[:-1] / shares.sum())
        return np.array([first, *inner, last])

    how = {"maxiter": 6000, "maxfev": 6000, "xatol": 1e-8, "fatol": 1e-13, "adaptive": True}
    searched = grid(minimize(lambda z: error(grid(z)), np.zeros(steps), method="Nelder-Mead", options=how).x)
    law = std * np.tan(angles)
    figures = {
        "error by the law": error(law) / std,
        "1 - cos(step) ** steps": 1 - math.cos(angles[0] - angles[1]) ** steps,
        "error of the searched grid": error(searched) / std,
        "error of sigmas even in log-SNR": error(np.geomspace(first, last, steps + 1)) / std,
        "largest difference of the sigmas, relative": float(abs(searched / law - 1).max()),
    }
    return figures["largest difference of the sigmas, relative"] < 1e-4, figures


@claim(
    "exact-wasserstein",
    "Pierret and Galerne 2025",
    "2405.14250",
    "On Gaussian data, Heun's method has the smallest Wasserstein distance of all common schemes at equal NFE.",
)
def exact_wasserstein() -> tuple[bool, dict[str, float]]:
    """Exact distances for the continuous VP process, even steps in its own time down to 1e-3, spectrum of images."""
    figures = {}
    for calls in (30, 60):
        for name, each in (("ddpm", 1), ("euler", 1), ("heun", 2)):
            plan = _vp_plan(name, calls // each)
            figures[f"{name}, {calls} calls"] = _distance(plan, image_stds(), of_start=False)
    best = all(
        figures[f"heun, {n} calls"] < min(figures[f"ddpm, {n} calls"], figures[f"euler, {n} calls"]) for n in (30, 60)
    )
    return best, figures


@claim(
    "start-forgotten",
    "Pierret and Galerne 2025",
    "2405.14250",
    "Starting from N(0, 1) instead of the exact distribution at the last time hurts the ODE more than the SDE.",
)
def start_forgotten() -> tuple[bool, dict[str, float]]:
    """Distance between the results of the two starts, 60 steps of order 2."""
    figures = {
        name: _distance(_vp_plan(name, 60), image_stds(), of_start=True) for name in ("dpmpp_2m", "dpmpp_2m_sde")
    }
    return figures["dpmpp_2m_sde"] < figures["dpmpp_2m"], figures


def _vp_plan(name: str, steps: int) -> Plan:
    """A sampler on even steps of the time of the VP SDE with betas from 0.1 to 20, from 1 to 0.001."""
    time = np.linspace(1, 1e-3, steps + 1)
    alpha = np.exp(-(20 - 0.1) / 4 * time**2 - 0.1 / 2 * time)
    process = VP(variance_preserving=True)
    return ksched.build_sampler(name, process=process, sigmas=np.sqrt(1 - alpha**2) / alpha).plan


def _distance(plan: Plan, stds: Array, *, of_start: bool) -> float:
    """Wasserstein-2 distance of the results from the data; or between results from N(0, 1) and from the right start."""
    squares = 0.0
    for std, count in zip(*np.unique(stds, return_counts=True), strict=True):
        started = math.sqrt(gaussian_law(plan, 0.0, std, start=Law(0.0, 1.0)).variance)
        right = math.sqrt(gaussian_law(plan, 0.0, std).variance) if of_start else std
        squares += count * (started - right) ** 2
    return math.sqrt(squares)


@claim(
    "guidance-is-no-tilt",
    "Bradley and Nakkiran 2024",
    "2408.09000",
    "Classifier-free guidance samples no power of the conditional distribution, and ODE and SDE sample different "
    "ones: for conditional data N(0, 1) and unconditional N(0, 2), variances 2^(1-w) and (2 - 2^(2-2w)) / (2w - 1).",
)
def guidance_is_no_tilt() -> tuple[bool, dict[str, float]]:
    """Variances of 20,000 results, 200 steps of order 2."""
    scale, process = 3.0, VE()
    conditional = ksched.exact.Gaussian(np.zeros(1), 1.0, process)
    unconditional = ksched.exact.Gaussian(np.zeros(1), 2.0, process)

    def model(x: torch.Tensor, sigma: float) -> torch.Tensor:
        numbers = x.reshape(-1, 1)  # one item of many numbers: noise is drawn by item
        outside = unconditional(numbers, sigma)
        return (outside + scale * (conditional(numbers, sigma) - outside)).reshape(x.shape)

    sigmas = [*np.geomspace(200, 1e-3, 200), 0.0]
    x = 200 * torch.randn(1, 20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = {}
    for name in ("dpmpp_2m", "dpmpp_2m_sde"):
        sampler = ksched.build_sampler(name, sigmas=sigmas, process=process)
        found[name] = float(run(sampler, model, x, seed=5).var())
    figures = {
        "ODE": found["dpmpp_2m"],
        "ODE by the formula": 2 ** (1 - scale),
        "SDE": found["dpmpp_2m_sde"],
        "SDE by the formula": (2 - 2 ** (2 - 2 * scale)) / (2 * scale - 1),
        "the power law": 1 / (scale - (scale - 1) / 2),
    }
    near = [abs(figures[kind] / figures[f"{kind} by the formula"] - 1) < 0.03 for kind in ("ODE", "SDE")]
    return all(near), figures


@claim(
    "preserved-coefficients",
    "Coefficients-preserving sampling (Wang and Yu 2025)",
    "2509.05952",
    "The stochastic step of Flow-GRPO leaves more noise in its states than sigma says; the preserving step does not.",
)
def preserved_coefficients() -> tuple[bool, dict[str, float]]:
    """The largest ratio of the noise of a state to that of its level, 10 steps."""
    figures = {}
    for name in ("flow_sde", "flow_cps"):
        plan = ksched.build_sampler(name, process=Flow(), sigmas=np.linspace(1, 0, 11), noise_level=0.7).plan
        ratios = [math.sqrt(m.variance) / m.level.sigma for m in marginals(plan) if m.level.sigma > 0]
        figures[name] = max(ratios)
    return figures["flow_sde"] > 1.05 and abs(figures["flow_cps"] - 1) < 1e-12, figures


@claim(
    "terminal-snr",
    "Lin et al. 2023",
    "2305.08891",
    "A model trained with some signal left at its last timestep, but started from pure noise, cannot reach very dark "
    "or bright pictures: brightness is drawn towards the middle.",
)
def terminal_snr() -> tuple[bool, dict[str, float]]:
    """Mean of the results for pictures of one brightness, from pure noise, with and without the rescaled schedule."""
    figures = {}
    for name, process in (("as trained", VP()), ("zero terminal SNR", VP(zero_terminal_snr=True))):
        plan = ksched.build_sampler("dpmpp_2m", "simple", 200, process=process).plan
        noise = Law(0.0, plan.start.sigma**2)
        figures[name] = gaussian_law(plan, 1.0, 1.0, start=noise).mean
    return figures["as trained"] < 0.95 and abs(figures["zero terminal SNR"] - 1) < 1e-3, figures


@claim(
    "resolution-shift",
    "Stable Diffusion 3 (Esser et al. 2024)",
    "2403.03206",
    "Shifting times by the square root of the pixel ratio preserves how well a network can know the mean of a picture.",
)
def resolution_shift() -> tuple[bool, dict[str, float]]:
    """Std of the estimate of a constant picture's value from its noisy pixels, at both resolutions."""
    pixels, more = 64**2, 128**2
    times = np.linspace(1, 0, 9)[1:-1]
    shifted = ksched.schedules.shift(times, math.sqrt(more / pixels))
    before, after = times / (1 - times) / math.sqrt(pixels), shifted / (1 - shifted) / math.sqrt(more)
    figures = {"largest relative difference": float(abs(after / before - 1).max())}
    unshifted = times / (1 - times) / math.sqrt(more)
    figures["without a shift"] = float(abs(unshifted / before - 1).max())
    return figures["largest relative difference"] < 1e-12 < figures["without a shift"], figures


@claim(
    "deterministic-at-few-steps",
    "DDIM (Song et al. 2020)",
    "2010.02502",
    "In few steps the deterministic sampler is closer to the data than the stochastic one of the same family.",
)
def deterministic_at_few_steps() -> tuple[bool, dict[str, float]]:
    """Wasserstein-2 distance on the spectrum of images by eta."""
    stds = image_stds(1.0)
    figures = {}
    for steps in (10, 20, 50, 100):
        for eta in (0.0, 1.0):
            plan = ksched.build_sampler("ddim", "ddim_uniform", steps, process=VP(), eta=eta).plan
            figures[f"eta {eta:g}, {steps} steps"] = spread_error(plan, stds, weak=True)
    return all(figures[f"eta 0, {n} steps"] < figures[f"eta 1, {n} steps"] for n in (10, 20, 50, 100)), figures


for entry in learned.CLAIMED:
    claim(*entry[:4])(entry[4])


def main() -> None:
    """Measure, print and write."""
    parser = arguments(__doc__, 0.0)
    parser.add_argument("--fit", action="store_true", help="fit the learned solvers again first")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.fit:
        learned.fit_all()
    found = [measure() for measure in CLAIMS]
    lines = []
    for finding in found:
        lines.append([finding.key, "agrees" if finding.agrees else "does not", ""])
        lines += [["", name, f"{value:.4g}"] for name, value in finding.figures.items()]
    print(table(["claim", "", ""], lines))
    write(given.out, "papers", {"findings": [asdict(finding) for finding in found]})


if __name__ == "__main__":
    main()
