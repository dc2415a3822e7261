"""Attributes that programs read from a `KSchedScheduler` or assign to it, besides those of its loop."""

from __future__ import annotations

import inspect
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch

from ksched.dialects.diffusers.attributes import ATTRIBUTES, REFUSED_ATTRIBUTES, Of
from ksched.integrations.diffusers.adoption import OURS
from ksched.integrations.diffusers.configuration import Configuration
from ksched.integrations.diffusers.driver import Driver
from ksched.integrations.diffusers.history import History, placed_in
from ksched.integrations.diffusers.stock import Stock
from ksched.integrations.diffusers.written_levels import WrittenLevels
from ksched.processes import VP, Flow

__all__ = ["ASSIGNED", "Attributes", "Shown"]


#: attributes that have no effect in the diffusers classes either; assigned values are only stored
_KEPT = frozenset(("betas", "alphas", "one", "init_noise_sigma", "num_inference_steps", "is_scale_input_called"))


#: attributes that have an effect when assigned
_EFFECTIVE = frozenset(("timesteps", "sigmas", "alphas_cumprod", "model_outputs", "last_sample"))


#: names whose assignment is intercepted
ASSIGNED = frozenset((*ATTRIBUTES, *REFUSED_ATTRIBUTES, *_KEPT, *_EFFECTIVE))


