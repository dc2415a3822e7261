"""``ksched plan``: the table of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ksched.cli.common import (
    LONGEST_PLAN,
    AsJSON,
    Calls,
    DialectName,
    Options,
    ProcessOption,
    Shift,
    SigmaMax,
    SigmaMin,
    Sigmas,
    ZeroSNR,
    complete_sampler,
    complete_schedule,
    read_options,
    read_plan,
    read_sigmas,
)
from ksched.cli.process import ProcessName, make_process
from ksched.names.enums import NoiseSchedule
from ksched.samplers.registry import plan_spec, sampler_spec
from ksched.schedules.select import schedule_name, schedule_options

__all__ = ["print_plan"]


def print_plan(
    sampler: Annotated[
        str,
        typer.Argument(
            help="Sampler, see 'ksched list'; auto; or a plan in a .json file.", autocompletion=complete_sampler
        ),
    ],
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            help="Noise schedule; see 'ksched list'.",
            show_default="simple",
            autocompletion=complete_schedule,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", "-n", max=LONGEST_PLAN, help="At least 1.", show_default="20")
    ] = None,
    calls: Calls = None,
    sigmas: Sigmas = None,
    process: ProcessOption = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    sigma_min: SigmaMin = None,
    sigma_max: SigmaMax = None,
    dialect: DialectName = "ksched",
    option: Options = None,
    as_json: AsJSON = False,
) -> None:
    """Print a sampler on a schedule as the table of numbers that it is."""
    from ksched.sampler import build_sampler

    named = read_plan(Path(sampler)) if sampler.lower().endswith(".json") else sampler
    spec = sampler_spec(named) if isinstance(named, str) else plan_spec(named)
    rule = schedule_name(schedule or NoiseSchedule.default())
    known = {**({} if spec.levels else schedule_options(rule)), **spec.options}
    owner = f"sampler {spec.name}" + ("" if spec.levels else f" with schedule {rule}")
    options = read_options(option, owner, known)
    limits = {"sigma_min": sigma_min, "sigma_max": sigma_max}
    options |= {name: value for name, value in limits.items() if value is not None}
    made = make_process(process, shift, zero_terminal_snr)
    where: dict[str, Any] = {"process": made, "sigmas": read_sigmas(sigmas), "calls": calls, "dialect": dialect}
    plan = build_sampler(named, schedule, steps, **where, **options).plan
    if as_json:
        print(plan.to_json())
        return
    print(plan)
    print(
        f"# {_count(plan.nfe, 'model call')}, {_count(len(plan.draws), 'noise')}, "
        f"{_count(plan.widest_row, 'term')} in the widest row, {_count(plan.live_registers, 'live register')}"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
