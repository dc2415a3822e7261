"""Formulas that samplers share, by kind. They use a level's alpha, sigma and lam, so they hold on every process."""

from ksched.samplers.blocks.noise_split import (
    AncestralRule,
    ancestral,
    ancestral_above,
    churn,
    fresh_std,
    grown,
    renoise,
)
from ksched.samplers.blocks.stages import inner, middle, stages
from ksched.samplers.blocks.steps import (
    Integrals,
    adams,
    ddim,
    eps_step,
    exponential,
    half_step,
    midpoint,
    order_left,
    output,
    with_last_twice,
)
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.blocks.weights import combine, lagrange_weights, moments, phi

__all__ = [
    "AncestralRule",
    "Integrals",
    "StraightLine",
    "adams",
    "ancestral",
    "ancestral_above",
    "churn",
    "combine",
    "ddim",
    "eps_step",
    "exponential",
    "fresh_std",
    "grown",
    "half_step",
    "inner",
    "lagrange_weights",
    "middle",
    "midpoint",
    "moments",
    "order_left",
    "output",
    "phi",
    "renoise",
    "stages",
    "with_last_twice",
]
