"""What a network's output says of x0, as the classes of diffusers read it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ksched.denoisers.denoiser import Denoiser
from ksched.dialects.diffusers.request import is_told_data
from ksched.dialects.diffusers.trig_flow import TrigFlow
from ksched.names.enums import Prediction
from ksched.processes import EDM, VE, VP, Process
from ksched.types import ArrayLike

__all__ = ["conversions_of"]


def conversions_of(process: Process, prediction: str, sigmas: ArrayLike) -> list[tuple[float, float, float]]:
    """(norm, of_x, of_output) for levels; see `Denoiser.conversions`."""
    if isinstance(process, TrigFlow):
        levels = [process.level(float(sigma)) for sigma in np.asarray(sigmas).tolist()]
        return [(1.0, level.alpha, -level.sigma) for level in levels]
    kind = Prediction.parse(prediction)
    if isinstance(process, VE) and kind == "flow":  # the velocity of states x0 + sigma * eps is eps
        kind = Prediction.EPSILON
    if isinstance(process, EDM) and kind == "epsilon":  # as classes with sigma_data call the F of this process alone
        kind = Prediction.EDM
    if process.zero_terminal_snr and kind == "epsilon":
        # what a table stands in for with a large sigma has an eps; pure noise has none
        if not np.all(np.isfinite(np.asarray(sigmas, dtype=np.float64))):
            raise ValueError("prediction_type 'epsilon' says nothing at zero terminal SNR: the first state is noise")
        process = VP(variance_preserving=process.variance_preserving)
    if process.is_flow and kind == "epsilon":  # no model is trained so, but a class of diffusers has it
        levels = [process.level(float(sigma)) for sigma in np.asarray(sigmas).tolist()]
        if any(level.alpha <= 0 for level in levels):
            raise ValueError("prediction_type 'epsilon' says nothing at sigma 1 of a flow: the first state is noise")
        return [(1.0, 1 / level.alpha, -level.sigma / level.alpha) for level in levels]
    found = Denoiser(_no_network, process, kind).conversions(sigmas)
    if is_told_data(process) and kind == "flow":
        return [(norm, of_x, -of_output) for norm, of_x, of_output in found]
    return found


def _no_network(x: Any, timestep: Any) -> Any:
    raise NotImplementedError
