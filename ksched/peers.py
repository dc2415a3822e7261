"""What other programs call their noise schedules, and what gives the same levels here: the table `PEERS`.

A row with no schedule says that there is none, and why. Rows of `Dialect.A1111` whose name ends in "(Forge)" or
"(reForge)" exist, or differ, in that descendant alone. Where levels are not the program's own, the note says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ksched.processes import Process
from ksched.schedules import calculate_sigmas
from ksched.types import Array, Dialect, NoiseSchedule, _key

__all__ = ["PEERS", "Peer", "find_peer", "peer_sigmas"]

_NONE: Mapping[str, Any] = MappingProxyType({})


class Peer(NamedTuple):
    """One name of another program."""

    program: Dialect
    name: str
    schedule: NoiseSchedule | None
    options: Mapping[str, Any] = _NONE
    note: str = ""

    @property
    def dialect(self) -> Dialect:
        """The dialect to read our name in: the program's own."""
        return self.program

    @property
    def call(self) -> str:
        """What to write for it: a call of `calculate_sigmas`; empty if there is no schedule."""
        if self.schedule is None:
            return ""
        options = "".join(f", {name}={value!r}".replace("'", '"') for name, value in self.options.items())
        return f'calculate_sigmas("{self.schedule}", steps, process, dialect="{self.dialect}"{options})'


_C, _K, _D, _A = Dialect.COMFYUI, Dialect.K_DIFFUSION, Dialect.DIFFUSERS, Dialect.A1111
_N = NoiseSchedule

