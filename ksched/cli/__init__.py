"""The command ``ksched``: the library's names, levels, plans and pictures from a shell, and images from text.

Results go to stdout and nothing else does. A mistake is one line on stderr and exit code 2; a missing extra or a
failure that is nobody's mistake, 1; Ctrl-C, 130. What needs torch or diffusers imports it when it is asked for.
"""

from __future__ import annotations

import errno
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
    try:
        import rich  # noqa: F401 - only to know whether it is there
        import typer
    except ImportError:
        _fail('the command needs typer and rich: pip install "ksched[cli]"', 1)
    from ksched.cli.app import make_app

    try:
        code = make_app()(
            args=None if arguments is None else list(arguments), prog_name="ksched", standalone_mode=False
        )
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except typer.Abort:
        _fail("interrupted", 130)
    except ImportError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(_said(error), 1 if error.errno in _FAILURES else 2)
    except (ValueError, TypeError) as error:
        _fail(str(error), 2)
    except (ArithmeticError, MemoryError) as error:
        _fail(str(error) or "out of memory", 1)
    except Exception as error:
        explain = getattr(error, "format_message", None)  # typer's own errors; their class differs between versions
        if explain is None:
            raise
        _fail(explain(), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _said(error: OSError) -> str:
    if error.filename:
        return f"cannot write {error.filename}: {error.strerror}"
    return error.strerror or str(error)


def _fail(message: str, code: int) -> NoReturn:
    print(f"ksched: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
