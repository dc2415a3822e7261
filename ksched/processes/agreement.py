"""Checks that a model and a sampler mean the same states, for models that know their process.

A state is ``alpha * x0 + std * eps``. Two processes agree on a run if alpha and std are the same at every level of it,
and both have all the levels. Another shift, another table of betas or another class does not matter.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np

from ksched.processes import Process, default_process
from ksched.types import ArrayLike, is_tensor

__all__ = [
    "KnowsProcess",
    "Levels",
    "check_agreement",
    "check_levels_of",
    "check_once",
    "check_sigma",
    "levels_of",
    "mark",
    "marks_of",
    "process_given",
    "process_of_model",
]


#: a run's levels: the process in words, and sigma, alpha and noise std of each level. It is plain data, so a tensor
#: that carries it can be saved and loaded anywhere.
Levels: TypeAlias = tuple[str, tuple[float, ...], tuple[float, ...], tuple[float, ...]]


class KnowsProcess(Protocol):
    """Something that knows the process it was trained on, such as a `ksched.Denoiser`."""

    @property
    def process(self) -> Process:
        """The noise process that the model was trained on."""
        ...


_MARK = "_ksched_levels"


_CLOSE = 1e-6  # relative, for alpha and std: far above rounding errors, far below the difference between processes


def levels_of(process: Process, sigmas: ArrayLike) -> Levels:
    """The levels of a run on a process, in the form that a model checks."""
    values = np.asarray(sigmas, dtype=np.float64)
    alphas, stds = np.broadcast_to(process.alpha(values), values.shape), process.noise_std(values)
    return repr(process), tuple(values.tolist()), tuple(alphas.tolist()), tuple(stds.tolist())


def process_of_model(model: Any) -> Process | None:
    """The process that a model says it was trained on; None if it does not say."""
    process = getattr(model, "process", None)
    return process if isinstance(process, Process) else None


def process_given(process: Process | KnowsProcess | None, model: Any = None) -> Process:
    """The process that a function works on.

    Parameters
    ----------
    process : Process, KnowsProcess or None
        A process, or anything that has one, such as a `ksched.Denoiser`; None if it was not given.
    model : Model or None
        Used if ``process`` is None: its process if it knows one, else Stable Diffusion's VP table.

    Raises
    ------
    TypeError
        For anything else.
    """
    if process is None:
        return process_of_model(model) or default_process()
    found = process if isinstance(process, Process) else process_of_model(process)
    if found is None:
        raise TypeError(
            "process must be a ksched process such as VP() or Flow(), or an object that has one, such as a Denoiser; "
            f"got {process!r}"
        )
    return found


def check_levels_of(model: Process, levels: Levels, *, what: str = "the denoiser") -> None:
    """Raise unless a model's process means the same states as a run, at every level of the run.

    Parameters
    ----------
    model : Process
        The process of the model.
    levels : tuple
        Levels of the run, from `levels_of`.
    what : str
        Name of the model in the message.

    Raises
    ------
    ValueError
        If alpha or noise std differ at a level, or a level lies outside the model's process.
    """
    words, *numbers = levels
    sigmas, alphas, stds = (np.array(column) for column in numbers)
    beyond = sigmas > model.sigma_limit
    if beyond.any():
        worst = float(sigmas[beyond].max())
        raise ValueError(
            f"{what} and the sampler must mean the same states; {what} is for {model!r}, the sampler for {words}. The "
            f"process of {what} ends at sigma {model.sigma_limit:g}, but the run has sigma {worst:g}. {_WHAT_TO_DO}"
        )
    own_alphas, own_stds = model.alpha(sigmas), model.noise_std(sigmas)
    same = np.isclose(own_alphas, alphas, rtol=_CLOSE, atol=_CLOSE) & np.isclose(
        own_stds, stds, rtol=_CLOSE, atol=_CLOSE * 1e-6
    )
    if not same.all():
        k = int(np.flatnonzero(~same)[0])
        own, theirs = _state(own_alphas[k], own_stds[k]), _state(alphas[k], stds[k])
        raise ValueError(
            f"{what} and the sampler must mean the same states; {what} is for {model!r}, the sampler for {words}. At "
            f"sigma {sigmas[k]:g} the state of {what} is {own}, that of the sampler {theirs}. {_WHAT_TO_DO}"
        )


def check_agreement(model: Any, process: Process | None, sigmas: ArrayLike) -> None:
    """`check_levels_of` for a run and a model that may know its process.

    Parameters
    ----------
    model : callable
        Any denoiser.
    process : Process or None
        Process of the sampler; None if unknown, which is never an error.
    sigmas : array_like
        Contract sigmas of the run.

    Raises
    ------
    ValueError
        As for `check_levels_of`.
    """
    own = process_of_model(model)
    if own is None or process is None or own is process or own == process:
        return
    check_levels_of(own, levels_of(process, sigmas))


def mark(sigma: Any, levels: tuple[Levels, ...]) -> None:
    """Attach the levels of one or more runs to the tensor of sigmas that a model receives."""
    setattr(sigma, _MARK, levels)


def marks_of(sigma: Any) -> tuple[Levels, ...]:
    """The levels attached to a sigma; none if it is a number or comes from elsewhere."""
    return getattr(sigma, _MARK, ()) if is_tensor(sigma) else ()


def check_sigma(process: Process, sigma: Any, what: str = "the denoiser") -> None:
    """`check_levels_of` from the sigma of a model call, which carries its run's levels; each run is checked once.

    Parameters
    ----------
    process : Process
        Process of the model that is called.
    sigma : float or Tensor
        The sigma that the model receives.
    what : as for `check_levels_of`

    Raises
    ------
    ValueError
        As for `check_levels_of`.
    """
    for levels in marks_of(sigma):
        check_once(process, levels, what)


def check_once(process: Process, levels: Levels, what: str = "the denoiser") -> None:
    """`check_levels_of` that remembers successful checks."""
    key = id(process), id(levels)
    if key not in _agreed:
        check_levels_of(process, levels, what=what)
        if len(_agreed) >= _MOST_AGREED:
            _agreed.clear()
        _agreed[key] = process, levels  # keep both alive, so that no other object can take their ids


_MOST_AGREED = 256


_agreed: dict[tuple[int, int], tuple[Process, Levels]] = {}


_WHAT_TO_DO = "Build the sampler with process=denoiser.process."


def _state(alpha: float, std: float) -> str:
    return f"{alpha:.6g} * x0 + {std:.6g} * eps"
