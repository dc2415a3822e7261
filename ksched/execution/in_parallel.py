"""Parallel-in-time sampling for `ksched.Sampler`. Torch is imported only when it is used."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Protocol

from ksched.kernels.torch_needed import need_torch
from ksched.noise.streams import Seed
from ksched.options import check_whole
from ksched.plan.plan import Plan
from ksched.processes import Process
from ksched.processes.agreement import Levels, check_agreement
from ksched.types import Array

if TYPE_CHECKING:
    import torch

    from ksched.denoisers.answer import Model
    from ksched.execution.parallel import RoundInfo
    from ksched.execution.start_check import StartCheck
    from ksched.noise.sources import Noise

__all__ = ["InParallel"]


class _Sampler(Protocol):
    """The parts of a `ksched.Sampler` that `InParallel` needs."""

    @property
    def plan(self) -> Plan: ...
    @property
    def process(self) -> Process: ...
    @property
    def _heard(self) -> Array: ...
    @property
    def _levels(self) -> Levels: ...
    @property
    def _start_check(self) -> StartCheck: ...


class InParallel:
    """A sampler that can make many of its model calls at once."""

    def parallel(
        self: _Sampler,
        denoiser: Model,
        x: torch.Tensor,
        *,
        window: int = 16,
        tolerance: float = 1e-2,
        seed: Seed | None = None,
        noise: Noise | None = None,
        anderson: int = 0,
        callback: Callable[[RoundInfo], object] | None = None,
    ) -> torch.Tensor:
        """The result of `sample` up to a tolerance, in fewer rounds of larger batches (Picard iteration).

        Parameters
        ----------
        denoiser, x, seed, noise : as for `sample`
        window : int
            Number of calls of a run that are guessed and corrected at a time.
        tolerance : float
            A state is final once it moved by no more than this in the last round, as a root mean square over the item
            and as a share of the noise at its level. 0 waits until nothing moves; it returns the bits of `sample` in at
            most ``nfe`` rounds if the rows of the model do not depend on their batch. For a `Denoiser`, whose network
            `sample` calls directly, it agrees up to rounding.
        anderson : int
            Number of earlier rounds from which guesses are extrapolated (Anderson acceleration); 0 turns it off. It
            helps little at tolerances as loose as the default.
        callback : callable or None
            Called with a `RoundInfo` after every round; an exception that it raises ends the run.

        Returns
        -------
        tensor of ``x``'s shape, dtype and device

        Raises
        ------
        TypeError, ValueError
            As for `sample`; an invalid window, tolerance or memory.
        TraceError
            The sampler is adaptive, so its levels are not known in advance.

        Notes
        -----
        This is more work in total than `sample`. It is faster only if a call on many rows takes hardly longer than one
        on few, or if the rows are spread over devices. In that case, let the denoiser split the batch, which has up to
        ``window`` rows per item, and gather the answers. Nothing else is needed, and every process gets the same bits.

        Each item has its own window, so its result does not depend on the other items if the model's rows do not. Noise
        is drawn once, as in `sample`. States are held in at least float32, and the model receives the dtype of ``x``.
        No gradients are recorded.

        Shih et al. 2023, "Parallel Sampling of Diffusion Models", arXiv:2305.16317, has the criterion and the sliding
        window. Here, states are formed row by row from guessed answers, as in `sample`, and not from guessed slopes: a
        row's use of earlier states is exact in every round.

        Examples
        --------
        >>> import ksched
        >>> model, sampler = ksched.exact.digits(), ksched.build_sampler("ddim", "karras", 50)
        >>> x, rounds = sampler.initial_state((2, 1, 8, 8), seed=0), []
        >>> result = sampler.parallel(model, x, callback=rounds.append)
        >>> bool((result - sampler.sample(model, x)).square().mean().sqrt() < 0.02)
        True
        >>> len(rounds) < 20
        True
        """
        need_torch("Sampler.parallel")
        from ksched.execution.parallel import answered_in_rounds
        from ksched.execution.registers import check_state
        from ksched.noise.sources import noise_source

        plan = self.plan
        check_state(x)
        check_whole("window", window, 1)
        check_whole("anderson", anderson, 0)
        if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 <= float(tolerance) < math.inf:
            raise ValueError(f"tolerance must be a finite number of at least 0; got {tolerance!r}")
        if not callable(denoiser):
            raise TypeError(f"denoiser must be callable, (x, sigma) -> denoised; got {type(denoiser).__name__}")
        self._start_check.check_dtype(x.dtype)
        check_agreement(denoiser, self.process, self._heard)
        source, _ = noise_source(bool(plan.draws), len(x), seed, noise, self.process)
        if self._start_check.judges(x):
            self._start_check(x.detach().contiguous())
        told = (lambda info: None) if callback is None else callback
        return answered_in_rounds(plan, denoiser, x, source, self._levels, window, float(tolerance), anderson, told)
