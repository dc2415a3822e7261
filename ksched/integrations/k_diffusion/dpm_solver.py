"""k-diffusion's class ``DPMSolver``: single steps on tensors, whole runs on ksched's plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from ksched.integrations.k_diffusion.samplers import sampler_function
from ksched.samplers.registry import sampler_spec

__all__ = ["DPMSolver"]

Cache: TypeAlias = dict[str, torch.Tensor]
Reached: TypeAlias = tuple[torch.Tensor, Cache]


class DPMSolver(nn.Module):
    """DPM-Solver in the time t = -log sigma, with k-diffusion's interface.

    Parameters
    ----------
    model : callable
        ``(x, sigma, **extra_args) -> denoised``.
    extra_args : mapping or None
        Further arguments of the model.
    eps_callback : callable or None
        Called without arguments after each model call.
    info_callback : callable or None
        Called with a dictionary in each step of a run.

    Notes
    -----
    Lu et al. 2022, arXiv:2206.00927. Whole runs are those of `sample_dpm_fast` and `sample_dpm_adaptive`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        extra_args: Mapping[str, Any] | None = None,
        eps_callback: Callable[[], object] | None = None,
        info_callback: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model  # a module is registered as a submodule
        self.extra_args = {} if extra_args is None else dict(extra_args)
        self.eps_callback = eps_callback
        self.info_callback = info_callback

    def t(self, sigma: torch.Tensor) -> torch.Tensor:
        """The time of a sigma."""
        return -sigma.log()

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """The sigma at a time."""
        return (-t).exp()

    def eps(self, eps_cache: Cache, key: str, x: torch.Tensor, t: torch.Tensor, *args: Any, **kwargs: Any) -> Reached:
        """The noise predicted by the model, from the cache if it is there; returned with the updated cache."""
        if key not in eps_cache:
            sigma = self.sigma(t)
            denoised = self._denoised(x, sigma * x.new_ones(len(x)), *args, **kwargs)
            eps_cache = {key: (x - denoised) / sigma, **eps_cache}
        return eps_cache[key], eps_cache

    def _denoised(self, x: torch.Tensor, sigma: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        denoised: torch.Tensor = self.model(x, sigma, *args, **self.extra_args, **kwargs)
        if self.eps_callback is not None:
            self.eps_callback()
        return denoised

    def _stage(self, x: torch.Tensor, t: torch.Tensor, h: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """The step that is exact for a constant eps."""
        return x - self.sigma(t + h) * torch.expm1(h) * eps

    def dpm_solver_1_step(
        self, x: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor, eps_cache: Cache | None = None
    ) -> Reached:
        """The state at another time, with one model call, order 1."""
        eps, cache = self.eps(eps_cache or {}, "eps", x, t)
        return self._stage(x, t, t_next - t, eps), cache

    def dpm_solver_2_step(
        self, x: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor, r1: float = 1 / 2, eps_cache: Cache | None = None
    ) -> Reached:
        """The state at another time, with two model calls, order 2; the second is at a share ``r1`` of the step."""
        h = t_next - t
        eps, cache = self.eps(eps_cache or {}, "eps", x, t)
        eps_r1, cache = self.eps(cache, "eps_r1", self._stage(x, t, r1 * h, eps), t + r1 * h)
        return self._stage(x, t, h, eps + (eps_r1 - eps) / (2 * r1)), cache

    def dpm_solver_3_step(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        t_next: torch.Tensor,
        r1: float = 1 / 3,
        r2: float = 2 / 3,
        eps_cache: Cache | None = None,
    ) -> Reached:
        """The state at another time, with three model calls, order 3, at shares ``r1`` and ``r2`` of the step."""
        h = t_next - t
        eps, cache = self.eps(eps_cache or {}, "eps", x, t)
        eps_r1, cache = self.eps(cache, "eps_r1", self._stage(x, t, r1 * h, eps), t + r1 * h)
        bent = (r2 / r1) * self._bend(t, r2 * h) * (eps_r1 - eps)
        eps_r2, cache = self.eps(cache, "eps_r2", self._stage(x, t, r2 * h, eps) - bent, t + r2 * h)
        return self._stage(x, t, h, eps) - self._bend(t, h) / r2 * (eps_r2 - eps), cache

    def _bend(self, t: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Weight of the change of eps over a step in the exact integral of a linear eps."""
        return self.sigma(t + h) * (torch.expm1(h) / h - 1)

    def dpm_solver_fast(
        self,
        x: torch.Tensor,
        t_start: torch.Tensor,
        t_end: torch.Tensor,
        nfe: int,
        eta: float = 0.0,
        s_noise: float = 1.0,
        noise_sampler: Callable[..., torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """A run with a given number of model calls: steps of order 3, then lower ones for the remainder."""
        options = {"n": nfe, "eta": eta, "s_noise": s_noise, "noise_sampler": noise_sampler}
        result: torch.Tensor = self._run("dpm_fast", x, t_start, t_end, options)
        return result

    def dpm_solver_adaptive(
        self, x: torch.Tensor, t_start: torch.Tensor, t_end: torch.Tensor, order: int = 3, **options: Any
    ) -> tuple[torch.Tensor, dict[str, int]]:
        """A run whose steps are chosen by their error, and its statistics; options as for `sample_dpm_adaptive`."""
        options = {"order": order, **options, "return_info": True}
        result: tuple[torch.Tensor, dict[str, int]] = self._run("dpm_adaptive", x, t_start, t_end, options)
        return result

    def _run(
        self, name: str, x: torch.Tensor, t_start: torch.Tensor, t_end: torch.Tensor, options: dict[str, Any]
    ) -> Any:
        first, last = (float(self.sigma(torch.as_tensor(t, dtype=torch.float64))) for t in (t_start, t_end))
        run = sampler_function(sampler_spec(name))
        ends = {"sigma_min": last, "sigma_max": first}
        return run(self._denoised, x, **ends, callback=self.info_callback, disable=True, **options)
