"""``ksched explore``: plans in a browser."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ksched.cli.common import (
    AsJSON,
    DialectName,
    Options,
    ProcessOption,
    Shift,
    SigmaMax,
    SigmaMin,
    ZeroSNR,
    complete_sampler,
    complete_schedule,
    read_options,
    read_plan,
)
from ksched.cli.paths import PATH
from ksched.cli.printing import print_files
from ksched.cli.process import ProcessName, make_process
from ksched.cli.values import whole
from ksched.names.enums import Dialect, NoiseSchedule
from ksched.samplers.registry import plan_spec, sampler_spec
from ksched.schedules.select import schedule_name, schedule_options
from ksched.storage.files import write_whole

if TYPE_CHECKING:
    from ksched.explorer import Case
    from ksched.plan.plan import Plan
    from ksched.processes import Process
    from ksched.samplers.spec import SamplerSpec

__all__ = ["explore_plans"]

_LONGEST = 300  # steps; the page cannot draw a longer plan legibly
_USUAL = 10
_MOST = 2


def explore_plans(
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            "--sampler",
            help="Sampler (see 'ksched list'), auto, or a .json file with a plan. Give two to see them side by side.",
            autocompletion=complete_sampler,
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            help="Noise schedule; see 'ksched list'.",
            show_default="karras",
            autocompletion=complete_schedule,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            "-n",
            **whole(1, _LONGEST, ", so that the page can draw it"),
            help="Number of steps.",
            show_default="10",
        ),
    ] = None,
    process: ProcessOption = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    sigma_min: SigmaMin = None,
    sigma_max: SigmaMax = None,
    dialect: DialectName = Dialect.KSCHED,
    option: Options = None,
    out: Annotated[Path, typer.Option("--output", "--out", **PATH, help="File to write the page to.")] = Path(
        "ksched-explorer.html"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is not an explorer page.")] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Write the page and do not open a browser.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Write a page that runs plans, and open it in a browser: one HTML file that needs no server and no network.

    The page has plans of every sampler. If you give a sampler, schedule, number of steps or options, the page also has
    that plan and shows it first.

    Examples
    --------
    ksched explore
    ksched explore --sampler dpmpp_2m --sampler uni_pc --schedule beta -n 12
    ksched explore --sampler dpmpp_2m_sde -o eta=0.7 --no-open --out page.html
    """
    from ksched.explorer import Selection, page_html

    _check_replaceable(out, force)
    made = make_process(process, shift, zero_terminal_snr)
    limits = {name: value for name, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max)) if value is not None}
    name = f"{process}{'' if shift is None else f' shift={shift:g}'}{' zero-terminal-snr' * zero_terminal_snr}"
    names = list(dict.fromkeys(sampler or ["dpmpp_2m"]))
    if len(names) > _MOST:
        raise ValueError(f"the page shows at most {_MOST} samplers side by side; got {len(names)}")
    asked = any(value is not None for value in (sampler, schedule, steps, option)) or limits or name != ProcessName.VP
    how: dict[str, Any] = {"dialect": dialect, "limits": limits}
    shared = _shared_options(names, schedule, option) if asked else {}
    cases = tuple(_case(one, schedule, steps, name, made, options=shared[one], **how) for one in names if asked)
    write_whole(out, page_html(Selection(more=cases), cases).encode(), replace=True)
    print_files([out], as_json)
    if not no_open and not webbrowser.open(out.resolve().as_uri()):
        print(f"ksched: no browser could be started; open {out} yourself", file=sys.stderr)


def _check_replaceable(out: Path, force: bool) -> None:
    """Refuse to overwrite a file that is not an explorer page."""
    from ksched.explorer import is_page

    if out.is_dir():
        raise ValueError(f"{out} is a folder; give --out the name of a file, such as {out / 'ksched-explorer.html'}")
    if force or not out.exists():
        return
    with out.open(encoding="utf-8", errors="replace") as file:
        if not is_page(file.read(2000)):
            raise ValueError(f"--output must be a new file; {out} exists: give another name, or --force to replace it")


def _spec(sampler: str) -> tuple[str | Plan, SamplerSpec]:
    """Return the argument of `build_sampler` for a name or a file, and the sampler's specification."""
    if sampler.lower().endswith(".json"):
        plan = read_plan(Path(sampler))
        return plan, plan_spec(plan)
    return sampler, sampler_spec(sampler)


def _shared_options(
    samplers: Sequence[str], schedule: str | None, option: list[str] | None
) -> dict[str, dict[str, Any]]:
    """Pass each option to every sampler that has it; at least one must."""
    rule = schedule_name(schedule or NoiseSchedule.KARRAS)
    specs = {name: _spec(name)[1] for name in samplers}
    known = {name: {**({} if spec.levels else schedule_options(rule)), **spec.options} for name, spec in specs.items()}
    every = {key: value for options in reversed(known.values()) for key, value in options.items()}
    owner = " and ".join(f"sampler {spec.name}" for spec in specs.values()) + f" with schedule {rule}"
    given = read_options(option, owner, every)
    return {name: {key: value for key, value in given.items() if key in options} for name, options in known.items()}


def _case(
    sampler: str,
    schedule: str | None,
    steps: int | None,
    process_name: str,
    process: Process,
    *,
    dialect: Dialect,
    options: dict[str, Any],
    limits: dict[str, float],
) -> Case:
    """Build one requested plan, with the names under which the page shows it."""
    from ksched.explorer import Case, options_text
    from ksched.sampler import build_sampler

    named, spec = _spec(sampler)
    if spec.adaptive:
        raise ValueError(f"{spec.name} chooses its steps as it runs, so it has no plan to show; take another sampler")
    own = bool(spec.levels)
    where = schedule if own else schedule_name(schedule or NoiseSchedule.KARRAS)  # own: no schedule accepted
    count = _USUAL if steps is None and not own else steps
    given = {**options, **limits}
    built = build_sampler(named, where, count, process=process, dialect=dialect, **given)
    words = options_text({**given, **({} if dialect is Dialect.KSCHED else {"dialect": dialect})})
    return Case(process_name, "its own levels" if own else str(where), spec.name, built.steps, words, built.plan)
