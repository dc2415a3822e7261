"""What `ksched.Sampler` offers of runs in parallel. Torch is imported when it is asked for them, and no sooner."""

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
    """What `InParallel` needs of a `ksched.Sampler`."""

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
    """A sampler whose model calls may be made many at a time."""

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
        """What `sample` returns, but for a tolerance, in fewer rounds of larger batches.

        Parameters
        ----------
        denoiser, x, seed, noise : as for `sample`
        window : how many calls of a run are guessed and corrected at a time
        tolerance : how far a state may have moved in the last round, as a root mean square over the item and a share of
            the noise at its level, when it is taken as final. 0 waits until nothing moves, and gives the bits of
            `sample` in at most ``nfe`` rounds if the rows of the model do not depend on their batch; those of a
            `Denoiser`, whose network `sample` asks itself, within rounding
        anderson : over how many earlier rounds the guesses are extrapolated; 0 does not. It helps little at tolerances
            as loose as the default
        callback : called with a `RoundInfo` after every round; an exception it raises ends the run

        Returns
        -------
        tensor of ``x``'s shape, dtype and device

        Raises
        ------
        TypeError, ValueError : as for `sample`; a window, tolerance or memory that is none
        TraceError : the sampler is adaptive: nobody knows its levels beforehand

        Notes
        -----
        In all this is more work than `sample`: it takes less time only where a call on many rows takes hardly longer
        than one on few, or where the rows are spread over devices. For that let the denoiser split the batch, which has
        up to ``window`` rows for each item, and gather the answers; nothing else is needed, and every process gets the
        same bits.

        Every item has a window of its own, so what becomes of it does not depend on the others, if the rows of the
        model do not. Noise is drawn once, as in `sample`. States are held in float32 at least, and the model sees the
        dtype of ``x``. No gradients are recorded.

        Shih et al. 2023, "Parallel Sampling of Diffusion Models", arXiv:2305.16317, has the criterion and the sliding
        window. Here the states are formed row by row, as by `sample`, of guessed answers and not of guessed slopes:
        what a row does with the states before it is exact in every round.

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
