"""A model's predictions at the states of a run: the same bits during the run and when its record is replayed."""

from __future__ import annotations

from typing import Any

import torch

from ksched.denoisers.answer import Model, answer
from ksched.denoisers.denoiser import Denoiser
from ksched.execution.registers import WRITTEN, check_output
from ksched.execution.run import Run
from ksched.kernels.torch_internals import writes_to
from ksched.plan.plan import Plan
from ksched.plan.rows import Register
from ksched.processes import Process
from ksched.processes.agreement import Levels, mark
from ksched.processes.host_levels import carry

__all__ = ["Predictions"]


class Predictions:
    """The predictions of a model; each is requested once and kept while it is needed.

    Parameters
    ----------
    denoiser : as for `ksched.Sampler.sample`
    plan, process, levels : Plan, Process or tuple
        Of the run.
    dtype : dtype
        Dtype of the states that the model receives.

    Notes
    -----
    A `ksched.Denoiser` with the run's own process is called as `ksched.Sampler.sample` calls it: its network directly.
    """

    def __init__(self, denoiser: Model, plan: Plan, process: Process, levels: Levels, dtype: torch.dtype) -> None:
        if not callable(denoiser):
            raise TypeError(f"denoiser must be callable, (x, sigma) -> denoised; got {type(denoiser).__name__}")
        self._denoiser, self._plan, self._levels = denoiser, plan, levels
        self._dtype = dtype
        self._conversions: list[tuple[float, float, float]] | None = None
        self._timesteps: list[float] = []
        if isinstance(denoiser, Denoiser) and denoiser.process == process and not any(row.both for row in plan.rows):
            self._conversions = denoiser.conversions(plan.call_sigmas)
            self._timesteps = process.timestep(plan.call_sigmas).tolist()
        self._rows = [row for row in plan.rows if row.level is not None]
        self._known: dict[Register, torch.Tensor] = {}

    def __getitem__(self, register: Register) -> torch.Tensor:
        """A stored prediction, "D" or "U", in the dtype of the state's register."""
        return self._known[register]

    def __contains__(self, call: int) -> bool:
        return Register("D", call) in self._known

    def forget_before(self, call: int) -> None:
        """Drop the predictions of earlier calls."""
        self._known = {register: value for register, value in self._known.items() if register.number >= call}

    def ask(self, call: int, state: torch.Tensor, run: Run | None = None) -> None:
        """Call the model and store its predictions.

        Parameters
        ----------
        call : int
            Index of the model call.
        state : Tensor
            The state, as the run holds it.
        run : Run or None
            The run to feed with the answer; None if no run waits for it.
        """
        if self._conversions is not None:
            self._ask_network(call, state, run)
            return
        row = self._rows[call]
        shown = state.to(self._dtype) if run is None else run.x
        before = writes_to(shown)
        denoised, uncond = answer(self._denoiser, shown, self._host(call, state), row.both)
        self._hold("D", call, denoised, state)
        if row.both:
            self._hold("U", call, uncond, state)
        if run is not None:
            run.feed(denoised, uncond)
        elif writes_to(shown) != before:
            raise RuntimeError(WRITTEN)

    def _ask_network(self, call: int, state: torch.Tensor, run: Run | None) -> None:
        denoiser, conversions = self._denoiser, self._conversions
        assert isinstance(denoiser, Denoiser)
        assert conversions is not None
        norm, of_x, of_output = conversions[call]
        shown = (state if norm == 1 else state * (1 / norm)).to(self._dtype) if run is None else run.network_input(norm)
        before = writes_to(shown)
        output = denoiser.output(shown, _filled(self._timesteps[call], state))
        check_output("D", output, state.shape, state.device)
        self._known[Register("D", call)] = of_x * state + of_output * output.to(state.dtype)
        if run is not None:
            run.feed_output(output, of_x, of_output)
        elif writes_to(shown) != before:
            raise RuntimeError(WRITTEN)

    def _hold(self, kind: str, call: int, value: Any, state: torch.Tensor) -> None:
        check_output(kind, value, state.shape, state.device)
        held = value.to(state.dtype)
        # the model may overwrite this answer with its next, unless gradients track it
        self._known[Register(kind, call)] = held.clone() if held is value and not held.requires_grad else held

    def _host(self, call: int, state: torch.Tensor) -> torch.Tensor:
        """Sigma of a call for the model, with the run's levels attached for a model that knows its process."""
        level, items = float(self._plan.call_sigmas[call]), len(state)
        sigma = _filled(level, state)
        carry(sigma, (level,) * items, (self._plan.goals[call],) * items)
        mark(sigma, (self._levels,))
        return sigma


def _filled(value: float, state: torch.Tensor) -> torch.Tensor:
    """A tensor with one number per item."""
    return torch.full((len(state),), value, dtype=state.dtype, device=state.device)
