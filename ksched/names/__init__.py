"""The names of samplers, noise schedules and dialects, in every spelling that programs use."""

from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.names.labels import parse_label

__all__ = ["Dialect", "NoiseSchedule", "SamplerType", "parse_label"]
