"""The step contracts of serving engines: vLLM-Omni's and SGLang Diffusion's. Neither is imported.

An engine that batches by denoising step keeps all state of a request with the request. `RequestScheduler` is that
state; `vllm_omni` and `sglang` put it where each engine looks for it.
"""

from ksched.integrations.servers.request import RequestScheduler

__all__ = ["RequestScheduler"]
