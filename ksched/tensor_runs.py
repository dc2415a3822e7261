"""What a `ksched.Sampler` does with tensors. Torch is imported when a method needs it, and no sooner."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ksched.kernels.torch_needed import need_torch
from ksched.noise.streams import Seed, checked_shape, item_seeds
from ksched.options import check_whole
from ksched.plan.plan import Plan
from ksched.plan.rows import Draw
from ksched.policy.stochastic_steps import StochasticSteps
from ksched.processes.agreement import Levels, check_agreement, levels_of
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid
from ksched.types import Array

if TYPE_CHECKING:
    import torch

    from ksched.denoisers.answer import Model
    from ksched.execution.adaptive_run import AdaptiveRun
    from ksched.execution.compiled import CompiledStep
    from ksched.execution.loop import StepInfo
    from ksched.execution.run import Run
    from ksched.execution.start_check import StartCheck
    from ksched.noise.kinds import Correlated, NoiseName
    from ksched.noise.sources import Noise

__all__ = ["TensorRuns"]


class TensorRuns(StochasticSteps):
    """Runs of a sampler on tensors, and their start states; it says what is run, and on which levels."""

    spec: SamplerSpec
    grid: Grid
    options: tuple[tuple[str, Any], ...]
    _plan: Plan | None

    @cached_property
    @abstractmethod
    def sigmas(self) -> Array:
        """Contract sigmas of the grid."""

    @cached_property
    def matrices(self) -> CompiledStep:
        """The plan as tensors for a step that is compiled, exported or captured once.

        Raises
        ------
        TraceError : the sampler is adaptive: it has no plan
        """
        need_torch("Sampler.matrices")
        from ksched.execution.compiled import CompiledStep

        return CompiledStep(self.plan, self.process)

    @cached_property
    def _levels(self) -> Levels:
        """What a model that knows its process may check."""
        return levels_of(self.process, self._heard)

    @cached_property
    def _heard(self) -> Array:
        """Contract sigmas of the run, and those that the model is told, where these are others."""
        plan = self._plan
        return self.sigmas if plan is None or not plan.tells_others else np.append(self.sigmas, plan.call_sigmas)

    def initial_state(
        self,
        shape: Sequence[int],
        *,
        seed: Seed,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        noise: NoiseName | Correlated | None = None,
    ) -> torch.Tensor:
        """Pure noise at the level ``sigmas[0]``, scaled as `sample` wants it: the start of a run from nothing.

        Parameters
        ----------
        shape : of the state, batch first
        seed : one whole number (item i takes ``seed + i``) or one per item. An item's noise depends on its seed and on
            nothing else: not on the batch, the device, the sampler or the number of steps
        dtype : floating point; None is torch's default
        device : None is torch's default
        noise : None is white; a name, such as "pink", or a kind of noise, such as ``ksched.noise.Offset(0.1)``, is
            another law than that which the sampler is made for, see the page on noise

        Returns
        -------
        tensor of that shape: noise std of the process at ``sigmas[0]``, times normal noise

        Raises
        ------
        TypeError, ValueError : a shape without a batch axis, seeds that are not whole numbers or not one per item, a
            dtype that is not floating point

        Notes
        -----
        The noise is independent of that of the steps, so the same seed may be given to `sample`. To start from an image
        instead, noise it: ``process.add_noise(x0, noise, sigmas[0])``.

        Examples
        --------
        >>> import ksched
        >>> sampler = ksched.build_sampler("euler", "karras", 10)
        >>> x = sampler.initial_state((2, 4, 64, 64), seed=7)
        >>> bool(abs(x.std() / sampler.sigmas[0] - 1) < 0.02)
        True
        """
        need_torch("Sampler.initial_state")
        import torch

        from ksched.execution.registers import check_state
        from ksched.noise.sources import start_source

        like = torch.empty(checked_shape(shape), dtype=dtype, device=device)
        check_state(like)
        eps = start_source(item_seeds(seed, len(like)), noise, self.process)(Draw(math.inf, math.inf), like)
        return eps.mul_(float(self.process.noise_std(float(self.sigmas[0]))))

    def start(self, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None) -> Run | AdaptiveRun:
        """A run to drive yourself; arguments and errors as for `Run`. That of an adaptive sampler is a `AdaptiveRun`.

        Warns
        -----
        RuntimeWarning : when the first model call is answered: ``x`` cannot be a state at ``sigmas[0]``, its spread is
            off by more than 3 times; looked at on the processor only, in 64 numbers, where noise hides the data
        """
        need_torch("Sampler.start")
        from ksched.execution.adaptive_run import AdaptiveRun
        from ksched.execution.registers import check_state
        from ksched.execution.run import Run

        check_state(x)
        self._start_check.check_dtype(x.dtype)
        how: dict[str, Any] = {"seed": seed, "noise": noise, "levels": self._levels}
        if self._start_check.judges(x):
            how["check_start"] = self._start_check
        if self._plan is None:
            return AdaptiveRun(self.spec, self.grid, dict(self.options), x, **how)
        return Run(self._plan, x, process=self.process, **how)

    @cached_property
    def _start_check(self) -> StartCheck:
        from ksched.execution.start_check import StartCheck

        return StartCheck(self.process, self.grid.levels[0])

    def sample(
        self,
        denoiser: Model,
        x: torch.Tensor,
        *,
        seed: Seed | None = None,
        noise: Noise | None = None,
        callback: Callable[[StepInfo], object] | None = None,
        progress: bool = False,
    ) -> torch.Tensor:
        """Run to the end.

        Parameters
        ----------
        denoiser : ``(x, sigma) -> denoised``, sigma a float32 tensor of shape (batch,); may return (denoised, uncond)
        x : start state at the level ``sigmas[0]``, batch first: from pure noise that of `initial_state`, from an image
            ``process.add_noise(x0, eps, sigmas[0])``
        seed : one whole number (item i takes ``seed + i``) or one per item; needed if the sampler draws noise
        noise : instead of a seed, ``(sigma_from, sigma_to) -> tensor like x`` of unit variance; or, with a seed,
            "brownian": parts of one path, which keep the picture when the number of steps changes; or, with a seed,
            noise that changes the law of the results: "pink", "brown", "blue", "violet", "pyramid", "offset", or a
            `ksched.noise.Colored`, `ksched.noise.Pyramid` or `ksched.noise.Offset`. That of the start is its own
        callback : called with a `StepInfo` once a step; an exception it raises ends the run
        progress : show a progress bar (needs the extra ``cli``)

        Returns
        -------
        tensor of ``x``'s shape, dtype and device: the state at ``sigmas[-1]``, x0 itself where that is 0

        Raises
        ------
        TypeError, ValueError : bad arguments, before the first model call, among them a denoiser that knows its
            process, as `ksched.Denoiser` does, where it means other states than the sampler's; a prediction of another
            shape

        Warns
        -----
        RuntimeWarning : as for `start`

        Notes
        -----
        Gradients are recorded only if ``x`` asks for them.
        """
        need_torch("Sampler.sample")
        import torch

        from ksched.execution.loop import drive

        check_agreement(denoiser, self.process, self._heard)
        run = self.start(x, seed=seed, noise=noise)
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            return drive(run, denoiser, callback, progress)

    def invert(
        self, denoiser: Model, x: torch.Tensor, *, rounds: int = 25, tolerance: float | None = None
    ) -> torch.Tensor:
        """The start that `sample` turns into ``x``: the grid run upwards, then corrected until the way back fits.

        Parameters
        ----------
        denoiser : as for `sample`, and the same
        x : what the run should end at, at the level ``sigmas[-1]``, batch first
        rounds : how often to correct, at most; each costs a run down and one up. 0 only runs upwards, which is what is
            commonly called inversion (DDIM inversion with `euler`) and comes back roughly
        tolerance : largest error of the way back, relative to ``x``, at which to stop; None is that of rounding

        Returns
        -------
        tensor like ``x``: the state at ``sigmas[0]``

        Raises
        ------
        TypeError, ValueError : a state or a denoiser that `sample` would not take; a sampler that draws noise, or is
            adaptive

        Warns
        -----
        RuntimeWarning : the way back does not fit for some items, which it names; the best start found is returned for
            them, and the others do not depend on them

        Notes
        -----
        For linear models, such as the exact ones of normal data, it is exact. Upwards, a last level of 0 is one of at
        most 0.0001. No gradients are recorded.
        """
        need_torch("Sampler.invert")
        from ksched.execution.registers import check_state
        from ksched.probability_flow.inversion import invert, rising_plans

        check_state(x)
        check_whole("rounds", rounds, 0)
        check_agreement(denoiser, self.process, self._heard)
        ups = rising_plans(self.spec, self.grid, dict(self.options))
        return invert(self.plan, ups, denoiser, x, rounds, tolerance)

    def live(
        self, denoiser: Model, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None
    ) -> torch.Tensor:
        """The same run without a plan: the sampler function executed on tensors, in ``x``'s dtype throughout.

        Arguments, errors and warnings are those of `sample`.
        """
        need_torch("Sampler.live")
        from ksched.execution.live import EagerContext
        from ksched.execution.registers import check_state
        from ksched.noise.sources import noise_source

        check_state(x)
        check_agreement(denoiser, self.process, self._heard)
        if self._start_check.judges(x):
            self._start_check(x.detach().contiguous())
        draws = bool(dict(self.options).get("eta")) if self._plan is None else bool(self._plan.draws)
        source, _ = noise_source(draws, x.shape[0], seed, noise, self.process)
        context = EagerContext(denoiser, x, source, noise_scale=self.process.noise_scale)
        result: torch.Tensor = self.spec(context, self.grid, x, **dict(self.options))
        return result
