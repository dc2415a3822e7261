"""Finds the papers of ``references.bib`` that a text of the registry mentions."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from pybtex.database import parse_file

__all__ = ["cited"]

#: sources that the registry names only by author and year
BY_NAME = {
    "Bogacki & Shampine 1989": "bogacki1989",
    "Dormand & Prince 1980": "dormand1980",
    "Kutta 1901": "kutta1901",
    "Ralston 1962": "ralston1962",
    "Runge 1895": "runge1895",
    "Cox & Matthews 2002": "cox2002",
    "Hochbruck & Ostermann 2005": "hochbruck2005",
    "Hochbruck & Ostermann 2011": "hochbruck2011",
    "Luan 2021": "luan2021",
}


@cache
def papers() -> dict[str, str]:
    """Map arXiv numbers, DOIs, and authors with year to the keys of papers."""
    entries = parse_file(Path(__file__).with_name("references.bib"), bib_format="bibtex").entries
    return {
        (entry.fields.get("eprint") or entry.fields.get("doi", "")): key for key, entry in entries.items()
    } | BY_NAME


def cited(text: str) -> list[str]:
    """Return the keys of the papers that a text names, in order of appearance."""
    found = [(text.index(name), key) for name, key in papers().items() if name and name in text]
    numbers = set(re.findall(r"arXiv:(\d{4}\.\d{5})", text))
    missing = numbers - set(papers())
    if missing:
        raise ValueError(f"docs/references.bib has no entry with eprint {', '.join(sorted(missing))}")
    return list(dict.fromkeys(key for _, key in sorted(found)))
