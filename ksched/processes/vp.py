"""Processes trained on a table of betas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np

from ksched.processes.base import Level, Process, check_positive, clip
from ksched.types import Array, ArrayLike, is_tensor, set_fields

__all__ = ["VP", "default_process"]


#: alpha-bar in place of exactly zero at the end of a zero-terminal-SNR table, because a state ``x0 + sigma * eps``
#: cannot have sigma = inf (ComfyUI's value, sigma 4518.8; diffusers uses 2 ** -24, sigma 4096)
TERMINAL_ALPHA_BAR = 4.8973451890853435e-08


@dataclass(frozen=True, repr=False)
class VP(Process):
    """Variance-preserving (VP) diffusion over a table of betas (DDPM, Stable Diffusion); scaled-linear by default.

    ``sigma`` is ``sqrt((1 - alpha_bar) / alpha_bar)``. A timestep is an index of the table. Between entries, log sigma
    is interpolated linearly as in k-diffusion; outside the table, the nearest end counts.

    Parameters
    ----------
    betas : tuple of float
        Noise added by each training step, each in (0, 1) (1 allowed for the last); None means `scaled_linear`.
    zero_terminal_snr : bool
        Rescale the table so that the last training step is pure noise (Lin et al. 2023, arXiv:2305.08891). Its sigma
        would be infinite, so the table ends at 4518.8 (see ``TERMINAL_ALPHA_BAR``).
    variance_preserving : bool
        States are ``(x0 + sigma * eps) / sqrt(1 + sigma ** 2)``, as in the DDIM papers, instead of ``x0 + sigma *
        eps``. A run may then start at sigma = inf, exactly zero signal: pass ``sigmas=[inf, ...]``.
    snr_shift : float
        Above 0; multiplies sigma by its square root (CogVideoX uses 3, before zero terminal SNR).
    keep_every : int
        Keep every n-th training step, including the last (a model distilled to 50 of 1000 steps uses 20).
    log_sigma_timesteps : bool
        The network's timestep is ``log(sigma) / 4`` instead of the index (Stable Video Diffusion); time changes with
        it, the table does not.

    Raises
    ------
    ValueError
        For betas that are not one list of at least two numbers in (0, 1]; options out of range.

    Notes
    -----
    Ho et al. 2020, arXiv:2006.11239; sigma as in Karras et al. 2022, arXiv:2206.00364.
    """

    betas: tuple[float, ...] = field(repr=False)
    zero_terminal_snr: bool = False
    variance_preserving: bool = False
    snr_shift: float = 1.0
    keep_every: int = 1
    log_sigma_timesteps: bool = False
    sigma_min: float = field(init=False, repr=False, compare=False)
    sigma_max: float = field(init=False, repr=False, compare=False)
    is_discrete: ClassVar[bool] = True

    def __init__(
        self,
        betas: ArrayLike | None = None,
        *,
        zero_terminal_snr: bool = False,
        variance_preserving: bool = False,
        snr_shift: float = 1.0,
        keep_every: int = 1,
        log_sigma_timesteps: bool = False,
    ) -> None:
        table = _scaled_linear_betas(0.00085, 0.012, 1000) if betas is None else np.array(betas, dtype=np.float64)
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(f"betas must be one list of at least two numbers; got shape {table.shape}")
        wrong = np.flatnonzero(~((table > 0) & (table < 1 + (np.arange(len(table)) == len(table) - 1))))
        if len(wrong) or table[-1] > 1:
            i = int(wrong[0]) if len(wrong) else len(table) - 1
            raise ValueError(f"every beta must lie in (0, 1); got betas[{i}]={table[i]}")
        check_positive("snr_shift", snr_shift)
        if len(table) % keep_every or keep_every < 1 or len(table) // keep_every < 2:
            raise ValueError(f"keep_every must divide the {len(table)} training steps; got {keep_every}")
        set_fields(
            self,
            betas=tuple(table.tolist()),
            zero_terminal_snr=bool(zero_terminal_snr),
            variance_preserving=bool(variance_preserving),
            snr_shift=float(snr_shift),
            keep_every=int(keep_every),
            log_sigma_timesteps=bool(log_sigma_timesteps),
        )
        set_fields(self, sigma_min=float(self.sigmas[0]), sigma_max=float(self.sigmas[-1]))

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000, **how: Any) -> VP:
        """Betas whose square roots are evenly spaced (latent diffusion, Stable Diffusion)."""
        return cls(_scaled_linear_betas(beta_start, beta_end, steps), **how)

    @classmethod
    def linear(cls, beta_start: float = 0.0001, beta_end: float = 0.02, steps: int = 1000, **how: Any) -> VP:
        """Evenly spaced betas (DDPM)."""
        return cls(np.linspace(beta_start, beta_end, steps), **how)

    @classmethod
    def sigmoid(cls, beta_start: float = 0.0001, beta_end: float = 0.02, steps: int = 1000, **how: Any) -> VP:
        """Betas on a logistic curve from -6 to 6 (GeoDiff)."""
        return cls(beta_start + (beta_end - beta_start) / (1 + np.exp(-np.linspace(-6, 6, steps))), **how)

    @classmethod
    def of_alpha_bar(
        cls, alpha_bar: Callable[[Array], Array], steps: int = 1000, max_beta: float = 0.999, **how: Any
    ) -> VP:
        """Betas of a curve alpha-bar over time in [0, 1], capped at ``max_beta``."""
        curve = alpha_bar(np.linspace(0, 1, steps + 1))
        return cls(np.minimum(1 - curve[1:] / curve[:-1], max_beta), **how)

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999, **how: Any) -> VP:
        """Squared-cosine alpha-bar (Nichol & Dhariwal 2021, arXiv:2102.09672), betas capped at ``max_beta``."""
        return cls.of_alpha_bar(lambda t: np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2, steps, max_beta, **how)

    @classmethod
    def exponential(cls, steps: int = 1000, rate: float = 12.0, max_beta: float = 0.999, **how: Any) -> VP:
        """alpha-bar that falls as ``exp(-rate * t)``, which gives equal betas (diffusers' "exp")."""
        return cls.of_alpha_bar(lambda t: np.exp(-rate * t), steps, max_beta, **how)

    @cached_property
    def alphas_cumprod(self) -> Array:
        """alpha-bar of every training step, decreasing, read-only; the last is exactly 0 for zero terminal SNR."""
        root = np.sqrt(np.cumprod(1 - np.array(self.betas)))
        if self.snr_shift != 1:
            root = root / np.sqrt(self.snr_shift + (1 - self.snr_shift) * root**2)
        if self.zero_terminal_snr:
            root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        alpha_bar: Array = root**2
        alpha_bar.setflags(write=False)
        return alpha_bar

    def _table_sigmas(self) -> Array:
        alpha_bar = self.alphas_cumprod[self.keep_every - 1 :: self.keep_every].copy()
        if self.zero_terminal_snr:
            alpha_bar[-1] = TERMINAL_ALPHA_BAR
        sigmas: Array = np.sqrt((1 - alpha_bar) / alpha_bar)
        return sigmas

    @property
    def predictions(self) -> tuple[str, ...]:
        """Noise, a score, v or x0."""
        return "epsilon", "score", "v_prediction", "sample"

    @property
    def sigma_limit(self) -> float:
        """No limit for variance-preserving states; any finite sigma for the others."""
        return math.inf if self.variance_preserving else super().sigma_limit

    @cached_property
    def _tables(self) -> dict[Any, Any]:
        return {}

    def _table(self, like: Any) -> Any:
        """``sigmas`` as an array, or as a tensor on the device of ``like``; uploaded once per device and dtype."""
        if not is_tensor(like):
            return self.sigmas
        key = like.device, like.dtype
        if key not in self._tables:
            self._tables[key] = like.new_tensor(self.sigmas)
        return self._tables[key]

    def _position(self, sigma: Any, xp: Any) -> Any:
        table = self._table(sigma)
        value = clip(sigma, table[0], table[-1], xp)
        low = clip(xp.searchsorted(table, value, side="right") - 1, 0, len(table) - 2, xp)
        return low + xp.log(value / table[low]) / xp.log(table[low + 1] / table[low])

    def _sigma_at_position(self, position: Any, xp: Any) -> Any:
        table = self._table(position)
        place = clip(position, 0, len(table) - 1, xp)
        low = xp.asarray(place, dtype=xp.int64)
        high = clip(low + 1, 0, len(table) - 1, xp)
        return table[low] * (table[high] / table[low]) ** (place - low)  # exactly a table entry at whole positions

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        if self.log_sigma_timesteps:
            return xp.log(sigma) / 4
        return self._position(sigma, xp) * self.keep_every + (self.keep_every - 1)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        if self.log_sigma_timesteps:
            return xp.exp(4 * timestep)
        return self._sigma_at_position((timestep - (self.keep_every - 1)) / self.keep_every, xp)

    def _sigma_after(self, share: float) -> float:
        place = (len(self.betas) - 1) * (1 - share)  # counted in training steps, even if only some are kept
        return self.sigma_at_position((place - (self.keep_every - 1)) / self.keep_every)

    def _alpha(self, sigma: Any, xp: Any) -> Any:
        return (1 + sigma * sigma) ** -0.5 if self.variance_preserving else xp.ones_like(sigma)

    def _noise_std(self, sigma: Any, xp: Any) -> Any:
        if not self.variance_preserving:
            return sigma
        return xp.where(sigma < 1e8, sigma * self._alpha(xp.clip(sigma, 0, 1e8), xp), 1.0)

    def input_norm(self, sigma: Any) -> Any:
        """``sqrt(1 + sigma ** 2)``, or 1 for states that already include this factor."""
        return self.alpha(sigma) * 0 + 1 if self.variance_preserving else (1 + sigma * sigma) ** 0.5

    def level(self, sigma: float) -> Level:
        """The level at a contract sigma; infinite is allowed for variance-preserving states."""
        ve = super().level(sigma)
        return Level(sigma, self.alpha(sigma), self.noise_std(sigma), ve.lam) if self.variance_preserving else ve

    def __repr__(self) -> str:
        ends = f"<{len(self.betas)} betas, sigma {self.sigma_min:.4g} to {self.sigma_max:.6g}>"
        named = (f for f in fields(self) if f.init and f.name != "betas" and getattr(self, f.name) != f.default)
        return f"VP({ends}{''.join(f', {f.name}={getattr(self, f.name)!r}' for f in named)})"


def _scaled_linear_betas(start: float, end: float, steps: int) -> Array:
    return np.linspace(start**0.5, end**0.5, steps) ** 2


@cache
def default_process() -> VP:
    """Stable Diffusion's process, the default: scaled-linear VP, sigma 0.0292 to 14.6146."""
    return VP()
