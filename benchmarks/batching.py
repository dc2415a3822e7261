"""Continuous batching on a server: different requests arrive at random times, and three servers answer them.

* ``one after another``: first come, first served, each with `Sampler.sample`.
* ``alike together``: the first request in the queue and those with the same sampler, schedule and steps, up to
  ``--rows`` of them, in one run to its end.
* ``continuous``: a `ksched.batch.Batch` of up to ``--rows`` runs; waiting requests join at the next model call.

All servers get the same requests with the same arrivals, in real time. Arrivals are independent (exponential gaps
from a fixed seed). ``--loads`` sets their rate relative to what the first server can serve on this machine, so a load
above 1 is more than it can keep up with. The network is a residual MLP over all numbers of a state, with random
weights. One item costs it little less than many, since all its weights must be read either way; the table of calls
shows how much. A network that one item keeps busy gains less, one that it does not gains more.

A request is finished when its image is on the host; nothing else waits for the device. ``outside`` is the time, per
denoised row, in which a server was neither idle nor in the network (on a GPU: in which the GPU was not).

Every result is compared with the request's own run: bit for bit with a network that treats numbers one by one,
closely with the MLP, since a matrix product rounds differently with another number of rows. For a few requests all
calls of the MLP are filled up to ``--rows`` rows, and the results that are then equal bit for bit are counted.

``python benchmarks/batching.py``, ``--device cuda`` for a GPU. Writes batching.json and its picture for the
documentation, or batching_cuda.json. Takes about a minute, and less on a GPU.
"""

from __future__ import annotations

import importlib.util
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import RESULTS, arguments, best, facts, named, table, wait, write

import ksched
from ksched import Sampler, build_sampler
from ksched.denoisers.answer import Model
from ksched.execution.batch import Batch

PROCESS = ksched.VP()
SHAPE = (1, 4, 16, 16)
SETTINGS = (
    ("euler", "simple"),
    ("euler_ancestral", "normal"),
    ("heun", "karras"),  # two model calls per step
    ("dpmpp_2m", "karras"),
    ("dpmpp_2m_sde", "exponential"),
    ("dpmpp_3m_sde", "karras"),
    ("uni_pc", "sgm_uniform"),
    ("dpmpp_sde", "beta"),  # two, with noise in both
)
STEPS = (8, 15, 25)
SIZES = {"cpu": (2048, 4), "cuda": (8192, 32)}  # width and depth that make a call milliseconds
ONE, ALIKE, CONTINUOUS = "one after another", "alike together", "continuous"
FEW = 6  # requests whose calls are filled up
RUSH = 10.0  # load where results are compared to the bit: it fills the calls
CLOSE = 1e-3  # of a result's standard deviation; the rounding of float32 grows in a run
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "batching.png"


class Network(torch.nn.Module):
    """A residual MLP that predicts noise; most of the cost of a call is reading the weights."""

    def __init__(self, numbers: int, width: int, depth: int) -> None:
        super().__init__()
        self.inward, self.outward = torch.nn.Linear(numbers, width), torch.nn.Linear(width, numbers)
        self.time = torch.nn.Linear(64, width)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(depth))
        self.register_buffer("frequencies", torch.logspace(0, -3, 32))

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        angles = timestep[:, None] * self.frequencies
        h = self.inward(x.flatten(1)) + self.time(torch.cat([angles.sin(), angles.cos()], 1))
        for layer in self.layers:
            h = h + layer(torch.nn.functional.silu(h)) / len(self.layers) ** 0.5
        return self.outward(h).reshape(x.shape)


