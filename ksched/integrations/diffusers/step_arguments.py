"""Keywords of `KSchedScheduler.step` and ``set_timesteps``: which are options, and which would change nothing."""

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


#: values of the arguments of ``step`` that say nothing; pipelines pass ``eta=0.0`` to every scheduler that takes one
_IDLE: Mapping[str, float] = {"eta": 0.0, "s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}


def check_known(function: str, unknown: Iterable[str], names: Iterable[str]) -> None:
    """Raise a TypeError that names the nearest argument if there is any that is unknown."""
    for name in unknown:
        hint = near(name, names, cutoff=0.6) or f"; it takes {', '.join(sorted(names))}"
        raise TypeError(f"{function} takes no {name!r}{hint}")


def idle(name: str, value: Any) -> bool:
    """Whether an argument of ``step`` says nothing at a value."""
    return value is None or value is False or bool(value == _IDLE.get(name))


def heeded_options(
    configuration: Configuration, method: Method, given: Mapping[str, Any], clipped: bool | None
) -> dict[str, Any]:
    """Which options that ``step`` is given the sampler heeds; a warning says of the others that they change nothing.

    Parameters
    ----------
    configuration, method : what was chosen, and what it does
    given : by name; None was not given
    clipped : take eps, too, from the edited prediction. `DDIMPipeline` says None, with an eta that nobody chose

    Raises
    ------
    ValueError : an option that ``sampler_options`` has with another value
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
    """Options that may still be told to a method at its first step."""
    spec, request = sampler_spec(method.sampler), method.request
    if request is not None and request.literal is not None:  # a loop of the class's own
        return {"eta"} & set(spec.arguments(Dialect.DIFFUSERS) or ())
    return set(spec.options)


def _of_churn(known: Set[str]) -> set[str]:
    """Options that say nothing where nothing is churned; other noise has a factor of the same name."""
    return {"s_tmin", "s_tmax", "s_noise"} if "s_churn" in known else {"s_tmin", "s_tmax"}


def _said(
    configuration: Configuration, given: Mapping[str, Any], own: Mapping[str, Any], clipped: bool | None
) -> dict[str, Any]:
    """Options that ``step`` is given, without those that nobody chose and those that ``sampler_options`` has too."""
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
        warnings.warn(
            f"step is given {said}, which changes nothing: sampler {sampler} does not heed it here", stacklevel=5
        )


# ------------------------------------------------------------------------------------------------------ set_timesteps
def warn_of_list(configuration: Configuration, request: Mapping[str, Any]) -> None:
    """Say that a list goes before the levels that the user chose, and that a mu is without effect.

    Parameters
    ----------
    configuration : what was chosen
    request : see `run_request`
    """
    entries = configuration.entries
    mu = request.get("mu")
    if mu is not None and not configuration.is_flow and not entries.use_dynamic_shifting:
        _warn(f"mu={mu} changes nothing: it is the shift of flow models, and this is none. Leave it out")
    lists = [name for name in ("timesteps", "sigmas") if request.get(name) is not None]
    if not lists or configuration.takes_as_number(request):
        return
    chosen = None if entries.schedule is None else f"schedule={entries.schedule!r}"
    if entries.sampler is not None and sampler_spec(entries.sampler).levels is not None:
        chosen = "the noise levels of its own that the sampler has"
    if chosen is not None:
        count = len(request[lists[0]])
        _warn(
            f"set_timesteps is given a list of {count} {' and '.join(lists)}, which goes before {chosen}: the run is "
            "on the levels of the list. To run on the others, have set_timesteps called with a number of steps; if the "
            "list is meant, leave the choice out"
        )


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)


# ---------------------------------------------------------------------------------------------------------------- eta
class StepMethod:
    """``step``, with the signature and the order of arguments that pipelines expect of what was chosen.

    They look for ``eta`` in the signature and give 0 unless their user says otherwise, which is DDIM's default; to
    samplers whose noise is on by default that would be an instruction that nobody gave. CogVideoX's own loop for its
    DPM class hands over the prediction and the timestep before, which are known here.

    Parameters
    ----------
    function : the method, which takes an eta always
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__ = function.__doc__
        self.full = function
        signature = inspect.signature(function)

        @wraps(function)
        def without(*given: Any, **keywords: Any) -> Any:
            return function(*given, **keywords)

        kept = [parameter for name, parameter in signature.parameters.items() if name != "eta"]
        without.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
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
