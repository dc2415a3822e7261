"""Noise processes that models are trained on: the maps between timestep, sigma and alpha.

A *contract sigma* is k-diffusion's sigma. For VP, VE and EDM models a state is ``x = x0 + sigma * eps``; for flow
models it is ``x = (1 - sigma) * x0 + sigma * eps``. Formulas assume neither: they read ``alpha``, ``sigma`` (the noise
std of the state) and ``lam`` from a `Level`, so one sampler works for all of them.
"""

from ksched.processes.base import Level, Process
from ksched.processes.continuous import EDM, VE, AngleV, Cascade, FlowVE, TrigFlow
from ksched.processes.flow import Flow
from ksched.processes.vp import VP, default_process

__all__ = [
    "EDM",
    "VE",
    "VP",
    "AngleV",
    "Cascade",
    "Flow",
    "FlowVE",
    "Level",
    "Process",
    "TrigFlow",
    "default_process",
]
