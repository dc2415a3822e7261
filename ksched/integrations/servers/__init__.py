"""The step contracts of the serving engines vLLM-Omni and SGLang Diffusion, neither of which is imported.

An engine that batches by denoising step stores all state of a request with the request. `RequestScheduler` is that
state; `vllm_omni` and `sglang` put it where each engine looks for it.
"""

from ksched.integrations.servers.request import RequestScheduler

__all__ = ["RequestScheduler"]
