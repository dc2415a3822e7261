"""Labels that name a sampler and a schedule at once, as A1111 prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from ksched.names.enums import NoiseSchedule, SamplerType, spelling_key

__all__ = ["parse_label"]


# The schedule A1111 picks for a label that names none ("Automatic"); every other label runs its uniform schedule.
_AUTOMATIC: dict[SamplerType, NoiseSchedule] = {
    SamplerType.DPMPP_2M: NoiseSchedule.KARRAS,
    SamplerType.DPMPP_2S_ANCESTRAL: NoiseSchedule.KARRAS,
    SamplerType.DPMPP_SDE: NoiseSchedule.KARRAS,
    SamplerType.DPM_2: NoiseSchedule.KARRAS,
    SamplerType.DPM_2_ANCESTRAL: NoiseSchedule.KARRAS,
    SamplerType.RESTART: NoiseSchedule.KARRAS,
    SamplerType.DPMPP_2M_SDE: NoiseSchedule.EXPONENTIAL,
    SamplerType.DPMPP_2M_SDE_HEUN: NoiseSchedule.EXPONENTIAL,
    SamplerType.DPMPP_3M_SDE: NoiseSchedule.EXPONENTIAL,
    SamplerType.DDIM: NoiseSchedule.DDIM_UNIFORM,
    SamplerType.UNI_PC: NoiseSchedule.DDIM_UNIFORM,
    SamplerType.PNDM: NoiseSchedule.DDIM_UNIFORM,
}


def parse_label(label: str) -> tuple[SamplerType, NoiseSchedule]:
    """Sampler and schedule of a label as A1111 and its relatives print it.

    Parameters
    ----------
    label : sampler name, then optionally a schedule name: "DPM++ 2M SDE Karras", "Euler a"

    Returns
    -------
    (sampler, schedule); where the label names no schedule, the one A1111's "Automatic" takes for that sampler

    Raises
    ------
    TypeError : ``label`` is not a string
    ValueError : no split of the words names a sampler and a schedule; the message lists near sampler names
    """
    if not isinstance(label, str):
        raise TypeError(f"a label is a string such as 'DPM++ 2M Karras'; got {label!r}")
    words = label.split()
    for cut in range(len(words), 0, -1):
        head, tail = " ".join(words[:cut]), " ".join(words[cut:])
        try:
            sampler = SamplerType.parse(head)
            schedule = NoiseSchedule.parse(tail) if tail and spelling_key(tail) != "automatic" else None
        except ValueError:
            continue
        return sampler, schedule or _AUTOMATIC.get(sampler, NoiseSchedule.NORMAL)
    SamplerType.parse(label)  # raises, with the nearest names
    raise AssertionError("unreachable")
