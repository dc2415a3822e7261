"""Several noise levels in one model call: video and audio on separate schedules, or frames denoised in turn."""

from ksched.joint_runs.orders import Table, autoregressive, pyramid

__all__ = ["Table", "autoregressive", "pyramid"]
