"""Plans made for a number of model calls: tables fitted to exact runs, of many synthetic mixtures or of one model."""

from ksched.tuning.tuner import tune

__all__ = ["tune"]
