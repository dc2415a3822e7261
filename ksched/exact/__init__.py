"""Exact denoisers: distributions whose posterior mean and ODE are known, for measuring samplers."""

from ksched.exact.empirical import Empirical
from ksched.exact.handwritten import digits
from ksched.exact.mixture import Gaussian, GaussianMixture

__all__ = ["Empirical", "Gaussian", "GaussianMixture", "digits"]
