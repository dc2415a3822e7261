"""Denoisers: they turn a raw network into a function ``(x, sigma) -> denoised``."""

from ksched.denoisers.denoiser import Denoiser
from ksched.denoisers.flow_map import FlowMap

__all__ = ["Denoiser", "FlowMap"]
