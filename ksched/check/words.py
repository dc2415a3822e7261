"""The messages of `ksched.check_model`: what is wrong with a model, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ksched.check.alternatives import OF_THE_LEVEL
from ksched.check.readings import Claim, Hypothesis, OutputType
from ksched.check.report import Finding
from ksched.processes import EDM
from ksched.types import Array

__all__ = [
    "ambiguous",
    "explain",
    "not_a_tensor",
    "not_finite",
    "not_repeatable",
    "raises",
    "unexplained",
    "wrong_shape",
]


def _type_name(answer: Any) -> str:
    """The type of a model's answer, for messages."""
    return "None" if answer is None else type(answer).__name__


#: prediction types that are the negative of another one
_NEGATIVES = ("edm", "velocity_to_data")


def output_name(claim: Claim, output: OutputType) -> str:
    """An output type by its usual name."""
    if output == OutputType("v_prediction", -1) and (claim.prediction == "edm" or "edm" in claim.process.predictions):
        return "edm"
    if output == OutputType("flow", -1):
        return "velocity_to_data"
    return f"the negative of {output.base}" if output.sign < 0 else output.base


# Answers that cannot be used


def raises(claim: Claim, shape: tuple[int, ...], error: Exception) -> Finding:
    """A model that raises an error."""
    arguments = "(x, sigma)" if claim.prediction is None else "(x, timestep)"
    what = f"it raises {type(error).__name__} when called as {arguments} with x of shape {shape}: {error}"
    return Finding("raises", what)


def not_a_tensor(answer: Any) -> Finding:
    """The model's answer is not a tensor and holds none."""
    return Finding("output", f"it must return a tensor, or an object that holds one; got {_type_name(answer)}")


def wrong_shape(answer: torch.Tensor, shape: tuple[int, ...]) -> Finding:
    """The model's answer has another shape than its state."""
    what = f"it must return the shape of its input, {shape}; got {tuple(answer.shape)}"
    if answer.ndim == len(shape) and answer.shape[2:] == shape[2:]:
        what += ". If it has more channels than the state, keep only those of the prediction"
    return Finding("output", what)


def not_finite(sigmas: Sequence[float], everywhere: bool, dtype: torch.dtype) -> Finding:
    """The model's answers are not finite at some levels."""
    extent = "every level" if everywhere else f"sigma {_listed(sigmas)}"
    what = f"its output is not finite at {extent}. "
    if dtype in (torch.float16, torch.bfloat16):
        what += f"It may overflow in {dtype}: try float32. Otherwise look "
    else:
        what += "Look "
    return Finding("not_finite", what + "for a division by a scale that is 0 there, or for broken weights")


def _listed(sigmas: Sequence[float]) -> str:
    return ", ".join(f"{sigma:.4g}" for sigma in sigmas)


# Notes


def not_repeatable(model: Any) -> str:
    """The model answers the same question in two ways."""
    mode = " It is in training mode: call eval()." if getattr(model, "training", False) else ""
    return f"two calls with the same arguments gave different answers.{mode}"


def ambiguous(claim: Claim, outputs: Sequence[OutputType]) -> str:
    """The data cannot distinguish these output types from the claimed one."""
    names = " and ".join(output_name(claim, output) for output in outputs)
    return f"{names} would fit these data equally well, so the prediction type remains open"


# Findings


def explain(claim: Claim, best: Hypothesis, ratios: Array) -> Iterator[Finding]:
    """What is wrong with the claim if this reading is right; ``ratios`` are the levels' noise-to-signal ratios."""
    if best.timesteps.kind == "process":
        yield _another_process(claim, best)
        return
    if best.timesteps.kind == "scale":
        factor = float(best.timesteps.description)
        what = f"its output must be multiplied by {factor:.4g}: a {output_name(claim, claim.output)} network would "
        yield Finding("scale", what + f"return it without the factor {1 / factor:.4g}")
        return
    if claim.prediction is None and best.timesteps.description == OF_THE_LEVEL:
        yield _raw_network(claim, best)
        return
    if best.scaling is not claim.scaling:
        yield _another_scaling(claim, best)
    if best.timesteps is not claim.timesteps:
        yield _other_timesteps(claim, best, ratios)
    if (best.output.base, best.output.sign) != (claim.output.base, claim.output.sign):
        yield _another_output(claim, best.output)


def unexplained(
    sigmas: Sequence[float], everywhere: bool, *, mean: float, std: float, low: float, high: float
) -> Finding:
    """No reading fits; says where the claimed one is worst, and describes the data."""
    where = "at every level" if everywhere else f"at sigma {_listed(sigmas)}"
    what = (
        f"it is worse than a linear prediction {where}, and no other prediction type, sign, scale, timestep or "
        "process explains it. Check that it is trained, that it gets its condition, and that these are its data: mean "
        f"{mean:.3g}, std {std:.3g}, values from {low:.3g} to {high:.3g}"
    )
    return Finding("unknown", what)


