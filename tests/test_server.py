"""The server of the page on continuous batching: every request gets its solo result, whatever happens to the others."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from cases import NAMES, process_for, start_state
from test_readme import blocks

from ksched import build_sampler

Pair = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    server = next(block for block in blocks("docs/continuous-batching.md", "{testcode}") if "class Server" in block)
    exec(compile(server, "continuous-batching.md", "exec", dont_inherit=True), names)
    return names


def pair(x: torch.Tensor, sigma: torch.Tensor, requests: object = None) -> Pair:
    scale = 1 / (1 + sigma.reshape(-1, 1) ** 2)
    return x * scale, x * scale / 2


def asked(name: str, steps: int, seed: int) -> tuple[Any, torch.Tensor, int, dict[str, Any]]:
    sampler = build_sampler(name, "karras", steps, process=process_for(name))
    return sampler, start_state(process_for(name), sampler.sigmas[0], (1, 4), seed=seed, dtype=torch.float32), seed, {}


def is_solo(result: torch.Tensor, request: tuple[Any, torch.Tensor, int, dict[str, Any]]) -> bool:
    sampler, x, seed, _ = request
    return torch.equal(result, sampler.sample(pair, x, seed=seed))


def test_requests_of_many_threads_get_their_solo_results(page: dict[str, Any]) -> None:
    """Every sampler; some requests are cancelled, before they start and while they run."""
    rng = random.Random(0)
    requests = [asked(name, rng.randint(1, 6), i) for i, name in enumerate(rng.sample(NAMES, len(NAMES)))]
    most, sizes = 5, []

    def predict(x: torch.Tensor, sigma: torch.Tensor, under_way: list[Any]) -> Pair:
        sizes.append(len(x))
        assert len(x) == len(under_way)
        if len(sizes) % 10 == 0:
            under_way[len(sizes) % len(x)].result.cancel()
        return pair(x, sigma)

    server = page["Server"](predict, most)
    futures: list[Future[torch.Tensor]] = [server.submit(*request) for request in requests[:most]]
    never = server.submit(*asked("euler", 3, 99))
    assert never.cancel()
    server.start()
    with ThreadPoolExecutor(4) as users:
        futures += users.map(lambda request: server.submit(*request), requests[most:])
    server.close()
    assert max(sizes) == most
    assert all(future.done() for future in futures)
    served = [(future, request) for future, request in zip(futures, requests, strict=True) if not future.cancelled()]
    assert len(NAMES) / 2 < len(served) < len(NAMES)
    assert all(is_solo(future.result(), request) for future, request in served)


def test_a_request_joins_while_others_run(page: dict[str, Any]) -> None:
    """The server does not wait for a queue that is empty, nor for a batch to end."""
    reached, go = threading.Event(), threading.Event()

    def predict(x: torch.Tensor, sigma: torch.Tensor, under_way: list[Any]) -> Pair:
        reached.set()
        assert go.wait(60)
        sizes.append(len(x))
        return pair(x, sigma)

    sizes: list[int] = []
    first, second = asked("dpmpp_2m_sde", 4, 0), asked("euler", 2, 1)
    server = page["Server"](predict, 4)
    server.start()
    before = server.submit(*first)
    assert reached.wait(60)
    after = server.submit(*second)
    go.set()
    server.close()
    assert sizes == [1, 2, 2, 1]
    assert is_solo(before.result(), first)
    assert is_solo(after.result(), second)


def test_mistakes_stay_with_who_made_them(page: dict[str, Any]) -> None:
    calls = 0

    def predict(x: torch.Tensor, sigma: torch.Tensor, under_way: list[Any]) -> Pair:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError("no network today")
        return pair(x, sigma)

    server = page["Server"](predict, 3)
    sampler, x, seed, inputs = asked("heun", 2, 0)
    good, long, late = asked("euler", 2, 1), asked("euler", 9, 2), asked("lms", 3, 3)
    well = server.submit(*good)
    wrong = server.submit(sampler, x[:, :3], seed, inputs)
    failing = server.submit(*long)
    wrong_seed = server.submit(build_sampler("euler_ancestral", "karras", 2), x, None, inputs)
    server.start()
    with pytest.raises(OSError, match="no network today"):
        failing.result(60)
    fine = server.submit(*late)
    server.close()
    with pytest.raises(ValueError, match="one shape, dtype and device"):
        wrong.result()
    with pytest.raises(ValueError, match="give seed="):
        wrong_seed.result()
    assert is_solo(well.result(), good)
    assert is_solo(fine.result(), late)
