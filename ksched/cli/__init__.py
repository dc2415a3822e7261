"""The command ``ksched``: names, noise levels, plans and plots from a shell, and images from text.

Only results go to stdout. A usage error prints one line on stderr and exits with code 2. A missing extra, or a failure
that the user did not cause, exits with 1, and Ctrl-C with 130. torch and diffusers are imported only by the commands
that need them.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ksched.cli.process import ProcessName

__all__ = ["ProcessName", "main"]

_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # disk failures, not usage errors


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 on success, 1 on failure or a missing extra, 2 on a usage error, 130 on Ctrl-C.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line without the program's name. None reads ``sys.argv``.
    """
    _print_anything()
    try:
        sys.exit(_run(None if arguments is None else list(arguments)))
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:  # while the command is still being imported
        _fail("interrupted", 130)


def _run(arguments: list[str] | None) -> int:
    """Run the command and return its exit code."""
    try:
        import rich  # noqa: F401 - only to know whether it is there
        import typer
    except ImportError:
        _fail('the command needs typer and rich: pip install "ksched[cli]"', 1)
    from ksched.cli.app import make_command
    from ksched.cli.help import Interrupted
    from ksched.cli.usage import explain, is_usage_error

    try:
        code = make_command().main(args=arguments, prog_name="ksched", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (Interrupted, typer.Abort):
        _fail("interrupted", 130)
    except ModuleNotFoundError as error:
        _fail(_missing(error, sys.argv[1:] if arguments is None else arguments), 1)
    except ImportError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(_said(error), 1 if error.errno in _FAILURES else 2)
    except (ValueError, TypeError) as error:
        _fail(str(error), 2)
    except (ArithmeticError, MemoryError) as error:
        _fail(str(error) or "out of memory", 1)
    except Exception as error:
        if not is_usage_error(error):
            raise
        _fail(explain(error), 2)
    return code if isinstance(code, int) else 0


def _print_anything() -> None:
    """Make stdout accept any text: characters that its encoding lacks are written as escapes."""
    codecs.register_error("ksched", _escaped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="ksched")


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return the raw bytes of a path that is not valid text, or else an escape."""
    for handler in ("surrogateescape", "backslashreplace"):
        try:
            return codecs.lookup_error(handler)(error)
        except UnicodeError:
            continue
    raise error


def _missing(error: ModuleNotFoundError, arguments: list[str]) -> str:
    """Which command needs the package that is not there, and how to get it."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "ksched"):
        return str(error)
    command = next((f"the command {word!r}" for word in arguments if not word.startswith("-")), "the command")
    return (
        f"{command} needs {package}, which is not installed: pip install {package}. "
        "'ksched doctor' lists what else is missing."
    )


def _said(error: OSError) -> str:
    if error.filename:
        return f"cannot write {error.filename}: {error.strerror}"
    return error.strerror or str(error)


def _fail(message: str, code: int) -> NoReturn:
    print(f"ksched: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
