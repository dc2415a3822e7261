"""The sampling loop: call the model and feed the run until it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ksched.denoisers.answer import Model, answer
from ksched.denoisers.denoiser import Denoiser
from ksched.execution.adaptive_run import AdaptiveRun, finish
from ksched.execution.buffers import Buffers
from ksched.execution.registers import check_output
from ksched.execution.run import Run
from ksched.kernels.torch_internals import out_of_place
from ksched.noise.sources import Noise
from ksched.plan.plan import Plan
from ksched.processes import Level

__all__ = ["StepInfo", "drive", "progress_bar", "run_plan"]


@dataclass(frozen=True)
class StepInfo:
    """What a callback receives once per step, after the step's first model call.

    Attributes
    ----------
    step, steps : int or None
        Index of the step, from 0, and number of steps; for an adaptive sampler, index of the try, and None.
    sigma, sigma_next : float
        Contract sigma of the level that the step leaves and of the one it goes to; for an adaptive sampler, of the last
        one above 0.
    x : Tensor
        The state at ``sigma`` that the model received.
    denoised : Tensor
        The model's x0 prediction.
    nfe : int
        Number of model calls so far.
    """

    step: int
    steps: int | None
    sigma: float
    sigma_next: float
    x: torch.Tensor
    denoised: torch.Tensor
    nfe: int


class Driven(Protocol):
    """The part of a `Run` or `AdaptiveRun` that `drive` needs."""

    @property
    def done(self) -> bool: ...
    @property
    def x(self) -> torch.Tensor: ...
    @property
    def state_level(self) -> Level: ...
    @property
    def sigma(self) -> torch.Tensor: ...
    @property
    def sigma_next(self) -> float: ...
    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def nfe(self) -> int: ...
    @property
    def needs_uncond(self) -> bool: ...
    def feed(self, denoised: Any, uncond: Any = None) -> None: ...


def drive(
    run: Driven, denoiser: Model, callback: Callable[[StepInfo], object] | None = None, progress: bool = False
) -> torch.Tensor:
    """Call the model until the run is done and return the result."""
    if not callable(denoiser):
        raise TypeError(f"denoiser must be callable, (x, sigma) -> denoised; got {type(denoiser).__name__}")
    told = None if callback is None else _Told(callback, run)
    bar = progress_bar(run.steps, run.step) if progress else None
    try:
        if isinstance(run, AdaptiveRun):
            finish(run, lambda: _answered(run, denoiser, told, bar))
        else:
            ask = _asking(run, denoiser)
            while not run.done:
                ask(told)
                if bar is not None:
                    bar.update(run.step - bar.n)
        if bar is not None:
            bar.update(run.step - bar.n)
    finally:
        if bar is not None:
            bar.close()
    return run.x


def run_plan(plan: Plan, denoiser: Model, x: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
    """The result of a bare plan, without a process.

    Parameters
    ----------
    plan : Plan
        The plan to run.
    denoiser : callable
        ``(x, sigma) -> denoised``, sigma a tensor of shape (batch,).
    x : Tensor
        Start state, batch first.
    noise : callable, str or None
        ``(sigma_from, sigma_to) -> tensor like x`` of unit variance; needed if the plan draws noise.
    """
    return drive(Run(plan, x, noise=noise), denoiser)


def _asking(run: Driven, denoiser: Model) -> Callable[[_Told | None], None]:
    """A function that gets one model call answered.

    Nothing may hold the state while the run is fed, because the run could not overwrite it then.
    """

    def ask(told: _Told | None) -> None:
        # the same as `answer`, without the overhead of a call
        denoised, uncond = denoiser(run.x, run.sigma), None
        if isinstance(denoised, tuple) and len(denoised) == 2:
            denoised, uncond = denoised
        if told is not None:
            told(denoised)
        run.feed(denoised, uncond)

    if not isinstance(denoiser, Denoiser) or not isinstance(run, Run) or run.process != denoiser.process:
        return ask
    if not run.takes_output:
        return ask
    network, conversions = denoiser.output, denoiser.conversions(run.plan.call_sigmas)

    def ask_network(told: _Told | None) -> None:
        norm, of_x, of_output = conversions[run.nfe]
        output = network(run.network_input(norm), run.timestep)
        if told is not None:
            told(of_x * run.x + of_output * output)
        run.feed_output(output, of_x, of_output)

    return ask_network


def _answered(run: AdaptiveRun, denoiser: Model, told: _Told | None, bar: Any) -> tuple[Any, Any]:
    """One model call of an adaptive run, as (denoised, uncond); the progress bar shows the tries before it."""
    if bar is not None:
        bar.update(run.step - bar.n)
    denoised, uncond = answer(denoiser, run.x, run.sigma, both=True)
    if told is not None:
        told(denoised)
    return denoised, uncond


class _Told:
    """A callback, called at the first model call of each step."""

    def __init__(self, callback: Callable[[StepInfo], object], run: Driven) -> None:
        self._callback = callback
        self._run = run
        self._step = run.step - 1
        self._copies = Buffers(run.x, run.x.dtype, 1)

    def __call__(self, denoised: Any) -> None:
        run = self._run
        if run.step == self._step:
            return
        self._step = run.step
        x = run.x
        check_output("D", denoised, x.shape, x.device)
        # a copy: the model may overwrite its output at the next call
        if out_of_place(denoised):
            copy = denoised.clone()
        else:
            self._copies.tensors[0] = self._copies.writable(0).copy_(denoised)
            copy = self._copies.alias(0)
        self._callback(StepInfo(run.step, run.steps, run.state_level.label, run.sigma_next, x, copy, run.nfe + 1))


def progress_bar(steps: int | None, done: int) -> Any:
    """A tqdm bar over ``steps`` steps (None if unknown), ``done`` of them already made."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError('progress=True needs tqdm: pip install "ksched[cli]"') from error
    return tqdm(total=steps, initial=done, unit="step")
