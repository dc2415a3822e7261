"""Saved states of runs, checked completely before any part is used."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, Self

import torch

from ksched.noise.sources import NoiseSource, source_by_scheme
from ksched.processes import Process

__all__ = ["CopiedBySaving", "OwnNoise", "StateCheck", "saved_noise"]


class CopiedBySaving:
    """A run whose copies continue from its saved state, because runs never share their buffers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from where a state was saved; raises ValueError, and changes nothing, if the state is damaged."""
        raise NotImplementedError

    def loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Check a whole state without changing the run; calling the result makes the run continue from it.

        Loading replaces objects of the run instead of writing over them, so it can be undone.
        """
        before = dict(vars(self))
        self.load_state_dict(state)
        after = dict(vars(self))
        vars(self).update(before)
        return lambda: vars(self).update(after)

    def __deepcopy__(self, memo: object) -> Self:
        reduced = self.__reduce_ex__(4)
        assert isinstance(reduced, tuple)
        restore, parts = reduced
        copy: Self = restore(*parts)
        return copy


class OwnNoise:
    """Your own noise function, on its way into a copy or a pickle of a run.

    Raises
    ------
    TypeError
        On pickling, if the function cannot be pickled.
    """

    def __init__(self, function: Callable[[float, float], Any] | None) -> None:
        self.function = function

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            pickle.dumps(self.function)
        except Exception as error:
            raise TypeError(
                f"the run draws noise from {self.function!r}, which cannot be pickled: save the run's state_dict(), "
                f"and "
                "load it into a run that is started with noise=..."
            ) from error
        return OwnNoise, (self.function,)


class StateCheck:
    """The parts of a saved state; each is checked when it is read.

    Parameters
    ----------
    state : mapping
        The result of `Run.state_dict`, possibly damaged since.
    shape, dtype : sequence of int and dtype
        Of the states of the run that will continue from it.

    Raises
    ------
    ValueError
        From every method, if a part is missing or invalid.
    """

    def __init__(self, state: Mapping[str, Any], shape: Sequence[int], dtype: torch.dtype) -> None:
        self._state, self._shape = state, tuple(shape)
        name = str(dtype).removeprefix("torch.")
        if self._part("dtype") != name:
            raise ValueError(f"the state must be of this run's dtype, {name}; got {self._part('dtype')!r}")

    def whole(self, name: str, most: int) -> int:
        """A whole number from 0 to ``most``."""
        value = self._part(name)
        if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) <= most:
            raise self._damaged(name, f"a whole number from 0 to {most}", value)
        return int(value)

    def truth(self, name: str) -> bool:
        """A boolean."""
        value = self._part(name)
        if not isinstance(value, bool):
            raise self._damaged(name, "True or False", value)
        return value

    def seeds(self) -> tuple[int, ...] | None:
        """One seed per item; None if the run had none."""
        value = self._part("seeds")
        if value is None:
            return None
        known = isinstance(value, tuple | list) and not any(
            isinstance(seed, bool) or not isinstance(seed, Integral) for seed in value
        )
        if not known or len(value) != self._shape[0]:
            raise self._damaged("seeds", f"{self._shape[0]} whole numbers, one per item", value)
        return tuple(map(int, value))

    def text(self, name: str) -> str:
        """A string."""
        value = self._part(name)
        if not isinstance(value, str):
            raise self._damaged(name, "a string", value)
        return value

    def tensors(self, name: str, wanted: Sequence[str], dtype: torch.dtype) -> list[torch.Tensor]:
        """The tensors of these names, each like the run's states in the working dtype."""
        values = self._part(name)
        if not isinstance(values, Mapping) or set(values) != set(wanted):
            got = sorted(map(str, values)) if isinstance(values, Mapping) else values
            raise self._damaged(name, f"the tensors {', '.join(wanted)}", got)
        return [self.tensor(f"{name}[{key!r}]", values[key], dtype) for key in wanted]

    def tensor(self, name: str, value: Any, dtype: torch.dtype) -> torch.Tensor:
        """A tensor like the run's states."""
        fits = isinstance(value, torch.Tensor) and value.shape == self._shape and value.dtype == dtype
        if not fits:
            got = f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise self._damaged(name, f"a tensor of shape {self._shape}, {dtype}", got)
        found: torch.Tensor = value
        return found

    def like(self, name: str, value: Any, example: Any, dtype: torch.dtype) -> None:
        """Raise unless a value is of the same kind as an example: number, tensor of the run, or tuple of numbers."""
        if isinstance(value, torch.Tensor):
            if example is not None and not isinstance(example, torch.Tensor):
                raise self._damaged(name, f"like {example!r}", "a tensor")
            self.tensor(name, value, dtype)
            return
        wanted = _wanted(value, example)
        if wanted is not None:
            raise self._damaged(name, wanted, value)

    def part(self, name: str) -> Any:
        """The part, unchecked."""
        return self._part(name)

    def _part(self, name: str) -> Any:
        try:
            return self._state[name]
        except KeyError:
            raise ValueError(f"the state is damaged: it has no {name!r}; load one that Run.state_dict() made") from None

    @staticmethod
    def _damaged(name: str, wanted: str, got: Any) -> ValueError:
        text = repr(got)
        return ValueError(
            f"the state does not fit this run, or is damaged: {name} must be {wanted}; "
            f"got {text if len(text) < 200 else text[:200] + '...'}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and value == value


def saved_noise(
    check: StateCheck, draws: bool, noise: NoiseSource, seeds: tuple[int, ...] | None, process: Process | None
) -> tuple[NoiseSource, tuple[int, ...] | None]:
    """The noise, and the seeds of the items, with which a run continues from a saved state.

    Parameters
    ----------
    check : StateCheck
        The state.
    draws : bool
        Whether the run draws noise.
    noise, seeds : NoiseSource and tuple of int, or None
        Of the run that will continue.
    process : Process or None
        Of that run.

    Raises
    ------
    ValueError
        For seeds that do not fit; a state with noise of your own, and a run started with a seed.
    """
    saved = check.seeds()
    if saved is not None:
        return source_by_scheme(check.text("noise"), saved, process), saved
    if draws and seeds is not None:
        raise ValueError(
            "the state is from a run with its own noise function, which a seed cannot replace: start the run that "
            "loads "
            "it with noise=..., not with a seed"
        )
    return noise, seeds


def _wanted(value: Any, example: Any) -> str | None:
    """What should replace a value that is not a tensor; None if the value is of the example's kind."""
    match example:
        case torch.Tensor():
            return None if value is None else "a tensor"
        case tuple():
            right = isinstance(value, tuple) and (not hasattr(example, "_fields") or len(value) == len(example))
            return None if right and all(map(_is_number, value)) else "a tuple of numbers"
        case None:
            return None if value is None else "a tensor or None"
        case float() | int() if not isinstance(example, bool):
            right = _is_number(value) and (isinstance(example, float) or isinstance(value, int))
            return None if right else "a number"
        case _:
            return None if type(value) is type(example) else f"like {example!r}"
