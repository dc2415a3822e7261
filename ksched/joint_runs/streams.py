"""`Streams`: parts with separate samplers and schedules, such as video and audio, in one model call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ksched.execution.adaptive_run import AdaptiveRun
from ksched.execution.registers import check_state
from ksched.execution.run import Run
from ksched.execution.together import Answer, check_answers
from ksched.joint_runs.frames import Frames
from ksched.joint_runs.progress import StreamsProgress, Tensors
from ksched.joint_runs.settled import Settled
from ksched.processes.agreement import check_once, process_of_model

__all__ = ["Streams"]


class Streams(StreamsProgress):
    """Runs of several parts that one network denoises together, each with its own sampler, schedule and steps.

    One `feed` advances every part that is not done. A part with fewer model calls than another is done earlier: its
    result stays unchanged, and the model receives it at sigma 0 until all parts are done.

    Parameters
    ----------
    parts : Run, AdaptiveRun, Frames or Tensor
        For each name a run from `Sampler.start`, or `Frames`; or a tensor as clean context, which is done from the
        start. A run may have started already, or be done. All parts need the same number of items, on one device.

    Raises
    ------
    TypeError, ValueError
        For a part that is none of these, or occurs twice; no run; different numbers of items or devices.

    Notes
    -----
    The runs belong to the streams; feeding one of them directly advances it alone. A run whose levels end above 0 stays
    at its last level.

    Examples
    --------
    >>> import ksched
    >>> def model(x, sigma):  # of two parts that have nothing to do with each other
    ...     return {name: x[name] * (1 - sigma[name].reshape(-1, 1)) for name in x}
    >>> video = ksched.build_sampler("dpmpp_2m", "simple", 6, process=ksched.Flow(shift=12.0))
    >>> audio = ksched.build_sampler("euler", "simple", 4, process=ksched.Flow(shift=3.0))
    >>> streams = ksched.Streams(
    ...     video=video.start(video.initial_state((1, 8), seed=1)),
    ...     audio=audio.start(audio.initial_state((1, 2), seed=2)),
    ... )
    >>> while not streams.done:
    ...     print(streams.nfe, {name: round(float(sigma), 3) for name, sigma in streams.sigma.items()})
    ...     streams.feed(**model(streams.x, streams.sigma))
    0 {'video': 1.0, 'audio': 1.0}
    1 {'video': 0.984, 'audio': 0.9}
    2 {'video': 0.96, 'audio': 0.75}
    3 {'video': 0.923, 'audio': 0.5}
    4 {'video': 0.857, 'audio': 0.0}
    5 {'video': 0.706, 'audio': 0.0}
    """

    def __init__(self, /, **parts: Run | AdaptiveRun | Frames | torch.Tensor) -> None:
        self._nfe = 0
        self._runs = {}
        self._settled: dict[str, Settled] = {}
        self._names = tuple(parts)
        for name, part in parts.items():
            if isinstance(part, Run | AdaptiveRun | Frames):
                self._runs[name] = part
            elif isinstance(part, torch.Tensor):
                check_state(part)
                self._settled[name] = Settled(part.clone() if part.requires_grad else part.detach().clone())
            else:
                raise TypeError(
                    f"{name} must be a run from Sampler.start, ksched.frames(...), or a clean tensor; got "
                    f"{type(part).__name__}"
                )
        self._check_parts()

    def _check_parts(self) -> None:
        """Raise unless the parts fit together."""
        if not self._runs:
            raise ValueError("streams must have a run; give one from Sampler.start for every part to be denoised")
        members = self.members
        if len({id(run) for run in members}) < len(members):
            raise ValueError("every part of streams must be a separate run; one occurs twice")
        like = {name: self._like(name) for name in self._names}
        (first, ours), *others = like.items()
        for name, other in others:
            if other.shape[0] != ours.shape[0] or other.device != ours.device:
                raise ValueError(
                    f"all parts must have the same number of items, on one device; {first} has {ours.shape[0]} on "
                    f"{ours.device}, {name} has {other.shape[0]} on {other.device}"
                )

    def feed(self, /, **answers: Any) -> None:
        """Answer the model call at `x` and advance every part that is not done.

        Parameters
        ----------
        answers : Tensor or tuple of Tensor
            For each of these parts the x0 prediction, as for `Run.feed`, or a pair (denoised, uncond). Answers for
            parts that are done are ignored, and may be left out.

        Raises
        ------
        RuntimeError
            If all parts are done; otherwise as for `Run.feed`.
        TypeError, ValueError
            For an unknown or missing name; as for `Run.feed`. Everything is checked and your own noise drawn before any
            part advances, so a mistake loses nothing.
        """
        self._feed(answers)

    def tell(self, answer: Any) -> None:
        """Feed a model's output."""
        self._feed(answer)

    def _feed(self, answers: Any) -> None:
        if self.done:
            raise RuntimeError("the streams are done and take no further prediction")
        self._advance(self.answers(check_answers(answers, self.asked)))

    def answers(self, denoised: Any, uncond: Any = None) -> list[Answer]:
        """The answers for each run."""
        for settled in self._settled.values():
            settled.check()
        answers = []
        for name, run in self._runs.items():
            if not run.done:
                own = denoised[name]
                answers += run.answers(*own) if isinstance(run, Frames) else [Answer(run, *own)]
        self._moving: list[Frames] = [run for run in self._runs.values() if isinstance(run, Frames) and not run.done]
        return answers

    def advanced(self) -> None:
        """Count the call."""
        self._nfe += 1
        for frames in self._moving:
            frames.advanced()

    def sample(self, model: Callable[[Tensors, Tensors], Mapping[str, Any]]) -> Tensors:
        """Call a model until all parts are done, and return the results by name.

        Parameters
        ----------
        model : callable
            ``(x, sigma) -> predictions``, all three mappings by part name; a prediction may be a pair (denoised,
            uncond), and may be missing for a part that is done.

        Raises
        ------
        TypeError, ValueError
            As for `feed`; a model whose own process means other states than a part's.

        Notes
        -----
        Gradients are recorded only if a state requires them.
        """
        if not callable(model):
            raise TypeError(f"model must be callable, (x, sigma) -> predictions; got {type(model).__name__}")
        if (own := process_of_model(model)) is not None:
            for levels in self.all_levels:
                check_once(own, levels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.records):
            while not self.done:
                self._feed(model(self.x, self.sigma))
        return self.x

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume, in another process too: numbers, strings and copies of tensors."""
        return {
            "version": 1,
            "calls": self._nfe,
            "streams": {name: run.state_dict() for name, run in self._runs.items()},
            "clean": {
                name: settled.x.detach().clone() for name, settled in self._settled.items() if name not in self._runs
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from where `state_dict` was taken, bit for bit.

        Raises
        ------
        ValueError
            For a state that is damaged, of another kind, or of other parts; all parts are unchanged then.
        """
        if not isinstance(state, Mapping) or state.get("version") != 1 or "streams" not in state:
            raise ValueError("state must come from Streams.state_dict(), version 1")
        calls = state.get("calls")
        if isinstance(calls, bool) or not isinstance(calls, int) or calls < 0:
            raise ValueError(f"the state is damaged: calls must be a whole number; got {calls!r}")
        clean = {name for name in self._names if name not in self._runs}
        for what, names in (("streams", set(self._runs)), ("clean", clean)):
            part = state.get(what)
            if not isinstance(part, Mapping) or set(part) != names:
                got = sorted(map(str, part)) if isinstance(part, Mapping) else part
                raise ValueError(f"the state must have the parts {sorted(names)} under {what!r}; got {got!r}")
        settled = {name: Settled(self._as_given(name, state["clean"][name])) for name in clean}
        loads = [run.loading(state["streams"][name]) for name, run in self._runs.items()]
        for load in loads:
            load()
        self._nfe, self._settled, self.error = calls, settled, None

    def _as_given(self, name: str, value: Any) -> torch.Tensor:
        """A copy of the context in a state, which must match our own."""
        own = self._settled[name].x
        if not isinstance(value, torch.Tensor) or value.shape != own.shape or value.dtype != own.dtype:
            got = f"{tuple(value.shape)}, {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(f"the state's {name} must be a tensor of shape {tuple(own.shape)}, {own.dtype}; got {got}")
        return value.detach().clone().to(own.device)

    def __copy__(self) -> Streams:
        return _restored({name: copy.copy(part) for name, part in self.parts.items()}, self._nfe)

    def __deepcopy__(self, memo: object) -> Streams:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (dict(self.parts), self._nfe)


def _restored(parts: Mapping[str, Any], nfe: int) -> Streams:
    """Streams that continue from a saved state, for copies and pickles."""
    streams = Streams(**parts)
    streams._nfe = nfe
    return streams
