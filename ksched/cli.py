"""The command ``ksched``: the library's names, levels, plans and pictures from a shell.

Results go to stdout and nothing else does. A mistake is one line on stderr and exit code 2; a missing extra, code 1.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeAlias, get_args, get_origin

from ksched import __version__
from ksched.explain import allowed, option_texts, sampler_facts
from ksched.options import Option, check_options
from ksched.peers import PEERS, SAMPLER_PEERS
from ksched.processes import EDM, VE, VP, AngleV, Cascade, Flow, FlowVE, Process
from ksched.registry import SamplerSpec, dialect_options, sampler_spec, samplers
from ksched.samplers.view import VIEW_OPTIONS
from ksched.schedules import DIALECTS, SCHEDULES, calculate_sigmas, schedule_options
from ksched.types import Dialect, NoiseSchedule

if TYPE_CHECKING:
    from ksched.demo import Error, Report

__all__ = ["main"]


class ProcessName(StrEnum):
    """What the model was trained on, as the command names it."""

    VP = "vp"
    VP_LINEAR = "vp-linear"
    VP_COSINE = "vp-cosine"
    EDM = "edm"
    ANGLE_V = "angle-v"
    VE = "ve"
    CASCADE = "cascade"
    FLOW = "flow"
    FLOW_VE = "flow-ve"


_VP: dict[ProcessName, Callable[..., VP]] = {
    ProcessName.VP: VP.scaled_linear,
    ProcessName.VP_LINEAR: VP.linear,
    ProcessName.VP_COSINE: VP.cosine,
}
_SHIFTED: dict[ProcessName, Callable[..., Process]] = {ProcessName.FLOW: Flow, ProcessName.CASCADE: Cascade}
_PLAIN: dict[ProcessName, Callable[[], Process]] = {
    ProcessName.EDM: EDM,
    ProcessName.ANGLE_V: AngleV,
    ProcessName.VE: VE,
    ProcessName.FLOW_VE: FlowVE,
}


def _have_extra() -> bool:
    try:
        for name in ("typer", "rich"):
            importlib.import_module(name)
    except ImportError:
        return False
    return True


# typer reads annotations when the app is made, so that without it this module can still be imported, to say so.
_READY = _have_extra()
if TYPE_CHECKING or _READY:
    import typer
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    Steps: TypeAlias = Annotated[int, typer.Option("--steps", "-n", help="Number of steps, at least 1.")]
    ScheduleName: TypeAlias = Annotated[str, typer.Option("--schedule", help="Noise schedule; see 'ksched list'.")]
    Process_: TypeAlias = Annotated[ProcessName, typer.Option("--process", help="What the model was trained on.")]
    Shift: TypeAlias = Annotated[float | None, typer.Option("--shift", help="Shift of the flow or cascade process.")]
    ZeroSNR: TypeAlias = Annotated[
        bool, typer.Option("--zero-terminal-snr", help="Rescale a VP table so that it ends in pure noise.")
    ]
    DialectName: TypeAlias = Annotated[
        str, typer.Option("--dialect", help=f"Whose numbers the name means: {', '.join(Dialect)}.")
    ]
    SigmaMin: TypeAlias = Annotated[float | None, typer.Option("--sigma-min", help="Last level above 0.")]
    SigmaMax: TypeAlias = Annotated[float | None, typer.Option("--sigma-max", help="First level.")]
    Options: TypeAlias = Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option; may be repeated.")
    ]
    AsJSON: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 done, 1 an extra or the reader is gone, 2 a mistake, 130 interrupted.

    Parameters
    ----------
    arguments : what follows the name of the command; None takes it from ``sys.argv``
    """
    if not _READY:
        _fail('the command needs typer and rich: pip install "ksched[cli]"', 1)
    try:
        code = _app()(args=None if arguments is None else list(arguments), prog_name="ksched", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except typer.Abort:
        _fail("interrupted", 130)
    except ImportError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"cannot write {error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except (ValueError, TypeError) as error:
        _fail(str(error), 2)
    except Exception as error:
        explain = getattr(error, "format_message", None)  # typer's own errors; their class differs between versions
        if explain is None:
            raise
        _fail(explain(), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"ksched: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
    app.callback()(_common)
    app.command("demo")(_demo)
    app.command("list")(_list)
    app.command("sigmas")(_sigmas)
    app.command("plot")(_plot)
    app.command("plan")(_plan)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        print(f"ksched {__version__}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Sampling mathematics for diffusion models: noise schedules and samplers as tables."""


# ---------------------------------------------------------------------------------------------------------- ksched demo


def _demo(
    sampler: Annotated[str, typer.Option("--sampler", help="Sampler; see 'ksched list'.")] = "dpmpp_2m",
    schedule: ScheduleName = "karras",
    steps: Steps = 20,
    process: Process_ = ProcessName.VP,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the start noise and of the sampler.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("demo"),
) -> None:
    """Sample 64 handwritten digits, measure every sampler on every schedule, and draw it all."""
    from ksched import demo

    report = demo.run(sampler, schedule, steps, process=_process(process), seed=seed, out=out, progress=True)
    console = _console()
    console.print(_error_table(report))
    for picture in report.pictures:
        print(picture)


def _error_table(report: Report) -> Table:
    """Errors of all samplers at the steps that were asked for: with the schedule that was, and with their best one."""
    steps, asked = report.sampler.steps, report.sampler.schedule
    table = Table(
        box=box.SIMPLE,  # 80 columns are enough
        show_edge=False,
        pad_edge=False,
        padding=(0, 0, 0, 2),
        title=f"Error after {steps} {'step' if steps == 1 else 'steps'}, in % of the digits' spread",
        caption="without noise: rms distance to the exact ODE solution, on digits\n"
        "with noise: Wasserstein-2 distance to the exact law, on Gaussian data\n"
        "* best of its kind",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("sampler", no_wrap=True)
    for column in ("calls", "noise", str(asked), "best"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("with", no_wrap=True)
    for noise, errors in (("no", report.at_steps(report.path)), ("yes", report.at_steps(report.law))):
        rows: dict[str, list[Error]] = {}
        for error in errors:
            rows.setdefault(error.sampler, []).append(error)
        least = min(errors, key=lambda error: error.value, default=None)
        for sampler, row in sorted(rows.items(), key=lambda entry: min(error.value for error in entry[1])):
            best = min(row, key=lambda error: error.value)
            here = [_percent(error.value) for error in row if error.schedule == asked]
            most = Text(_percent(best.value) + "*", style="bold green") if best is least else _percent(best.value) + " "
            table.add_row(sampler, str(best.nfe), noise, *here, most, best.schedule.value)
        table.add_section()
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.{2 if value < 0.01 else 1 if value < 0.1 else 0}f}"


# ---------------------------------------------------------------------------------------------------------- ksched list


def _list(
    name: Annotated[str | None, typer.Argument(help="A sampler or noise schedule, to read all of it.")] = None,
    only_samplers: Annotated[bool, typer.Option("--samplers", help="Only the samplers.")] = False,
    only_schedules: Annotated[bool, typer.Option("--schedules", help="Only the noise schedules.")] = False,
    as_json: AsJSON = False,
) -> None:
    """List samplers and noise schedules with their facts; with a name, everything about that one."""
    both = only_samplers == only_schedules
    specs = list(samplers()) if both or only_samplers else []
    schedules = list(SCHEDULES) if both or only_schedules else []
    if name is not None:
        specs, schedules = _found(name, specs, schedules)
    if as_json:
        facts: dict[str, Any] = {}
        if specs or (name is None and (both or only_samplers)):
            facts["samplers"] = [_sampler_json(spec) for spec in specs]
        if schedules or (name is None and (both or only_schedules)):
            facts["schedules"] = [_schedule_json(schedule) for schedule in schedules]
        print(json.dumps(facts, indent=2, allow_nan=False))
    elif name is not None:
        width = min(_console().width, 100)
        print("\n\n".join([*(_sampler_page(s, width) for s in specs), *(_schedule_page(s, width) for s in schedules)]))
    else:
        console = _console()
        for table in [_sampler_table(specs, console.width)] * bool(specs) + [_schedule_table()] * bool(schedules):
            console.print(table)


def _found(
    name: str, specs: list[SamplerSpec], schedules: list[NoiseSchedule]
) -> tuple[list[SamplerSpec], list[NoiseSchedule]]:
    """Of the listed, the sampler and the schedule of a name, in any spelling; an exact name goes before others."""
    exact = [spec for spec in specs if spec.name == name], [rule for rule in schedules if rule == name]
    if any(exact):
        return exact
    errors: list[str] = []
    found: tuple[list[SamplerSpec], list[NoiseSchedule]] = ([], [])
    try:
        found[0].extend([sampler_spec(name)] if specs else [])
    except ValueError as error:
        errors.append(str(error))
    try:
        found[1].extend([NoiseSchedule.parse(name)] if schedules else [])
    except ValueError as error:
        errors.append(str(error))
    if not any(found):
        near = [error for error in errors if "did you mean" in error]
        raise ValueError(" ".join(near) or f"nothing is named {name!r}; 'ksched list' shows every name")
    return found


def _sampler_table(specs: Sequence[SamplerSpec], width: int) -> Table:
    wide = width >= 120
    columns = ["sampler", "order", "weak", "calls", "to 0", "noise", "also", *(["what it is"] if wide else [])]
    table = Table(*columns, title="Samplers", box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    table.caption = "calls and noise: per step; weak: order of the law with noise\n'ksched list NAME' tells all of one"
    for spec in specs:
        calls = spec.calls if isinstance(spec.calls, int) else "varies"
        to_zero = spec.calls_to_zero if isinstance(spec.calls, int) and not spec.adaptive else "-"
        noise = "varies" if spec.draws is None else spec.draws or "-"
        also = ", ".join(word for word in ("uncond", "adaptive") if getattr(spec, word))
        cells = [
            spec.name,
            spec.order,
            "-" if spec.weak_order is None else spec.weak_order,
            calls,
            to_zero,
            noise,
            also,
        ]
        table.add_row(*map(str, cells), *([spec.summary.replace("`", "")] if wide else []))
    return table


def _schedule_table() -> Table:
    table = Table("schedule", "levels", "options", "source", title="Noise schedules")
    for name, rule in SCHEDULES.items():
        options = "\n".join(f"{option.name}={option.default}" for option in schedule_options(name).values())
        table.add_row(name.value, rule.formula, options or "-", rule.source)
    return table


def _sampler_page(spec: SamplerSpec, width: int) -> str:
    """Everything about a sampler, as text."""
    dialects = {dialect: dialect_options(spec, dialect) for dialect in Dialect}
    names = [(peer.program, peer.name) for peer in SAMPLER_PEERS if peer.sampler == spec.name]
    facts = {**sampler_facts(spec), "source": spec.source or "none given"}
    facts["also"] = f"{', '.join(map(str, VIEW_OPTIONS.values()))}: options that every sampler has"
    texts, summary = option_texts(spec.function), spec.summary.replace("`", "")
    return _page(f"sampler {spec.name}", summary, facts, spec.own_options, texts, dialects, names, width)


def _schedule_page(name: NoiseSchedule, width: int) -> str:
    """Everything about a noise schedule, as text."""
    rule = SCHEDULES[name]
    dialects = {dialect: DIALECTS[dialect].get(name, {}) for dialect in Dialect}
    names = [(peer.program, peer.name) for peer in PEERS if peer.schedule is name]
    facts = {"source": rule.source}
    texts, options = option_texts(rule.function), schedule_options(name)
    return _page(f"schedule {name}", rule.formula, facts, options, texts, dialects, names, width)


def _page(
    title: str,
    summary: str,
    facts: Mapping[str, str],
    options: Mapping[str, Option],
    texts: Mapping[str, str],
    dialects: Mapping[Dialect, Mapping[str, Any]],
    names: Sequence[tuple[Dialect, str]],
    width: int,
) -> str:
    def wrapped(text: str, indent: str, first: str = "") -> str:
        return textwrap.fill(text, width, initial_indent=first or indent, subsequent_indent=indent)

    lines = [title, wrapped(summary, "  ")]
    lines += [wrapped(text, " " * 15, f"  {name:<12} ") for name, text in facts.items()]
    lines += ["  options"] * bool(options)
    for option in options.values():
        lines.append(f"    {option.name}={option.default!r}: {allowed(option)}".replace("'", '"'))
        lines += [wrapped(texts[option.name], " " * 8)] if option.name in texts else []
        if option.quirks:
            lines.append(wrapped(f"({_quirks(option)} repeats another program; not covered by the proofs)", " " * 8))
    means = {dialect: changes for dialect, changes in dialects.items() if changes}
    lines += ["  in the dialect of"] * bool(means)
    for dialect, changes in means.items():
        said = ", ".join(f"{name}={value!r}" for name, value in changes.items()).replace("'", '"')
        lines.append(wrapped(said, " " * 16, f"    {dialect:<11} "))
    programs = {program: [name for owner, name in names if owner is program] for program in Dialect}
    lines += ["  called"] * bool(names)
    lines += [wrapped(", ".join(own), " " * 16, f"    {program:<11} ") for program, own in programs.items() if own]
    return "\n".join(lines)


def _quirks(option: Option) -> str:
    """The values of an option that are outside the proofs."""
    if option.kind in (int, float):
        return "any other value"
    return " and ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in option.quirks)


def _sampler_json(spec: SamplerSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "order": spec.order,
        "weak_order": spec.weak_order,
        "calls": spec.calls if isinstance(spec.calls, int) else None,  # not the same in every step
        "calls_to_zero": spec.calls_to_zero,
        "draws": spec.draws,
        "uncond": spec.uncond,
        "adaptive": spec.adaptive,
        "options": _option_facts(spec.options),
        "summary": spec.summary,
        "source": spec.source,
    }


def _schedule_json(name: NoiseSchedule) -> dict[str, Any]:
    rule = SCHEDULES[name]
    options = _option_facts(schedule_options(name))
    return {"name": name, "formula": rule.formula, "source": rule.source, "options": options}


def _option_facts(options: Mapping[str, Option]) -> list[dict[str, Any]]:
    return [
        {
            "name": option.name,
            "type": "choice" if get_origin(option.kind) is Literal else option.kind.__name__,
            "choices": list(get_args(option.kind)),
            "default": _number(option.default),
            "low": _number(option.low),
            "high": _number(option.high),
            "quirks": list(option.quirks),
        }
        for option in options.values()
    ]


def _number(value: Any) -> Any:
    """A value for JSON, which has no infinity: "inf" and "-inf" as in the JSON of a plan."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _console() -> Console:
    """Where tables go; as wide as they need to be if nobody watches."""
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 240)


# -------------------------------------------------------------------------------------------------------- ksched sigmas


def _sigmas(
    schedule: Annotated[str, typer.Argument(help="Noise schedule; see 'ksched list'.")],
    steps: Steps = 20,
    process: Process_ = ProcessName.VP,
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
    made = _process(process, shift, zero_terminal_snr)
    options = _values(option, f"schedule {name}", schedule_options(name))
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
        facts |= {"sigmas": sigmas, "timesteps": timesteps, "half_log_snr": [_number(lam) for lam in lams]}
        print(json.dumps(facts, allow_nan=False))
        return
    print(f"{'step':>4}  {'sigma':>16}  {'timestep':>13}  {'half log-SNR':>14}")
    for step, (sigma, lam) in enumerate(zip(sigmas, lams, strict=True)):
        timestep = f"{timesteps[step]:.6f}" if sigma > 0 else "-"
        print(f"{step:>4}  {sigma:>16.10g}  {timestep:>13}  {lam:>14.8f}")


# ---------------------------------------------------------------------------------------------------------- ksched plot


def _plot(
    schedule: Annotated[list[str], typer.Argument(help="Noise schedules; see 'ksched list'.")],
    steps: Steps = 20,
    process: Process_ = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    dialect: DialectName = "ksched",
    option: Options = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Picture to write; its ending says the format.", show_default="a name")
    ] = None,
) -> None:
    """Draw sigma, half log-SNR and timestep of noise schedules by step; an option goes to all that have it."""
    names = list(dict.fromkeys(map(NoiseSchedule.parse, schedule)))
    spoken = Dialect.parse(dialect)
    made = _process(process, shift, zero_terminal_snr)
    known = {key: value for name in reversed(names) for key, value in schedule_options(name).items()}
    options = _values(option, f"schedule {' or '.join(names)}", known)

    from ksched import plots

    figure = plots.schedule_curves(names, steps, made, dialect=spoken, options=options)
    words = [*names] if len(names) <= 4 else [f"{len(names)}-schedules"]
    words += [f"{steps}-step{'' if steps == 1 else 's'}", process, *([] if shift is None else [f"shift-{shift:g}"])]
    words += ["zero-terminal-snr"] * zero_terminal_snr + [spoken] * (spoken is not Dialect.KSCHED)
    words += [f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{value}" for name, value in options.items()]
    path = out or Path("-".join(words) + ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    for picture in plots.save({path: figure}):
        print(picture)


# ---------------------------------------------------------------------------------------------------------- ksched plan


def _plan(
    sampler: Annotated[str, typer.Argument(help="Sampler; see 'ksched list'.")],
    schedule: ScheduleName = "simple",
    steps: Steps = 20,
    sigmas: Annotated[
        str | None, typer.Option("--sigmas", metavar="A,B,...", help="Levels to run instead of a schedule.")
    ] = None,
    process: Process_ = ProcessName.VP,
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

    spec = sampler_spec(sampler)
    known = {**schedule_options(NoiseSchedule.parse(schedule)), **spec.options}
    options = _values(option, f"sampler {spec.name} with schedule {NoiseSchedule.parse(schedule)}", known)
    limits = {"sigma_min": sigma_min, "sigma_max": sigma_max}
    options |= {name: value for name, value in limits.items() if value is not None}
    made = _process(process, shift, zero_terminal_snr)
    where: dict[str, Any] = {"process": made, "sigmas": _levels(sigmas), "dialect": dialect}
    plan = build_sampler(spec.name, schedule, steps, **where, **options).plan
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


# ------------------------------------------------------------------------------------- what the commands have in common


def _process(name: ProcessName, shift: float | None = None, zero_terminal_snr: bool = False) -> Process:
    if shift is not None and name not in _SHIFTED:
        raise ValueError(f"--shift belongs to --process {' or '.join(_SHIFTED)}; got {name}")
    if name in _VP:
        return _VP[name](zero_terminal_snr=zero_terminal_snr)
    if zero_terminal_snr:
        raise ValueError(f"--zero-terminal-snr belongs to the vp processes; got {name}")
    if name in _SHIFTED:
        return _SHIFTED[name](*() if shift is None else (shift,))
    return _PLAIN[name]()


def _values(texts: Sequence[str] | None, owner: str, known: Mapping[str, Option]) -> dict[str, Any]:
    """``name=value`` texts as checked options, every value read as its option's own type."""
    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"--option must be name=value, such as eta=0.5; got {text!r}")
        if name in values:
            raise ValueError(f"--option {name} is given twice")
        values[name] = _read(value.strip(), known[name].kind) if name in known else value
    return check_options(owner, known, values)


def _read(text: str, kind: Any) -> Any:
    """A text as an option's type; the text itself, for the option to refuse, if it is none."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)
    try:
        return kind(text)
    except ValueError:
        return text
