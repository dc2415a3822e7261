"""How `KSchedScheduler` drives a run step by step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from ksched.dialects.diffusers.classes import CLASSES
from ksched.dialects.diffusers.iterations import Iterations
from ksched.dialects.diffusers.process import start_std
from ksched.dialects.diffusers.request import Request
from ksched.execution.run import Run
from ksched.integrations.diffusers.class_of import step_arguments_of
from ksched.integrations.diffusers.configuration import Configuration
from ksched.integrations.diffusers.step_arguments import heeded_options
from ksched.processes import Level
from ksched.samplers.euler import boundary_scaling
from ksched.samplers.registry import sampler_spec
from ksched.types import Array

__all__ = ["Driver", "Told", "identity_mark", "split_variance"]


class Told(NamedTuple):
    """What ``step`` is told of one call.

    Attributes
    ----------
    prediction : the x0 prediction, in place of what the output says
    noise : that of the step, in place of one that is drawn
    apart : where tokens are at a level of their own: which ones, and their next states
    """

    prediction: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    apart: tuple[torch.Tensor, torch.Tensor] | None = None


#: what most calls are told
_NOTHING = Told()


class Driver:
    """The iterations of a scheduler, and the run that goes through them.

    A pipeline may begin at any iteration, and may edit the state between two steps, or amid one. A copy goes on by
    itself from where the original was.

    Attributes
    ----------
    configuration : as it is now; the scheduler keeps it up to date
    iterations : None before `set_timesteps`
    """

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.iterations: Iterations | None = None
        self._request: dict[str, Any] | None = None
        self._made_of: Configuration | None = None
        self._timesteps: torch.Tensor | None = None
        self._levels: Array | None = None
        self.forget()

    def forget(self) -> None:
        """Be as before the first step."""
        self._run: Run | None = None
        self._handed_out: tuple[Any, ...] | None = None
        self._saved: dict[str, Any] | None = None
        self._first = 0
        self._extra: dict[str, Any] = {}
        self._churn: dict[str, Any] | None = None
        self._noise = _Noise()
        self._told: dict[str, Any] = {}
        self._at, self._goes_back = 0, False
        self._shape: torch.Size | None = None
        self._before: _Place | None = None

    # ------------------------------------------------------------------------------------------------------ iterations

    def set_timesteps(self, request: dict[str, Any], device: Any) -> Iterations:
        """Fix the iterations of a run, and forget everything of the last one.

        Parameters
        ----------
        request : see `run_request`
        device : of `timesteps`
        """
        iterations, self.configuration = self.iterations, self.configuration.current
        if iterations is None or self._made_of is not self.configuration or self._request != request:
            iterations = self.configuration.iterations(request)  # else its plans are there already
        self.iterations, self._request, self._made_of, self._levels = iterations, request, self.configuration, None
        kind = torch.int64 if iterations.whole else torch.float32
        self._timesteps = torch.tensor(iterations.timesteps.tolist(), dtype=torch.float64).to(kind).to(device)
        self.forget()
        return iterations

    @property
    def timesteps(self) -> torch.Tensor:
        """What the network is told at every iteration; before `set_timesteps` every timestep of the training."""
        if self._timesteps is None:
            length = self.configuration.entries.num_train_timesteps
            return torch.arange(length - 1, -1, -1, dtype=torch.float32)
        return self._timesteps

    @timesteps.setter
    def timesteps(self, same: torch.Tensor) -> None:
        self._timesteps = same  # on another device, or of another dtype

    @property
    def is_told(self) -> bool:
        """Whether `set_timesteps` was called."""
        return self._timesteps is not None

    @property
    def request(self) -> Mapping[str, Any]:
        """What `set_timesteps` was told."""
        return self._request or {}

    @property
    def state(self) -> dict[str, Any] | None:
        """What the run holds, once it began; the next step goes on from another one that is set."""
        return self._saved if self._run is None else self._run.state_dict()

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._saved, self._run, self._handed_out = state, None, None
        self._shape = None  # it may be another one

    def has_other_size(self, sample: torch.Tensor) -> bool:
        """Whether a state is of another size than the run's, amid it."""
        return self._run is not None and self._run.shape != sample.shape

    def relevel(self, levels: Array | None) -> None:
        """Run at other noise levels than `set_timesteps` found, or at those of another table at the same timesteps.

        Raises
        ------
        ValueError : the run has begun, or its levels are not a list of its own
        """
        if self._run is not None or self._saved is not None:
            raise ValueError("the run has begun: write sigmas after set_timesteps and before the first step")
        self.iterations = self.configuration.iterations(self.request, self._churn, levels)
        self._levels, self._made_of = levels, None

    def place(self, timestep: Any) -> int | None:
        """The iteration of a timestep, by where it is in memory, or else the nearest; None if there are none."""
        own = self.timesteps
        if isinstance(timestep, torch.Tensor) and timestep.numel():
            offset, rest = divmod(timestep.data_ptr() - own.data_ptr(), own.element_size())
            if timestep.device == own.device and not rest and 0 <= offset < len(own):
                return int(offset)
            timestep = float(timestep.flatten()[0])
        if timestep is None or self.iterations is None:
            return None
        return int(np.argmin(np.abs(self.iterations.timesteps - float(timestep))))

    def index(self, known: int | None, timestep: Any) -> int:
        """The iteration that is next: where that is not known, the one of the timestep."""
        return (self.place(timestep) or 0) if known is None else known

    def input_norm(self, known: int | None, timestep: Any) -> float:
        """What the network's input is divided by at the iteration that is next."""
        if self.iterations is None:
            process = self.configuration.trained
            return float(process.input_norm(float(process.sigma(float(timestep)))))
        return self.iterations.conversions[min(self.index(known, timestep), len(self.iterations) - 1)][0]

    @property
    def sigmas(self) -> Array:
        """Noise level of every iteration, and of the end; before `set_timesteps` those of the training."""
        if self.iterations is None:
            return np.append(self.configuration.trained.sigmas[::-1], 0.0)
        return self.iterations.shown

    @property
    def init_noise_sigma(self) -> float:
        """What start noise is multiplied by."""
        if self.iterations is None:
            process = self.configuration.trained
            return start_std(process, process.sigma_max, self.configuration.settings)
        return self.iterations.init_noise_sigma

    @property
    def order(self) -> int:
        """Iterations of a step."""
        return self.configuration.order if self.iterations is None else self.iterations.order

    def after(self, timestep: Any) -> Any:
        """The timestep of the iteration after that of another one; -1 after the last."""
        if self._timesteps is None:
            return timestep - 1
        place = self.place(timestep)
        return self.timesteps[place + 1] if place is not None and place + 1 < len(self.timesteps) else torch.tensor(-1)

    # ----------------------------------------------------------------------------------------------------------- steps

    def prepare(self) -> None:
        """Take every timestep of the training for an iteration, as some classes do before `set_timesteps`."""
        if self.iterations is not None:
            return
        configuration = self.configuration
        if not (configuration.is_stock and CLASSES[configuration.entries.stock_class].begins_untold):
            raise ValueError("call set_timesteps before step: the number of inference steps is not known")
        self.iterations = configuration.through_training()
        self._request = {"num_inference_steps": int(configuration.entries.num_train_timesteps)}
        self._made_of = None

    @property
    def option_names(self) -> Set[str]:
        """Names of the options of the sampler."""
        assert self.iterations is not None
        return sampler_spec(self.iterations.method.sampler).options.keys()

    def begin(self, first: int, given: Mapping[str, Any], clipped: bool | None) -> None:
        """Begin a run at an iteration, with what ``step`` is told at the first call.

        Parameters
        ----------
        first : number of the iteration
        given, clipped : see `heeded_options`
        """
        assert self.iterations is not None
        assert self._request is not None
        self.leave_at(first)
        self._told = dict(given)
        configuration, method = self.configuration, self.iterations.method
        extra = heeded_options(configuration, method, given, clipped)
        self._extra = extra
        if given.get("s_churn"):
            stock = configuration.entries.stock_class
            if not configuration.is_stock or "s_churn" not in step_arguments_of(stock):
                raise ValueError(
                    "step takes s_churn for Euler classes of diffusers alone, which churn after the model call; "
                    "give it in sampler_options, with sampler euler, heun or dpm_2"
                )
            churn = {name: value for name, value in given.items() if value is not None and name != "eta"}
            self.iterations, self._extra = configuration.iterations(self._request, churn, self._levels), {}
            self._made_of, self._churn = None, churn
        elif extra and not configuration.is_stock and not method.same_calls(first, extra):
            raise ValueError(
                f"{', '.join(extra)} would change the model calls, which are fixed by now: give it in sampler_options"
            )

    def check_same(self, given: Mapping[str, Any]) -> None:
        """Warn of options that are other ones than at the first call of the run."""
        if given != self._told:
            changed = {name: value for name, value in given.items() if value != self._told.get(name)}
            warnings.warn(
                f"step is given {', '.join(f'{name}={value!r}' for name, value in changed.items())} in the middle of a "
                "run, which changes nothing: the options of its first call hold",
                stacklevel=4,
            )

    # ------------------------------------------------------------------------------------------------ going back

    @property
    def at(self) -> int:
        """Number of the next iteration, as the run counts them."""
        return self._at

    def goes_back(self, index: int | None) -> bool:
        """Whether the loop does steps again, of which some may be of other states, or is about to."""
        return self._goes_back or (index is not None and index != self._at)

    def leave_at(self, index: int) -> None:
        """Begin anew at an iteration, with nothing known of those before."""
        self._run, self._saved, self._handed_out, self._before = None, None, None, None
        self._first = self._at = index
        self._shape = None

    def _go_to(self, index: int, shape: torch.Size) -> None:
        """Be at an iteration, with states of a shape: pipelines count back to do a step again, or do one aside."""
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
        """Where the run is, with itself or, if it is None, with a copy of its numbers."""
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
        index : number of the iteration
        output, variance : of the network, see `split_variance`
        sample : the state, edited or not
        generator : of the noise, unless that has a seed
        told : what the loop knows better
        """
        assert self.iterations is not None
        iterations, seed = self.iterations, self.configuration.entries.noise_seed
        if index >= len(iterations):
            raise RuntimeError(f"the run of {len(iterations)} iterations is over; call set_timesteps for another")
        if index < iterations.beyond:
            raise ValueError(
                f"timestep {iterations.timesteps[index]:g} is beyond the training table: take one step fewer, or begin "
                f"with iteration {iterations.beyond} as image to image does"
            )
        request = iterations.method.request or Request("", (), iterations.process)  # a sampler of ours has no extras
        self._noise.take(generator, output, told.noise)
        self._go_to(index, sample.shape)
        call, run = self._answer(index, output, sample), self._running(sample)
        if told.prediction is not None:
            call = call._replace(edited=told.prediction.to(call.denoised.dtype))
        if seed is None and told.noise is None:
            dropped = request.draws_before[index] if request.draws_before and index > self._first else 0
            self._noise.draw_ahead(dropped, request.noise_by_step)
        previous = sample if run is None or run.done else self._advance(run, call)  # a last step may have no length
        self._handed_out, compute = identity_mark(previous), call.denoised.dtype
        if request.learned_variance is not None and iterations.timesteps[index] > 0:
            std = _learned_std(variance, *iterations.levels[index : index + 2], kind=request.learned_variance)
            previous = (previous.to(compute) + self._noise.new() * std).to(previous.dtype)
            self._handed_out = None
        shown = call.prediction
        if request.boundary:  # LCM's pipelines show what the consistency function answers
            level = iterations.levels[index]
            of_state, of_shown = boundary_scaling(level, float(iterations.timesteps[index]), request.boundary)
            shown = (of_shown * shown).add(sample.to(compute), alpha=of_state)
        if told.apart is not None:
            previous = torch.where(told.apart[0], told.apart[1], previous.to(compute))
            self._handed_out = None
        self._noise.release()
        self._at = index + 1
        return previous.to(sample.dtype), shown.to(sample.dtype)

    def _answer(self, index: int, output: torch.Tensor, sample: torch.Tensor) -> _Answer:
        """What a network's output at an iteration says of x0."""
        assert self.iterations is not None
        _, of_x, of_output = self.iterations.conversions[index]
        compute = torch.promote_types(sample.dtype, torch.float32)
        denoised = _combined(sample, output, of_x, of_output, compute)
        said = (
            None
            if self.iterations.read is None
            else _combined(sample, output, *self.iterations.read[index][1:], compute)
        )
        edited = self.configuration.edited(denoised if said is None else said)
        return _Answer(sample, output, of_x, of_output, denoised, edited, said)

    def _running(self, sample: torch.Tensor) -> Run | None:
        """The run, with the state that was handed over; None if no model call is left for it."""
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
            if self._saved is not None:  # a copy of a scheduler goes on where that was
                run.load_state_dict(self._saved)
                self._saved = None
            else:
                self._handed_out = identity_mark(sample)
            self._run = run
        return self._run

    def _advance(self, run: Run, call: _Answer) -> torch.Tensor:
        """Feed the run, at the state that was handed over, and return its next state."""
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
            return run.x.clone()  # where this is edited in place, what it was is still needed
        return run.x

    # ---------------------------------------------------------------------------------------------------------- copies

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_saved": self.state}
        return state | {"_run": None, "_handed_out": None, "iterations": None, "_made_of": None, **_not_copied()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._request is not None:
            self.iterations = self.configuration.iterations(self._request, self._churn, self._levels)


class _Place(NamedTuple):
    """Where a run was, to go back to.

    Attributes
    ----------
    number : of the iteration that was next
    shape, first, handed_out : of its states, as the driver has them
    run, saved : the run itself, if it has not gone on since, or its numbers
    """

    number: int
    shape: torch.Size | None
    first: int
    handed_out: tuple[Any, ...] | None
    run: Run | None
    saved: dict[str, Any] | None


class _Answer(NamedTuple):
    """A model call of a step.

    Attributes
    ----------
    sample, output : the state, and what the network made of it
    of_x, of_output : x0 as a combination of the two
    denoised, edited : that combination, and what the settings make of it; None if they leave it
    said : what the class takes the prediction to be, where that is another combination
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
        """The x0 prediction that counts."""
        said = self.denoised if self.said is None else self.said
        return said if self.edited is None else self.edited


def _combined(
    sample: torch.Tensor, output: torch.Tensor, of_x: float, of_output: float, compute: torch.dtype
) -> torch.Tensor:
    found = output.to(compute) * of_output
    return found if of_x == 0 else found.add(sample.to(compute), alpha=of_x)


class _Noise:
    """Noise as diffusers draws it: from the generator of the present step, like the network's output."""

    def __init__(self) -> None:
        self._generator: Any = None
        self._like: torch.Tensor | None = None
        self._drawn: torch.Tensor | None = None

    def take(self, generator: Any, like: torch.Tensor, given: torch.Tensor | None = None) -> None:
        """Draw from a generator from now on, or have the noise that is given."""
        self._generator, self._like, self._drawn = generator, like, given

    def release(self) -> None:
        """Keep nothing of the step."""
        self._generator = self._like = self._drawn = None

    def new(self) -> torch.Tensor:
        """Noise that nobody had before."""
        like = self._like
        assert like is not None
        noise: torch.Tensor = randn_tensor(
            tuple(like.shape), generator=self._generator, device=like.device, dtype=like.dtype
        )
        return noise

    def draw_ahead(self, dropped: int, also: bool) -> None:
        """Draw some noises that nobody uses, and the step's if that is ``also`` drawn, used or not."""
        for _ in range(dropped):
            self.new()
        self._drawn = self.new() if also else None

    def between(self, sigma_from: float, sigma_to: float) -> torch.Tensor:
        """Noise of the step, as a run asks for it."""
        return self.new() if self._drawn is None else self._drawn


def _not_copied() -> dict[str, Any]:
    """What a copy of a driver has anew."""
    return {"_noise": _Noise(), "_before": None}


def _learned_std(variance: torch.Tensor | None, s: Level, t: Level, *, kind: str) -> torch.Tensor:
    """Std of DDPM's noise, by what the network says of it (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)."""
    if variance is None:
        raise ValueError(f"variance_type {kind!r} needs twice as many channels from the model as the state has")
    beta = 1 - (s.alpha / t.alpha) ** 2
    posterior = max((t.sigma / s.sigma) ** 2 * beta, 1e-20)
    if kind == "learned":
        return variance.sqrt()
    share = (variance.to(torch.float32) + 1) / 2
    return (0.5 * (share * math.log(beta) + (1 - share) * math.log(posterior))).exp()


def split_variance(output: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The prediction of a network, and the variance it may have predicted beside it."""
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


def identity_mark(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """What tells whether a tensor is one that was handed out, unchanged; None if nothing can."""
    if tensor.is_inference():
        return None
    return tensor.data_ptr(), tensor._version, tensor.shape, tensor.dtype
