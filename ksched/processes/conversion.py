"""The input that a network receives at a noise level, and the x0 prediction from its output."""

from __future__ import annotations

from typing import Any

from ksched.processes.base import Process

__all__ = ["conversion"]


def conversion(process: Process, prediction: str, sigma: Any) -> tuple[Any, Any, Any]:
    """Factors that turn a network's output into the x0 prediction.

    Parameters
    ----------
    process : Process
        The noise process that the network was trained on.
    prediction : str
        The network's prediction type, a member of `ksched.Prediction`.
    sigma : float, array_like or Tensor
        Contract sigma: a number, an array or a tensor.

    Returns
    -------
    (norm, of_x, of_output): the network receives the state over ``norm``; the x0 prediction is ``of_x * x + of_output *
    output``
    """
    # The network's noise includes the process's noise scale: a velocity is that noise minus the data.
    a, s, norm = process.alpha(sigma), process.noise_std(sigma) / process.noise_scale, process.input_norm(sigma)
    if prediction == "sample":
        return norm, 0 * norm, 1.0
    if prediction == "epsilon":
        return norm, 1 / a, -s / a
    if prediction == "score":  # the score of the network's input, whose noise has std / norm
        return norm, 1 / a, process.noise_std(sigma) ** 2 / (a * norm)
    if prediction in ("flow", "velocity_to_data"):
        sign = -1 if prediction == "flow" else 1
        return norm, 1 / (a + s), sign * s / (a + s)
    # v and EDM's F are the same prediction with opposite signs
    data = process.sigma_data
    sign = -1 if prediction == "v_prediction" else 1
    return norm, a * data**2 / norm**2, sign * s * data / norm
