"""The names of samplers, noise schedules and dialects, in every spelling that programs use."""

from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.names.labels import parse_label
from ksched.names.sampler_type import SamplerName, ScheduleName

__all__ = ["Dialect", "NoiseSchedule", "SamplerName", "SamplerType", "ScheduleName", "parse_label"]
