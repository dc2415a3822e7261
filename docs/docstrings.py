"""Docstrings as reStructuredText: the sections of numpydoc as fields that Sphinx links and lays out.

An entry is ``names : what it is`` with more lines indented below; types stand in the signature. ``names : type`` with
the description below is read as well.
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
#: words that a type is made of, besides names with a capital
TYPES = {"int", "float", "str", "bool", "bytes", "dict", "list", "tuple", "set", "callable", "mapping", "sequence"}
TYPES |= {"iterable", "iterator", "generator", "array", "array_like", "ndarray", "scalar", "object", "dtype", "device"}
TYPES |= {"float32", "float64", "number", "of", "or", "and", "to", "pair", "pairs", "shape", "length", "optional"}


def to_rst(lines: Sequence[str]) -> list[str]:
    """The lines of a docstring, with its sections as fields and rubrics."""
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
    """The parts of a docstring by title; what comes before the first has none."""
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
    """Names and the lines that describe them."""
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
    """A description without empty lines at its end, and with a type of its own in front of it."""
    text = list(text)
    while text and not text[-1]:
        text.pop()
    if len(text) > 1 and is_type(text[0]):
        return [f"*{text[0].replace('*', '')}*.", *text[1:]]
    return text


def is_type(text: str) -> bool:
    """Whether what stands after the colon says a type, and not what the thing is."""
    words = re.sub(r"shape \(.*?\)|\{.*?\}|\(.*?\)", "", text).replace(",", " ").split()
    return all(word in TYPES or word[0].isupper() or "." in word[1:-1] for word in words)


def fields(kind: str, body: Sequence[str]) -> list[str]:
    """A field for every entry; what a function returns is one."""
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
    """A definition list of attributes."""
    found: list[str] = []
    for names, text in entries(body):
        found += [", ".join(f"``{name}``" for name in names.split(", "))]
        found += [*(f"    {line}".rstrip() for line in described(text)), ""]
    return found


def escaped(name: str) -> str:
    """A name as the argument of a field: ``*args`` are no emphasis."""
    return name.replace("*", r"\*").strip("`")


def process(_: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Called by autodoc."""
    lines[:] = to_rst(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's hook."""
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
