"""Drives a run of `KSchedScheduler` step by step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import torch

from ksched.dialects.diffusers.iterations import Iterations
from ksched.dialects.diffusers.request import Request
from ksched.execution.run import Run
from ksched.integrations.diffusers.answers import Answer, answer_of
from ksched.integrations.diffusers.class_of import step_arguments_of
from ksched.integrations.diffusers.configuration import Configuration
from ksched.integrations.diffusers.course import Course
from ksched.integrations.diffusers.step_arguments import heeded_options
from ksched.integrations.diffusers.step_noise import StepNoise, learned_std
from ksched.samplers.euler import boundary_scaling
from ksched.samplers.registry import sampler_spec
from ksched.types import Array

__all__ = ["Driver", "Told", "identity_mark"]


class Told(NamedTuple):
    """Arguments of ``step`` that override parts of one call.

    Attributes
    ----------
    prediction : Tensor or None
        x0 prediction, instead of the one in the output.
    noise : Tensor or None
        Noise of the step, instead of newly drawn noise.
    apart : tuple of Tensor or None
        For tokens with their own sigmas: which ones, and their next states.
    """

    prediction: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    apart: tuple[torch.Tensor, torch.Tensor] | None = None


#: for most calls, which override nothing
_NOTHING = Told()


class Driver(Course):
    """The iterations of a scheduler, and the run through them.

    A pipeline may begin at any iteration, and may edit the state between two steps or within one. A copy continues
    independently from the point where it was made.
    """

    def __init__(self, configuration: Configuration) -> None:
        super().__init__(configuration)
        self.forget()

    def forget(self) -> None:
        """Return to the state before the first step."""
        self._run: Run | None = None
        self._handed_out: tuple[Any, ...] | None = None
        self._saved: dict[str, Any] | None = None
        self._first = 0
        self._extra: dict[str, Any] = {}
        self._noise = StepNoise()
        self._told: dict[str, Any] = {}
        self._at, self._goes_back = 0, False
        self._shape: torch.Size | None = None
        self._before: _Place | None = None

    def set_timesteps(self, request: dict[str, Any], device: Any) -> Iterations:
        """Set the iterations of a run, and forget everything about the last run; see `Course.set_timesteps`."""
        iterations = super().set_timesteps(request, device)
        self.forget()
        return iterations

    def relevel(self, levels: Array | None) -> None:
        """Run at other sigmas, see `Course.relevel`.

        Raises
        ------
        ValueError
            If the run has begun, or its sigmas are not a list of its own.
        """
        if self._run is not None or self._saved is not None:
            raise ValueError("sigmas must be written after set_timesteps and before the first step; the run has begun")
        super().relevel(levels)

    @property
    def state(self) -> dict[str, Any] | None:
        """The state dictionary of the run, once it has begun; setting it makes the next step continue from it."""
        return self._saved if self._run is None else self._run.state_dict()

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._saved, self._run, self._handed_out = state, None, None
        self._shape = None  # the new state may have another shape

    def has_other_size(self, sample: torch.Tensor) -> bool:
        """Whether a state has another size than the run's, after it has begun."""
        return self._run is not None and self._run.shape != sample.shape

    # ----------------------------------------------------------------------------------------------------------- steps

    @property
    def option_names(self) -> Set[str]:
        """Names of the sampler's options."""
        assert self.iterations is not None
        return sampler_spec(self.iterations.method.sampler).options.keys()

    def begin(self, first: int, given: Mapping[str, Any], clipped: bool | None) -> None:
        """Begin a run at an iteration, with the arguments of the first call of ``step``.

        Parameters
        ----------
        first : int
            Number of the iteration.
        given, clipped : mapping, bool or None
            See `heeded_options`.
        """
        assert self.iterations is not None
        self.leave_at(first)
        self._told = dict(given)
        configuration, method = self.configuration, self.iterations.method
        extra = heeded_options(configuration, method, given, clipped)
        self._extra = extra
        if given.get("s_churn"):
            stock = configuration.entries.stock_class
            if not configuration.is_stock or "s_churn" not in step_arguments_of(stock):
                raise ValueError(
                    "step accepts s_churn only for diffusers' Euler classes, which churn after the model call; put it "
                    "into sampler_options, with sampler euler, heun or dpm_2"
                )
            churn = {name: value for name, value in given.items() if value is not None and name != "eta"}
            self.churn(churn)
            self._extra = {}
        elif extra and not configuration.is_stock and not method.same_calls(first, extra):
            raise ValueError(
                f"{', '.join(extra)} would change the model calls, which are fixed already; put it into sampler_options"
            )

    def check_same(self, given: Mapping[str, Any]) -> None:
        """Warn about options that differ from those of the first call of the run."""
        if given != self._told:
            changed = {name: value for name, value in given.items() if value != self._told.get(name)}
            warnings.warn(
                f"step got {', '.join(f'{name}={value!r}' for name, value in changed.items())} in the middle of a run, "
                "which has no effect: the options of the first call hold",
                stacklevel=4,
            )

    # ------------------------------------------------------------------------------------------------ going back

    @property
    def at(self) -> int:
        """Number of the run's next iteration."""
        return self._at

    def goes_back(self, index: int | None) -> bool:
        """Whether the loop repeats steps, perhaps with other states, or is about to."""
        return self._goes_back or (index is not None and index != self._at)

    def leave_at(self, index: int) -> None:
        """Begin anew at an iteration, without memory of earlier ones."""
        self._run, self._saved, self._handed_out, self._before = None, None, None, None
        self._first = self._at = index
        self._shape = None

    def _go_to(self, index: int, shape: torch.Size) -> None:
        """Move to an iteration and state shape, since pipelines may repeat a step or take one aside."""
        if self._at != index or (self._shape is not None and self._shape != shape):
            here, before = self._place(self._run) if self._at == index else None, self._before
            self.leave_at(index)
            if before is not None and (before.number, before.shape) == (index, shape):
                self._first, self._handed_out, self._shape = before.first, before.handed_out, before.shape
                self._run, self._saved = before.run, before.saved
                return
            self._before, self._goes_back, self._shape = here, True, shape
        elif self._goes_back and self._run is not None:
            self._before = self._place(None)
        self._shape = shape

    def _place(self, run: Run | None) -> _Place:
        """The position of the run, with the run itself or, if it is None, with a copy of its numbers."""
        saved = self._saved if self._run is None else self._run.state_dict() if run is None else None
        return _Place(self._at, self._shape, self._first, self._handed_out, run, saved)

    def step(
        self,
        index: int,
        output: torch.Tensor,
        variance: torch.Tensor | None,
        sample: torch.Tensor,
        generator: Any,
        told: Told = _NOTHING,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The state after an iteration, and the x0 prediction of its model call.

        Parameters
        ----------
        index : int
            Number of the iteration.
        output, variance : Tensor or None
            Outputs of the network, see `split_variance`.
        sample : Tensor
            The state; it may have been edited.
        generator : object
            Generator of the noise, unless there is a seed.
        told : Told
            Parts of the call that the loop overrides.
        """
        assert self.iterations is not None
        iterations, seed = self.iterations, self.configuration.entries.noise_seed
        if index >= len(iterations):
            raise RuntimeError(f"the run of {len(iterations)} iterations is over; call set_timesteps for another")
        if index < iterations.beyond:
            raise ValueError(
                f"timestep {iterations.timesteps[index]:g} is beyond the training table; use one step fewer, "
                f"or begin with iteration {iterations.beyond} as image to image does"
            )
        request = iterations.method.request or Request("", (), iterations.process)  # ksched's samplers have no extras
        self._noise.take(generator, output, told.noise)
        self._go_to(index, sample.shape)
        call, run = answer_of(iterations, self.configuration, index, output, sample), self._running(sample)
        if told.prediction is not None:
            call = call._replace(edited=told.prediction.to(call.denoised.dtype))
        if seed is None and told.noise is None:
            dropped = request.draws_before[index] if request.draws_before and index > self._first else 0
            self._noise.draw_ahead(dropped, request.noise_by_step)
        previous = sample if run is None or run.done else self._advance(run, call)  # a last step may have length 0
        self._handed_out, compute = identity_mark(previous), call.denoised.dtype
        if request.learned_variance is not None and iterations.timesteps[index] > 0:
            std = learned_std(variance, *iterations.levels[index : index + 2], kind=request.learned_variance)
            previous = (previous.to(compute) + self._noise.new() * std).to(previous.dtype)
            self._handed_out = None
        shown = call.prediction
        if request.boundary:  # LCM's pipelines show the output of the consistency function
            level = iterations.levels[index]
            of_state, of_shown = boundary_scaling(level, float(iterations.timesteps[index]), request.boundary)
            shown = (of_shown * shown).add(sample.to(compute), alpha=of_state)
        if told.apart is not None:
            previous = torch.where(told.apart[0], told.apart[1], previous.to(compute))
            self._handed_out = None
        self._noise.release()
        self._at = index + 1
        return previous.to(sample.dtype), shown.to(sample.dtype)

    def _running(self, sample: torch.Tensor) -> Run | None:
        """The run, started from this state if necessary; None if it has no model call left."""
        assert self.iterations is not None
        if self._run is None:
            plan, seed = self.iterations.method.plan(self._first, self._extra), self.configuration.entries.noise_seed
            if plan is None:
                return None
            if not plan.draws:
                run = Run(plan, sample)
            elif seed is not None:
                run = Run(plan, sample, seed=seed)
            else:
                run = Run(plan, sample, noise=self._noise.between)
            if self._saved is not None:  # a copy of a scheduler continues from there
                run.load_state_dict(self._saved)
                self._saved = None
            else:
                self._handed_out = identity_mark(sample)
            self._run = run
        return self._run

    def _advance(self, run: Run, call: Answer) -> torch.Tensor:
        """Feed the run with a model call and return its next state."""
        assert self.iterations is not None
        method, edited = self.iterations.method, call.edited
        if self._handed_out is None or identity_mark(call.sample) != self._handed_out:
            share = method.share_of_state(run)
            if share is None:
                run.replace(call.sample)
            elif share != -call.of_x or edited is not None:
                edited = call.prediction + share * (call.sample.to(call.denoised.dtype) - run.x)
        if run.needs_uncond:
            run.feed(call.prediction, call.denoised)
        elif edited is not None:
            run.feed(edited)
        else:
            run.feed_output(call.output, call.of_x, call.of_output)
        if method.share_of_state(run) is not None:
            return run.x.clone()  # it is still needed if this one is edited in place
        return run.x

    # ---------------------------------------------------------------------------------------------------------- copies

    def __getstate__(self) -> dict[str, Any]:
        anew = {"_run": None, "_handed_out": None, "_noise": StepNoise(), "_before": None}
        return {**super().__getstate__(), "_saved": self.state, **anew}


class _Place(NamedTuple):
    """A position of a run, to return to.

    Attributes
    ----------
    number : int
        Number of the next iteration.
    shape, first, handed_out : Size, int, tuple of object or None
        Attributes of the driver at that time.
    run, saved : Run, dict or None
        The run itself, if it has not advanced since, or its numbers.
    """

    number: int
    shape: torch.Size | None
    first: int
    handed_out: tuple[Any, ...] | None
    run: Run | None
    saved: dict[str, Any] | None


def identity_mark(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """A mark that tells whether a tensor is one that was handed out, unchanged; None if nothing can tell."""
    if tensor.is_inference():
        return None
    return tensor.data_ptr(), tensor._version, tensor.shape, tensor.dtype
