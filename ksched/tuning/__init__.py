"""Plans made for a given number of model calls: tables fitted to exact runs of synthetic mixtures or of one model."""

from ksched.tuning.tuner import tune

__all__ = ["tune"]
