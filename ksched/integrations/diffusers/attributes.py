"""What programs read of a `KSchedScheduler` beside its loop, and what they assign."""

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


#: those that nothing goes by in the classes either: they are what was assigned
_KEPT = frozenset(("betas", "alphas", "one", "init_noise_sigma", "num_inference_steps", "is_scale_input_called"))


#: those that have an effect when they are assigned
_EFFECTIVE = frozenset(("timesteps", "sigmas", "alphas_cumprod", "model_outputs", "last_sample"))


#: names whose assignment is looked at
ASSIGNED = frozenset((*ATTRIBUTES, *REFUSED_ATTRIBUTES, *_KEPT, *_EFFECTIVE))


class Attributes:
    """The attributes of a scheduler that follow from its class, its settings and its run.

    Attributes
    ----------
    stock : the scheduler of diffusers that is replaced
    assigned : settings that programs have changed by what they assigned
    kept : attributes that are what was assigned
    history : what the run holds of earlier steps, as programs see it
    levels : noise levels that programs may write to
    """

    def __init__(self) -> None:
        self.stock = Stock()
        self.assigned: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}
        self.history = History()
        self.levels = WrittenLevels()

    def copied(self) -> Attributes:
        """These, for a copy of the scheduler that goes on by itself."""
        made = Attributes()
        made.assigned, made.kept = dict(self.assigned), dict(self.kept)
        made.history, made.levels = self.history.copied(), self.levels.copied()
        return made

    def forget(self) -> None:
        """Be as before the first step."""
        self.levels = WrittenLevels()
        self.history = History()
        for name in ("is_scale_input_called", "timesteps", "sigmas"):
            self.kept.pop(name, None)

    # --------------------------------------------------------------------------------------------------------- reading

    def read(self, scheduler: Any, name: str) -> Any:
        """An attribute that a scheduler has if the class that it replaces has it.

        Raises
        ------
        AttributeError : there is none
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
        """Shift the levels of the next `set_timesteps` by as much."""
        self.assigned["shift"] = Flow(shift).shift
        self._reconfigure(run)

    def check_setting(self, scheduler: Any, name: str) -> None:
        """Raise for a setting that is an attribute of other classes than the one that is replaced.

        Raises
        ------
        AttributeError : of such a one
        """
        stock = self.stock.of(scheduler._run.configuration)
        parameters = inspect.signature(type(scheduler).__init__).parameters
        if stock is not None and name in parameters and name not in stock.config and name not in OURS:
            raise AttributeError(f"{type(scheduler).__name__!r} object has no attribute {name!r}; its config has it")

    def before(self, name: str, run: Driver) -> Any:
        """What the class says of itself before `set_timesteps`; NotImplemented where that is no matter."""
        if name in self.kept:
            return self.kept[name]
        stock = self.stock.before_a_run(run)
        return NotImplemented if stock is None else getattr(stock, name, NotImplemented)

    def table(self, name: str, run: Driver) -> torch.Tensor:
        """A table of the training: the class's own where it has one.

        Raises
        ------
        AttributeError : the model has none
        """
        if name in self.kept:
            kept: torch.Tensor = self.kept[name]
            return kept
        stock = self.stock.of(run.configuration)
        if hasattr(stock, name):
            table: torch.Tensor = getattr(stock, name)
            return table
        process = run.configuration.trained
        if not isinstance(process, VP):  # betas are what this class alone has
            raise AttributeError(f"'KSchedScheduler' object has no table {name!r}: the model is no VP model")
        return torch.tensor(np.asarray(getattr(process, name)).tolist(), dtype=torch.float32)

    def timesteps(self, run: Driver) -> torch.Tensor:
        """What the network is told at every iteration."""
        made = self.before("timesteps", run)
        return run.timesteps if made is NotImplemented else made

    def init_noise_sigma(self, run: Driver) -> Any:
        """What a pipeline multiplies its start noise by."""
        made = self.before("init_noise_sigma", run)
        return torch.tensor(run.init_noise_sigma, dtype=torch.float32) if made is NotImplemented else made

    def num_inference_steps(self, run: Driver) -> int | None:
        """What `set_timesteps` was told, or how long its list was."""
        made = self.before("num_inference_steps", run)
        return None if made is NotImplemented else made

    def betas(self, run: Driver) -> torch.Tensor:
        """Of the training table."""
        return self.table("betas", run)

    def alphas_cumprod(self, run: Driver) -> torch.Tensor:
        """Of the training table."""
        return self.table("alphas_cumprod", run)

    def sigmas(self, run: Driver) -> torch.Tensor:
        """Noise levels, which programs may write to; see `WrittenLevels`."""
        made: Any = self.before("sigmas", run)
        levels: torch.Tensor = self.levels.of(run) if made is NotImplemented else made
        return levels

    # ------------------------------------------------------------------------------------------------------- assigning

    def assign(self, name: str, value: Any, run: Driver) -> bool:
        """Take what a program assigns to one of `ASSIGNED`.

        Returns
        -------
        whether that is done; False for a name that is an attribute like any other

        Raises
        ------
        AttributeError : an attribute that cannot be assigned, here or in the class
        ValueError : a value that it cannot have
        """
        stock = self.stock.of(run.configuration)
        there = getattr(type(stock), name, None)
        if isinstance(there, property) and there.fset is None:
            raise AttributeError(f"{name} of {type(stock).__name__} cannot be assigned, and so it cannot here")
        if stock is not None and not hasattr(stock, name) and not hasattr(type(self), name) and name not in _EFFECTIVE:
            return False  # the class would have one more attribute
        if name in REFUSED_ATTRIBUTES:  # programs restore what they have saved of another scheduler
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
            f"{name} cannot be assigned here: it follows from the configuration; give that to from_config instead"
        )

    def _assign_timesteps(self, value: Any, run: Driver) -> None:
        now = run.timesteps if run.is_told else self.before("timesteps", run)
        if value is not now and not (isinstance(value, torch.Tensor) and _equal(value, now)):
            raise ValueError(
                "timesteps can be assigned on another device or in another dtype alone; give other ones to "
                "set_timesteps(timesteps=...), or set_begin_index the place of the first"
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
            raise ValueError("sigmas can be written after set_timesteps, which makes them anew")

    def _assign_alphas_cumprod(self, value: Any, run: Driver) -> None:
        """Take another training table, as the classes that go by timesteps do at once and the others in a new run."""
        found, table = torch.as_tensor(value).detach().double().cpu().numpy(), self.table("alphas_cumprod", run)
        if found.ndim != 1 or len(found) != run.configuration.entries.num_train_timesteps:
            raise ValueError(f"alphas_cumprod must be num_train_timesteps numbers; got shape {found.shape}")
        betas = 1 - found / np.append(1.0, found[:-1])
        if _equal(torch.as_tensor(value), table):
            self.kept["alphas_cumprod"] = value
            return
        if not (np.all(betas > 0) and np.all(betas < 1)):
            raise ValueError(
                "alphas_cumprod must fall from below 1 and stay above 0; for zero terminal SNR give from_config "
                "rescale_betas_zero_snr=True"
            )
        stock = self.stock.of(run.configuration)
        by_timestep = run.configuration.is_stock and not hasattr(stock, "sigmas")
        if by_timestep and run.state is not None:
            raise ValueError("the run has begun: assign alphas_cumprod before its first step")
        self.kept["alphas_cumprod"] = value
        self.assigned |= {"alphas_cumprod": value, "trained_betas": betas, "rescale_betas_zero_snr": False}
        self._reconfigure(run)
        if by_timestep and run.is_told:
            run.relevel(None)

    def _reconfigure(self, run: Driver) -> None:
        """Go by the settings that were assigned, from the next `set_timesteps` on."""
        run.configuration = Configuration(run.configuration.entries, self.assigned)

    def _assign_model_outputs(self, value: Any, run: Driver) -> None:
        self.history.of(run).model_outputs = value

    def _assign_last_sample(self, value: Any, run: Driver) -> None:
        self.history.of(run).last_sample = value

    def meet(self, run: Driver, sample: torch.Tensor, index: int | None) -> None:
        """Take what programs have written, before a step."""
        self.levels.heed(run)
        if self.history.is_seen or (run.has_other_size(sample) and not run.goes_back(index)):
            placed_in(run, self.history, sample)


def _equal(value: Any, there: Any) -> bool:
    """Whether a value is the one that is there, on whatever device, and rounded to whatever dtype."""
    if value is None or there is None:
        return value is there
    if not isinstance(value, torch.Tensor) or not isinstance(there, torch.Tensor):
        return bool(np.array_equal(np.asarray(value), np.asarray(there)))
    return value.shape == there.shape and torch.equal(value.cpu(), there.to(value.dtype).cpu())


def _begin_at(scheduler: Any, timestep: Any) -> None:
    """Begin the run at the place that was set, or at that of a timestep."""
    run: Driver = scheduler._run
    run.prepare()
    first = scheduler._index(timestep)
    run.begin(first, {}, False)
    scheduler._step_index = first


class Shown:
    """An attribute of a scheduler that `Attributes` has a method for, and that programs may assign."""

    def __init__(self, text: str) -> None:
        self.__doc__ = text

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, scheduler: Any, owner: type | None = None) -> Any:
        return self if scheduler is None else getattr(scheduler._attributes, self.name)(scheduler._run)

    def __set__(self, scheduler: Any, value: Any) -> None:
        scheduler._attributes.assign(self.name, value, scheduler._run)
