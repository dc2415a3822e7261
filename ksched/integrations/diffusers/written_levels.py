"""The noise levels of a `KSchedScheduler` as a tensor, and what becomes of a run when a program writes to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ksched.integrations.diffusers.driver import Driver

__all__ = ["WrittenLevels"]


class WrittenLevels:
    """``sigmas`` of a run, as it is handed out: the next step goes by what was written to it."""

    def __init__(self) -> None:
        self._shown: torch.Tensor | None = None
        self._version = -1

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._shown is not None:
            with torch.inference_mode(False):
                self._shown, self._version = self._shown.clone(), -1  # looked at once

    def copied(self) -> WrittenLevels:
        """The same for a copy of the scheduler."""
        made = WrittenLevels()
        made.__setstate__(self.__dict__)
        return made

    def of(self, run: Driver) -> torch.Tensor:
        """The levels of a run, and of its end."""
        if self._shown is None:
            self._show(torch.tensor(run.sigmas.tolist(), dtype=torch.float32))
        assert self._shown is not None
        return self._shown

    def assign(self, run: Driver, new: torch.Tensor) -> None:
        """Let a run take place at other levels, and hand these out from now on."""
        _take(run, new)
        self._show(new)

    def heed(self, run: Driver) -> None:
        """Let the run take place at the noise levels that a program has written, if one has."""
        if self._shown is not None and self._shown._version != self._version:
            _take(run, self._shown)
            self._mark()

    def _show(self, values: torch.Tensor) -> None:
        """Hand out a tensor of noise levels from now on, and find out later whether it was written to."""
        with torch.inference_mode(False), torch.no_grad():
            self._shown = values.detach().clone()
        self._mark()

    def _mark(self) -> None:
        assert self._shown is not None
        with torch.no_grad():
            self._shown.mul_(1)  # a version that no copy of it has
        self._version = self._shown._version


def _take(run: Driver, new: torch.Tensor) -> None:
    """Run at noise levels as the class has them; what is a level of before keeps its precision."""
    old = run.sigmas
    if new.ndim != 1 or len(new) != len(old):
        raise ValueError(f"sigmas must be a list of {len(old)} here; got shape {tuple(new.shape)}")
    values = new.detach().double().cpu().numpy()
    nearest = old[np.abs(old[:, np.newaxis] - values).argmin(axis=0)]
    levels = np.where(np.isclose(values, nearest, rtol=1e-7, atol=0), nearest, values)
    levels = np.where(np.isclose(values, old, rtol=1e-7, atol=0), old, levels)
    if not np.array_equal(levels, old):
        run.relevel(1 - levels if run.configuration.entries.invert_sigmas else levels)
