"""The API reference: one page per public object, from the ``.. api::`` blocks of ``reference.md``.

A line of a block is either a module, which adds everything in its ``__all__``, or ``module: name, name``. A line of
``.. api-modules::`` is a module that gets one page for all its contents.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.ext.autosummary import Autosummary
from sphinx.pycode import ModuleAnalyzer

__all__ = ["Public", "objects", "pages", "setup"]

REFERENCE = Path(__file__).with_name("reference.md")
FOLDER = "generated/api"
#: mappings for programs, too long to print
TABLES = {"SCHEMES", "DIALECTS", "SCHEDULES", "POPULAR", "PRESETS"}


class Public(NamedTuple):
    """A public object."""

    module: str
    name: str
    subject: str

    @property
    def full(self) -> str:
        """The full public name."""
        return f"{self.module}.{self.name}"

    @property
    def value(self) -> Any:
        """The object."""
        return getattr(importlib.import_module(self.module), self.name)


def blocks(directive: str) -> Iterator[tuple[str, list[str]]]:
    """Find the blocks of a directive in the reference: the heading above each, and its lines."""
    text = REFERENCE.read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        for block in re.findall(rf"^\.\. {directive}::\n\n((?:   .+\n)+)", section, re.M):
            yield section.partition("\n")[0], [line.strip() for line in block.splitlines()]


def expanded(line: str, subject: str) -> list[Public]:
    """List the objects that a line names."""
    module, _, names = line.partition(":")
    listed = [name.strip() for name in names.split(",")] if names else importlib.import_module(module).__all__
    listed = [name for name in listed if name not in TABLES]
    return [Public(module, name, subject) for name in listed]


@cache
def objects() -> tuple[Public, ...]:
    """List every object that has a page; if two modules export it, the first listing counts."""
    found: dict[Any, Public] = {}
    for subject, lines in blocks("api"):
        for line in lines:
            for each in expanded(line, subject):
                found.setdefault(id(each.value) if callable(each.value) else each.full, each)
    return tuple(found.values())


def modules() -> list[str]:
    """List the modules that have a single page."""
    return [line for _, lines in blocks("api-modules") for line in lines]


def file_names() -> dict[str, str]:
    """Map public names to file names, which stay distinct on file systems that ignore case (`Frames`, `frames`)."""
    names = [each.full for each in objects()] + modules()
    lower = [name.lower() for name in names]
    return {name: f"{name}-class" if lower.index(name.lower()) != k else name for k, name in enumerate(names)}


def pages() -> dict[Path, str]:
    """Return the pages by path."""
    files, public = file_names(), objects()
    found = {}
    for each in public:
        same = [other.full for other in public if other.subject == each.subject and other != each]
        more = " · ".join(f":py:obj:`~{name}`" for name in same)
        parts = [heading(each.full), f".. currentmodule:: {each.module}", directive(each)]
        parts += [f".. rubric:: {each.subject}", more] if more else []
        found[Path("api", f"{files[each.full]}.rst")] = "\n\n".join(parts) + "\n"
    for module in modules():
        body = f".. automodule:: {module}\n   :members:"
        found[Path("api", f"{files[module]}.rst")] = f"{heading(module)}\n\n{body}\n"
    return found


def heading(title: str) -> str:
    """Format the title of a page."""
    return f"{title}\n{'=' * len(title)}"


def directive(each: Public) -> str:
    """Return the autodoc directive for an object."""
    value = each.value
    if inspect.isclass(value):
        own = "\n   :undoc-members:" if issubclass(value, enum.Enum) else ""
        return f".. autoclass:: {each.name}\n   :members:{own}"
    if inspect.isroutine(value) or hasattr(value, "__wrapped__"):
        return f".. autofunction:: {each.name}"
    return f".. py:data:: {each.name}\n\n   {comment(each)}"


def comment(each: Public) -> str:
    """Return the ``#:`` comment above an object, in whatever module it is defined."""
    value = each.value
    for module, loaded in sorted(sys.modules.items()):
        if module.startswith("ksched.") and vars(loaded).get(each.name) is value:
            docs = ModuleAnalyzer.for_module(module).find_attr_docs()
            if ("", each.name) in docs:
                return " ".join(docs["", each.name]).strip()
    return f"A :py:obj:`~{type(value).__module__}.{type(value).__qualname__}`."


class Api(Autosummary):
    """A table of objects with links to their pages."""

    content: StringList

    def run(self) -> list[nodes.Node]:
        """Build the table, and add the pages as children of this one."""
        lines = [line.strip() for line in self.content if line.strip()]
        names = self.names(lines)
        self.options |= {"nosignatures": None}
        self.content = StringList([f"~{name}" if self.short else name for name in names], source="api")
        files = file_names()
        tree = [".. toctree::", "   :hidden:", "", *(f"   {FOLDER}/{files[name]}" for name in names)]
        holder = nodes.container()
        found = super().run()
        self.state.nested_parse(StringList(tree, source="api"), self.content_offset, holder)
        return [*found, *holder.children]

    short = True

    def get_items(self, names: list[str]) -> list[tuple[str, str | None, str, str]]:
        """Rows of the table; what stands above data says what they are."""
        data = {each.full: each for each in objects()}
        rows = super().get_items(names)
        return [
            (name, given, text or (comment(data[full]) if full in data else ""), full)
            for name, given, text, full in rows
        ]

    def names(self, lines: list[str]) -> list[str]:
        """List the names of the objects."""
        listed = [each for line in lines for each in expanded(line, "")]
        return [each.full for each in dict.fromkeys(listed) if any(each.full == other.full for other in objects())]


class ApiModules(Api):
    """A table of modules."""

    short = False

    def names(self, lines: list[str]) -> list[str]:
        """The modules."""
        return lines


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's hook."""
    app.add_directive("api", Api)
    app.add_directive("api-modules", ApiModules)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
