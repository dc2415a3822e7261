"""Threads that compiled code is shared among, and the memory that they hold while they work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from os import getpid
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch

__all__ = ["shared"]


def shared(work: Callable[[int, int], object], count: int, multiple: int, owners: object) -> None:
    """Let threads do ``work(first, last)``, each on its share of the numbers up to a count.

    An exception, Ctrl-C above all, may end this at any place while threads are still writing. So each holds the owners
    of the memory until it is done, and whoever was interrupted must not use that memory again.
    """
    threads = max(1, min(torch.get_num_threads(), count // multiple))
    ends = [count * i // threads // multiple * multiple for i in range(threads)] + [count]
    answers: SimpleQueue[BaseException | None] = SimpleQueue()
    workers = _workers(getpid())
    workers.at_least(threads - 1)
    for first, last in pairwise(ends[1:]):
        workers.jobs.put((work, first, last, owners, answers))
    work(0, ends[1])
    for _ in range(threads - 1):
        error = answers.get()
        if error is not None:
            raise error


class _Workers:
    """Threads that wait for work. They end with the process, which need not wait for them."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[Any] = SimpleQueue()
        self._count = 0

    def at_least(self, count: int) -> None:
        """Have so many threads."""
        while self._count < count:
            Thread(target=_serve, args=(self.jobs,), name="ksched", daemon=True).start()
            self._count += 1  # after the start: an interrupt between the two makes one too many, which is no harm


def _serve(jobs: SimpleQueue[Any]) -> None:
    """Do one job after the other, and hold nothing of it while waiting for the next."""
    while True:
        work, first, last, owners, answers = jobs.get()
        error: BaseException | None = None
        try:
            work(first, last)
        except BaseException as caught:
            error = caught
        del work, owners
        answers.put(error)
        del answers, error


@cache
def _workers(process: int) -> _Workers:
    """The threads of a process: those of its parent are not there after a fork."""
    return _Workers()
