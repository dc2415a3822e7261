"""Parts shared by the benchmarks: interleaved timing, facts about the machine, tables, and results as JSON.

The documentation is generated from the JSON files, so the two cannot disagree.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import time
import timeit
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ksched

RESULTS = Path(__file__).parent / "results"
SHAPES = ((1, 4, 64, 64), (1, 4, 128, 128), (1, 16, 128, 128), (1, 16, 21, 60, 104), (2, 16, 21, 90, 160))
LEAST_RUNS, FEW_RUNS = 3, 2


@dataclass(frozen=True)
class Contender:
    """One way to do a job.

    Attributes
    ----------
    name : column of the table
    prepare : makes what a run needs and returns the run; only the run is timed
    calls : model calls of a run
    slow : run only twice, even if there is time for more
    """

    name: str
    prepare: Callable[[], Callable[[], object]]
    calls: int = 0
    slow: bool = False


def best(action: Callable[[], object], seconds: float) -> float:
    """Seconds of one call: the smallest mean of several rounds, since other load can only raise it."""
    timer = timeit.Timer(action)
    rounds = max(1, math.ceil(seconds / 5 / max(timer.timeit(1), 1e-7)))
    return min(timer.repeat(5, rounds)) / rounds


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(contenders: Sequence[Contender], seconds: float, device: torch.device) -> dict[str, float]:
    """Seconds of one run of each contender: they take turns, equally often, and the fastest run of each counts.

    A turn is two runs, so that the CPU caches left by another contender do not matter. Each contender has run before,
    when its model calls were counted.
    """
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    turn, end = 0, time.perf_counter() + seconds * len(contenders)
    while turn < LEAST_RUNS or time.perf_counter() < end:
        for contender in contenders:
            if contender.slow and turn >= FEW_RUNS:
                continue
            for _ in range(1 if contender.slow else 2):
                run = contender.prepare()
                wait(device)
                start = time.perf_counter()
                run()
                wait(device)
                times[contender.name].append(time.perf_counter() - start)
        turn += 1
    return {name: min(runs) for name, runs in times.items()}


def arguments(description: str | None, seconds: float) -> argparse.ArgumentParser:
    """Create a parser with the arguments of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=seconds, help="time spent on each figure")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    return parser


def named(shape: Iterable[int]) -> str:
    """A shape as text."""
    return "x".join(map(str, shape))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "numpy", "diffusers", "k-diffusion", "torchsde"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"ksched": ksched.__version__, "python": platform.python_version(), **found}


def facts(device: torch.device | None = None) -> dict[str, Any]:
    """What a figure depends on besides the code: machine, threads, versions, date."""
    cuda = device is not None and device.type == "cuda"
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "versions": _versions(),
    }


def write(folder: Path, name: str, data: Mapping[str, Any]) -> None:
    """Write results as JSON, one file per benchmark and device; floats have four digits."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(_short(data), indent=1) + "\n")


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {str(key): _short(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(item) for item in value]
    return value


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A text table: the first column aligned left, the others right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean; nan of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
