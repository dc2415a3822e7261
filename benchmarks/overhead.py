"""What the library itself costs: time per step of every sampler, and of building one (schedules: schedules.py).

The model is a single ``mul`` that is timed alone and taken off. Times differ from machine to machine and from minute
to minute, so every figure also stands as a ratio to a hand-written Euler loop in plain torch measured in the same run.
``python benchmarks/overhead.py``.
"""

from __future__ import annotations

import argparse
import math
import timeit
from collections.abc import Callable

import torch

from ksched import Sampler, build_sampler, calculate_sigmas
from ksched.registry import samplers
from ksched.types import Array

STEPS = 20


def best(action: Callable[[], object], seconds: float) -> float:
    """Seconds of one call: the smallest mean of several rounds, which noise from outside can only raise."""
    timer = timeit.Timer(action)
    rounds = max(1, math.ceil(seconds / 5 / max(timer.timeit(1), 1e-7)))
    return min(timer.repeat(5, rounds)) / rounds


def euler_by_hand(x: torch.Tensor, sigmas: Array, model: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Euler as anyone writes it, with host numbers."""
    for s, t in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        denoised = model(x, s)
        x = x + (x - denoised) * ((t - s) / s)
    return x


def adaptive_calls(sampler: Sampler, model: Callable[..., torch.Tensor], x: torch.Tensor) -> int:
    """Model calls of a run whose number nobody knows beforehand."""
    run = sampler.start(x, seed=0)
    while not run.done:
        run.feed(model(run.x, run.sigma))
    return run.nfe


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on each figure")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    shapes = [(1, 4, 64, 64), (1, 16, 128, 128)]

    def model(x: torch.Tensor, sigma: object) -> torch.Tensor:
        return x * 0.5

    def pair(x: torch.Tensor, sigma: object) -> tuple[torch.Tensor, torch.Tensor]:
        denoised = x * 0.5
        return denoised, denoised

    print(f"microseconds per step of {STEPS} (ratio to Euler written by hand), model taken off, float32, one thread")
    print(f"{'':32}" + "".join(f"{'x'.join(map(str, shape)):>24}" for shape in shapes))
    states = [torch.ones(shape) for shape in shapes]
    calls = [best(lambda x=x: model(x, 1.0), seconds) for x in states]
    sigmas = calculate_sigmas("karras", STEPS)
    hand = [
        best(lambda x=x: euler_by_hand(x, sigmas, model), seconds) / STEPS - call
        for x, call in zip(states, calls, strict=True)
    ]
    print(f"{'Euler by hand':32}" + "".join(f"{1e6 * time:17.1f}       " for time in hand))
    for spec in samplers():
        sampler = build_sampler(spec.name, "karras", STEPS)
        nfe = adaptive_calls(sampler, model, states[0]) if spec.adaptive else sampler.nfe
        row = ""
        for x, call, plain in zip(states, calls, hand, strict=True):
            asked = pair if spec.uncond else model
            time = best(lambda x=x, s=sampler, m=asked: s.sample(m, x, seed=0), seconds)
            own = (time - call * nfe) / STEPS
            row += f"{1e6 * own:17.1f} ({own / plain:4.1f})"
        print(f"{spec.name:32}{row}")

    print(f"\nmicroseconds to build a sampler of {STEPS} steps")
    for spec in samplers():
        print(f"{spec.name:32}{1e6 * best(lambda n=spec.name: build_sampler(n, 'karras', STEPS), seconds):17.1f}")


if __name__ == "__main__":
    main()
