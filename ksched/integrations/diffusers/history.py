"""What a run holds of its earlier steps, as the classes of diffusers hold it, for programs that edit it."""

from __future__ import annotations

from typing import Any

import torch

from ksched.integrations.diffusers.driver import Driver

__all__ = ["History", "placed_in"]


class History:
    """``model_outputs`` and ``last_sample``: x0 predictions and states that the next steps need; None is not needed.

    Programs change the size of a state amid a run by writing to them. The next step takes that over.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Be as where nobody has looked."""
        self.model_outputs: list[torch.Tensor | None] = []
        self.last_sample: torch.Tensor | None = None
        self._names: list[str] = []
        self._last = ""
        self._seen: tuple[Any, ...] | None = None

    @property
    def is_seen(self) -> bool:
        """Whether a program has looked since the last step."""
        return self._seen is not None

    def copied(self) -> History:
        """The same for a copy of the scheduler."""
        made = History()
        made.__dict__.update(self.__dict__, model_outputs=list(self.model_outputs))
        return made

    def of(self, run: Driver) -> History:
        """The history, as it is before the next step of a run."""
        if self._seen is not None:
            return self
        kept = int(run.configuration.entries.solver_order or 1)
        state = run.state
        held: dict[str, torch.Tensor] = {} if state is None else state["registers"]
        calls = max((int(name[1:]) + 1 for name in held if name.startswith("D")), default=0)
        self._names = [f"D{call}" for call in range(calls - kept, calls)]
        states = sorted((name for name in held if name.startswith("x")), key=lambda name: int(name[1:]))
        self._last = states[-2] if len(states) > 1 else ""
        self.model_outputs = [held.get(name) for name in self._names]
        self.last_sample = held.get(self._last)
        self._seen = (*self.model_outputs, self.last_sample)
        return self

    def written(self) -> dict[str, torch.Tensor]:
        """What a program has put in place of a register of the run, by its name."""
        if self._seen is None:
            return {}
        now = dict(zip([*self._names, self._last], (*self.model_outputs, self.last_sample), strict=True))
        before = dict(zip([*self._names, self._last], self._seen, strict=True))
        return {name: new for name, new in now.items() if new is not None and new is not before[name]}


def placed_in(run: Driver, history: History, sample: torch.Tensor) -> None:
    """Let a run go on with what a program has written to its history, from a state; forget that.

    Raises
    ------
    ValueError : a state of another size without all of the history in it
    """
    written, state = history.written(), run.state
    history.forget()
    if state is None or not (written or run.has_other_size(sample)):
        return
    kept: dict[str, torch.Tensor] = state["registers"]
    held = {name: tensor.to(kept[name]) for name, tensor in {**kept, **written}.items() if name in kept}
    latest = max((name for name in held if name[0] == "x"), key=lambda name: int(name[1:]), default=None)
    if latest is not None:
        held[latest] = sample.to(held[latest])
    if any(tensor.shape != sample.shape for tensor in held.values()):
        raise ValueError(
            f"the state has become {tuple(sample.shape)}, and what the next steps need of the last ones has not: write "
            "to all of model_outputs that is not None, and to last_sample, or take a sampler of one step, such as euler"
        )
    run.state = {**state, "registers": held}
