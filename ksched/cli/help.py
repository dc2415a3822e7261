"""The classes of the commands: help pages, sampler options as flags, and some usage errors.

The help of a command is its docstring: paragraphs, then the section "Examples" with one command line per line.
"""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from ksched.cli.values import shown
from ksched.names.spelling import did_you_mean
from ksched.samplers.registry import AUTO, samplers
from ksched.schedules.select import schedule_options, schedules

__all__ = ["Command", "Group", "Interrupted", "option_names", "text_and_examples"]

_WIDEST, _NARROW = 100, 64  # columns of a help page; in a narrower one, texts go below the names
_WORDS = {
    "help": "Show this help.",
    "install_completion": "Let this shell complete commands and names with the Tab key.",
    "show_completion": "Print what --install-completion installs.",
}


class Interrupted(Exception):  # noqa: N818 - nothing failed
    """Ctrl-C."""


def option_names() -> list[str]:
    """Return the options of all samplers and schedules; each is also a flag: ``--rho 5`` means ``-o rho=5``."""
    owners = [*(spec.options for spec in (*samplers(), AUTO)), *(schedule_options(name) for name in schedules())]
    return sorted({name for options in owners for name in options} | {"sigma_min", "sigma_max"})


def text_and_examples(function: Any) -> tuple[str, list[str]]:
    """Split a command's docstring into paragraphs, one line each, and its examples."""
    text, _, examples = inspect.cleandoc(function.__doc__ or "").partition("\n\nExamples\n--------\n")
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text), [line.strip() for line in examples.splitlines() if line.strip()]


class Command(TyperCommand):
    """A command that accepts options of samplers and schedules as flags."""

    examples: Sequence[str] = ()
    allow_extra_args = True  # so that `parse_args` refuses them with our message

    def flags(self, context: Any) -> list[str]:
        """Return the flags that the command accepts."""
        own = [flag for param in self.get_params(context) for flag in param.opts if flag.startswith("--")]
        return own + ([f"--{name.replace('_', '-')}" for name in option_names()] if self._has_options(context) else [])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line; surplus arguments raise an error that says what to do."""
        try:
            left = super().parse_args(ctx, self._with_flags(ctx, args) if self._has_options(ctx) else args)
        except Exception as error:  # typer's parser does not set the command
            if getattr(error, "ctx", ctx) is None:
                vars(error)["ctx"] = ctx
            raise
        if left and not ctx.resilient_parsing:
            takes = " ".join(map(_usage, _arguments(self.get_params(ctx)))) or "no argument"
            do = "put a text of several words into quotes" if "PROMPT" in takes else f"see '{ctx.command_path} --help'"
            raise ValueError(f"{self.name} takes {takes}; got {' '.join(map(shown, left[:5]))} as well: {do}")
        return left

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends it the same way in every version of typer."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        text, width = self.help or "", _columns()
        usage = [*(["[OPTIONS]"] if self.get_params(ctx) else []), *map(_usage, _arguments(self.get_params(ctx)))]
        page = [_folded(f"Usage: {ctx.command_path} {' '.join(usage)}", width, "  "), *_paragraphs(text, width)]
        page += _examples(self.examples, width) + _tables(self.get_params(ctx), width)
        formatter.write("\n\n".join(page) + "\n")

    def _has_options(self, context: Any) -> bool:
        return any("-o" in param.opts for param in self.get_params(context))

    def _with_flags(self, context: Any, words: Sequence[str]) -> list[str]:
        """Rewrite ``--rho 5`` as ``-o rho=5``."""
        known = {flag: param for param in self.get_params(context) for flag in (*param.opts, *param.secondary_opts)}
        names, left, found = set(option_names()), list(words), list[str]()
        while left:
            word = left.pop(0)
            flag, equals, value = word.partition("=")
            name = flag[2:].replace("-", "_")
            if word == "--":
                return [*found, word, *left]
            if flag in known or not flag.startswith("--") or name not in names:
                found.append(word)
                if flag in known and not equals and not getattr(known[flag], "is_flag", False) and left:
                    found.append(left.pop(0))
                continue
            if not equals and not left:
                raise ValueError(f"{flag} needs a value, as in {flag} VALUE; none was given")
            found += ["-o", f"{name}={value if equals else left.pop(0)}"]
        return found


class Group(TyperGroup):
    """All commands."""

    examples: Sequence[str] = ()

    def flags(self, context: Any) -> list[str]:
        """Return the flags that may precede the command."""
        return [flag for param in self.get_params(context) for flag in param.opts if flag.startswith("--")]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command by name; an error suggests the nearest name."""
        if args[0] not in self.commands and not ctx.resilient_parsing:
            near = did_you_mean(args[0], self.commands) or ";"
            raise ValueError(f"there is no command {shown(args[0])}{near} 'ksched --help' lists all")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        width = _columns()
        page = ["Usage: ksched COMMAND [OPTIONS] ...", *_paragraphs(self.help or "", width)]
        page += _examples(self.examples, width)
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            first = (command.help or "").partition("\n")[0]
            panels.setdefault(command.rich_help_panel or "Commands", []).append((name, first))
        wide = max(len(name) for rows in panels.values() for name, _ in rows)
        page += [_table(panel, rows, width, wide) for panel, rows in panels.items()]
        page += _tables(self.get_params(ctx), width)
        page += [_folded("'ksched COMMAND --help' shows the options of a command and examples.", width)]
        formatter.write("\n\n".join(page) + "\n")