def _another_process(claim: Claim, best: Hypothesis) -> Finding:
    """More than one thing is wrong, and a common process explains it all."""
    edm = best.output == OutputType("v_prediction", -1) and isinstance(best.timesteps.process, EDM)
    name = "edm" if edm else output_name(claim, best.output)
    what = f"it is a network of another process, {best.timesteps.description}, and predicts {name}"
    if best.output.sign > 0 or name in _NEGATIVES:
        what += f': Denoiser(network, ksched.{best.timesteps.description}, "{name}")'
    return Finding("process", what)


def _raw_network(claim: Claim, best: Hypothesis) -> Finding:
    """The model is a raw network and not a denoiser."""
    name = output_name(claim, best.output)
    what = f"it is called with sigma but needs the timestep: it is a raw network that predicts {name}. Use a Denoiser"
    return Finding("timestep", what)


def _another_scaling(claim: Claim, best: Hypothesis) -> Finding:
    """The input must have another scale."""
    wanted, ours = best.scaling.description, claim.scaling.description
    if claim.prediction is None:
        return Finding("input", _scaling_of_denoiser(wanted))
    if wanted == "unscaled":
        what = (
            f"its input is scaled twice: it needs x0 + sigma * eps unscaled, and gets it {ours}. It scales its input "
            "itself; pass the network without that scaling, or a process without it"
        )
    elif wanted == "twice":
        what = f"its input is not scaled: it needs the state {ours} once more than it gets it. Something "
        what += "undoes the scaling"
    else:
        what = f"its input is scaled wrongly: it needs x0 + sigma * eps over {wanted}, and gets it {ours}"
    return Finding("input", what)


def _scaling_of_denoiser(wanted: str) -> str:
    if wanted == "unscaled":
        return "it needs states x0 + sigma * eps, and gets those of a flow"
    if wanted == "the inverse":
        return "it scales the state for its network by sqrt(1 + sigma ** 2) twice; scale it once"
    return f"it does not scale the state for its network: the network needs x / ({wanted})"


def _other_timesteps(claim: Claim, best: Hypothesis, ratios: Array) -> Finding:
    """The model needs other timesteps than it gets."""
    wanted, ours = best.timesteps, claim.timesteps
    if wanted.kind == "table":
        what = f"it was trained on another table of betas: the {wanted.description} fits better, {wanted.process!r}"
        return Finding("table", what)
    ends = [way.timestep(float(rho)) for way in (wanted, ours) for rho in ratios[[0, -1]]]
    what = (
        f"its timesteps are wrong: it needs {wanted.description} ({ends[0]:.4g} to {ends[1]:.4g}), and gets "
        f"{ours.description} ({ends[2]:.4g} to {ends[3]:.4g})"
    )
    if claim.process.is_flow:
        told = [wanted.timestep(rho) for rho in (1e-9, 1.0, 1e9)]  # at data, half-way and at noise
        scale = float(round(told[2] - told[0], 6))
        if abs(scale) in (1.0, 1000.0) and math.isclose(told[1], abs(scale) / 2, rel_tol=1e-6):
            what += f": Flow(timestep_scale={abs(scale)}{', reverse_time=True' * (scale < 0)})"
    return Finding("timestep", what)


def _another_output(claim: Claim, output: OutputType) -> Finding:
    """The model has another prediction type or sign."""
    if output.base == claim.output.base:
        return Finding("sign", _wrong_sign(claim, output))
    name = output_name(claim, output)
    if claim.prediction is None:
        what = f"it returns {name}, but must return its x0 prediction"
        if output.base == "epsilon" and output.sign > 0:
            what += ": denoised = x - sigma * eps for states x0 + sigma * eps"
        return Finding("prediction", what + ". Wrap a network that predicts something else in a Denoiser")
    what = f"it predicts {name}, not {claim.prediction}: "
    if output.sign < 0 and name not in _NEGATIVES:
        return Finding("prediction", what + f'negate its output and pass prediction="{output.base}"')
    if name not in claim.process.predictions and name != "edm":
        return Finding("prediction", what + f"a {type(claim.process).__name__} network does not; check its process")
    what += f'Denoiser(network, process, prediction="{name}")'
    if output.base in ("epsilon", "score") and claim.process.zero_terminal_snr:
        what += f", and a process without zero terminal SNR, with which {name} is impossible"
    return Finding("prediction", what)


def _wrong_sign(claim: Claim, output: OutputType) -> str:
    what = "its output has the wrong sign: negate it"
    if output.base == "flow" or (output.base == "v_prediction" and "edm" in claim.process.predictions):
        name = output_name(claim, output)
        what += f', or pass prediction="{name}", which is the negative of {claim.prediction}'
    return what
