"""From a raw network to ``(x, sigma) -> denoised``."""

from ksched.denoisers.denoiser import Denoiser

__all__ = ["Denoiser"]