def one_by_one(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """A network that treats numbers one by one, so that a row does not depend on the other rows."""
    return x * (timestep.reshape(-1, 1, 1, 1) / 1000)


def filled_up(network: Model, rows: int) -> Model:
    """The network, always called with the same number of rows."""

    def filled(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        more = rows - len(x)
        answer: torch.Tensor = network(
            torch.cat([x, x[:1].expand(more, *x.shape[1:])]), torch.cat([timestep, timestep[:1].expand(more)])
        )
        return answer[: len(x)]

    return filled


def denoiser(network: Model) -> Model:
    """The denoiser that the servers run."""
    return ksched.Denoiser(network, PROCESS)


def plain_denoiser(network: Model) -> Model:
    """The same as a plain function: `Sampler.sample` calls a `Denoiser`'s network directly and rounds differently."""
    model = ksched.Denoiser(network, PROCESS)
    return lambda x, sigma: model(x, sigma)


@dataclass(frozen=True)
class Request:
    """A user's request.

    Attributes
    ----------
    key : sampler, schedule and steps
    sampler, x, seed : what runs
    gap : since the request before, in mean gaps
    """

    key: tuple[str, str, int]
    sampler: Sampler
    x: torch.Tensor
    seed: int
    gap: float


@dataclass
class Span:
    """One request at a server: seconds of its arrival, its first model call and its end, and its image."""

    arrival: float
    start: float = 0.0
    end: float = 0.0
    image: torch.Tensor | None = None


def make_requests(count: int, device: torch.device) -> list[Request]:
    """Random requests, the same on every machine."""
    rng = random.Random(0)
    samplers: dict[tuple[str, str, int], Sampler] = {}  # a server builds each once
    requests = []
    for seed in range(count):
        name, schedule = rng.choice(SETTINGS)
        key = name, schedule, rng.choice(STEPS)
        sampler = samplers.setdefault(key, build_sampler(*key, process=PROCESS))
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
        requests.append(Request(key, sampler, (sampler.sigmas[0] * noise).to(device), seed, rng.expovariate(1.0)))
    return requests


class Meter:
    """A network that counts and times its calls without waiting for the device."""

    def __init__(self, network: Model, device: torch.device) -> None:
        self._network = network
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[Any, Any]] = []
        self.calls = self.rows = 0

    def __call__(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        start = self._mark()
        answer: torch.Tensor = self._network(x, level)
        self._marks.append((start, self._mark()))
        return answer

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @property
    def seconds(self) -> float:
        """Seconds in the network; read it when everything is done."""
        if self._cuda:
            return sum(start.elapsed_time(end) for start, end in self._marks) / 1e3
        return sum(end - start for start, end in self._marks)


class Arrivals:
    """The requests in real time: those that have arrived wait in a queue.

    Attributes
    ----------
    waiting : numbers of the requests that have come and were not taken
    spans : of every request
    idle : seconds spent in `sleep`
    """

    def __init__(self, requests: Sequence[Request], rate: float) -> None:
        self.spans = [Span(arrival / rate) for arrival in accumulate(request.gap for request in requests)]
        self.waiting: deque[int] = deque()
        self.idle = 0.0
        self._coming = deque(range(len(requests)))
        self._begin = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._begin

    def look(self) -> deque[int]:
        """The requests that are waiting now."""
        now = self.now()
        while self._coming and self.spans[self._coming[0]].arrival <= now:
            self.waiting.append(self._coming.popleft())
        return self.waiting

    def sleep(self) -> bool:
        """Wait for the next request; False if there is none."""
        start = self.now()
        if self._coming:
            time.sleep(max(0.0, self.spans[self._coming[0]].arrival - start))
            self.idle += self.now() - start
        return bool(self._coming)

    def begin(self, number: int) -> None:
        self.spans[number].start = self.now()

    def finish(self, number: int, image: torch.Tensor) -> None:
        self.spans[number].image = image.cpu()  # waits for the device
        self.spans[number].end = self.now()


def one_after_another(model: Model, requests: Sequence[Request], arrivals: Arrivals, rows: int) -> None:
    """First come, first served."""
    while arrivals.look() or arrivals.sleep():
        if arrivals.waiting:
            number = arrivals.waiting.popleft()
            arrivals.begin(number)
            request = requests[number]
            arrivals.finish(number, request.sampler.sample(model, request.x, seed=request.seed))


def alike_together(model: Model, requests: Sequence[Request], arrivals: Arrivals, rows: int) -> None:
    """The first request in the queue, and those like it."""
    while arrivals.look() or arrivals.sleep():
        if arrivals.waiting:
            first = requests[arrivals.waiting[0]]
            chosen = [number for number in arrivals.waiting if requests[number].key == first.key][:rows]
            for number in chosen:
                arrivals.waiting.remove(number)
                arrivals.begin(number)
            x = torch.cat([requests[number].x for number in chosen])
            images = first.sampler.sample(model, x, seed=[requests[number].seed for number in chosen])
            for number, image in zip(chosen, images.split(1), strict=True):
                arrivals.finish(number, image)


def continuous(model: Model, requests: Sequence[Request], arrivals: Arrivals, rows: int) -> None:
    """Waiting requests join at the next model call while there is room."""
    batch, numbers = Batch(), {}
    while batch or arrivals.look() or arrivals.sleep():
        arrivals.look()
        while arrivals.waiting and len(batch) < rows:
            number = arrivals.waiting.popleft()
            arrivals.begin(number)
            numbers[batch.add(requests[number].sampler.start(requests[number].x, seed=requests[number].seed))] = number
        if batch:
            for run in batch.tick(model):
                arrivals.finish(numbers.pop(run), run.x)


SERVERS: Mapping[str, Callable[[Model, Sequence[Request], Arrivals, int], None]] = {
    ONE: one_after_another,
    ALIKE: alike_together,
    CONTINUOUS: continuous,
}


def served(
    name: str,
    network: Model,
    requests: Sequence[Request],
    rate: float,
    rows: int,
    wrap: Callable[[Model], Model] = denoiser,
) -> tuple[dict[str, Any], list[Span]]:
    """The figures of one server, and the timing of every request."""
    meter = Meter(network, requests[0].x.device)
    arrivals = Arrivals(requests, rate)
    SERVERS[name](wrap(meter), requests, arrivals, rows)
    spans = arrivals.spans
    latencies = [span.end - span.arrival for span in spans]
    end = max(span.end for span in spans)
    outside = end - arrivals.idle - meter.seconds
    figures = {
        "images per second": len(spans) / (end - spans[0].arrival),
        "latency": {"mean": float(np.mean(latencies))}
        | {f"p{q}": float(np.percentile(latencies, q)) for q in (50, 95)},
        "rows per call": meter.rows / meter.calls,
        "calls": meter.calls,
        "seconds": end,
        "idle": arrivals.idle,
        "network": meter.seconds,
        "outside": outside,
        "outside per row": 1e6 * outside / meter.rows,
    }
    return figures, spans


def alone(model: Model, requests: Sequence[Request]) -> tuple[list[torch.Tensor], float]:
    """The result of every request run alone, and the rate of such runs per second."""
    images = []
    start = time.perf_counter()
    for request in requests:
        images.append(request.sampler.sample(model, request.x, seed=request.seed).cpu())
    return images, len(requests) / (time.perf_counter() - start)


def equal_to_the_bit(name: str, network: Model, requests: Sequence[Request], rows: int) -> tuple[int, float]:
    """How many results of a server equal those of the requests alone bit for bit, and the rows per call."""
    expected, capacity = alone(plain_denoiser(network), requests)
    figures, spans = served(name, network, requests, RUSH * capacity, rows, plain_denoiser)
    equal = sum(torch.equal(s.image, image) for s, image in zip(spans, expected, strict=True) if s.image is not None)
    return equal, figures["rows per call"]


def largest_difference(spans: Sequence[Span], expected: Sequence[torch.Tensor]) -> float:
    """The largest difference from the result of the request alone, divided by the standard deviation of that result."""
    images = [span.image for span in spans if span.image is not None]
    most = max(float((a - b).abs().max() / b.std()) for a, b in zip(images, expected, strict=True))
    assert most < CLOSE, most
    return most


def plot(data: Mapping[str, Any], path: Path) -> None:
    """Plot a panel per server with a line per request, thin while it waits and thick while it runs."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    cells = [cell for cell in data["cells"] if "spans" in cell]
    load = cells[0]["load"]
    figure, axes = plt.subplots(1, len(cells), figsize=(3.0 * len(cells), 4.4), sharex=True, sharey=True)
    for axis, cell in zip(axes, cells, strict=True):
        arrivals, starts, ends = zip(*cell["spans"], strict=True)
        color = "#c0392b" if cell["server"] == CONTINUOUS else "#2c6fbb"
        numbers = range(len(arrivals))
        axis.hlines(numbers, arrivals, starts, color="#b0b0b0", lw=1.2, label="waits")
        axis.hlines(numbers, starts, ends, color=color, lw=4.5, label="runs")
        axis.scatter(arrivals, numbers, color="#555555", s=9, zorder=3, label="arrives")
        axis.set_title(cell["server"], fontsize=11)
        axis.set_xlabel("seconds")
        axis.text(
            0.97,
            0.97,
            f"{cell['images per second']:.1f} images/s\nlatency {cell['latency']['mean']:.1f} s,"
            f" p95 {cell['latency']['p95']:.1f} s\n{cell['rows per call']:.1f} rows per call",
            transform=axis.transAxes,
            ha="right",
            va="top",
            fontsize=9,
        )
        axis.grid(axis="x", color="#e6e6e6")
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel("request")
    axes[0].invert_yaxis()
    axes[0].set_xlim(left=0)
    figure.suptitle(f"Requests arrive {load:.3g} times as fast as they can be served one after another", fontsize=11)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main() -> None:
    """Print the tables, write JSON and the picture."""
    parser = arguments(__doc__, seconds=0.2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--loads", nargs="+", type=float, default=[0.7, 1.5, 3.0], help="relative to the first server")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rows", type=int, default=16, help="largest number of rows per model call")
    parser.add_argument("--size", nargs=2, type=int, metavar=("WIDTH", "DEPTH"), help="size of the network")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing is measured")
        return
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    width, depth = given.size or SIZES[device.type]
    with torch.device(device):
        network = Network(torch.Size(SHAPE).numel(), width, depth).requires_grad_(False)
    requests = make_requests(given.requests, device)
    about = facts(device)
    counts = [2**i for i in range(given.rows.bit_length())]
    parameters = sum(p.numel() for p in network.parameters())

    def call(rows: int) -> None:
        network(torch.ones(rows, *SHAPE[1:], device=device), torch.ones(rows, device=device))
        wait(device)

    with torch.no_grad():
        costs = {rows: best(partial(call, rows), given.seconds) for rows in counts}
        print(f"network of {parameters / 1e6:.0f} million parameters, {about['device']}, threads: {given.threads}\n")
        print(
            table(
                ["rows of a call", "milliseconds", "per row, over one row"],
                [[str(n), f"{1e3 * cost:.2f}", f"{cost / n / costs[1]:.2f}"] for n, cost in costs.items()],
            )
        )
        # first, so that nothing is made for the first time while times are taken
        alone(plain_denoiser(one_by_one), requests)
        for name in SERVERS:
            equal, mixed = equal_to_the_bit(name, one_by_one, requests, given.rows)
            assert equal == len(requests), f"{name}: {equal} of {len(requests)} are equal"
        filled, _ = equal_to_the_bit(CONTINUOUS, filled_up(network, given.rows), requests[:FEW], given.rows)
        for rows in range(1, given.rows + 1):
            call(rows)
        expected, capacity = alone(denoiser(network), requests)
        capacity = max(capacity, alone(denoiser(network), requests)[1])  # a busy machine can only make it smaller
        cells: list[dict[str, Any]] = []
        for load in given.loads:
            for name in SERVERS:
                figures, spans = served(name, network, requests, load * capacity, given.rows)
                figures["largest difference"] = largest_difference(spans, expected)
                cells.append({"server": name, "load": load, **figures})
                if load == max(given.loads):  # which is drawn
                    cells[-1]["spans"] = [(span.arrival, span.start, span.end) for span in spans]
    print(f"\n{len(requests)} requests; one after another: {capacity:.2f} images/s, which is load 1\n")
    header = ["server", "load", "images/s", "mean s", "p50", "p95", "rows/call", "calls", "outside, us/row", "differs"]
    body = [
        [
            cell["server"],
            f"{cell['load']:.1f}",
            f"{cell['images per second']:.2f}",
            *(f"{cell['latency'][key]:.2f}" for key in ("mean", "p50", "p95")),
            f"{cell['rows per call']:.1f}",
            str(cell["calls"]),
            f"{cell['outside per row']:.0f}",
            f"{cell['largest difference']:.0e}",
        ]
        for cell in cells
    ]
    print(table(header, body))
    print("\nresults of the continuous server that equal those of the request alone, bit for bit:")
    print(f"with a network that treats numbers one by one: {equal} of {len(requests)}, {mixed:.1f} rows per call")
    print(f"with a network that is always called with {given.rows} rows: {filled} of {FEW}")
    data = {
        **about,
        "shape": named(SHAPE),
        "parameters": parameters,
        "call_milliseconds": {rows: 1e3 * cost for rows, cost in costs.items()},
        "rows": given.rows,
        "capacity": capacity,
        "one_by_one": {"equal": equal, "of": len(requests), "rows per call": mixed},
        "filled_up": {"equal": filled, "of": FEW},
        "requests": [" ".join(map(str, request.key)) for request in requests],
        "cells": cells,
    }
    write(given.out, "batching" if device.type == "cpu" else f"batching_{device.type}", data)
    if device.type == "cpu" and importlib.util.find_spec("matplotlib"):
        plot(data, PICTURE if given.out == RESULTS else given.out / "batching.png")


if __name__ == "__main__":
    main()
