"""The earlier predictions and states of a run, in the form of diffusers' classes, for programs that edit them."""

from __future__ import annotations

from typing import Any

import torch

from ksched.integrations.diffusers.driver import Driver

__all__ = ["History", "placed_in"]


class History:
    """``model_outputs`` and ``last_sample``: x0 predictions and states that the next steps need; None if not needed.

    Programs that change the size of a state during a run write to them. The next step uses what was written.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Return to the state in which no program has looked."""
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
        """The history before the next step of a run."""
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
        """The registers of the run that a program has replaced, by name."""
        if self._seen is None:
            return {}
        now = dict(zip([*self._names, self._last], (*self.model_outputs, self.last_sample), strict=True))
        before = dict(zip([*self._names, self._last], self._seen, strict=True))
        return {name: new for name, new in now.items() if new is not None and new is not before[name]}


def placed_in(run: Driver, history: History, sample: torch.Tensor) -> None:
    """Continue a run from a state with the history that a program has written, then forget that history.

    Raises
    ------
    ValueError
        If the state has another size, and not all of the history was replaced to match.
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
            f"all of the history must have the state's new shape {tuple(sample.shape)}; write to every entry of "
            "model_outputs that is not None and to last_sample, or use a sampler without memory, such as euler"
        )
    run.state = {**state, "registers": held}
