"""The plans that a tuned plan must beat: the pairs that are best in few model calls on some range of sigmas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ksched.names.enums import NoiseSchedule
from ksched.plan.plan import Plan
from ksched.processes import Flow, Process
from ksched.sampler import Sampler, build_sampler
from ksched.samplers.auto import AutoEnd, choose
from ksched.samplers.registry import AUTO, sampler_spec
from ksched.schedules import calculate_sigmas
from ksched.schedules.grid import Grid

__all__ = ["ENDS", "of_sampler", "shipped", "untuned"]


ENDS: tuple[AutoEnd, AutoEnd] = ("integral", "denoised")


_PC23: Mapping[str, Any] = {"predictor_order": 2, "corrector_order": 3, "end": "integral"}


_AYS_SDXL, _AYS_SVD = ({"model": model} for model in ("sdxl", "svd"))


#: sampler, its options, schedule, options of the schedule
_PAIRS: tuple[tuple[str, Mapping[str, Any], str, Mapping[str, Any]], ...] = (
    ("exp_pc", _PC23, "beta57", {}),
    ("exp_pc", _PC23, "gits", {}),
    ("exp_pc", _PC23, "align_your_steps", _AYS_SVD),
    ("exp_pc", {"end": "integral"}, "beta57", {}),
    ("exp_pc", {"end": "integral"}, "exponential", {}),
    ("exp_pc", {}, "simple", {}),
    ("uni_pc", {}, "exponential", {}),
    ("uni_pc", {}, "align_your_steps", _AYS_SDXL),
    ("dpmpp_2m", {}, "karras", {}),
    ("dpmpp_2m", {}, "exponential", {}),
    ("res_multistep", {}, "gits", {}),
    ("ipndm", {}, "karras", {}),
    ("ipndm", {}, "align_your_steps", _AYS_SVD),
    ("deis", {}, "karras", {}),
    ("gradient_estimation", {}, "karras", {}),
    ("gradient_estimation", {}, "sgm_uniform", {}),
    ("euler", {}, "simple", {}),
)


#: for runs from pure noise, where the first step is infinite in log-SNR
_FROM_NOISE: tuple[tuple[str, Mapping[str, Any], str, Mapping[str, Any]], ...] = (
    ("lms", {"end": "integral"}, "beta", {}),
    ("lms", {"end": "integral"}, "beta57", {}),
    ("lms", {}, "beta", {}),
    ("exp_pc", {**_PC23, "start_after": 1e-4}, "beta57", {}),
    ("sa_solver", {"tau": 0.0}, "beta", {}),
    ("deis", {}, "beta", {}),
    ("ipndm", {}, "beta", {}),
    ("uni_pc", {}, "beta57", {}),
    ("dpmpp_2m", {}, "simple", {}),
    ("gradient_estimation", {}, "beta", {}),
    ("euler", {}, "simple", {}),
)


def untuned(steps: int, process: Process, end: str | None) -> Iterator[tuple[str, Plan]]:
    """Plans of all pairs that can be built, with their names.

    Parameters
    ----------
    end : str or None
        "denoised" leaves out plans whose result is more than the last prediction.
    """
    noise = process.level(process.sigma_max).alpha == 0
    pairs = _FROM_NOISE if noise else _PAIRS
    for sampler, how, schedule, options in pairs if steps > 1 else pairs[-1:]:  # one step returns the prediction
        if end == "denoised" and how.get("end") == "integral":
            continue
        for shift in (1.0, 3.0) if noise and process.is_flow else (1.0,):
            try:
                sigmas = calculate_sigmas(schedule, steps, _shifted(process, shift), **options)
                plan = build_sampler(sampler, sigmas=sigmas, process=process, **how).plan
            except ValueError:
                continue  # a table without this number of steps, or a schedule for another process
            if plan.nfe == steps and plan.sigmas[0] == process.sigma_max:
                words = [f"{key}={value}" for key, value in {**how, **options}.items()]
                words += [f"shift={shift:g}"] if shift != 1 else []
                yield f"{sampler} + {schedule}" + (f" ({', '.join(words)})" if words else ""), plan


def _shifted(process: Process, shift: float) -> Process:
    """The process with the schedules of another shift; its states are the same."""
    if shift == 1:
        return process
    return Flow(shift * process.shift)


def shipped(
    steps: int, process: Process, data_std: float, end: AutoEnd | None, consistent: bool
) -> Iterator[tuple[str, Plan]]:
    """Shipped tables of `auto` for this process: of free rows, unless ``consistent``, and of means."""
    for how in ENDS if end is None else (end,):
        known = set[object]()
        for means in (True,) if consistent else (False, True):
            chosen = choose(steps, process, end=how, data_std=data_std, consistent=means)
            if chosen.table is None or chosen.table in known:
                continue
            name = f"auto ({how}, means)" if known else f"auto ({how})"
            known.add(chosen.table)
            options = (("end", how), ("data_std", data_std), ("consistent", means))
            yield name, Sampler(AUTO, Grid.of(chosen.sigmas, process), options).plan


def of_sampler(sampler: str, options: Mapping[str, Any], steps: int, process: Process) -> Iterator[tuple[str, Plan]]:
    """One sampler with every schedule that it can be built with."""
    spec = sampler_spec(sampler)
    for schedule in NoiseSchedule:
        try:
            sigmas = calculate_sigmas(schedule, steps, process)
            plan = build_sampler(spec.name, sigmas=sigmas, process=process, **options).plan
        except ValueError:
            continue
        if plan.steps == steps and plan.sigmas[0] == process.sigma_max and plan.sigmas[-1] == 0:
            yield f"{spec.name} + {schedule}", plan
