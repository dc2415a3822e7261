"""``ksched sigmas`` and ``ksched plan``: levels and tables as numbers."""

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
    ZeroSNR,
    complete_schedule,
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
    name, spoken = schedule_name(schedule), Dialect.parse(dialect)
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
