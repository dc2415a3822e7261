"""Names of samplers, noise schedules, dialects and prediction types, in every spelling that programs use."""

from ksched.names.enums import Dialect, NoiseSchedule, Prediction, SamplerType
from ksched.names.labels import parse_label
from ksched.names.sampler_type import SamplerName, ScheduleName

__all__ = ["Dialect", "NoiseSchedule", "Prediction", "SamplerName", "SamplerType", "ScheduleName", "parse_label"]
