"""Short runs, compared with the results recorded in ``data/self_check.json``.

A deterministic and a stochastic sampler run on NumPy and, if torch is installed, on each of its devices. The model is
the exact denoiser of a Gaussian mixture with means 1 and -1 in every coordinate. The file has the return value of
`recorded` as JSON. Write it again only if results change on purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ksched.arrays import initial_state, run
from ksched.sampler import Sampler, build_sampler
from ksched.storage.texts import parse_json

__all__ = ["RECORD", "Check", "recorded", "self_check"]

RECORD = Path(__file__).parents[1] / "data" / "self_check.json"
_RUNS = (("dpmpp_2m", "karras", 8), ("dpmpp_2m_sde", "karras", 8))
_SHAPE, _SEED = (2, 3), 7
_EXACT, _SINGLE = 1e-9, 1e-4  # tolerances in float64, and in float32, where a GPU adds in another order


@dataclass(frozen=True)
class Check:
    """One comparison: the run and its device, its error against the record, and the tolerance."""

    what: str
    where: str
    error: float | None
    tolerance: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the results agree."""
        return self.error is not None and self.error <= self.tolerance

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}


def recorded() -> dict[str, Any]:
    """Return the results of this installation, in the form of the record."""
    made = {}
    for name, schedule, steps in _RUNS:
        sampler = build_sampler(name, schedule, steps)
        made[_named(sampler)] = {"start": _digest(_start(sampler)), "result": _on_numpy(sampler).tolist()}
    return made


def self_check(devices: Sequence[str] = ()) -> Iterator[Check]:
    """Compare runs on NumPy and on torch devices with the record.

    Parameters
    ----------
    devices : sequence of str
        Torch devices, such as "cpu"; empty if torch is not installed.
    """
    samplers = {name: build_sampler(name, schedule, steps) for name, schedule, steps in _RUNS}
    try:
        record = parse_json(RECORD.read_text(encoding="utf-8"))
        records = {name: record[_named(sampler)] for name, sampler in samplers.items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        yield Check("the recorded results", "numpy", None, 0.0, f"{RECORD} cannot be read: {error}")
        return
    for name, sampler in samplers.items():
        wanted = records[name]
        same = _digest(_start(sampler)) == wanted["start"]
        yield Check(f"start noise of {name}", "numpy", 0.0 if same else 1.0, 0.0, "" if same else "other bits")
        yield _compared(name, "numpy", wanted["result"], _EXACT, partial(_on_numpy, sampler))
        for device in devices:
            yield _compared(name, device, wanted["result"], _SINGLE, partial(_on_torch, sampler, device))


def _compared(name: str, where: str, wanted: Any, tolerance: float, result: Callable[[], Any]) -> Check:
    """Compare one run with its record; a run that raises is a failed check."""
    try:
        error = float(np.abs(np.asarray(result()) - np.asarray(wanted)).max())
    except Exception as failure:  # a broken installation can raise anything
        return Check(name, where, None, tolerance, " ".join(f"{type(failure).__name__}: {failure}".split()))
    if not np.isfinite(error):
        return Check(name, where, None, tolerance, "the result has nan or inf")
    return Check(name, where, error, tolerance)


def _named(sampler: Sampler) -> str:
    return f"{sampler.spec.name} {sampler.schedule} {sampler.steps}"


def _start(sampler: Sampler) -> Any:
    return initial_state(sampler, _SHAPE, seed=_SEED)


def _digest(state: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(state, "<f4").tobytes()).hexdigest()


def _denoised(x: Any, sigma: Any, tanh: Callable[[Any], Any]) -> Any:
    """Return the mean of x0, given x at noise level sigma, for a mixture with means 1 and -1 and variance 0.25."""
    spread = 0.25 + sigma**2
    return (0.25 * x + sigma**2 * tanh(x / spread)) / spread


def _on_numpy(sampler: Sampler) -> Any:
    start = _start(sampler).astype(np.float64)
    return run(sampler, lambda x, sigma: _denoised(x, sigma, np.tanh), start, seed=_SEED)


def _on_torch(sampler: Sampler, device: str) -> Any:
    import torch

    start = torch.from_numpy(_start(sampler)).to(device)
    result = sampler.sample(lambda x, sigma: _denoised(x, sigma.reshape(-1, 1), torch.tanh), start, seed=_SEED)
    return result.cpu().double().numpy()
