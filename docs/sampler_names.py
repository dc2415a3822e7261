"""Writes ``ksched/names/sampler_type.py``, the names that follow from the registrations: run it after a change of them.

``python docs/sampler_names.py``. Members keep the order that they have; new ones come last.
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
NO_BREAK = "\N{NO-BREAK SPACE}"  # within a word, while lines are broken
HEAD = '''\
"""The names of samplers that ship. ``python docs/sampler_names.py`` writes this file from their registrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ksched.names.absent import SAMPLERS_ELSEWHERE
from ksched.names.name import Name

__all__ = ["AUTOMATIC", "SAMPLER_SPELLINGS", "SamplerName", "SamplerType", "ScheduleName"]

# fmt: off


class SamplerType(Name):
    """How a run steps from one noise level to the next; the values are ComfyUI's words."""
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
    lines += ["#: what other programs call the same sampler"]
    lines += ["SAMPLER_SPELLINGS: Mapping[str, tuple[str, ...]] = {"]
    for spec in specs:
        lines += listed(f"    {json.dumps(spec.name)}: (", words(spec), "),") if words(spec) else []
    lines += ["}", "", "#: schedules that A1111 picks for its labels by itself"]
    lines += ["AUTOMATIC: Mapping[str, str] = {"]
    for spec in specs:
        lines += [f'    "{spec.name}": "{peer.schedule}",' for peer in spec.peers if peer.schedule]
    return "\n".join([*lines, "}"]) + "\n"


def words(spec: SamplerSpec) -> list[str]:
    """Spellings of a sampler, each once whatever its case and punctuation."""
    found = {spelling_key(word): word for word in reversed(spec.words)}
    return [word for key, word in reversed(found.items()) if key != spelling_key(spec.name)]


def listed(before: str, words: Sequence[str], after: str) -> list[str]:
    """Quoted words with commas between, on one line or on as few as they need."""
    indent = before[: len(before) - len(before.lstrip())]
    quoted = [f"{json.dumps(word).replace(' ', NO_BREAK)}," for word in words]
    whole = f"{before}{' '.join(quoted)}{after}"
    if len(whole) <= WIDTH:
        return [whole.replace(NO_BREAK, " ")]
    inner = textwrap.wrap(" ".join(quoted), WIDTH - len(indent) - 4, break_long_words=False, break_on_hyphens=False)
    return [before, *(f"{indent}    {line.replace(NO_BREAK, ' ')}" for line in inner), f"{indent}{after}"]


if __name__ == "__main__":
    FILE.write_text(sampler_names(), encoding="utf-8")