_HANDLERS = (
    Peer(_C, "simple", _N.SIMPLE),
    Peer(_C, "sgm_uniform", _N.SGM_UNIFORM),
    Peer(_C, "karras", _N.KARRAS),
    Peer(_C, "exponential", _N.EXPONENTIAL),
    Peer(_C, "ddim_uniform", _N.DDIM_UNIFORM, note="may have more steps than asked for"),
    Peer(_C, "beta", _N.BETA, note="may have fewer steps than asked for"),
    Peer(_C, "normal", _N.NORMAL),
    Peer(_C, "linear_quadratic", _N.LINEAR_QUADRATIC),
    Peer(_C, "kl_optimal", _N.KL_OPTIMAL, note="one step is NaN there"),
)
_NODES = (
    Peer(_C, "BasicScheduler", None, note="runs one of the names above; its denoise is `stretch`"),
    Peer(_C, "KarrasScheduler", _N.KARRAS, note="sigma_max and sigma_min are its own, 14.614642 and 0.0291675"),
    Peer(_C, "ExponentialScheduler", _N.EXPONENTIAL, note="range as KarrasScheduler"),
    Peer(_C, "PolyexponentialScheduler", _N.POLYEXPONENTIAL, note="range as KarrasScheduler"),
    Peer(_C, "VPScheduler", _N.VP, note="sigma 152 to 0.0105 whatever the model"),
    Peer(_C, "LaplaceScheduler", _N.LAPLACE, note="range as KarrasScheduler; ends without a 0"),
    Peer(_C, "SDTurboScheduler", _N.SD_TURBO, note="at most 10 steps there; its denoise is `truncate`"),
    Peer(_C, "BetaSamplingScheduler", _N.BETA),
    Peer(_C, "AlignYourStepsScheduler", _N.ALIGN_YOUR_STEPS, note='model is "sd1", "sdxl" or "svd"'),
    Peer(_C, "GITSScheduler", _N.GITS, note="its coeff is coefficient"),
    Peer(_C, "OptimalStepsScheduler", _N.OPTIMAL_STEPS, note='model is "flux", "wan" or "chroma"'),
    Peer(_C, "LTXVScheduler", _N.LTXV, note="tokens is the length of its latent; one step is NaN there"),
    Peer(_C, "Flux2Scheduler", _N.FLUX2),
    Peer(_C, "Ideogram4", None, note="made for one model"),
    Peer(_C, "ManualSigmas", None, note="give the list itself: `build_sampler(..., sigmas=[...])`"),
    Peer(_C, "SplitSigmas", None, note="changes levels that are given: `split`"),
    Peer(_C, "SplitSigmasDenoise", None, note="changes levels that are given: `split_at_strength`"),
    Peer(_C, "FlipSigmas", None, note="changes levels that are given: `flip`"),
    Peer(_C, "SetFirstSigma", None, note="changes levels that are given: `set_first`"),
    Peer(_C, "ExtendIntermediateSigmas", None, note="changes levels that are given: `extend`"),
)
_RES4LYF = (
    Peer(_C, "bong_tangent", _N.BONG_TANGENT, note="of RES4LYF; from 1 to 0 there whatever the model, as for flow"),
    Peer(_C, "beta57", _N.BETA57, note="of RES4LYF; may have fewer steps than asked for"),
    Peer(_C, "tan_scheduler", None, note="of RES4LYF, with some eighty nodes of curves to be drawn by hand"),
)
_K_DIFFUSION = (
    Peer(_K, "get_sigmas_karras", _N.KARRAS),
    Peer(_K, "get_sigmas_exponential", _N.EXPONENTIAL),
    Peer(_K, "get_sigmas_polyexponential", _N.POLYEXPONENTIAL),
    Peer(_K, "get_sigmas_vp", _N.VP, note="sigma 152 to 0.0105 whatever the model"),
    Peer(_K, "DiscreteSchedule.get_sigmas", _N.NORMAL, note="without a number: `process.sigmas[::-1]`, then 0"),
)
_LINEAR = "sigma is linear between two timesteps there, which moves levels by less than 0.01 %"
_ROUNDED = "timesteps are rounded there, which moves levels by up to 1 %"
_DIFFUSERS = (
    Peer(
        _D,
        "linspace",
        _N.NORMAL,
        note=f"Euler, Heun, LMS, KDPM2 and SDE classes; {_LINEAR}; one step starts at the cleanest",
    ),
    Peer(_D, "linspace (DDIM, DDPM)", _N.NORMAL, note=_ROUNDED),
    Peer(_D, "linspace (multistep)", _N.SGM_UNIFORM, note=f"DPM-Solver, UniPC, DEIS and SA classes; {_ROUNDED}"),
    Peer(
        _D,
        "leading",
        _N.LEADING,
        note="steps_offset is 1 as for Stable Diffusion (the classes' own is 0); one step starts at the cleanest there",
    ),
    Peer(
        _D,
        "leading (multistep)",
        None,
        note="strides of 1000 // (steps + 1): `drop_penultimate` of `leading` with a step more",
    ),
    Peer(_D, "trailing", _N.TRAILING),
    Peer(
        _D,
        "use_karras_sigmas",
        _N.KARRAS,
        note="Euler, Heun, LMS, KDPM2 and SDE classes stay between the first and last level of timestep_spacing; "
        "multistep classes take the whole range and round timesteps",
    ),
    Peer(_D, "use_exponential_sigmas", _N.EXPONENTIAL, note="range as use_karras_sigmas"),
    Peer(_D, "use_lu_lambdas", _N.EXPONENTIAL, note=_ROUNDED),
    Peer(_D, "use_beta_sigmas", _N.BETA, note="range as use_karras_sigmas"),
    Peer(
        _D,
        "use_flow_sigmas",
        _N.SIMPLE,
        note="on `Flow(flow_shift)`; starts a training step below pure noise there: up to 0.1 % apart (UniPC 5 %)",
    ),
    Peer(_D, "sigma_schedule=karras", _N.KARRAS, note="EDM classes, on `EDM()`"),
    Peer(_D, "sigma_schedule=exponential", _N.EXPONENTIAL, note="EDM classes, on `EDM()`"),
    Peer(
        _D,
        "FlowMatchEulerDiscreteScheduler",
        _N.NORMAL,
        {"shift_twice": True},
        "on `Flow(shift)`, without use_dynamic_shifting; shifts the ends of the range once more",
    ),
    Peer(
        _D,
        "use_dynamic_shifting",
        _N.SIMPLE,
        note="on `Flow.of_mu(mu)`, with the sigmas that pipelines give, linspace(1, 1 / steps, steps)",
    ),
    Peer(_D, "LCMScheduler", _N.SIMPLE, note="and TCDScheduler, on `VP(every=20)`"),
    Peer(_D, "AysSchedules", _N.ALIGN_YOUR_STEPS, note='its sigmas; model is "sd1", "sdxl" or "svd"'),
    Peer(_D, "shift_terminal", None, note="changes levels that are given: `stretch_terminal`"),
    Peer(_D, "invert_sigmas", None, note="changes levels that are given: `1 - sigmas`"),
    Peer(_D, "rescale_betas_zero_snr", None, note="belongs to the process: `VP(zero_terminal_snr=True)`"),
    Peer(
        _D, "final_sigmas_type=sigma_min", None, note="repeats the last level, a step of no length; here 0 follows it"
    ),
)
_FORGE_TABLE: Mapping[str, Any] = {"fit_range": False, "last": "keep"}
_LABELS = (
    Peer(_A, "Automatic", None, note="the schedule of the sampler's label: `parse_label`"),
    Peer(_A, "Uniform", _N.NORMAL),
    Peer(_A, "Karras", _N.KARRAS),
    Peer(_A, "Exponential", _N.EXPONENTIAL),
    Peer(_A, "Polyexponential", _N.POLYEXPONENTIAL),
    Peer(_A, "SGM Uniform", _N.SGM_UNIFORM),
    Peer(_A, "KL Optimal", _N.KL_OPTIMAL, note="ends at sigma_min, without a 0"),
    Peer(_A, "Align Your Steps", _N.ALIGN_YOUR_STEPS, note='model="sdxl" for SDXL'),
    Peer(_A, "Simple", _N.SIMPLE),
    Peer(_A, "Normal", _N.NORMAL),
    Peer(_A, "DDIM", _N.DDIM_UNIFORM, note="may have more steps than asked for"),
    Peer(_A, "Beta", _N.BETA, note="and Forge"),
    Peer(
        _A,
        "Beta (reForge)",
        _N.BETA,
        {"domain": "table", "entries": "always"},
        "ComfyUI's form; may have fewer steps than asked for",
    ),
    Peer(_A, "Turbo", _N.TRAILING, note="of Forge and reForge; a stride that ends half way may be rounded otherwise"),
    Peer(
        _A,
        "Align Your Steps GITS",
        _N.ALIGN_YOUR_STEPS,
        {"version": "forge_gits", **_FORGE_TABLE},
        'of Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(
        _A,
        "Align Your Steps 11",
        _N.ALIGN_YOUR_STEPS,
        {"version": "forge_11", **_FORGE_TABLE},
        'of Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(
        _A,
        "Align Your Steps 32",
        _N.ALIGN_YOUR_STEPS,
        {"version": "forge_32", **_FORGE_TABLE},
        'of Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(_A, "Cosine (reForge)", _N.COSINE, note="one step starts from the root of sigma_max there"),
    Peer(_A, "Phi (reForge)", _N.PHI, note="one step starts from the root of sigma_max there"),
    Peer(_A, "Laplace (reForge)", _N.LAPLACE, {"ends": "clamp"}, "a 0 follows there"),
    Peer(_A, "Sinusoidal SF (reForge)", None, note="ends far below what was trained, without a 0"),
    Peer(_A, "Invcosinusoidal SF (reForge)", None, note="ends far below what was trained, without a 0"),
    Peer(_A, "React Cosinusoidal DynSF (reForge)", None, note="neither starts at sigma_max nor ends in a 0"),
    Peer(_A, "Cosine-exponential Blend (reForge)", None, note="rises towards its end"),
    Peer(_A, "Karras Dynamic (reForge)", None, note="starts far above sigma_max"),
    Peer(
        _A,
        "Align Your Steps Custom (reForge)",
        None,
        note="give the list itself: `build_sampler(..., sigmas=[...])`",
    ),
)

#: every name, in the order of the programs
PEERS: tuple[Peer, ...] = (*_HANDLERS, *_NODES, *_RES4LYF, *_K_DIFFUSION, *_DIFFUSERS, *_LABELS)


def _name_key(name: str) -> str:
    key = _key(name)
    return f"alignyoursteps{key[3:]}" if key.startswith("ays") and key != "aysschedules" else key


_KNOWN: Mapping[tuple[Dialect, str], Peer] = {(peer.program, _name_key(peer.name)): peer for peer in PEERS}


def find_peer(program: Dialect | str, name: str) -> Peer:
    """The row of a program's name for a schedule.

    Parameters
    ----------
    program : a `Dialect` other than ours
    name : what that program calls it, whatever the case and punctuation: a scheduler or node of ComfyUI, a function of
        k-diffusion, a flag, spacing or class of diffusers, a label of A1111, Forge or reForge

    Raises
    ------
    TypeError : not strings
    ValueError : the program has no such name; the message lists near ones
    """
    program = Dialect.parse(program)
    if not isinstance(name, str):
        raise TypeError(f"a schedule of {program} is named by a string; got {name!r}")
    found = _KNOWN.get((program, _name_key(name)))
    if found is not None:
        return found
    own = {key: peer.name for (owner, key), peer in _KNOWN.items() if owner is program}
    near = [own[key] for key in difflib.get_close_matches(_name_key(name), own, n=4, cutoff=0.5)]
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif own:
        hint = f"known: {', '.join(own.values())}."
    else:
        hint = "these are the names of other programs: take calculate_sigmas."
    raise ValueError(f"{program} has no schedule {name!r}; {hint}")


def peer_sigmas(program: Dialect | str, name: str, steps: int, process: Process | None = None, **options: Any) -> Array:
    """Noise levels of a run by another program's name for the schedule.

    Parameters
    ----------
    program, name : as for `find_peer`
    steps, process, options : as for `calculate_sigmas`; options go before those of the table

    Returns
    -------
    as `calculate_sigmas`

    Raises
    ------
    TypeError, ValueError : as for `find_peer` and `calculate_sigmas`; or a name that has no schedule here, and why
    """
    peer = find_peer(program, name)
    if peer.schedule is None:
        raise ValueError(f"{peer.program}'s {peer.name!r} is no schedule here: {peer.note}")
    return calculate_sigmas(peer.schedule, steps, process, dialect=peer.dialect, **{**peer.options, **options})
