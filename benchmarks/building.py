"""The cost of building a sampler: sigmas, the tracing of its plan, and the start of a run, once per setting.

``build`` is `build_sampler` from names to the finished table; ``start`` is `Sampler.start`, which begins a run. The
table also shows what diffusers does before its loop, where it has a counterpart: ``class`` makes a scheduler from its
configuration, then comes ``set_timesteps``. ``python benchmarks/building.py``. Writes building.json.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from _measure import arguments, best, facts, table, write
from _peers import DIFFUSERS, diffusers_library

from ksched import build_sampler
from ksched.samplers.registry import samplers

STEPS, SHAPE = 20, (1, 4, 64, 64)


def theirs(library: Any, name: str) -> dict[str, Callable[[], object]]:
    """What diffusers does for a ksched sampler."""
    if library is None or name not in DIFFUSERS:
        return {}
    class_name, configuration = DIFFUSERS[name]
    kind = getattr(library, class_name)
    scheduler = kind(**configuration)
    return {"class": lambda: kind(**configuration), "set_timesteps": lambda: scheduler.set_timesteps(STEPS)}


def main() -> None:
    """Print the table and write JSON."""
    given = arguments(__doc__, seconds=0.1).parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")  # diffusers' about settings
    library: Any = None
    try:
        library = diffusers_library()
    except ImportError as error:
        print(f"diffusers is not measured because it cannot be loaded: {error}")
    columns = ("build", "start", "class", "set_timesteps")
    x = torch.ones(SHAPE)
    cells: list[dict[str, Any]] = []
    for spec in (spec for spec in samplers() if not spec.flow_only):
        made = build_sampler(spec.name, "karras", STEPS)
        jobs: dict[str, Callable[[], object]] = {
            "build": lambda name=spec.name: build_sampler(name, "karras", STEPS),
            "start": lambda made=made: made.start(x, seed=0),
            **theirs(library, spec.name),
        }
        cells.append({"sampler": spec.name, **{key: 1e6 * best(job, given.seconds) for key, job in jobs.items()}})
    print(f"microseconds, {STEPS} steps")
    rows = [[c["sampler"], *(f"{c[key]:.0f}" if key in c else "-" for key in columns)] for c in cells]
    print(table(["sampler", *columns], rows))
    write(given.out, "building", {**facts(), "steps": STEPS, "cells": cells})


if __name__ == "__main__":
    main()
