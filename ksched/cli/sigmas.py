"""``ksched sigmas``: noise levels as numbers."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ksched.cli.common import (
    AsJSON,
    DialectName,
    Options,
    ProcessOption,
    Shift,
    SigmaMax,
    SigmaMin,
    Steps,
    StepsArgument,
    ZeroSNR,
    complete_schedule,
    one_of,
    plain_number,
    read_options,
)
from ksched.cli.process import ProcessName, make_process
from ksched.names.enums import Dialect
from ksched.schedules.select import calculate_sigmas, schedule_name, schedule_options

__all__ = ["print_sigmas"]


def print_sigmas(
    schedule: Annotated[
        str, typer.Argument(help="Noise schedule; see 'ksched list'.", autocompletion=complete_schedule)
    ],
    after_schedule: StepsArgument = None,
    steps: Steps = None,
    process: ProcessOption = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    sigma_min: SigmaMin = None,
    sigma_max: SigmaMax = None,
    dialect: DialectName = Dialect.KSCHED,
    option: Options = None,
    as_json: AsJSON = False,
) -> None:
    """Print the noise levels of a schedule.

    Each row has the noise level (sigma), the timestep that the model receives, and half the logarithm of the
    signal-to-noise ratio.

    Examples
    --------
    ksched sigmas karras
    ksched sigmas karras 10 --rho 5
    ksched sigmas simple --process flow --shift 3 --json
    ksched sigmas karras --dialect comfyui
    """
    name, count = schedule_name(schedule), one_of("--steps", steps, after_schedule) or 20
    made = make_process(process, shift, zero_terminal_snr)
    options = read_options(option, f"schedule {name}", schedule_options(name))
    levels = calculate_sigmas(name, count, made, sigma_min=sigma_min, sigma_max=sigma_max, dialect=dialect, **options)
    if levels.max() > made.sigma_limit:
        raise ValueError(
            f"{name} in the dialect {dialect} starts at sigma {levels.max():.6g}, but the largest sigma of "
            f"{made!r} is {made.sigma_limit:g}"
        )
    sigmas = levels.tolist()
    timesteps = [made.timestep(sigma) for sigma in sigmas if sigma > 0]  # the model is not called at 0
    lams = [made.level(sigma).lam for sigma in sigmas]
    if as_json:
        facts = {"schedule": name, "steps": count, "process": repr(made), "dialect": dialect, "options": options}
        facts |= {"sigmas": sigmas, "timesteps": timesteps, "half_log_snr": [plain_number(lam) for lam in lams]}
        print(json.dumps(facts, allow_nan=False))
        return
    print(f"{'step':>4}  {'sigma':>16}  {'timestep':>13}  {'half log-SNR':>14}")
    for step, (sigma, lam) in enumerate(zip(sigmas, lams, strict=True)):
        timestep = f"{timesteps[step]:.6f}" if sigma > 0 else "-"
        print(f"{step:>4}  {sigma:>16.10g}  {timestep:>13}  {lam:>14.8f}")
