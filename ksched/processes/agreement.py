"""Whether a model and a sampler mean the same states: a model that knows its process is believed, or contradicted.

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


#: What a run tells about its levels: the process in words, and sigma, alpha and noise std of each. Plain data, so that
#: a tensor that carries it can be saved and loaded anywhere.
Levels: TypeAlias = tuple[str, tuple[float, ...], tuple[float, ...], tuple[float, ...]]


class KnowsProcess(Protocol):
    """Something that knows what it was trained on, such as a `ksched.Denoiser`."""

    @property
    def process(self) -> Process:
        """What the model was trained on."""
        ...


_MARK = "_ksched_levels"


_CLOSE = 1e-6  # of alpha and std, relative: far above rounding, far below any other process


def levels_of(process: Process, sigmas: ArrayLike) -> Levels:
    """The levels of a run on a process, as a model may check them."""
    values = np.asarray(sigmas, dtype=np.float64)
    alphas, stds = np.broadcast_to(process.alpha(values), values.shape), process.noise_std(values)
    return repr(process), tuple(values.tolist()), tuple(alphas.tolist()), tuple(stds.tolist())


def process_of_model(model: Any) -> Process | None:
    """The process that a model knows it was trained on; None if it knows none."""
    process = getattr(model, "process", None)
    return process if isinstance(process, Process) else None


def process_given(process: Process | KnowsProcess | None, model: Any = None) -> Process:
    """The process that a function shall work on.

    Parameters
    ----------
    process : a process, or anything that has one, such as a `ksched.Denoiser`; None if nothing was said
    model : then its process counts, if it knows one; Stable Diffusion's VP table if not

    Raises
    ------
    TypeError : something else
    """
    if process is None:
        return process_of_model(model) or default_process()
    found = process if isinstance(process, Process) else process_of_model(process)
    if found is None:
        raise TypeError(
            "process must be a ksched process such as VP() or Flow(), or something that has one, such as a Denoiser; "
            f"got {process!r}"
        )
    return found


def check_levels_of(model: Process, levels: Levels, *, what: str = "the denoiser") -> None:
    """Raise unless a model's process means the same states as a run at every level of it.

    Parameters
    ----------
    model : the process of the model
    levels : of the run, from `levels_of`
    what : what the model is called in the message

    Raises
    ------
    ValueError : alpha or noise std differ at a level, or a level lies where the model's process has none
    """
    words, *numbers = levels
    sigmas, alphas, stds = (np.array(column) for column in numbers)
    beyond = sigmas > model.sigma_limit
    if beyond.any():
        worst = float(sigmas[beyond].max())
        raise ValueError(
            f"{what} is of {model!r}, the sampler of {words}: they must mean the same states, and the process of "
            f"{what} ends at sigma {model.sigma_limit:g}, where the run has sigma {worst:g}. {_WHAT_TO_DO}"
        )
    own_alphas, own_stds = model.alpha(sigmas), model.noise_std(sigmas)
    same = np.isclose(own_alphas, alphas, rtol=_CLOSE, atol=_CLOSE) & np.isclose(
        own_stds, stds, rtol=_CLOSE, atol=_CLOSE * 1e-6
    )
    if not same.all():
        k = int(np.flatnonzero(~same)[0])
        own, theirs = _state(own_alphas[k], own_stds[k]), _state(alphas[k], stds[k])
        raise ValueError(
            f"{what} is of {model!r}, the sampler of {words}: they must mean the same states, and at sigma "
            f"{sigmas[k]:g} the state of {what} is {own}, that of the sampler {theirs}. {_WHAT_TO_DO}"
        )


def check_agreement(model: Any, process: Process | None, sigmas: ArrayLike) -> None:
    """`check_levels_of` for a model that may know its process, and a run on one.

    Parameters
    ----------
    model : any denoiser
    process : of the sampler; None if nobody knows, which contradicts nothing
    sigmas : contract sigmas of the run

    Raises
    ------
    ValueError : as for `check_levels_of`
    """
    own = process_of_model(model)
    if own is None or process is None or own is process or own == process:
        return
    check_levels_of(own, levels_of(process, sigmas))


def mark(sigma: Any, levels: tuple[Levels, ...]) -> None:
    """Let a tensor of sigmas that is handed to a model carry the levels of its run, or runs."""
    setattr(sigma, _MARK, levels)


def marks_of(sigma: Any) -> tuple[Levels, ...]:
    """The levels that a sigma came with; none if it is a number, or made by somebody else."""
    return getattr(sigma, _MARK, ()) if is_tensor(sigma) else ()


def check_sigma(process: Process, sigma: Any, what: str = "the denoiser") -> None:
    """`check_levels_of` for whoever is called with a sigma that came with its run's levels; each run is checked once.

    Parameters
    ----------
    process : of the model that is called
    sigma : what it is called with
    what : as for `check_levels_of`

    Raises
    ------
    ValueError : as for `check_levels_of`
    """
    for levels in marks_of(sigma):
        check_once(process, levels, what)


def check_once(process: Process, levels: Levels, what: str = "the denoiser") -> None:
    """`check_levels_of`, which remembers what it found no fault with."""
    key = id(process), id(levels)
    if key not in _agreed:
        check_levels_of(process, levels, what=what)
        if len(_agreed) >= _MOST_AGREED:
            _agreed.clear()
        _agreed[key] = process, levels  # held, so that no other object gets one of these identities


_MOST_AGREED = 256


_agreed: dict[tuple[int, int], tuple[Process, Levels]] = {}


_WHAT_TO_DO = "Build the sampler with process=denoiser.process."


def _state(alpha: float, std: float) -> str:
    return f"{alpha:.6g} * x0 + {std:.6g} * eps"
