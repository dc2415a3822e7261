"""k-diffusion's schedule functions, ``get_sigmas_*``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from ksched.integrations.k_diffusion.process import process_of
from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import options_of
from ksched.processes import default_process
from ksched.schedules import SCHEDULES, calculate_sigmas

__all__ = ["EMPTY", "PUBLIC", "as_number", "schedule_function", "schedule_signature"]

PUBLIC = "ksched.integrations.k_diffusion"


EMPTY = inspect.Parameter.empty


def schedule_signature(parameters: Mapping[str, Any]) -> inspect.Signature:
    """A signature with these parameters and defaults."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind, default=value) for name, value in parameters.items()])


def as_number(value: Any) -> Any:
    """The number in a zero-dimensional tensor, which some hosts pass; anything else unchanged."""
    return value.item() if isinstance(value, torch.Tensor) and value.ndim == 0 else value


# ------------------------------------------------------------------------------------------------------------ schedules
_OWN_ENDS = {"n": EMPTY, "sigma_min": EMPTY, "sigma_max": EMPTY}


_PUBLISHED_SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "karras": {**_OWN_ENDS, "rho": 7.0, "device": "cpu"},
    "exponential": {**_OWN_ENDS, "device": "cpu"},
    "polyexponential": {**_OWN_ENDS, "rho": 1.0, "device": "cpu"},
    "vp": {"n": EMPTY, "beta_d": 19.9, "beta_min": 0.1, "eps_s": 1e-3, "device": "cpu"},
}


_SPAN = ("sigma_min", "sigma_max")


@cache
def schedule_function(schedule: NoiseSchedule) -> Callable[..., torch.Tensor]:
    """A schedule in k-diffusion's form."""
    name, spec = f"get_sigmas_{schedule.value}", SCHEDULES[schedule]
    parameters = _PUBLISHED_SCHEDULES.get(schedule.value)
    if parameters is None:
        options = {key: option.default for key, option in options_of(spec.function, skip=_SPAN).items()}
        model = {"inner_model": None} if spec.needs_process else {}
        parameters = {**_OWN_ENDS, "device": "cpu", **model, **options}
    signature = schedule_signature(parameters)

    def get_sigmas(*args: Any, **kwargs: Any) -> torch.Tensor:
        try:
            given = {key: as_number(v) for key, v in signature.bind(*args, **kwargs).arguments.items()}
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        steps, device, model = given.pop("n"), given.pop("device", "cpu"), given.pop("inner_model", None)
        process = process_of(model) or default_process()
        if spec.needs_process:
            # a host's range is its model's, perhaps rounded, and then the model's own is used
            own = {"sigma_min": process.sigma_min, "sigma_max": process.sigma_max}
            span = {key: given.pop(key, None) for key in _SPAN}
            given |= {k: v for k, v in span.items() if v is not None and not math.isclose(v, own[k], rel_tol=1e-5)}
        levels = calculate_sigmas(schedule, steps, process, dialect=Dialect.K_DIFFUSION, **given)
        return torch.tensor(levels.tolist(), device=device)

    get_sigmas.__name__ = get_sigmas.__qualname__ = name
    get_sigmas.__module__ = PUBLIC
    also = ", and a model's wrapper or process as ``inner_model``" if "inner_model" in parameters else ""
    get_sigmas.__doc__ = (
        f"Noise levels of the schedule `{schedule.value}`: {spec.formula}.\n\n"
        f"Takes the arguments of `ksched.calculate_{schedule.value}_sigmas`{also}.\n\n"
        "Returns\n-------\nTensor\n    Torch's default dtype, shape (n + 1,); the last element is 0.\n"
    )
    get_sigmas.__signature__ = signature  # type: ignore[attr-defined]  # functions have no declared __signature__
    return get_sigmas