def _columns() -> int:
    """Return the width of a help page."""
    return max(min(shutil.get_terminal_size().columns, _WIDEST), 30)


def _folded(text: str, width: int, indent: str = "", first: str = "") -> str:
    """Wrap a text; a no-break space becomes a space that is never broken."""
    wrapper = textwrap.TextWrapper(width, initial_indent=first, subsequent_indent=indent)
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    return wrapper.fill(text).replace("\u00a0", " ")


def _paragraphs(text: str, width: int) -> list[str]:
    return [_folded(part, width) for part in text.split("\n\n") if part.strip()]


def _examples(lines: Sequence[str], width: int) -> list[str]:
    """Format example commands; long ones continue after a backslash, in front of an option."""
    page = []
    for line in lines:
        parts = re.split(r" (?=-)", line)
        row = f"  {parts[0]}"
        for part in parts[1:]:
            if len(row) + len(part) + 3 > width:
                page.append(f"{row} \\")
                row = f"     {part}"
            else:
                row = f"{row} {part}"
        page.append(row)
    return ["Examples:\n" + "\n".join(page)] if lines else []


def _arguments(params: Iterable[Any]) -> list[Any]:
    return [param for param in params if param.param_type_name == "argument"]


def _usage(argument: Any) -> str:
    name = str(argument.metavar or argument.name).upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _tables(params: Sequence[Any], width: int) -> list[str]:
    """Format the tables of arguments and of options by group."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for argument in _arguments(params):
        panels.setdefault("Arguments", []).append((_usage(argument).strip("[]"), _text(argument)))
    for option in params:
        if option.param_type_name == "option" and not getattr(option, "hidden", False):
            last = option.name in _WORDS or option.name == "version"
            panel = getattr(option, "rich_help_panel", None) or ("Other options" if last else "Options")
            panels.setdefault(panel, []).append((_flags(option), _text(option)))
    if "Other options" in panels:
        last_rows = panels.pop("Other options")
        end = "Options" if not panels or [*panels][-1] in ("Options", "Arguments") else "Other options"
        panels.setdefault(end, []).extend(last_rows)
    wide = max((len(name) for rows in panels.values() for name, _ in rows), default=0)
    return [_table(panel, rows, width, min(wide, 28)) for panel, rows in panels.items()]


def _flags(option: Any) -> str:
    short = [flag for flag in option.opts if not flag.startswith("--")]
    long = [flag for flag in option.opts if flag.startswith("--")]
    value = "" if getattr(option, "is_flag", False) or option.name in _WORDS else f" {option.metavar or 'TEXT'}"
    return ", ".join([*short, *long]) + value


def _text(param: Any) -> str:
    """Return the help of a parameter with its default."""
    if param.name in _WORDS and param.param_type_name == "option":
        return _WORDS[param.name]
    text = " ".join((param.help or "").split())
    told, default = param.show_default, param.default
    words = told if isinstance(told, str) else "" if default is None or default is False else str(default)
    note = "required" if param.required else f"default:\u00a0{words}" if words else ""
    return f"{text} [{note}]" if note else text


def _table(title: str, rows: Sequence[tuple[str, str]], width: int, wide: int) -> str:
    """Format names and texts under a title, side by side, or on a narrow screen each text below its name."""
    lines = [f"{title}:"]
    for name, text in rows:
        beside = width >= _NARROW and len(name) <= wide
        indent = " " * (wide + 4 if width >= _NARROW else 6)
        if not beside:
            lines.append(f"  {name}")
        if text:
            lines.append(_folded(text, width, indent, f"  {name:<{wide}}  " if beside else indent))
        elif beside:
            lines.append(f"  {name}")
    return "\n".join(lines)
