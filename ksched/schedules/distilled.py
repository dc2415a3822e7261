"""Noise levels of models that were distilled for a fixed list of timesteps."""

from __future__ import annotations

import sys
from typing import Literal

import numpy as np

from ksched.options import Option
from ksched.processes import Flow, Process
from ksched.schedules.grid import as_numbers, check_sigmas
from ksched.types import Array, ArrayLike

__all__ = ["few_step"]

Rule = Literal["warp", "nearest", "as_is", "angles"]


def few_step(timesteps: ArrayLike, *, shift: float = 1.0, rule: Rule = "warp", process: Process | None = None) -> Array:
    """The noise levels behind a distilled model's list of timesteps ("denoising steps").

    Parameters
    ----------
    timesteps : array_like
        Falling, above 0, out of 1000 for flow models; a final 0 marks the end.
    shift : float
        Shift of a flow model.
    rule : str
        How to read a flow model's list. "warp": timesteps before the shift, which is then applied; "nearest": timesteps
        after the shift, each moved to the nearest of the 1000 shifted levels; "as_is": timesteps after the shift,
        unchanged; "angles": `TrigFlow`'s angles, at most pi / 2, each as the level of the same noise-to-data ratio.
    process : Process or None
        For a model that is not a flow model: its table gives the sigma of each timestep. It takes no shift and no rule.

    Returns
    -------
    float64 array, one longer than the list: levels down to 0, for ``build_sampler(..., sigmas=)``

    Raises
    ------
    TypeError, ValueError
        For a list that does not fall, timesteps out of range, an unknown rule, a shift with a process.

    Notes
    -----
    Which program uses which rule: "warp" is Self-Forcing's ``warp_denoising_step``, LightX2V's ``denoising_step_list``
    (also for Wan 2.2 Lightning) and FastVideo's causal models. "nearest" is FastVideo's DMD and CausVid, on a table
    with shift 8; their networks get the timesteps as listed. "as_is" is for the lists of LTX-Video and LTX-2. "angles"
    is rCM's rule on Wan. With a process it covers SDXL-Lightning, SDXL-Turbo and DMD2, and sCM on `TrigFlow`.

    Most of these models add fresh noise at every level, which is the sampler ``lcm``. Wan 2.2 Lightning, LTX-2,
    SDXL-Lightning and Turbo use ``euler`` or ``euler_ancestral``: see `ksched.recipes`.

    Examples
    --------
    >>> import ksched
    >>> ksched.few_step([1000, 750, 500, 250], shift=5).round(4)
    array([1.    , 0.9375, 0.8333, 0.625 , 0.    ])
    >>> ksched.few_step([999, 749, 499, 249], process=ksched.VP()).round(4)
    array([14.6146,  4.0817,  1.6129,  0.6932,  0.    ])
    """
    values = check_sigmas(as_numbers(timesteps), sys.float_info.max)
    values = values[values > 0]
    if not len(values):
        raise ValueError(f"few_step: timesteps must contain at least one above 0; got {timesteps!r}")
    Option("rule", Rule, "warp").check("few_step", rule)
    shift = Option("shift", float, 1.0, sys.float_info.min, 1e6).check("few_step", shift)
    if process is not None and not process.is_flow:
        if shift != 1 or rule != "warp":
            raise ValueError(f"few_step: shift and rule apply to flow models only; leave them out for {process!r}")
        return check_sigmas(np.append(process.sigma(values), 0.0), process.sigma_limit)
    scale = 1000.0 if process is None else float(getattr(process, "timestep_scale", 1000.0))
    if rule == "angles":
        scale = round(np.pi / 2, 4)  # programs write pi / 2 with four or five digits
    if values[0] > scale:
        raise ValueError(f"few_step: timesteps must be at most {scale:g}; got {values[0]:g}")
    shares = values / scale
    if rule == "angles":
        angles = np.minimum(values, np.pi / 2)
        shares = np.sin(angles) / (np.sin(angles) + np.cos(angles))
    elif rule == "warp":
        shares = Flow(shift).sigma_at(shares)
    elif rule == "nearest":
        table = Flow(shift).sigmas
        shares = table[np.abs(table - shares[:, None]).argmin(1)]
    return check_sigmas(np.append(shares, 0.0), 1.0)
