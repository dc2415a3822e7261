"""Links from code examples in guides to the reference: ``ksched.build_sampler`` links to its page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from links import mentions, public
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

__all__ = ["setup"]

LANGUAGES = ("python", "python3", "pycon", "pycon3", "default")
IMPORT = re.compile(r"from (ksched[\w.]*) import (\([^)]*\)|[^\n]+)")
NAME = r'<span class="n\w?">(\w+)</span>'
DOTTED = re.compile(rf'{NAME}(?:<span class="o">\.</span>{NAME})*')
MODULES = ("guidance", "noise", "exact", "analysis", "arrays", "plots", "peers", "testing", "schedules", "steer")


def imported(code: str) -> dict[str, str]:
    """Map the names in a piece of code to the package's objects that it imports under them."""
    found = {name: f"ksched.{name}" for name in MODULES}
    for module, names in IMPORT.findall(code):
        for part in re.sub(r"[()#]|>>>|\.\.\.", " ", names).split(","):
            words = part.split()
            if words:
                found[words[-1]] = f"{module}.{words[0]}"
    return found


def meant(dotted: str, own: dict[str, str]) -> str | None:
    """Return the public name that a dotted name, or its longest prefix, refers to."""
    head, dot, rest = dotted.partition(".")
    if head in own:
        dotted = own[head] + dot + rest
    elif head != "ksched":
        return None
    while "." in dotted:
        if dotted in public():
            return public()[dotted]
        dotted = dotted.rpartition(".")[0]
    return None


def code_blocks(document: nodes.document) -> Iterator[nodes.Element]:
    """Find the blocks of Python code."""
    for node in document.findall(lambda node: isinstance(node, (nodes.literal_block, nodes.doctest_block))):
        if isinstance(node, nodes.Element) and node.get("language", "default") in LANGUAGES:
            yield node


class CountCode(SphinxTransform):
    """Records which public names the code of a page uses."""

    default_priority = 310

    def apply(self, **_: Any) -> None:
        """Read all blocks of a page together, since one may use the imports of another."""
        page = self.env.docname
        text = "\n".join(node.astext() for node in code_blocks(self.document))
        own = imported(text)
        names = (meant(dotted, own) for dotted in re.findall(r"(?<![\w.\"'])[A-Za-z_]\w*(?:\.\w+)*", text))
        mentions(self.env).setdefault(page, set()).update(filter(None, names))


class LinkCode(SphinxPostTransform):
    """Highlights the code of a page and turns its names into links."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Process every block."""
        page = self.env.docname
        if page.startswith("generated/api/"):
            return
        blocks = list(code_blocks(self.document))
        own = imported("\n".join(node.astext() for node in blocks))
        for node in blocks:
            text = node.rawsource if node.get("classes") == ["doctest"] and node.rawsource else node.astext()
            if "ksched" not in text and not any(name in text for name in own):
                continue
            language = node.get("language", "default")
            language = "pycon" if text.lstrip().startswith(">>>") else "python" if language == "default" else language
            coloured = self.app.builder.highlighter.highlight_block(text, language, location=node)  # type: ignore[attr-defined]
            linked = DOTTED.sub(lambda match: self.link(match, own, page), coloured)
            if linked != coloured:
                block = f'<div class="highlight-{language} notranslate">{linked}</div>\n'
                node.replace_self(nodes.raw("", block, format="html"))

    def link(self, match: re.Match[str], own: dict[str, str], page: str) -> str:
        """Turn a dotted name into a link, if it has a page."""
        full = meant(html.unescape(re.sub(r"<[^>]*>", "", match[0])), own)
        entry = self.env.domains.python_domain.objects.get(full or "")
        if entry is None or entry.docname == page:
            return match[0]
        uri = f"{self.app.builder.get_relative_uri(page, entry.docname)}#{entry.node_id}"
        return f'<a class="code-link" href="{uri}" title="{full}">{match[0]}</a>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's hook."""
    app.add_transform(CountCode)
    app.add_post_transform(LinkCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
