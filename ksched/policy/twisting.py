"""Runs whose means are shifted by another model's predictions, with the log-ratio of densities that corrects for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ksched.denoisers.answer import Model, answer
from ksched.execution.run import Run
from ksched.plan.plan import Plan
from ksched.plan.rows import Register
from ksched.policy.scoring import density, reduced
from ksched.policy.transitions import read_without_noise, transitions
from ksched.types import Array

__all__ = ["Twist"]


class Twist:
    """The answers of a model and of a proposal, and the log-ratio of the densities of the draws.

    A state that no noise enters must be the model's own, because no density ratio could compensate for it. The proposal
    therefore moves the run only at calls whose predictions are read where noise is drawn, and nowhere else.

    Parameters
    ----------
    plan : Plan
        The plan of the run.
    denoiser : callable
        The model whose law the run represents.
    proposal : callable
        The model that moves the run.
    """

    def __init__(self, plan: Plan, denoiser: Model, proposal: Model) -> None:
        self._models = denoiser, proposal
        self._own = read_without_noise(plan)
        self._waiting = [row for law in transitions(plan) for row in law.rows]
        self._states: dict[int, torch.Tensor] = {}
        self._known: tuple[dict[Register, torch.Tensor], ...] = {}, {}
        self._ratio: Array = np.zeros(0)

    def ask(self, run: Run) -> tuple[Any, Any, Any]:
        """The model's x0 prediction, and what to feed: (denoised, denoised to feed, uncond to feed)."""
        call, both = run.nfe, run.needs_uncond
        told = [answer(model, run.x, run.sigma, both) for model in self._models]
        if call in self._own:
            told[1] = told[0]
        compute = run.registers.compute
        for known, (denoised, uncond) in zip(self._known, told, strict=True):
            known[Register("D", call)] = denoised.to(compute, copy=True)
            if both:
                known[Register("U", call)] = uncond.to(compute, copy=True)
        self._states[call] = run.registers.full_state()
        return told[0][0], *told[1]

    def take(self, chosen: Any) -> None:
        """Continue with these items."""
        index = torch.as_tensor(np.asarray(chosen))
        self._states = {call: state[index.to(state.device)] for call, state in self._states.items()}
        self._known = tuple({r: value[index.to(value.device)] for r, value in known.items()} for known in self._known)
        self._ratio = self._ratio[chosen] if self._ratio.size else self._ratio

    def fed(self, run: Run) -> None:
        """Record the draws after the last answer."""
        self._states[run.nfe] = run.registers.full_state()
        while self._waiting and self._waiting[0].state == run.nfe:
            row = self._waiting.pop(0)
            own, moved = (reduced(density(row, self._states, known), "sum", None) for known in self._known)
            ratio = np.asarray((own - moved).cpu().numpy(), dtype=np.float64)
            self._ratio = ratio + (self._ratio if self._ratio.size else 0.0)
        read = [r.number for row in self._waiting for r, _ in row.mean]
        first = min(read, default=run.nfe)
        self._states = {call: state for call, state in self._states.items() if call >= min(first, run.nfe)}
        self._known = tuple({r: v for r, v in known.items() if r.number >= first} for known in self._known)

    def ratio(self) -> Array | None:
        """Log of the model's density over the proposal's, for all draws since the last call."""
        found, self._ratio = self._ratio, np.zeros(0)
        return found if found.size else None
