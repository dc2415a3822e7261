"""Docstrings as reStructuredText: numpydoc sections become fields that Sphinx links and lays out.

An entry is ``names : type`` with the description indented below. ``names : description`` works as well.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from sphinx.application import Sphinx

__all__ = ["is_type", "setup", "to_rst"]

FIELDS = {
    "Parameters": "param",
    "Other Parameters": "param",
    "Raises": "raises",
    "Returns": "returns",
    "Yields": "yields",
    "Warns": "warns",
}
RUBRICS = ("Attributes", "Notes", "Examples", "See Also", "References", "Warnings")
#: words that occur in types, besides capitalised names
TYPES = {"int", "float", "str", "bool", "bytes", "dict", "list", "tuple", "set", "callable", "mapping", "sequence"}
TYPES |= {"iterable", "iterator", "generator", "array", "array_like", "ndarray", "scalar", "object", "dtype", "device"}
TYPES |= {"float32", "float64", "number", "of", "or", "and", "to", "pair", "pairs", "shape", "length", "optional"}


def to_rst(lines: Sequence[str]) -> list[str]:
    """Convert the lines of a docstring; its sections become fields and rubrics."""
    found: list[str] = []
    for title, body in sections(lines):
        if title in FIELDS:
            found += fields(FIELDS[title], body)
        elif title:
            found += ["", f".. rubric:: {title}", "", *(definitions(body) if title == "Attributes" else body), ""]
        else:
            found += body
    return found


def sections(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Split a docstring into sections by title; the part before the first section has no title."""
    title, skip = "", False
    body: list[str] = []
    for line, below in zip(lines, [*lines, ""][1:], strict=True):
        if skip:
            skip = False
        elif line in (*FIELDS, *RUBRICS) and re.fullmatch(r"-{3,}", below.strip()):
            yield title, body
            title, body, skip = line, [], True
        else:
            body.append(line)
    yield title, body


def entries(body: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of each entry and the lines that describe them."""
    name = ""
    text: list[str] = []
    for line in body:
        begins = re.match(r"(\S.*?) : (.*)", line)
        if begins or (line.strip() and not line.startswith(" ")):
            if name:
                yield name, text
            name, text = (begins[1], [begins[2]]) if begins else (line.strip(), [])
        else:
            text.append(line.strip())
    if name:
        yield name, text


def described(text: Sequence[str]) -> list[str]:
    """Format a description: without trailing empty lines, and with its type in front."""
    text = list(text)
    while text and not text[-1]:
        text.pop()
    if len(text) > 1 and is_type(text[0]):
        return [f"*{text[0].replace('*', '')}*.", *text[1:]]
    return text


def is_type(text: str) -> bool:
    """Whether the text after the colon is a type rather than a description."""
    words = re.sub(r"shape \(.*?\)|\{.*?\}|\(.*?\)", "", text).replace(",", " ").split()
    return all(word in TYPES or word[0].isupper() or "." in word[1:-1] for word in words)


def fields(kind: str, body: Sequence[str]) -> list[str]:
    """Convert entries to fields; the returned value is a single field."""
    if kind in ("returns", "yields"):
        text = "\n".join(body).strip().splitlines()
        if len(text) > 1 and is_type(text[0]) and text[1].startswith(" "):
            below = textwrap.dedent("\n".join(text[1:])).splitlines()
            text = [f"*{text[0].replace('*', '')}*.", *below]
        named = [line for line in text if line and not line.startswith(" ")]
        if named and all(re.match(r"\w+ : ", line) for line in named):  # several values, each with its name
            return [f":{kind}:", *(f"    {line}".rstrip() for line in definitions(body)), ""]
        return [f":{kind}: {text[0]}", *(f"    {line}".rstrip() for line in text[1:]), ""] if text else []
    found = []
    for names, text in entries(body):
        first, *rest = described(text) or [""]
        each = re.split(r", | or ", names) if kind == "raises" else names.split(", ")
        for name in each:
            found += [f":{kind} {escaped(name)}: {first}", *(f"    {line}".rstrip() for line in rest)]
    return [*found, ""]


def definitions(body: Sequence[str]) -> list[str]:
    """Format attributes as a definition list."""
    found: list[str] = []
    for names, text in entries(body):
        found += [", ".join(f"``{name}``" for name in names.split(", "))]
        found += [*(f"    {line}".rstrip() for line in described(text)), ""]
    return found


def escaped(name: str) -> str:
    """Escape a name for a field, so that ``*args`` is not read as emphasis."""
    return name.replace("*", r"\*").strip("`")


def process(_: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert a docstring; autodoc calls this."""
    lines[:] = to_rst(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's hook."""
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
