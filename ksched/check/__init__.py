"""`check_model`: find out whether a network predicts what its user believes."""

from ksched.check.model_check import check_model
from ksched.check.report import Finding, LevelFigures, Mistake, ModelReport

__all__ = ["Finding", "LevelFigures", "Mistake", "ModelReport", "check_model"]
