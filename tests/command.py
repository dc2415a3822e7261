"""Run the command line in this process, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

import ksched.cli.app  # noqa: F401 - now, since rich moves the state of `random` when it is imported
from ksched import cli

__all__ = ["Answer", "Command", "command_of"]


class Answer(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Answer]


def command_of(capsys: pytest.CaptureFixture[str]) -> Command:
    """``command("sigmas", "karras")``: its exit code and its output."""

    def run(*arguments: object) -> Answer:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Answer(exit_.value.code, captured.out, captured.err)

    return run
