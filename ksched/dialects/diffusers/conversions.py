"""The x0 prediction in a network's output, as diffusers' classes read it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ksched.dialects.diffusers.request import has_sigma_data, is_told_data
from ksched.names.enums import Prediction
from ksched.processes import VP, Level, Process
from ksched.types import ArrayLike

__all__ = ["conversions_of"]


def conversions_of(process: Process, prediction: str, sigmas: ArrayLike) -> list[tuple[float, float, float]]:
    """(norm, of_x, of_output) for each sigma; see `Denoiser.conversions`."""
    if prediction == "trigflow":  # the velocity along the circle of angles
        return [(1.0, level.alpha, -level.sigma) for level in _levels(process, sigmas)]
    kind = _meant(process, Prediction.parse(prediction))
    if kind == "epsilon" and process.is_flow:
        return _of_noise_in_a_flow(process, sigmas)
    if kind == "epsilon" and process.zero_terminal_snr:
        process = _with_an_eps_at_its_end(process, sigmas)
    from ksched.denoisers.denoiser import Denoiser  # needs torch, which the other functions here do not

    found = Denoiser(_no_network, process, kind).conversions(sigmas)
    if is_told_data(process) and kind == "flow":
        return [(norm, of_x, -of_output) for norm, of_x, of_output in found]
    return found


def _meant(process: Process, kind: Prediction) -> Prediction:
    """The actual prediction, for classes that use the word of another process."""
    if kind == "flow" and kind not in process.predictions:  # the velocity of states x0 + sigma * eps is eps
        return Prediction.EPSILON
    if kind == "epsilon" and has_sigma_data(process):  # these classes call F "epsilon"
        return Prediction.EDM
    return kind


def _levels(process: Process, sigmas: ArrayLike) -> list[Level]:
    return [process.level(float(sigma)) for sigma in np.asarray(sigmas).tolist()]


def _of_noise_in_a_flow(process: Process, sigmas: ArrayLike) -> list[tuple[float, float, float]]:
    """Conversions for eps in flow states: no model is trained like this, but one of diffusers' classes has it."""
    levels = _levels(process, sigmas)
    if any(level.alpha <= 0 for level in levels):
        raise ValueError("prediction_type 'epsilon' is impossible at sigma 1 of a flow, where the state is pure noise")
    return [(1.0, 1 / level.alpha, -level.sigma / level.alpha) for level in levels]


def _with_an_eps_at_its_end(process: Process, sigmas: ArrayLike) -> Process:
    """The same process with a large sigma at its end, since pure noise does not determine x0 from eps."""
    if not np.all(np.isfinite(np.asarray(sigmas, dtype=np.float64))):
        raise ValueError("prediction_type 'epsilon' is impossible at zero terminal SNR, where the state is pure noise")
    return VP(variance_preserving=process.variance_preserving)


def _no_network(x: Any, timestep: Any) -> Any:
    raise NotImplementedError
