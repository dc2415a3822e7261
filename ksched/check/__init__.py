"""Whether a network is what it is taken for: `check_model`."""

from ksched.check.model_check import check_model
from ksched.check.report import Finding, LevelFigures, Mistake, ModelReport

__all__ = ["Finding", "LevelFigures", "Mistake", "ModelReport", "check_model"]
