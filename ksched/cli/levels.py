"""``ksched sigmas`` and ``ksched plan``: levels and tables as numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ksched.cli.common import (
    LONGEST_PLAN,
    AsJSON,
    DialectName,
    Options,
    ProcessOption,
    Shift,
    SigmaMax,
    SigmaMin,
    Steps,
    ZeroSNR,
    plain_number,
    read_options,
    read_plan,
)
from ksched.cli.process import ProcessName, make_process
from ksched.names.enums import Dialect, NoiseSchedule
from ksched.samplers.registry import plan_spec, sampler_spec
from ksched.schedules import calculate_sigmas, schedule_options

__all__ = ["print_plan", "print_sigmas"]


def print_sigmas(
    schedule: Annotated[str, typer.Argument(help="Noise schedule; see 'ksched list'.")],
    steps: Steps = 20,
    process: ProcessOption = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    sigma_min: SigmaMin = None,
    sigma_max: SigmaMax = None,
    dialect: DialectName = "ksched",
    option: Options = None,
    as_json: AsJSON = False,
) -> None:
    """Print the noise levels of a schedule."""
    name, spoken = NoiseSchedule.parse(schedule), Dialect.parse(dialect)
    made = make_process(process, shift, zero_terminal_snr)
    options = read_options(option, f"schedule {name}", schedule_options(name))
    levels = calculate_sigmas(name, steps, made, sigma_min=sigma_min, sigma_max=sigma_max, dialect=spoken, **options)
    if levels.max() > made.sigma_limit:
        raise ValueError(
            f"{name} in the dialect of {spoken} goes to sigma {levels.max():.6g}, whatever the process; "
            f"{made!r} has none above {made.sigma_limit:g}"
        )
    sigmas = levels.tolist()
    timesteps = [made.timestep(sigma) for sigma in sigmas if sigma > 0]  # the model is not called at 0
    lams = [made.level(sigma).lam for sigma in sigmas]
    if as_json:
        facts = {"schedule": name, "steps": steps, "process": repr(made), "dialect": spoken, "options": options}
        facts |= {"sigmas": sigmas, "timesteps": timesteps, "half_log_snr": [plain_number(lam) for lam in lams]}
        print(json.dumps(facts, allow_nan=False))
        return
    print(f"{'step':>4}  {'sigma':>16}  {'timestep':>13}  {'half log-SNR':>14}")
    for step, (sigma, lam) in enumerate(zip(sigmas, lams, strict=True)):
        timestep = f"{timesteps[step]:.6f}" if sigma > 0 else "-"
        print(f"{step:>4}  {sigma:>16.10g}  {timestep:>13}  {lam:>14.8f}")


def print_plan(
    sampler: Annotated[str, typer.Argument(help="Sampler, see 'ksched list'; auto; or a plan in a .json file.")],
    schedule: Annotated[
        str | None, typer.Option("--schedule", help="Noise schedule; see 'ksched list'.", show_default="simple")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", "-n", max=LONGEST_PLAN, help="At least 1.", show_default="20")
    ] = None,
    sigmas: Annotated[
        str | None, typer.Option("--sigmas", metavar="A,B,...", help="Levels to run instead of a schedule.")
    ] = None,
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
    rule = NoiseSchedule.parse(schedule or NoiseSchedule.default())
    known = {**({} if spec.levels else schedule_options(rule)), **spec.options}
    owner = f"sampler {spec.name}" + ("" if spec.levels else f" with schedule {rule}")
    options = read_options(option, owner, known)
    limits = {"sigma_min": sigma_min, "sigma_max": sigma_max}
    options |= {name: value for name, value in limits.items() if value is not None}
    made = make_process(process, shift, zero_terminal_snr)
    where: dict[str, Any] = {"process": made, "sigmas": _levels(sigmas), "dialect": dialect}
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


def _levels(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--sigmas must be numbers separated by commas, such as 14.6,5,1.5,0; got {text!r}") from None
