"""Links into the reference from the code of guides: ``ksched.build_sampler`` in an example leads to its page."""

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
    """Names that code takes out of the package, by the word that it uses for each."""
    found = {name: f"ksched.{name}" for name in MODULES}
    for module, names in IMPORT.findall(code):
        for part in re.sub(r"[()#]|>>>|\.\.\.", " ", names).split(","):
            words = part.split()
            if words:
                found[words[-1]] = f"{module}.{words[0]}"
    return found


def meant(dotted: str, own: dict[str, str]) -> str | None:
    """The public name that a dotted name means, or its longest beginning."""
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
    """Blocks of Python."""
    for node in document.findall(lambda node: isinstance(node, (nodes.literal_block, nodes.doctest_block))):
        if isinstance(node, nodes.Element) and node.get("language", "default") in LANGUAGES:
            yield node


class CountCode(SphinxTransform):
    """Notes which names the code of a page uses."""

    default_priority = 310

    def apply(self, **_: Any) -> None:
        """For all blocks of a page together: one may import what another uses."""
        page = self.env.docname
        text = "\n".join(node.astext() for node in code_blocks(self.document))
        own = imported(text)
        names = (meant(dotted, own) for dotted in re.findall(r"(?<![\w.\"'])[A-Za-z_]\w*(?:\.\w+)*", text))
        mentions(self.env).setdefault(page, set()).update(filter(None, names))


class LinkCode(SphinxPostTransform):
    """Colours the code of a page and makes links of its names."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """For every block."""
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
        """A dotted name as a link, if it has a page."""
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
