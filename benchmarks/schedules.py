"""The cost of computing sigmas: every schedule of 50 steps, every process, and other programs' functions.

Times differ between machines and from minute to minute, so every figure is also given relative to one
``numpy.linspace`` of the same run. A schedule should cost less than 100 microseconds, a process less than 2
milliseconds. diffusers is measured if it is installed. So is k-diffusion, or its sampling.py alone if you give its
path, since the whole package imports much more. ``python benchmarks/schedules.py --k-diffusion PATH``. Writes
schedules.json.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import arguments, best, facts, write
from _peers import k_diffusion_sampling

import ksched
from ksched.schedules import SCHEDULES

STEPS = 50
SCHEDULE_LIMIT, PROCESS_LIMIT = 100.0, 2000.0
PROCESSES: dict[str, Callable[[], ksched.Process]] = {
    "VP": ksched.VP,
    "VP zero snr": lambda: ksched.VP(zero_terminal_snr=True),
    "EDM": ksched.EDM,
    "AngleV": ksched.AngleV,
    "VE": ksched.VE,
    "Cascade": ksched.Cascade,
    "Flow": lambda: ksched.Flow(3.0),
    "FlowVE": ksched.FlowVE,
}
MEASURED = ("VP", "EDM", "Cascade", "Flow")


def flagged(microseconds: float, limit: float) -> str:
    """Mark a figure above its limit with an exclamation mark."""
    return " !" if microseconds >= limit else ""


def k_diffusion(path: Path | None) -> Iterator[tuple[str, Callable[[], object]]]:
    """Names and calls of k-diffusion."""
    sampling = k_diffusion_sampling(path)
    low, high = ksched.VP().sigma_min, ksched.VP().sigma_max
    yield "get_sigmas_karras", lambda: sampling.get_sigmas_karras(STEPS, low, high)
    yield "get_sigmas_exponential", lambda: sampling.get_sigmas_exponential(STEPS, low, high)
    yield "get_sigmas_polyexponential", lambda: sampling.get_sigmas_polyexponential(STEPS, low, high)
    yield "get_sigmas_vp", lambda: sampling.get_sigmas_vp(STEPS)


def diffusers() -> Iterator[tuple[str, Callable[[], object]]]:
    """Names and calls of diffusers."""
    library = importlib.import_module("diffusers")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for name, how in {
        "EulerDiscreteScheduler": {},
        "EulerDiscreteScheduler trailing": {"timestep_spacing": "trailing"},
        "EulerDiscreteScheduler karras": {"use_karras_sigmas": True},
        "EulerDiscreteScheduler exponential": {"use_exponential_sigmas": True},
        "EulerDiscreteScheduler beta": {"use_beta_sigmas": True},
        "DPMSolverMultistepScheduler": {},
        "DPMSolverMultistepScheduler karras": {"use_karras_sigmas": True},
        "UniPCMultistepScheduler": {},
        "DDIMScheduler": {},
        "FlowMatchEulerDiscreteScheduler": None,
    }.items():
        made = getattr(library, name.split()[0])(**({} if how is None else {**betas, **how}))
        yield name, lambda made=made: made.set_timesteps(STEPS)


def peers(
    title: str, calls: Iterator[tuple[str, Callable[[], object]]], seconds: float, linspace: float
) -> dict[str, float]:
    """Print the microseconds of a program's functions as a table, or a line that says that it is missing."""
    print(f"\n{title}")
    found: dict[str, float] = {}
    try:
        for name, call in calls:
            time = best(call, seconds)
            found[name] = 1e6 * time
            print(f"{name:40}{1e6 * time:10.1f} ({time / linspace:5.1f})")
    except (ImportError, OSError) as error:
        print(f"not measured, it cannot be imported: {error}")
    return found


def main() -> None:
    """Print the tables and write JSON."""
    parser = arguments(__doc__, seconds=0.1)
    parser.add_argument("--k-diffusion", type=Path, metavar="PATH", help="path to k-diffusion's sampling.py")
    given = parser.parse_args()
    seconds: float = given.seconds
    torch.set_num_threads(given.threads)
    data: dict[str, Any] = {"steps": STEPS, "schedules": {}, "processes": {}}
    linspace = best(lambda: np.linspace(1, 0, STEPS + 1), seconds)
    print(f"numpy.linspace of {STEPS + 1} numbers: {1e6 * linspace:.1f} microseconds; ratios to it in brackets\n")
    print(f"microseconds for {STEPS} steps, named by a string; ! is {SCHEDULE_LIMIT:.0f} or more")
    print(f"{'':20}" + "".join(f"{name:>17}  " for name in MEASURED))
    slowest = 0.0
    made = {name: PROCESSES[name]() for name in MEASURED}
    for schedule in SCHEDULES:
        cells = ""
        name = schedule.value
        data["schedules"][name] = {}
        for of, process in made.items():
            time = best(lambda n=name, p=process: ksched.calculate_sigmas(n, STEPS, p), seconds)
            slowest = max(slowest, time)
            data["schedules"][name][of] = 1e6 * time
            cells += f"{1e6 * time:9.1f} ({time / linspace:5.1f}){flagged(1e6 * time, SCHEDULE_LIMIT):2}"
        print(f"{schedule:20}{cells}")
    print(f"slowest: {1e6 * slowest:.1f} ({slowest / linspace:.1f})")
    print(f"\nmicroseconds to build a process and its table; ! is {PROCESS_LIMIT:.0f} or more")
    for title, build in PROCESSES.items():
        time = best(lambda build=build: build().sigmas, seconds)
        data["processes"][title] = 1e6 * time
        print(f"{title:20}{1e6 * time:9.1f} ({time / linspace:5.1f}){flagged(1e6 * time, PROCESS_LIMIT)}")
    title = f"k-diffusion, microseconds for {STEPS} steps"
    data["k-diffusion"] = peers(title, k_diffusion(given.k_diffusion), seconds, linspace)
    title = f"diffusers, microseconds for set_timesteps({STEPS})"
    data["diffusers"] = peers(title, diffusers(), seconds, linspace)
    write(given.out, "schedules", {**facts(), **data})


if __name__ == "__main__":
    main()
