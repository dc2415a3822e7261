"""What each of two processes runs when they share the rows of model calls. It imports little, so it starts fast."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import torch

import ksched


def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
    """Not linear, of single operations whose rows do not depend on each other."""
    scale = sigma.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    denoised = x / (1 + scale * scale) + 0.1 * (x / (1 + scale)).sin()
    return denoised, 0.9 * denoised


def spread(rank: int, port: int, results: Any) -> None:
    """One of two processes: every one makes half of the rows of each round, and both gather."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)

    def split(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        size = -(-len(x) // 2)  # the last part may be shorter
        padded = torch.cat([x, x[:1].expand(2 * size - len(x), *x.shape[1:])])
        at = torch.cat([sigma, sigma[:1].expand(2 * size - len(sigma))])
        own = slice(rank * size, (rank + 1) * size)
        gathered = [torch.empty_like(padded[own]) for _ in range(2)]
        torch.distributed.all_gather(gathered, model(padded[own], at[own])[0])
        return torch.cat(gathered)[: len(x)]

    sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 10)
    x = sampler.initial_state((3, 4), seed=0)
    results.put((rank, sampler.parallel(split, x, seed=2, tolerance=1e-3, window=5).tolist()))
    torch.distributed.destroy_process_group()


def both(port: int, results: Any) -> None:
    """The two processes, which share one import of torch where the system can part a process."""
    context: Any = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    processes = [context.Process(target=spread, args=(rank, port, results)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
