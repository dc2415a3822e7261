"""The progress of joint runs: everything that can be read of streams and frames."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch

from ksched.execution.adaptive_run import AdaptiveRun
from ksched.execution.run import Run
from ksched.execution.together import Asked
from ksched.joint_runs.orders import Order
from ksched.joint_runs.rollout import JointSteps, Member
from ksched.joint_runs.settled import Settled
from ksched.plan.plan import Plan
from ksched.processes.agreement import Levels, mark
from ksched.processes.host_levels import carry
from ksched.sampler import Sampler
from ksched.types import Array

__all__ = ["FramesProgress", "StreamsProgress", "Tensors"]


Tensors: TypeAlias = Mapping[str, torch.Tensor]


class FramesProgress(JointSteps):
    """The readable progress of a run of frames.

    Attributes
    ----------
    sampler : Sampler
        The sampler of the frames.
    order : int
        The frames that advance at each model call.
    """

    sampler: Sampler
    order: Order
    _shape: torch.Size
    _dtype: torch.dtype
    _device: torch.device
    _tick: int
    _runs: list[Run | None]
    _clean: dict[int, torch.Tensor]
    _plans: Sequence[Plan | None]
    _uploaded: dict[str, torch.Tensor]

    @property
    def runs(self) -> tuple[Run | None, ...]:
        """The run of each frame; None for a frame that was given clean."""
        return tuple(self._runs)

    @property
    def members(self) -> tuple[Run, ...]:
        """The runs of the frames that are denoised."""
        return tuple(run for run in self._runs if run is not None)

    @property
    def places(self) -> tuple[Member, ...]:
        """These runs, each with its frame."""
        return tuple(Member(run, None, k) for k, run in enumerate(self._runs) if run is not None)

    @property
    def shape(self) -> torch.Size:
        """Shape of the clip: batch, frames, and the shape of a frame."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the states that the model receives, and of the result."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Device of the states."""
        return self._device

    @property
    def done(self) -> bool:
        """Whether every frame is done."""
        return self._tick == self.ticks

    @property
    def tick(self) -> int:
        """Number of model calls answered so far."""
        return self._tick

    @property
    def nfe(self) -> int:
        """The same as `tick`, under the name that runs use."""
        return self._tick

    @property
    def ticks(self) -> int:
        """Total number of model calls."""
        return len(self.order.calls) - 1

    @property
    def moving(self) -> tuple[int, ...]:
        """The frames that the next answer advances; the others wait or are done."""
        if self.done:
            return ()
        now, then = self.order.calls[self._tick : self._tick + 2]
        return tuple(k for k, calls in enumerate(then) if calls > now[k])

    @property
    def x(self) -> torch.Tensor:
        """The clip that the model must evaluate next, or the result, shape (batch, frames, ...); never modified later.

        Raises
        ------
        RuntimeError
            As for `Run.x`.
        """
        self._check_whole()
        return torch.stack([self._clean[k] if run is None else run.x for k, run in enumerate(self._runs)], dim=1)

    @property
    def sigma(self) -> torch.Tensor:
        """Contract sigma of each frame, shape (batch, frames); that of its first call if it has not started.

        A frame that is done, or was given clean, is at 0, unless the sampler's last level is above 0.
        """
        sigma = self._row("sigma", self._sigmas)
        mark(sigma, self.all_levels)
        carry(sigma, self._hosted[0][self._tick] * self._shape[0], self._hosted[1][self._tick] * self._shape[0])
        return sigma

    @property
    def timestep(self) -> torch.Tensor:
        """The process's timestep of each frame, shape (batch, frames); 0 where sigma is 0."""
        return self._row("timestep", self._timesteps)

    @property
    def needs_uncond(self) -> bool:
        """Whether the next answer must include the unconditional prediction."""
        return any(run is not None and run.needs_uncond for run in map(self._runs.__getitem__, self.moving))

    @property
    def items(self) -> int:
        """Size of the batch axis."""
        return self._shape[0]

    @property
    def kind(self) -> Hashable:
        """Frames, shape of a frame, dtype and device."""
        return "a level for each frame", tuple(self._shape[1:]), self._dtype, self._device

    @property
    def asked(self) -> Asked:
        """Requirements on the next answer."""
        return Asked(tuple(self._shape), self._device, self.needs_uncond, self.done)

    @property
    def records(self) -> bool:
        """Whether a state requires gradients."""
        tensors = (*self._clean.values(), *(run.x for run in self.members))
        return any(tensor.requires_grad for tensor in tensors)

    @property
    def all_levels(self) -> tuple[Levels, ...]:
        """The levels of all runs, for a model that checks its process."""
        return tuple({id(run.levels): run.levels for run in self.members if run.levels is not None}.values())

    def _sigmas(self) -> Array:
        """Contract sigma of each frame at each tick, and after the last; shape (ticks + 1, frames)."""
        end = self.sampler.grid.levels[-1].label
        columns = [[0.0] if plan is None else [*plan.call_sigmas.tolist(), end] for plan in self._plans]
        return np.array([[columns[k][calls] for k, calls in enumerate(row)] for row in self.order.calls])

    @cached_property
    def _hosted(self) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
        """For each tick, the frames' sigmas and targets; a frame that does not advance has none."""
        sigmas = [tuple(row) for row in self._sigmas().tolist()]
        goals = list(sigmas)
        for tick, (now, then) in enumerate(pairwise(self.order.calls)):
            goals[tick] = tuple(
                sigma if plan is None or calls == after else plan.goals[calls]
                for sigma, plan, calls, after in zip(sigmas[tick], self._plans, now, then, strict=True)
            )
        return sigmas, goals

    def _timesteps(self) -> Array:
        sigmas = self._sigmas()
        timesteps = np.zeros_like(sigmas)
        timesteps[sigmas > 0] = self.sampler.process.timestep(sigmas[sigmas > 0])
        return timesteps

    def _row(self, name: str, values: Callable[[], Array]) -> torch.Tensor:
        """The present row of a table that is uploaded to the device on first use."""
        if name not in self._uploaded:
            compute = torch.promote_types(self._dtype, torch.float32)
            table = torch.tensor(values().tolist(), dtype=compute, device="cpu")
            self._uploaded[name] = table.to(self._device, non_blocking=True)
        return self._uploaded[name][self._tick].expand(self._shape[0], -1).clone(memory_format=torch.contiguous_format)


