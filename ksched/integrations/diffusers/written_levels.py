"""The sigmas of a `KSchedScheduler` as a tensor, and what happens to a run when a program writes to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ksched.integrations.diffusers.driver import Driver

__all__ = ["WrittenLevels"]


class WrittenLevels:
    """The tensor ``sigmas`` of a run, as programs see it; the next step uses whatever was written to it."""

    def __init__(self) -> None:
        self._shown: torch.Tensor | None = None
        self._version = -1

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._shown is not None:
            with torch.inference_mode(False):
                self._shown, self._version = self._shown.clone(), -1  # counts as written to

    def copied(self) -> WrittenLevels:
        """The same for a copy of the scheduler."""
        made = WrittenLevels()
        made.__setstate__(self.__dict__)
        return made

    def of(self, run: Driver) -> torch.Tensor:
        """The sigmas of a run, including its end."""
        if self._shown is None:
            self._show(torch.tensor(run.sigmas.tolist(), dtype=torch.float32))
        assert self._shown is not None
        return self._shown

    def assign(self, run: Driver, new: torch.Tensor) -> None:
        """Run at other sigmas, and show these from now on."""
        _take(run, new)
        self._show(new)

    def heed(self, run: Driver) -> None:
        """Run at the sigmas that a program has written, if it has."""
        if self._shown is not None and self._shown._version != self._version:
            _take(run, self._shown)
            self._mark()

    def _show(self, values: torch.Tensor) -> None:
        """Show a new tensor from now on, and remember its version to detect writes."""
        with torch.inference_mode(False), torch.no_grad():
            self._shown = values.detach().clone()
        self._mark()

    def _mark(self) -> None:
        assert self._shown is not None
        with torch.no_grad():
            self._shown.mul_(1)  # gives it a version that no copy has
        self._version = self._shown._version


def _take(run: Driver, new: torch.Tensor) -> None:
    """Run at the given sigmas, in the class's convention; sigmas that were there before keep their full precision."""
    old = run.sigmas
    if new.ndim != 1 or len(new) != len(old):
        raise ValueError(f"sigmas must be a list of {len(old)} numbers here; got shape {tuple(new.shape)}")
    values = new.detach().double().cpu().numpy()
    nearest = old[np.abs(old[:, np.newaxis] - values).argmin(axis=0)]
    levels = np.where(np.isclose(values, nearest, rtol=1e-7, atol=0), nearest, values)
    levels = np.where(np.isclose(values, old, rtol=1e-7, atol=0), old, levels)
    if not np.array_equal(levels, old):
        run.relevel(1 - levels if run.configuration.entries.invert_sigmas else levels)
