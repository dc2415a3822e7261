"""The tensor side of `ksched.Sampler`. Torch is imported only when a method needs it."""

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
    """Runs of a sampler on tensors, and their start states; subclasses say what runs, and at which noise levels."""

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
        """The plan as tensors, for a step that is compiled, exported or captured once.

        Raises
        ------
        TraceError
            The sampler is adaptive, so it has no plan.
        """
        need_torch("Sampler.matrices")
        from ksched.execution.compiled import CompiledStep

        return CompiledStep(self.plan, self.process)

    @cached_property
    def _levels(self) -> Levels:
        """The levels that a model which knows its process checks."""
        return levels_of(self.process, self._heard)

    @cached_property
    def _heard(self) -> Array:
        """Contract sigmas of the run, and any other sigmas that the model is given."""
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
        """Pure noise at ``sigmas[0]``, scaled as `sample` expects: the start state of a run from noise.

        Parameters
        ----------
        shape : sequence of int
            Shape of the state, batch first.
        seed : int or sequence of int
            One whole number (item i takes ``seed + i``) or one per item. An item's noise depends only on its seed, not
            on the batch, the device, the sampler or the number of steps.
        dtype : dtype or None
            A floating point dtype; None is torch's default.
        device : device, str or None
            None is torch's default.
        noise : str, Correlated or None
            None is white noise. A name, such as "pink", or an object, such as ``ksched.noise.Offset(0.1)``, gives noise
            of another law than the sampler is made for (see the page on noise).

        Returns
        -------
        tensor of that shape: standard normal noise times the process's noise std at ``sigmas[0]``

        Raises
        ------
        TypeError, ValueError
            If the shape has no batch axis; seeds are not whole numbers, or not one per item; the dtype is not floating
            point.

        Notes
        -----
        This noise is independent of the noise drawn in the steps, so you can give the same seed to `sample`. To start
        from an image instead, add noise to it: ``process.add_noise(x0, noise, sigmas[0])``.

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
        """A run that you drive yourself: a `Run`, or an `AdaptiveRun` for an adaptive sampler.

        Arguments and errors are those of `Run`.

        Warns
        -----
        RuntimeWarning
            At the first model call, if ``x`` cannot be a state at ``sigmas[0]`` because its spread is off by a factor
            of more than 3. Checked only on the CPU, on 64 numbers, and only where noise hides the data.
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
        """Sample: run from ``x`` to the last noise level.

        Parameters
        ----------
        denoiser : callable
            ``(x, sigma) -> denoised``, sigma a float32 tensor of shape (batch,); may return (denoised, uncond).
        x : Tensor
            Start state at ``sigmas[0]``, batch first: from noise that of `initial_state`, from an image
            ``process.add_noise(x0, eps, sigmas[0])``.
        seed : int, sequence of int or None
            One whole number (item i takes ``seed + i``) or one per item; needed if the sampler draws noise.
        noise : callable, str or None
            A function ``(sigma_from, sigma_to) -> tensor like x`` of unit variance, instead of a seed; or, with a seed,
            "brownian": increments of one Brownian path, which keep the picture when the number of steps changes; or,
            with a seed, noise that changes the law of the results: "pink", "brown", "blue", "violet", "pyramid",
            "offset", or a `ksched.noise.Colored`, `ksched.noise.Pyramid` or `ksched.noise.Offset`. It does not change
            the noise of the start state.
        callback : callable or None
            Called with a `StepInfo` once per step; an exception that it raises ends the run.
        progress : bool
            Show a progress bar (needs the extra ``cli``).

        Returns
        -------
        tensor of ``x``'s shape, dtype and device: the state at ``sigmas[-1]``, which is x0 if that is 0

        Raises
        ------
        TypeError, ValueError
            For bad arguments, found before the first model call, including a denoiser whose own process (as a
            `ksched.Denoiser` has one) does not match the sampler's; a prediction of the wrong shape.

        Warns
        -----
        RuntimeWarning
            As for `start`.

        Notes
        -----
        Gradients are recorded only if ``x`` requires them.
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
        """Inversion: the start state that `sample` turns into ``x``.

        The grid is run upwards, then the start is corrected until sampling from it returns ``x``.

        Parameters
        ----------
        denoiser : callable
            The same one as for `sample`.
        x : Tensor
            The result that the run should end at, at ``sigmas[-1]``, batch first.
        rounds : int
            Largest number of corrections; each costs one run down and one up. 0 only runs upwards, which is what is
            usually called inversion (DDIM inversion with `euler`) and returns to ``x`` only roughly.
        tolerance : float or None
            Stop when sampling returns ``x`` with at most this relative error; None is the rounding error.

        Returns
        -------
        tensor like ``x``: the state at ``sigmas[0]``

        Raises
        ------
        TypeError, ValueError
            For a state or denoiser that `sample` would refuse; a sampler that draws noise or is adaptive.

        Warns
        -----
        RuntimeWarning
            Sampling does not return ``x`` for some items, which the warning names. Those items get the best start
            found; the others are not affected.

        Notes
        -----
        The result is exact for linear models, such as the exact denoisers of Gaussian data. On the way up, a last
        level of 0 is replaced by at most 0.0001. No gradients are recorded.
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
        """The same run without a plan: the sampler function itself, executed on tensors in ``x``'s dtype.

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