class Attributes:
    """The attributes of a scheduler that depend on its class, its settings and its run.

    Attributes
    ----------
    stock : Stock
        The diffusers scheduler that is replaced.
    assigned : dict
        Settings that programs have changed by assignment.
    kept : dict
        Attributes that just keep what was assigned.
    history : History
        Earlier predictions and states of the run, as programs see them.
    levels : WrittenLevels
        Sigmas that programs may write to.
    """

    def __init__(self) -> None:
        self.stock = Stock()
        self.assigned: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}
        self.history = History()
        self.levels = WrittenLevels()

    def copied(self) -> Attributes:
        """The same for an independent copy of the scheduler."""
        made = Attributes()
        made.assigned, made.kept = dict(self.assigned), dict(self.kept)
        made.history, made.levels = self.history.copied(), self.levels.copied()
        return made

    def forget(self) -> None:
        """Return to the state before the first step."""
        self.levels = WrittenLevels()
        self.history = History()
        for name in ("is_scale_input_called", "timesteps", "sigmas"):
            self.kept.pop(name, None)

    # --------------------------------------------------------------------------------------------------------- reading

    def read(self, scheduler: Any, name: str) -> Any:
        """An attribute that a scheduler has if the replaced class has it.

        Raises
        ------
        AttributeError
            If the class does not have it.
        """
        run: Driver = scheduler._run
        stock = self.stock.of(run.configuration)
        if stock is None or not hasattr(stock, name):
            raise AttributeError(f"{type(scheduler).__name__!r} object has no attribute {name!r}")
        if name in REFUSED_ATTRIBUTES:
            kind = type(scheduler).__name__
            raise AttributeError(f"{kind!r} object has no attribute {name!r}: {REFUSED_ATTRIBUTES[name]}")
        if name in self.kept:
            return self.kept[name]
        if ATTRIBUTES[name] == Of.RUN:
            return self._of_run(scheduler, name, run)
        return getattr(self.stock.amid_a_run(run, scheduler.begin_index, scheduler.step_index), name)

    def _of_run(self, scheduler: Any, name: str, run: Driver) -> Any:
        first, index = scheduler.begin_index or 0, scheduler.step_index
        done = 0 if index is None else index - first
        match name:
            case "lower_order_nums":
                return min(done, int(run.configuration.entries.solver_order))
            case "state_in_first_order":
                return done % 2 == 0
            case "is_scale_input_called":
                return False
            case "set_shift":
                return partial(self._set_shift, run)
            case "_init_step_index":
                return partial(_begin_at, scheduler)
            case _:  # "model_outputs", "last_sample"
                return getattr(self.history.of(run), name)

    def _set_shift(self, run: Driver, shift: float) -> None:
        """Shift the sigmas of the next `set_timesteps`."""
        self.assigned["shift"] = Flow(shift).shift
        self._reconfigure(run)

    def check_setting(self, scheduler: Any, name: str) -> None:
        """Raise an error for settings that are attributes only of classes other than the replaced one.

        Raises
        ------
        AttributeError
            If the setting is such an attribute.
        """
        stock = self.stock.of(scheduler._run.configuration)
        parameters = inspect.signature(type(scheduler).__init__).parameters
        if stock is not None and name in parameters and name not in stock.config and name not in OURS:
            raise AttributeError(f"{type(scheduler).__name__!r} object has no attribute {name!r}; its config has it")

    def before(self, name: str, run: Driver) -> Any:
        """The value in the replaced class before `set_timesteps`; NotImplemented if there is none."""
        if name in self.kept:
            return self.kept[name]
        stock = self.stock.before_a_run(run)
        return NotImplemented if stock is None else getattr(stock, name, NotImplemented)

    def table(self, name: str, run: Driver) -> torch.Tensor:
        """A training table, the replaced class's own if it has one.

        Raises
        ------
        AttributeError
            If the model has none.
        """
        if name in self.kept:
            kept: torch.Tensor = self.kept[name]
            return kept
        stock = self.stock.of(run.configuration)
        if hasattr(stock, name):
            table: torch.Tensor = getattr(stock, name)
            return table
        process = run.configuration.trained
        if not isinstance(process, VP):  # only VP models have betas
            raise AttributeError(f"'KSchedScheduler' object has no table {name!r}, since the model is not a VP model")
        return torch.tensor(np.asarray(getattr(process, name)).tolist(), dtype=torch.float32)

    def timesteps(self, run: Driver) -> torch.Tensor:
        """The network's timestep at every iteration."""
        made = self.before("timesteps", run)
        return run.timesteps if made is NotImplemented else made

    def init_noise_sigma(self, run: Driver) -> Any:
        """The factor by which a pipeline multiplies its start noise."""
        made = self.before("init_noise_sigma", run)
        return torch.tensor(run.init_noise_sigma, dtype=torch.float32) if made is NotImplemented else made

    def num_inference_steps(self, run: Driver) -> int | None:
        """The number passed to `set_timesteps`, or the length of its list."""
        made = self.before("num_inference_steps", run)
        return None if made is NotImplemented else made

    def betas(self, run: Driver) -> torch.Tensor:
        """Betas of the training table."""
        return self.table("betas", run)

    def alphas_cumprod(self, run: Driver) -> torch.Tensor:
        """Cumulative products of the training table."""
        return self.table("alphas_cumprod", run)

    def sigmas(self, run: Driver) -> torch.Tensor:
        """Sigmas, which programs may write to; see `WrittenLevels`."""
        made: Any = self.before("sigmas", run)
        levels: torch.Tensor = self.levels.of(run) if made is NotImplemented else made
        return levels

    # ------------------------------------------------------------------------------------------------------- assigning

    def assign(self, name: str, value: Any, run: Driver) -> bool:
        """Accept a program's assignment to one of `ASSIGNED`.

        Returns
        -------
        bool
            Whether the assignment is done; False for a name that is an ordinary attribute.

        Raises
        ------
        AttributeError
            If the attribute cannot be assigned, here or in the replaced class.
        ValueError
            If the attribute cannot have this value.
        """
        stock = self.stock.of(run.configuration)
        there = getattr(type(stock), name, None)
        if isinstance(there, property) and there.fset is None:
            raise AttributeError(f"{name} cannot be assigned, because in {type(stock).__name__} it cannot be either")
        if stock is not None and not hasattr(stock, name) and not hasattr(type(self), name) and name not in _EFFECTIVE:
            return False  # in the replaced class it would become a new attribute
        if name in REFUSED_ATTRIBUTES:  # programs restore what they have saved from another scheduler
            warnings.warn(f"{name} has no effect here: {REFUSED_ATTRIBUTES[name]}", UserWarning, stacklevel=3)
            return False
        if name in _KEPT:
            self.kept[name] = value
        elif name in _EFFECTIVE:
            getattr(self, f"_assign_{name}")(value, run)
        else:
            self._refuse(name, value, run)
        return True

    def _refuse(self, name: str, value: Any, run: Driver) -> None:
        with_what_is_there = name in ATTRIBUTES and ATTRIBUTES[name] == Of.MODEL
        if with_what_is_there and _equal(value, getattr(self.stock.of(run.configuration), name)):
            return
        raise AttributeError(
            f"{name} cannot be assigned, because it follows from the configuration; pass that to from_config instead"
        )

    def _assign_timesteps(self, value: Any, run: Driver) -> None:
        now = run.timesteps if run.is_told else self.before("timesteps", run)
        if value is not now and not (isinstance(value, torch.Tensor) and _equal(value, now)):
            raise ValueError(
                "timesteps can only be assigned on another device or in another dtype; pass other timesteps to "
                "set_timesteps(timesteps=...), or the place of the first to set_begin_index"
            )
        if run.is_told:
            run.timesteps = value
        else:
            self.kept["timesteps"] = value

    def _assign_sigmas(self, value: Any, run: Driver) -> None:
        if run.is_told:
            self.levels.assign(run, torch.as_tensor(value))
        elif _equal(value, self.sigmas(run)):
            self.kept["sigmas"] = value
        else:
            raise ValueError("sigmas must be written after set_timesteps, which creates them anew")

    def _assign_alphas_cumprod(self, value: Any, run: Driver) -> None:
        """Use another training table: at once in classes that use timesteps, in a new run in the others."""
        found, table = torch.as_tensor(value).detach().double().cpu().numpy(), self.table("alphas_cumprod", run)
        if found.ndim != 1 or len(found) != run.configuration.entries.num_train_timesteps:
            raise ValueError(f"alphas_cumprod must have num_train_timesteps numbers; got shape {found.shape}")
        betas = 1 - found / np.append(1.0, found[:-1])
        if _equal(torch.as_tensor(value), table):
            self.kept["alphas_cumprod"] = value
            return
        if not (np.all(betas > 0) and np.all(betas < 1)):
            raise ValueError(
                "alphas_cumprod must fall from below 1 and stay above 0; for zero terminal SNR pass from_config "
                "rescale_betas_zero_snr=True"
            )
        stock = self.stock.of(run.configuration)
        by_timestep = run.configuration.is_stock and not hasattr(stock, "sigmas")
        if by_timestep and run.state is not None:
            raise ValueError("alphas_cumprod must be assigned before the first step; the run has begun")
        self.kept["alphas_cumprod"] = value
        self.assigned |= {"alphas_cumprod": value, "trained_betas": betas, "rescale_betas_zero_snr": False}
        self._reconfigure(run)
        if by_timestep and run.is_told:
            run.relevel(None)

    def _reconfigure(self, run: Driver) -> None:
        """Use the assigned settings from the next `set_timesteps` on."""
        run.configuration = Configuration(run.configuration.entries, self.assigned)

    def _assign_model_outputs(self, value: Any, run: Driver) -> None:
        self.history.of(run).model_outputs = value

    def _assign_last_sample(self, value: Any, run: Driver) -> None:
        self.history.of(run).last_sample = value

    def meet(self, run: Driver, sample: torch.Tensor, index: int | None) -> None:
        """Apply what programs have written, before a step."""
        self.levels.heed(run)
        if self.history.is_seen or (run.has_other_size(sample) and not run.goes_back(index)):
            placed_in(run, self.history, sample)


def _equal(value: Any, there: Any) -> bool:
    """Whether a value equals the existing one on any device, after rounding to its own dtype."""
    if value is None or there is None:
        return value is there
    if not isinstance(value, torch.Tensor) or not isinstance(there, torch.Tensor):
        return bool(np.array_equal(np.asarray(value), np.asarray(there)))
    return value.shape == there.shape and torch.equal(value.cpu(), there.to(value.dtype).cpu())


def _begin_at(scheduler: Any, timestep: Any) -> None:
    """Begin the run at the place that was set, or else at a timestep's."""
    run: Driver = scheduler._run
    run.prepare()
    first = scheduler._index(timestep)
    run.begin(first, {}, False)
    scheduler._step_index = first


class Shown:
    """An attribute of a scheduler for which `Attributes` has a method, and which programs may assign."""

    def __init__(self, text: str) -> None:
        self.__doc__ = text

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, scheduler: Any, owner: type | None = None) -> Any:
        return self if scheduler is None else getattr(scheduler._attributes, self.name)(scheduler._run)

    def __set__(self, scheduler: Any, value: Any) -> None:
        scheduler._attributes.assign(self.name, value, scheduler._run)
