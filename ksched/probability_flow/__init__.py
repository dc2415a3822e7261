"""The probability-flow ODE: from data to noise and back, and the likelihood of data."""

from ksched.probability_flow.inversion import invert
from ksched.probability_flow.likelihood import Likelihood, log_likelihood

__all__ = ["Likelihood", "invert", "log_likelihood"]
