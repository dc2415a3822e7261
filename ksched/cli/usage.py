"""Messages for usage errors, in our words: what must hold, what was given, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ksched.cli.values import shown
from ksched.names.spelling import nearest

__all__ = ["explain", "flag_of", "is_usage_error", "near_flags"]


def is_usage_error(error: Exception) -> bool:
    """Whether typer raised the error for a wrong command line; the class moves between versions of typer."""
    return "UsageError" in {kind.__name__ for kind in type(error).__mro__}


def explain(error: Any) -> str:
    """Explain a usage error of typer in one or two sentences."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    path = getattr(context, "command_path", None) or "ksched"
    name, more = path.removeprefix("ksched "), f"'{path} --help' lists all"
    if "MissingParameter" in kinds and param is not None:
        return f"{name} needs {_with_example(param, context)}"
    if "BadParameter" in kinds:
        return f"{flag_of(param)} {error.message}" if param is not None else str(error.message)
    if "NoSuchOption" in kinds:
        flags = context.command.flags(context) if context is not None else []
        return f"{name} has no option {shown(error.option_name)[1:-1]}{near_flags(error.option_name, flags)} {more}"
    if "BadOptionUsage" in kinds:
        flag, takes = error.option_name, _takes_value(context, error.option_name)
        if takes is None:
            return f"{flag} must be written as '{path} --help' shows"
        return f"{flag} needs a value, as in {flag} {takes}; none was given" if takes else f"{flag} takes no value"
    return str(error.message)


def _with_example(param: Any, context: Any) -> str:
    """Describe a parameter, with an example of its use."""
    about = (getattr(param, "help", None) or "").rstrip(".")
    examples = getattr(context.command, "examples", ()) if context is not None else ()
    example = f"for example: {examples[0]}" if examples else "see --help"
    return f"{flag_of(param)}{f' ({about})' if about else ''}; none was given, {example}"


def flag_of(param: Any) -> str:
    """Return the name of a parameter on a command line: its longest flag, or the name of an argument."""
    if param.param_type_name == "argument":
        return str(param.metavar or param.name).upper()
    return str(max(param.opts, key=len))


def near_flags(flag: str, flags: Iterable[str]) -> str:
    """Return the text after an unknown flag: "; did you mean --rho?" or ";"."""
    near: Sequence[str] = nearest(flag, flags, most=1)
    return f"; did you mean {near[0]}?" if near else ";"


def _takes_value(context: Any, flag: str) -> str | None:
    """Return the placeholder for a flag's value, "" if the flag takes no value, None if the flag is unknown."""
    params = context.command.get_params(context) if context is not None else ()
    for param in params:
        if flag in (*param.opts, *param.secondary_opts):
            return "" if getattr(param, "is_flag", False) else str(param.metavar or "VALUE")
    return None