class StreamsProgress(JointSteps):
    """The readable progress of streams."""

    _names: tuple[str, ...]
    _runs: dict[str, Any]  # a Run, AdaptiveRun or Frames for each name
    _settled: dict[str, Settled]
    _nfe: int

    def _like(self, name: str) -> Run | AdaptiveRun | FramesProgress | torch.Tensor:
        """The object that has shape, dtype and device of a part."""
        return self._runs[name] if name in self._runs else self._settled[name].x

    @property
    def parts(self) -> Mapping[str, Run | AdaptiveRun | FramesProgress | torch.Tensor]:
        """The runs, and the tensors of clean context, by name; read-only."""
        return MappingProxyType({name: self._like(name) for name in self._names})

    @property
    def members(self) -> tuple[Run | AdaptiveRun, ...]:
        """All runs, including those of frames."""
        return tuple(
            run
            for part in self._runs.values()
            for run in (part.members if isinstance(part, FramesProgress) else (part,))
        )

    @property
    def places(self) -> tuple[Member, ...]:
        """These runs, each with its part."""
        found: list[Member] = []
        for name, part in self._runs.items():
            if isinstance(part, FramesProgress):
                found += [one._replace(name=name) for one in part.places]
            else:
                found.append(Member(part, name, None))
        return tuple(found)

    @property
    def done(self) -> bool:
        """Whether every part is done."""
        return all(run.done for run in self._runs.values())

    @property
    def nfe(self) -> int:
        """Number of model calls answered so far (NFE)."""
        return self._nfe

    @property
    def x(self) -> Tensors:
        """The state of each part that the model must evaluate next, or its result; never modified later.

        Raises
        ------
        RuntimeError
            As for `Run.x`.
        """
        self._check_whole()
        return MappingProxyType({name: self._shown(name).x for name in self._names})

    @property
    def sigma(self) -> Tensors:
        """Contract sigma of each part, shape (batch,), or (batch, frames) for frames; 0 for a part that is done."""
        return MappingProxyType({name: self._shown(name).sigma for name in self._names})

    @property
    def timestep(self) -> Tensors:
        """Timestep of each part by its own process, with the shape of its sigma; 0 for a part that is done.

        Raises
        ------
        RuntimeError
            If a part is the run of a bare plan, which has no process.
        """
        return MappingProxyType({name: self._shown(name).timestep for name in self._names})

    @property
    def needs_uncond(self) -> bool:
        """Whether a part needs the unconditional prediction."""
        return any(run.needs_uncond for run in self._runs.values())

    @property
    def asked(self) -> Mapping[str, Asked]:
        """Requirements on the next answer, by name."""
        asked = {}
        for name in self._names:
            like = self._like(name)
            both, done = (False, True) if isinstance(like, torch.Tensor) else (like.needs_uncond, like.done)
            asked[name] = Asked(tuple(like.shape), like.device, both, done)
        return asked

    @property
    def items(self) -> int:
        """Size of the batch axis."""
        return int(self._like(self._names[0]).shape[0])

    @property
    def kind(self) -> Hashable:
        """Names of the parts, with item shape, dtype, device and number of levels of each."""
        kinds = []
        for name in sorted(self._names):
            like = self._like(name)
            levels = "a level for each frame" if isinstance(like, FramesProgress) else "one level"
            kinds.append((name, tuple(like.shape[1:]), like.dtype, like.device, levels))
        return tuple(kinds)

    @property
    def records(self) -> bool:
        """Whether a state requires gradients."""
        return any(run.x.requires_grad for run in self.members) or any(
            s.x.requires_grad for s in self._settled.values()
        )

    @property
    def all_levels(self) -> tuple[Levels, ...]:
        """The levels of all runs, for a model that checks its process."""
        return tuple(run.levels for run in self.members if run.levels is not None)

    def _shown(self, name: str) -> Any:
        """The object that has state, sigma and timestep of a part."""
        if (settled := self._settled.get(name)) is not None:
            return settled
        run = self._runs[name]
        if not run.done or isinstance(run, FramesProgress):
            return run
        end = run.end.label
        timestep = float(run.process.timestep(end)) if end > 0 and run.process is not None else 0.0
        settled = self._settled[name] = Settled(run.x, end, timestep)
        return settled
