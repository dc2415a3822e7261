"""The command ``ksched``: the library's names, levels, plans and pictures from a shell, and images from text.

Results go to stdout and nothing else does. A mistake is one line on stderr and exit code 2; a missing extra or a
failure that is nobody's mistake, 1; Ctrl-C, 130. What needs torch or diffusers imports it when it is asked for.
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

_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of a disk, not of who asked


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 done, 1 an extra is missing or it failed, 2 a mistake, 130 interrupted.

    Parameters
    ----------
    arguments : what follows the name of the command; None takes it from ``sys.argv``
    """
    _print_anything()
    try:
        sys.exit(_run(None if arguments is None else list(arguments)))
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:  # while the command is still being imported
        _fail("interrupted", 130)


def _run(arguments: list[str] | None) -> int:
    """Run the command: its exit code."""
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
    """Let every name and text be printed: what the encoding of stdout does not have is written as an escape."""
    codecs.register_error("ksched", _escaped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="ksched")


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """The bytes of a path as they are, if it is one that is not text; else an escape."""
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
