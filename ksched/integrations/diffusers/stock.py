"""The diffusers scheduler that is replaced, for reading its tables and functions."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import diffusers
import torch

from ksched.dialects.diffusers.classes import CLASSES
from ksched.integrations.diffusers.configuration import Configuration
from ksched.integrations.diffusers.driver import Driver

__all__ = ["Stock"]


#: errors that a class raises for settings or arguments that it does not support
_REFUSALS = (ImportError, TypeError, ValueError, IndexError, NotImplementedError, RuntimeError)


class Stock:
    """A scheduler of the replaced class, created when first needed.

    Before `set_timesteps`, its attributes are shown. Later it gets the sigmas of the run and is used for its functions;
    it never takes a step.
    """

    def __init__(self) -> None:
        self._made_of: Configuration | None = None
        self._made: Any = None
        self._levels: Any = None

    def of(self, configuration: Configuration) -> Any:
        """The scheduler, newly constructed or as used since; None if its class is not known."""
        if self._made_of is not configuration:
            self._made_of, self._made, self._levels = configuration, _made(configuration), None
        return self._made

    def before_a_run(self, run: Driver) -> Any:
        """The scheduler before `set_timesteps` is called; None afterwards."""
        return None if run.is_told else self.of(run.configuration)

    def amid_a_run(self, run: Driver, begin: int | None, index: int | None) -> Any:
        """The scheduler with the sigmas and the position of the run, if there is a run."""
        stock = self.of(run.configuration)
        if stock is None or not run.is_told:
            return stock
        if self._levels is not run.iterations:
            self._bring(stock, run)
            self._levels = run.iterations
        stock._begin_index, stock._step_index = begin, index
        return stock

    @staticmethod
    def _bring(stock: Any, run: Driver) -> None:
        """Give the scheduler the sigmas of a run."""
        request = run.request
        if run.configuration.is_stock:  # set_timesteps fills further tables
            takes = inspect.signature(stock.set_timesteps).parameters
            lists = {key: value for key, value in request.items() if key in takes and value is not None}
            with contextlib.suppress(*_REFUSALS):
                stock.set_timesteps(**lists)
        stock.timesteps = run.timesteps
        if hasattr(stock, "sigmas"):
            stock.sigmas = torch.tensor(run.sigmas.tolist(), dtype=torch.float32)
        stock.num_inference_steps = request.get("num_inference_steps") or len(run.timesteps)

    def forget(self) -> None:
        """Create a new scheduler the next time."""
        self._made_of = self._made = self._levels = None


def _made(configuration: Configuration) -> Any:
    """A scheduler of the class in a configuration, with its settings."""
    name = configuration.entries.stock_class
    kind = getattr(diffusers, name, None) if name in CLASSES else None
    if kind is None:
        return None
    settings, given = Configuration(configuration.entries).settings, {}
    for key, parameter in inspect.signature(kind.__init__).parameters.items():
        if key in settings and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            given[key] = settings[key]
    try:
        made = kind(**given)
    except _REFUSALS:  # an extra is not installed, or the class does not support the settings
        return None
    if "shift" in configuration.assigned:
        made.set_shift(configuration.assigned["shift"])
    if "alphas_cumprod" in configuration.assigned:
        made.alphas_cumprod = configuration.assigned["alphas_cumprod"]
    return made
