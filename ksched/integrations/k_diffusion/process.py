"""The process that a k-diffusion wrapper describes."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ksched.processes import EDM, VP, AngleV, Flow, Process

__all__ = ["process_of"]


# --------------------------------------------------------------------------------------------------------------- models
def process_of(model: Any) -> Process | None:
    """The process of a model, read from its wrappers.

    Parameters
    ----------
    model : object
        A `Denoiser` or another object with a ``process``; one of k-diffusion's wrappers, such as
        ``DiscreteEpsDDPMDenoiser`` with its table ``sigmas``, ``VDenoiser``, or the ``Denoiser`` of EDM's
        preconditioning; or a wrapper around one of these, with it as ``inner_model``. A process returns itself.

    Returns
    -------
    Process or None
        `VP`, `AngleV` or `EDM`; `Flow` for a table from above 0 to 1; None for anything else.
    """
    for _ in range(8):  # wrappers around wrappers
        if isinstance(model, Process):
            return model
        process = _part(model, "process")
        if isinstance(process, Process):
            return process
        sigmas = _part(model, "sigmas")
        if isinstance(sigmas, torch.Tensor) and sigmas.ndim == 1 and len(sigmas) > 1:
            return _process_of_table(tuple(sigmas.tolist()))
        if all(callable(_part(model, name)) for name in ("sigma_to_t", "t_to_sigma")):
            with contextlib.suppress(Exception):
                return AngleV() if abs(float(model.t_to_sigma(torch.tensor(0.5))) - 1) < 1e-5 else None
        if callable(_part(model, "get_scalings")) and _part(model, "sigma_data") is not None:
            return EDM(sigma_data=float(_part(model, "sigma_data")))
        model = _part(model, "inner_model")
    return None


def _part(model: Any, name: str) -> Any:
    """An attribute; None if there is none or its property raises an error."""
    with contextlib.suppress(Exception):
        return getattr(model, name)
    return None


@lru_cache(maxsize=16)
def _process_of_table(sigmas: tuple[float, ...]) -> Process | None:
    """The process with this training table."""
    table = np.array(sigmas)
    if not (table[0] > 0 and np.isfinite(table).all() and (np.diff(table) > 0).all()):
        return None
    if table[-1] == 1:  # a flow; a table of betas would go on to far more noise
        time = np.arange(1, len(table) + 1) / len(table)
        middle = len(table) // 2 - 1
        flow = Flow(float(table[middle] * (1 - time[middle]) / (time[middle] * (1 - table[middle]))), len(table))
        return flow if np.allclose(flow.sigmas, table, rtol=1e-3) else None
    alpha_bar = 1 / (1 + table**2)
    return VP(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]))
