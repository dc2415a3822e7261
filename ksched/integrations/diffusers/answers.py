"""The x0 prediction in a network's output at an iteration."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ksched.dialects.diffusers.iterations import Iterations
from ksched.integrations.diffusers.configuration import Configuration

__all__ = ["Answer", "answer_of", "split_variance"]


class Answer(NamedTuple):
    """One model call of a step.

    Attributes
    ----------
    sample, output : Tensor
        State, and the network's output for it.
    of_x, of_output : float
        Coefficients of the two in x0.
    denoised, edited : Tensor or None
        That combination, and its edited form; None if the settings do not edit it.
    said : Tensor or None
        The prediction as the class reads it, if that is another combination.
    """

    sample: torch.Tensor
    output: torch.Tensor
    of_x: float
    of_output: float
    denoised: torch.Tensor
    edited: torch.Tensor | None
    said: torch.Tensor | None

    @property
    def prediction(self) -> torch.Tensor:
        """The x0 prediction to use."""
        said = self.denoised if self.said is None else self.said
        return said if self.edited is None else self.edited


def answer_of(
    iterations: Iterations, configuration: Configuration, index: int, output: torch.Tensor, sample: torch.Tensor
) -> Answer:
    """The x0 prediction in a network's output at an iteration, edited as the settings require.

    Parameters
    ----------
    iterations, configuration : Iterations or Configuration
        Parts of the run.
    index : int
        Number of the iteration.
    output, sample : Tensor
        Output of the network, and the state.
    """
    _, of_x, of_output = iterations.conversions[index]
    compute = torch.promote_types(sample.dtype, torch.float32)
    denoised = _combined(sample, output, of_x, of_output, compute)
    said = None if iterations.read is None else _combined(sample, output, *iterations.read[index][1:], compute)
    edited = configuration.edited(denoised if said is None else said)
    return Answer(sample, output, of_x, of_output, denoised, edited, said)


def _combined(
    sample: torch.Tensor, output: torch.Tensor, of_x: float, of_output: float, compute: torch.dtype
) -> torch.Tensor:
    found = output.to(compute) * of_output
    return found if of_x == 0 else found.add(sample.to(compute), alpha=of_x)


def split_variance(output: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The prediction in a network's output, and the variance if the network predicts one."""
    if not isinstance(output, torch.Tensor) or not isinstance(sample, torch.Tensor):
        raise TypeError(f"model_output and sample must be tensors; got {type(output)} and {type(sample)}")
    if output.shape == sample.shape:
        return output, None
    if output.ndim == sample.ndim > 1 and output.shape[1] == 2 * sample.shape[1]:
        prediction, variance = output.chunk(2, dim=1)
        if prediction.shape == sample.shape:
            return prediction, variance
    raise ValueError(
        f"model_output must have sample's shape {tuple(sample.shape)}, or twice its channels; got {tuple(output.shape)}"
    )
