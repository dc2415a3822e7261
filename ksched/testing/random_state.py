"""Detects whether a function changes the global random state."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

__all__ = ["random_states", "what_moved"]


class _State(NamedTuple):
    """A global random state: its owner, a value for comparison, and a function that restores it."""

    owner: str
    value: Any
    restore: Callable[[], object]


def random_states() -> list[_State]:
    """The current global random states of Python, numpy and torch."""
    python, back = random.getstate(), cast(Any, np.random.get_state())  # noqa: NPY002 - the state that must not change
    numpy = (back[0], back[1].tobytes(), *back[2:])
    states = [
        _State("Python", python, lambda: random.setstate(python)),
        _State("numpy", numpy, lambda: np.random.set_state(back)),  # noqa: NPY002 - and put back
    ]
    if "torch" in sys.modules:
        import torch

        state = torch.random.get_rng_state()
        states.append(_State("torch", state.numpy().tobytes(), lambda: torch.random.set_rng_state(state)))
    return states


def what_moved(before: Sequence[_State]) -> str | None:
    """A message about global random states that have changed, or None; changed states are restored."""
    now = {state.owner: state.value for state in random_states()}
    moved = [state for state in before if state.value != now[state.owner]]
    for state in moved:
        state.restore()
    owners = " and ".join(state.owner for state in moved)
    return f"it changed the global random state of {owners}; use a generator of your own" if moved else None
