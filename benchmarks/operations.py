"""How many torch operations a step takes, and how much memory a run needs: counts that are the same on every machine.

* ``operations``: calls that torch dispatches, per step, without the model's own.
* ``whole``: those that make or fill a tensor of the state's size, per step; they take the time on a large state.
* ``reads``: values read back from a tensor to the host in a run, and tensors moved between devices. Each makes a GPU
  wait. For diffusers, what `set_timesteps` does before the loop is not counted.
* ``peak``: the most memory that a run holds beyond what was there before, in units of one state. ksched should need
  the live registers of its plan and one more. The model makes a new tensor at every call.
* ``launches``: kernels per step, including the model's own; on a GPU only.

``python benchmarks/operations.py``, ``--device cuda`` for a GPU. Writes operations.json, or operations_cuda.json.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from _measure import Contender, arguments, facts, named, table, write
from _peers import COMFY, DIFF, KDIFF, OURS, begin, ours, peer_arguments
from overhead import make_job
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from ksched import build_sampler
from ksched.samplers.registry import samplers

SHAPE, STEPS = (1, 16, 128, 128), 20
SHOWN = (OURS, KDIFF, DIFF, COMFY)
FIGURES = ("operations", "whole", "reads", "peak")


class Counter(TorchDispatchMode):
    """Counts what torch dispatches while it is on, without the model's work."""

    in_model = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.operations, self.whole, self.reads = size, 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if Counter.in_model:
            return made
        name = func.overloadpacket._qualified_op_name
        self.operations += 1
        if isinstance(made, torch.Tensor) and made.numel() == self.size and not func.is_view:
            self.whole += name not in ("aten::empty_like", "aten::empty", "aten::detach")
        moved = name in ("aten::_to_copy", "aten::copy_") and len({made.device, *_devices(args)}) > 1
        self.reads += moved or name == "aten::_local_scalar_dense"
        return made


def uncounted(model: Callable[..., Any]) -> Callable[..., Any]:
    """A model whose work is not counted."""

    def call(*args: Any, **kwargs: Any) -> Any:
        Counter.in_model = True
        try:
            return model(*args, **kwargs)
        finally:
            Counter.in_model = False

    return call


def _devices(values: Any) -> set[torch.device]:
    return {value.device for value in values if isinstance(value, torch.Tensor)}


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The largest memory of tensors at once during a run, beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def launches(run: Callable[[], object]) -> int:
    """Kernels that a run starts on a GPU."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return sum(event.count for event in profiler.key_averages() if event.key.startswith(("cudaLaunch", "cuLaunch")))


def counts(contender: Contender, size: int, steps: float, device: torch.device) -> dict[str, float]:
    """The figures of one contender."""
    contender.prepare()()  # what is made once per process is there now
    run = contender.prepare()
    with Counter(size) as counter:
        run()
    figures = {
        "operations": counter.operations / steps,
        "whole": counter.whole / steps,
        "reads": float(counter.reads),
        "peak": peak_bytes(contender.prepare(), device) / size / 4,
    }
    if device.type == "cuda":
        figures["launches"] = launches(contender.prepare()) / steps
    return figures


def main() -> None:
    """Print the table and write JSON."""
    parser = arguments(__doc__, seconds=0.0)
    peer_arguments(parser)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    if (begun := begin(given)) is None:
        return
    device, programs = begun
    size = torch.Size(SHAPE).numel()
    job = make_job(SHAPE, build_sampler("euler", "karras", STEPS).sigmas.tolist(), "fresh", device)
    job = replace(job, model=uncounted(job.model), both=uncounted(job.both))
    figures = (*FIGURES, "launches") if device.type == "cuda" else FIGURES
    cells: list[dict[str, Any]] = []
    with torch.no_grad():
        for spec in (spec for spec in samplers() if not spec.flow_only):
            sampler = build_sampler(spec.name, sigmas=job.sigmas)
            found: dict[str, dict[str, float]] = {}
            for contender in (*ours(sampler, job), *programs.contenders(spec.name, job, trees=False)):
                if contender.name in SHOWN:
                    tries = contender.calls / int(spec.calls) if spec.adaptive else STEPS  # type: ignore[arg-type]
                    found[contender.name] = counts(contender, size, tries, device)
            cell: dict[str, Any] = {"sampler": spec.name, "figures": found}
            if not spec.adaptive:
                cell["live"] = sampler.plan.live_registers
                cell["peak_limit"] = cell["live"] + 1
            cells.append(cell)

    shown = [name for name in SHOWN if any(name in cell["figures"] for cell in cells)]
    rows = []
    for cell in cells:
        line = [cell["sampler"], str(cell.get("peak_limit", "-"))]
        for name in shown:
            line += [f"{cell['figures'][name][f]:.1f}" if name in cell["figures"] else "-" for f in figures]
        rows.append(line)
    print(f"\n{named(SHAPE)}, {STEPS} steps")
    print(
        table(
            ["sampler", "limit", *(f"{name}: {f}" if f == figures[0] else f for name in shown for f in figures)], rows
        )
    )
    above = [c["sampler"] for c in cells if "peak_limit" in c and c["figures"][OURS]["peak"] > c["peak_limit"] + 0.01]
    print(f"\npeak above the live registers + 1: {', '.join(above) or 'none'}")
    about = {**facts(device), "shape": named(SHAPE), "steps": STEPS}
    write(given.out, f"operations{'' if device.type == 'cpu' else '_' + device.type}", {**about, "cells": cells})


if __name__ == "__main__":
    main()
