"""Scanned digits as a data set whose denoiser is exact."""

from __future__ import annotations

import io
from functools import lru_cache
from importlib import resources

import numpy as np

from ksched.exact.mixture import GaussianMixture
from ksched.processes import Process, default_process

__all__ = ["digits"]


def digits(process: Process | None = None) -> GaussianMixture:
    """Handwritten digits, 8x8 pixels, paper -1 and ink 1: a mixture of 50 fitted to real ones, labelled 0 to 9.

    Parameters
    ----------
    process : what a state at sigma is; None is `default_process`, states ``x0 + sigma * eps``

    Notes
    -----
    Fitted by ``benchmarks/fit_digits.py`` to scikit-learn's ``load_digits`` (Alpaydin and Kaynak 1998, UCI repository).
    It does not change, so it is made once for each process.
    """
    return _digits(default_process() if process is None else process)


@lru_cache(maxsize=8)
def _digits(process: Process) -> GaussianMixture:
    packed = io.BytesIO((resources.files("ksched") / "data" / "digits.npz").read_bytes())
    with np.load(packed, allow_pickle=False) as file:
        parts = {name: file[name].astype(np.float64) for name in ("weights", "means", "factors", "labels")}
    factors = np.zeros((len(parts["means"]), 64, 64))
    factors[:, *np.tril_indices(64)] = parts["factors"]
    covariances = factors @ factors.swapaxes(1, 2)
    labels = [int(label) for label in parts["labels"]]
    return GaussianMixture(parts["weights"], parts["means"], covariances, process, labels=labels)
