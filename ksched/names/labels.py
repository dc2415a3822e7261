"""Labels that name a sampler and a schedule at once, as A1111 prints them."""

from __future__ import annotations

from ksched.names.enums import NoiseSchedule, SamplerType
from ksched.names.sampler_type import AUTOMATIC
from ksched.names.spelling import spelling_key

__all__ = ["parse_label"]


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
    words = label.split() if " " in label.strip() else label.replace("_", " ").split()
    for cut in range(len(words), 0, -1):
        head, tail = " ".join(words[:cut]), " ".join(words[cut:])
        try:
            sampler = SamplerType.parse(head)
            schedule = NoiseSchedule.parse(tail) if tail and spelling_key(tail) != "automatic" else None
        except ValueError:
            continue
        # every label without a schedule of its own runs A1111's uniform one
        return sampler, schedule or NoiseSchedule(AUTOMATIC.get(sampler, NoiseSchedule.NORMAL))
    return SamplerType.parse(label), NoiseSchedule.default()  # raises, with the nearest names
