"""The levels of models that were distilled for a list of timesteps."""

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
    """The noise levels that a distilled model means by its list of timesteps ("denoising steps").

    Parameters
    ----------
    timesteps : falling, above 0, of 1000 for flow models; a 0 at the end is read as the end
    shift : of a flow model
    rule : how a flow model's list is read. "warp": timesteps before the shift, which they are given here; "nearest":
        after the shift, each moved to the nearest of the 1000 shifted levels; "as_is": after the shift, and run as they
        are; "angles": `TrigFlow`'s angles, at most pi / 2, each as the level of as much noise to the data
    process : of a model that is no flow model, whose table says which sigma a timestep is; it takes no shift and no
        rule

    Returns
    -------
    float64 array, one longer than the list: levels from the first to 0, for ``build_sampler(..., sigmas=)``

    Raises
    ------
    TypeError, ValueError : a list that does not fall, timesteps out of range, an unknown rule, a shift beside a process

    Notes
    -----
    Which program means what: "warp" is Self-Forcing's ``warp_denoising_step``, LightX2V's ``denoising_step_list`` (also
    of Wan 2.2 Lightning) and FastVideo's causal models. "nearest" is FastVideo's DMD and CausVid, on a table of shift
    8, whose networks are told the timesteps as they are listed. "as_is" is LTX-Video's and LTX-2's lists. "angles" is
    rCM's on Wan. With a process it is SDXL-Lightning, SDXL-Turbo and DMD2, and sCM on `TrigFlow`.

    Most of these models are noised anew at every level, which is sampler ``lcm``; Wan 2.2 Lightning, LTX-2,
    SDXL-Lightning and Turbo step by ``euler`` or ``euler_ancestral``: see `ksched.recipes`.

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
        raise ValueError(f"few_step: timesteps must have one above 0; got {timesteps!r}")
    Option("rule", Rule, "warp").check("few_step", rule)
    shift = Option("shift", float, 1.0, sys.float_info.min, 1e6).check("few_step", shift)
    if process is not None and not process.is_flow:
        if shift != 1 or rule != "warp":
            raise ValueError(f"few_step: shift and rule are of flow models; leave them out for {process!r}")
        return check_sigmas(np.append(process.sigma(values), 0.0), process.sigma_limit)
    scale = 1000.0 if process is None else float(getattr(process, "timestep_scale", 1000.0))
    if rule == "angles":
        scale = round(np.pi / 2, 4)  # as programs write it, in four or five digits
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
