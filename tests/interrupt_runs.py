"""Press Ctrl-C in runs at random moments, again and again, and check that every later run is correct.

    python tests/interrupt_runs.py                       # 400 interrupts, two threads, 3 to 6 million numbers
    python tests/interrupt_runs.py --interrupts 20 --numbers 300000

Each sampler first runs undisturbed. Then its run is interrupted at a random moment, as when somebody presses Ctrl-C in
a notebook. The next run, in the same process and with whatever the interrupted one left behind, must give the same
bytes. A run that was interrupted inside `feed` must refuse to continue. A crash of the process is a failure too.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import threading
import time

import torch

import ksched

SAMPLERS = ("dpmpp_2m_sde", "euler_ancestral", "heun", "dpmpp_3m_sde")


def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


class Interrupter:
    """A thread that sends the process one Ctrl-C, some time after it was asked to."""

    def __init__(self) -> None:
        self._delay: float | None = None
        self._asked = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def after(self, seconds: float) -> None:
        with self._asked:
            self._delay = seconds
            self._asked.notify()

    def _work(self) -> None:
        while True:
            with self._asked:
                while self._delay is None:
                    self._asked.wait()
                delay, self._delay = self._delay, None
            time.sleep(delay)
            os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--interrupts", type=int, default=400)
    parser.add_argument("--numbers", type=int, default=6_000_000, help="of the largest state; the smallest has half")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng, interrupter = random.Random(args.seed), Interrupter()
    names = args.samplers.split(",")
    runs = []
    for k, name in enumerate(names):
        sampler = ksched.build_sampler(name, "karras", 4)
        numbers = args.numbers // 2 + args.numbers // 2 * k // max(1, len(names) - 1)
        x = sampler.initial_state((2, numbers // 2), seed=k)
        sampler.sample(model, x, seed=k)  # compiles
        begun = time.perf_counter()
        right = sampler.sample(model, x, seed=k)
        runs.append((sampler, x, right, time.perf_counter() - begun))
    caught = missed = refused = 0
    while caught < args.interrupts:
        k = rng.randrange(len(runs))
        sampler, x, right, seconds = runs[k]
        run = None
        interrupter.after(rng.uniform(0, 1.1 * seconds))
        try:
            run = sampler.start(x, seed=k)
            while not run.done:
                run.feed(model(run.x, run.sigma))
            time.sleep(2 * seconds + 0.5)  # one that comes late finds nobody at work
            missed += 1
        except KeyboardInterrupt:
            caught += 1
        if run is not None and rng.random() < 0.5:  # what can go on must be right, and what cannot must say so
            try:
                while not run.done:
                    run.feed(model(run.x, run.sigma))
                if not torch.equal(run.x, right):
                    raise SystemExit(f"wrong: {sampler.spec.name} went on after interrupt {caught}")
            except RuntimeError as error:
                if "interrupted" not in str(error):
                    raise
                refused += 1
        del run
        if not torch.equal(sampler.sample(model, x, seed=k), right):
            raise SystemExit(f"wrong: {sampler.spec.name} after interrupt {caught}")
    print(
        f"{caught} interrupts, {missed} runs that ended before theirs, {refused} refused to go on; every result right"
    )


if __name__ == "__main__":
    main()
