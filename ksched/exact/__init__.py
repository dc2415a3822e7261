"""Denoisers whose truth is known: to measure samplers against."""

from ksched.exact.empirical import Empirical
from ksched.exact.handwritten import digits
from ksched.exact.mixture import Gaussian, GaussianMixture

__all__ = ["Empirical", "Gaussian", "GaussianMixture", "digits"]
