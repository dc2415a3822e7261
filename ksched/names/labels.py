"""Labels that name a sampler and a schedule at once, as A1111 prints them."""

from __future__ import annotations

from ksched.names.enums import NoiseSchedule, SamplerType
from ksched.names.sampler_type import AUTOMATIC
from ksched.names.spelling import spelling_key

__all__ = ["parse_label"]


def parse_label(label: str) -> tuple[SamplerType, NoiseSchedule]:
    """Sampler and schedule of a label as A1111 and related programs print it.

    Parameters
    ----------
    label : str
        Sampler name, optionally followed by a schedule name: "DPM++ 2M SDE Karras", "Euler a".

    Returns
    -------
    tuple of (SamplerType, NoiseSchedule)
        (sampler, schedule). If the label names no schedule, it is the one that A1111's "Automatic" uses for that
        sampler.

    Raises
    ------
    TypeError
        If ``label`` is not a string.
    ValueError
        If the label does not consist of a sampler and a schedule; the message lists similar sampler names.
    """
    if not isinstance(label, str):
        raise TypeError(f"label must be a string such as 'DPM++ 2M Karras'; got {label!r}")
    words = label.split() if " " in label.strip() else label.replace("_", " ").split()
    for cut in range(len(words), 0, -1):
        head, tail = " ".join(words[:cut]), " ".join(words[cut:])
        try:
            sampler = SamplerType.parse(head)
            schedule = NoiseSchedule.parse(tail) if tail and spelling_key(tail) != "automatic" else None
        except ValueError:
            continue
        # every other label without a schedule runs on A1111's uniform one
        return sampler, schedule or NoiseSchedule(AUTOMATIC.get(sampler, NoiseSchedule.NORMAL))
    return SamplerType.parse(label), NoiseSchedule.default()  # raises an error with similar names
