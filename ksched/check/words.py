"""The report of `ksched.check_model` in words."""

from __future__ import annotations

from typing import Any

__all__ = ["type_name"]


def type_name(answer: Any) -> str:
    """The type of a model's answer, as messages name it."""
    return "None" if answer is None else type(answer).__name__
