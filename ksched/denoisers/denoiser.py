"""Turns a raw network into a denoiser: input scaling, timestep and prediction type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ksched.denoisers.calling import ask, is_denoiser, tensor_of, time_name
from ksched.kernels.torch_internals import out_of_place
from ksched.names.enums import Prediction
from ksched.processes import Process
from ksched.processes.agreement import check_sigma, marks_of
from ksched.processes.base import check_process
from ksched.processes.conversion import conversion
from ksched.types import ArrayLike, set_fields

__all__ = ["Denoiser", "Prediction"]


# Number of grids whose conversions are cached, since many runs usually share few grids.
_KEPT = 64


@dataclass(frozen=True)
class Denoiser:
    """A denoiser ``(x, sigma) -> x0 prediction`` made from a network ``(scaled x, timestep) -> output``.

    Parameters
    ----------
    network : callable
        Called with the scaled state and a timestep tensor of shape (batch,); if the timestep is not its second
        argument, it is passed by name. It returns a tensor, an object with ``.sample``, or a tuple with the tensor
        first, as UNets and transformers of diffusers do. If the output has twice as many channels, the first half is
        used and the rest, a variance, ignored.
    process : Process
        The process that the network was trained on; it must be the sampler's process.
    prediction : Prediction or str
        What the network returns, with x0 the data, eps the noise and a, s their scales in the network's input:
        "epsilon" eps; "v_prediction" a * eps - s * x0; "sample" x0; "flow" eps - x0; "velocity_to_data" x0 - eps;
        "score" the gradient of the log density of that input, -eps / s; "edm" the F of EDM's preconditioning; or any
        other name for one of them that `Prediction.parse` knows, such as "v" or "x0".

    Raises
    ------
    TypeError
        If the network cannot be called, or is already a denoiser, as k-diffusion's wrappers are.
    ValueError
        If the prediction type is unknown, or this process cannot have it; or it is "epsilon" or "score" with zero
        terminal SNR, where the first state holds no signal and neither says anything about x0.

    Notes
    -----
    The network is called with x divided by `Process.input_norm`: ``sqrt(1 + sigma ** 2)`` for VP,
    ``sqrt(sigma_data ** 2 + sigma ** 2)`` for EDM, 1 for VE and flow. Karras et al. 2022, table 1; Salimans & Ho 2022,
    arXiv:2202.00512, for v.
    """

    network: Callable[..., Any]
    process: Process
    prediction: Prediction | str = Prediction.EPSILON
    _time_name: str | None = field(default=None, init=False, repr=False, compare=False)
    _known: dict[bytes, list[tuple[float, float, float]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not callable(self.network):
            raise TypeError(f"network must be callable, (x, timestep) -> output; got {type(self.network).__name__}")
        if isinstance(self.network, Denoiser) or is_denoiser(self.network):
            raise TypeError(
                f"network must be a raw network; got {type(self.network).__name__}, which is already a denoiser "
                "(x, sigma) -> denoised. Pass it to the sampler as it is, or wrap the network inside it"
            )
        check_process(self.process)
        word, prediction = self.prediction, Prediction.parse(self.prediction)
        fits = self.process.predictions
        if prediction not in fits:
            kind, meant = type(self.process).__name__, "" if word == prediction else f", which is {prediction.value!r}"
            raise ValueError(
                f"a {kind} network predicts {', '.join(fits[:-1])} or {fits[-1]}; got {str(word)!r}{meant}"
            )
        if prediction in ("epsilon", "score") and self.process.zero_terminal_snr:
            what = "eps" if prediction == "epsilon" else "its score"
            raise ValueError(
                f"{prediction} cannot be predicted with zero terminal SNR: the first state is pure noise, and {what} "
                "says nothing about x0 there. Such networks are trained for v_prediction or sample."
            )
        set_fields(self, prediction=prediction, _time_name=time_name(self.network))

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor | float, **inputs: Any) -> torch.Tensor:
        """The x0 prediction.

        Parameters
        ----------
        x : Tensor
            States, batch first.
        sigma : Tensor or float
            Contract sigma, one number or one per item.
        inputs : object
            Conditioning, passed to the network.

        Raises
        ------
        ValueError
            If sigma comes from a run on a process with other states, or `process` does not have this sigma (checked
            only if it is on the host).
        """
        if not torch.compiler.is_compiling():
            check_sigma(self.process, sigma)
            self._check_range(sigma)
        dtype = torch.promote_types(x.dtype, torch.float32)
        if not isinstance(sigma, torch.Tensor):
            sigma = torch.full((x.shape[0],), float(sigma), dtype=dtype, device=x.device)
        norm, of_x, of_output = self._conversion(sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim)))
        output = self.output((x / norm).to(x.dtype), self.process.timestep(sigma), **inputs)
        denoised: torch.Tensor = (of_x * x + of_output * output.to(dtype)).to(x.dtype)
        return denoised

    def _check_range(self, sigma: torch.Tensor | float) -> None:
        """Raise an error for a sigma that the process does not have, if it can be read without waiting for a device."""
        limit = self.process.sigma_limit * (1 + 1e-2)  # room for half-precision rounding
        if isinstance(sigma, torch.Tensor):
            if limit > 1e300 or marks_of(sigma) or not sigma.is_cpu or not sigma.numel() or out_of_place(sigma):
                return
            sigma = float(sigma.max())
        if sigma > limit:
            raise ValueError(
                f"sigma must be at most {self.process.sigma_limit:g} for the denoiser's process {self.process!r}; got "
                f"{sigma:g}, which belongs to another process"
            )

    def output(self, shown: torch.Tensor, timestep: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """The network's own output, unwrapped from whatever container it returns.

        Parameters
        ----------
        shown : Tensor
            Scaled state.
        timestep : Tensor
            Timestep of every item, shape (batch,).
        inputs : object
            Conditioning, passed to the network.
        """
        answer = ask(self.network, self._time_name, shown, timestep, inputs)
        plain = isinstance(answer, torch.Tensor) and answer.shape == shown.shape
        output: torch.Tensor = answer if plain else tensor_of(answer, shown)
        return output

    def given(self, **inputs: Any) -> Denoiser:
        """The same denoiser with conditioning that is passed to the network at every call.

        Examples
        --------
        >>> import ksched, torch
        >>> denoiser = ksched.Denoiser(lambda x, timestep, *, label: x * label, ksched.VP())
        >>> seven = denoiser.given(label=7.0)
        >>> x = torch.ones(1, 2)
        >>> torch.equal(seven(x, 2.0), denoiser(x, 2.0, label=7.0))
        True
        """
        return replace(self, network=partial(self.network, **inputs))

    def conversions(self, sigmas: ArrayLike) -> list[tuple[float, float, float]]:
        """The numbers with which a run can call the network itself, on the host.

        Parameters
        ----------
        sigmas : array_like
            Contract sigmas.

        Returns
        -------
        list of tuple of float
            For each sigma (norm, of_x, of_output): the network is called with the state over ``norm``, and the x0
            prediction is ``of_x * x + of_output * output``.
        """
        levels = np.asarray(sigmas, dtype=np.float64)
        key = levels.tobytes()
        found = self._known.get(key)
        if found is None:
            norm, of_x, of_output = np.broadcast_arrays(*self._conversion(levels))
            if len(self._known) >= _KEPT:
                self._known.clear()
            found = self._known[key] = list(zip(norm.tolist(), of_x.tolist(), of_output.tolist(), strict=True))
        return found

    def _conversion(self, sigma: Any) -> tuple[Any, Any, Any]:
        return conversion(self.process, self.prediction, sigma)
