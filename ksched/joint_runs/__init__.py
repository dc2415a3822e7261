"""Several noise levels in one model call: video and audio on their own schedules, frames that are denoised in turn."""

from ksched.joint_runs.orders import Table, autoregressive, pyramid

__all__ = ["Table", "autoregressive", "pyramid"]
