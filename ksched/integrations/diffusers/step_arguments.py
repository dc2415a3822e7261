"""Arguments of `KSchedScheduler.step` and ``set_timesteps``: which are options, and which would have no effect."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Set
from functools import wraps
from types import MethodType
from typing import Any

from ksched.dialects.diffusers.method import Method
from ksched.integrations.diffusers.configuration import Configuration
from ksched.integrations.diffusers.keywords import near
from ksched.names.enums import Dialect
from ksched.samplers.registry import sampler_spec

__all__ = ["StepMethod", "check_known", "heeded_options", "idle", "warn_of_list"]


#: values of ``step``'s arguments that have no effect; pipelines pass ``eta=0.0`` to every scheduler that has it
_IDLE: Mapping[str, float] = {"eta": 0.0, "s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}


def check_known(function: str, unknown: Iterable[str], names: Iterable[str]) -> None:
    """Raise a TypeError with the most similar argument if a name is unknown."""
    for name in unknown:
        hint = near(name, names, cutoff=0.6) or f"; it takes {', '.join(sorted(names))}"
        raise TypeError(f"{function} takes no {name!r}{hint}")


def idle(name: str, value: Any) -> bool:
    """Whether an argument of ``step`` has no effect at this value."""
    return value is None or value is False or bool(value == _IDLE.get(name))


def heeded_options(
    configuration: Configuration, method: Method, given: Mapping[str, Any], clipped: bool | None
) -> dict[str, Any]:
    """The options given to ``step`` that the sampler uses; a warning names those that have no effect.

    Parameters
    ----------
    configuration, method : Configuration or Method
        What was chosen, and the resulting method.
    given : mapping
        Options by name; None counts as not given.
    clipped : bool or None
        Also compute eps from the edited prediction. `DDIMPipeline` passes None, with an eta that nobody chose.

    Raises
    ------
    ValueError
        If an option is also in ``sampler_options``, with another value.
    """
    own, request = configuration.entries.sampler_options or {}, method.request
    known = _known_options(method)
    if not (given.get("s_churn") or own.get("s_churn")):
        known -= _of_churn(known)
    said = _said(configuration, given, own, clipped)
    heeded = {name: value for name, value in said.items() if name in known}
    lost = {name: value for name, value in said.items() if name not in known}
    if clipped and request is not None and request.pair:
        heeded["pair"] = False
    elif clipped:
        lost["use_clipped_model_output"] = True
    of_step = {} if configuration.entries.stock_class is None else {"s_churn"}
    _warn_of_idle({name: value for name, value in lost.items() if name not in of_step}, method.sampler)
    return heeded


def _known_options(method: Method) -> set[str]:
    """Options that a method still accepts at its first step."""
    spec, request = sampler_spec(method.sampler), method.request
    if request is not None and request.literal is not None:  # the class's own loop
        return {"eta"} & set(spec.arguments(Dialect.DIFFUSERS) or ())
    return set(spec.options)


def _of_churn(known: Set[str]) -> set[str]:
    """Options that have no effect without churn; s_noise does if the sampler has other noise."""
    return {"s_tmin", "s_tmax", "s_noise"} if "s_churn" in known else {"s_tmin", "s_tmax"}


def _said(
    configuration: Configuration, given: Mapping[str, Any], own: Mapping[str, Any], clipped: bool | None
) -> dict[str, Any]:
    """Options given to ``step``, without those that nobody chose and those also in ``sampler_options``."""
    said = dict[str, Any]()
    for name, value in given.items():
        if value is None or (name == "eta" and clipped is None and not configuration.takes_eta):
            continue
        if name not in own:
            said[name] = value
        elif own[name] != value and not idle(name, value):
            raise ValueError(f"{name} is given twice: {value!r} to step, and {own[name]!r} in sampler_options")
    return said


def _warn_of_idle(given: Mapping[str, Any], sampler: str) -> None:
    said = ", ".join(f"{name}={value!r}" for name, value in given.items() if not idle(name, value))
    if said:
        warnings.warn(f"step got {said}, which has no effect: sampler {sampler} does not use it here", stacklevel=5)


# ------------------------------------------------------------------------------------------------------ set_timesteps
def warn_of_list(configuration: Configuration, request: Mapping[str, Any]) -> None:
    """Warn that a list overrides the sigmas that the user chose, or that a mu has no effect.

    Parameters
    ----------
    configuration : Configuration
        What was chosen.
    request : mapping
        Arguments, see `run_request`.
    """
    entries = configuration.entries
    mu = request.get("mu")
    if mu is not None and not configuration.is_flow and not entries.use_dynamic_shifting:
        _warn(f"mu={mu} has no effect: it is the shift of flow models, and this is not one. Leave it out")
    lists = [name for name in ("timesteps", "sigmas") if request.get(name) is not None]
    if not lists or configuration.takes_as_number(request):
        return
    chosen = None if entries.schedule is None else f"schedule={entries.schedule!r}"
    if entries.sampler is not None and sampler_spec(entries.sampler).levels is not None:
        chosen = "the sampler's own sigmas"
    if chosen is not None:
        count = len(request[lists[0]])
        _warn(
            f"set_timesteps got a list of {count} {' and '.join(lists)}, which overrides {chosen}: the run uses the "
            "list. To use the others, call set_timesteps with a number of steps; to keep the list, leave out that "
            "choice"
        )


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)


# ---------------------------------------------------------------------------------------------------------------- eta
class StepMethod:
    """The method ``step``, with the signature and argument order that pipelines expect for the chosen sampler.

    Pipelines look for ``eta`` in the signature and pass 0, DDIM's default, unless their user sets it. Samplers whose
    noise is on by default must not get that 0, so they hide the argument. CogVideoX's loop for its DPM class also
    passes the previous prediction and timestep, which the scheduler knows already.

    Parameters
    ----------
    function : callable
        The method, with an eta argument.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__ = function.__doc__
        self.full = function
        signature = inspect.signature(function)

        @wraps(function)
        def without(*given: Any, **keywords: Any) -> Any:
            return function(*given, **keywords)

        kept = [parameter for name, parameter in signature.parameters.items() if name != "eta"]
        without.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]  # not declared
        self._without = without

        @wraps(function)
        def of_cogvideox(scheduler: Any, output: Any, *given: Any, **keywords: Any) -> Any:
            for name in ("old_pred_original_sample", "timestep_back"):
                keywords.pop(name, None)
            if len(given) == 4:
                given = given[1], given[3]
            return function(scheduler, output, *given, **keywords)

        self._of_cogvideox = of_cogvideox

    def __get__(self, scheduler: Any, owner: Any = None) -> Any:
        if scheduler is None:
            return self.full
        configuration = scheduler._run.configuration
        if configuration.entries.stock_class == "CogVideoXDPMScheduler":
            return MethodType(self._of_cogvideox, scheduler)
        return MethodType(self.full if configuration.takes_eta else self._without, scheduler)
