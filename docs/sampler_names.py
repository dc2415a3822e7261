"""Writes ``ksched/names/sampler_type.py``, the names of the registered samplers.

Run ``python docs/sampler_names.py`` whenever the registrations change. Members keep their order; new ones come last.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import ksched
from ksched import NoiseSchedule
from ksched.names.spelling import spelling_key
from ksched.samplers.registry import samplers
from ksched.samplers.spec import SamplerSpec

__all__ = ["sampler_names"]

FILE = Path(ksched.__file__).parent / "names" / "sampler_type.py"
WIDTH = 120
NO_BREAK = "\N{NO-BREAK SPACE}"  # stands for spaces within a name while lines are wrapped
HEAD = '''\
"""The names of the samplers in ksched. ``python docs/sampler_names.py`` writes this file from their registrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ksched.names.absent import SAMPLERS_ELSEWHERE
from ksched.names.name import Name

__all__ = ["AUTOMATIC", "SAMPLER_SPELLINGS", "SamplerName", "SamplerType", "ScheduleName"]

# fmt: off


class SamplerType(Name):
    """The sampler (solver) of a run; the values are ComfyUI's names."""
'''
METHODS = '''
    @classmethod
    def default(cls) -> SamplerType:
        """The sampler used when none is named."""
        return cls.EULER

    @classmethod
    def _kind(cls) -> str:
        return "sampler"

    @classmethod
    def _spellings(cls) -> Mapping[str, str]:
        return {word: name for name, words in SAMPLER_SPELLINGS.items() for word in words}

    @classmethod
    def _absent(cls) -> Mapping[str, str]:
        return SAMPLERS_ELSEWHERE
'''


def sampler_names() -> str:
    """The file."""
    specs = list(samplers())
    lines = [HEAD.rstrip("\n"), "", *(f'    {spec.name.upper()} = "{spec.name}"' for spec in specs), METHODS, ""]
    lines += [
        "#: `SamplerType` as text, for annotations",
        *listed("SamplerName = Literal[", [spec.name for spec in specs], "]"),
        "",
    ]
    lines += ["#: `ksched.NoiseSchedule` as text", *listed("ScheduleName = Literal[", list(NoiseSchedule), "]"), "", ""]
    lines += ["#: names of the same sampler in other programs"]
    lines += ["SAMPLER_SPELLINGS: Mapping[str, tuple[str, ...]] = {"]
    for spec in specs:
        lines += listed(f"    {json.dumps(spec.name)}: (", words(spec), "),") if words(spec) else []
    lines += ["}", "", "#: schedules that A1111 selects by itself for some of its sampler labels"]
    lines += ["AUTOMATIC: Mapping[str, str] = {"]
    for spec in specs:
        lines += [f'    "{spec.name}": "{peer.schedule}",' for peer in spec.peers if peer.schedule]
    return "\n".join([*lines, "}"]) + "\n"


def words(spec: SamplerSpec) -> list[str]:
    """Other spellings of a sampler's name, without those that differ only in case and punctuation."""
    found = {spelling_key(word): word for word in reversed(spec.words)}
    return [word for key, word in reversed(found.items()) if key != spelling_key(spec.name)]


def listed(before: str, words: Sequence[str], after: str) -> list[str]:
    """Quoted words separated by commas, on as few lines as possible."""
    indent = before[: len(before) - len(before.lstrip())]
    quoted = [f"{json.dumps(word).replace(' ', NO_BREAK)}," for word in words]
    whole = f"{before}{' '.join(quoted)}{after}"
    if len(whole) <= WIDTH:
        return [whole.replace(NO_BREAK, " ")]
    inner = textwrap.wrap(" ".join(quoted), WIDTH - len(indent) - 4, break_long_words=False, break_on_hyphens=False)
    return [before, *(f"{indent}    {line.replace(NO_BREAK, ' ')}" for line in inner), f"{indent}{after}"]


if __name__ == "__main__":
    FILE.write_text(sampler_names(), encoding="utf-8")
