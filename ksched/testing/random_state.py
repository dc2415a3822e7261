"""Whether a function reads or moves the global random state."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

__all__ = ["random_states", "what_moved"]


class _State(NamedTuple):
    """A global random state: its owner, what to compare it by, and how to put it back."""

    owner: str
    value: Any
    restore: Callable[[], object]


def random_states() -> list[_State]:
    """The global random states of Python, numpy and torch as they are now."""
    python, back = random.getstate(), cast(Any, np.random.get_state())  # noqa: NPY002 - this is what must not move
    numpy = (back[0], back[1].tobytes(), *back[2:])
    states = [
        _State("Python", python, lambda: random.setstate(python)),
        _State("numpy", numpy, lambda: np.random.set_state(back)),  # noqa: NPY002
    ]
    if "torch" in sys.modules:
        import torch

        state = torch.random.get_rng_state()
        states.append(_State("torch", state.numpy().tobytes(), lambda: torch.random.set_rng_state(state)))
    return states


def what_moved(before: Sequence[_State]) -> str | None:
    """What to say of global random states that are no longer what they were; they are put back."""
    now = {state.owner: state.value for state in random_states()}
    moved = [state for state in before if state.value != now[state.owner]]
    for state in moved:
        state.restore()
    owners = " and ".join(state.owner for state in moved)
    return f"it moved the global random state of {owners}; draw from a generator of your own" if moved else None
