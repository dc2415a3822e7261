"""Automatic links into the reference, from names in backticks in guides and docstrings.

In a guide, a literal that is a public name (`build_sampler`, `ksched.guidance.cfg`, `KSchedScheduler()`) or the name of
a sampler becomes a link, once in a section. In a docstring, ``default_role`` makes every single backtick a reference;
`resolve` finds its target, and a reference without a target is a warning. The build also warns of a public name that
no guide links to.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import api
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

import ksched
from ksched import NoiseSchedule
from ksched.samplers.registry import samplers

__all__ = ["setup"]

log = logging.getLogger(__name__)

#: names that are also options or English words; in guides they are links only with a module prefix or parentheses
PLAIN = {
    "noise",
    "frames",
    "window",
    "run",
    "save",
    "load",
    "step",
    "table",
    "shift",
    "split",
    "extend",
    "flip",
    "clip",
}
PLAIN |= {"sample", "prepare", "resume", "register", "advance", "interval", "within", "batched", "sheet", "families"}
PLAIN |= {"processes", "grids", "restart", "auto", "observed", "rescale", "arrays", "exact", "guidance", "testing"}
#: names in annotations of objects that other projects document
ELSEWHERE = {
    "Tensor": "torch.Tensor",
    "Array": "numpy.ndarray",
    "ArrayLike": "numpy.typing.ArrayLike",
    "npt.ArrayLike": "numpy.typing.ArrayLike",
    "npt.NDArray": "numpy.typing.NDArray",
    "np.ndarray": "numpy.ndarray",
    "np.float64": "numpy.float64",
    "np.random.Generator": "numpy.random.Generator",
    "npt.DTypeLike": "numpy.typing.DTypeLike",
    "Figure": "matplotlib.figure.Figure",
    "Image.Image": "PIL.Image.Image",
    "Path": "pathlib.Path",
    "Fraction": "fractions.Fraction",
    "PathLike": "os.PathLike",
    "Any": "typing.Any",
    "Self": "typing.Self",
    "st.SearchStrategy": "hypothesis.strategies.SearchStrategy",
}
ELSEWHERE |= {
    name: f"collections.abc.{name}"
    for name in ("Callable", "Sequence", "Mapping", "MutableMapping", "Iterable", "Iterator", "Generator", "Collection")
}
#: pages of the reference, whose links do not count as links from a guide
NOT_GUIDES = ("generated/api/", "reference", "catalogue", "changelog")


@cache
def public() -> dict[str, str]:
    """Map every unambiguous name of a public object to its full name."""
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for each in api.objects():
        short = each.full.removeprefix("ksched.")
        keys = {each.full, short, each.name, f"{each.module.rpartition('.')[2]}.{each.name}"}
        value = each.value
        keys |= {f"{getattr(value, '__module__', '')}.{each.name}"}
        for key in keys:
            by_key[key].append(each.full)
    found = {}
    for key, names in by_key.items():
        shortest = sorted(names, key=lambda name: (name.count("."), name))
        if len(names) == 1 or shortest[0].count(".") < shortest[1].count("."):
            found[key] = shortest[0]
    return found


@cache
def by_page() -> Mapping[str, str]:
    """Map names to the pages of samplers and schedules; samplers have precedence."""
    found = {str(name): f"generated/schedules/{name}" for name in NoiseSchedule}
    return found | {spec.name: f"generated/samplers/{spec.name}" for spec in samplers()} | {"auto": "tune"}


def target_of(text: str) -> str | None:
    """Return the public name that a literal in a guide refers to."""
    match = re.fullmatch(r"([A-Za-z_][\w.]*)(\(.*\))?", text, re.S)
    if match is None:
        return None
    name = match[1]
    if name in PLAIN and match[2] is None:
        return None
    full = public().get(name)
    if full is None and "." in name:  # a member: its class's page
        owner = public().get(name.rpartition(".")[0])
        return owner if owner and owner[owner.rindex(".") + 1].isupper() else None
    return full


class LinkLiterals(SphinxTransform):
    """Turns the names in a guide into links."""

    default_priority = 300

    def apply(self, **_: Any) -> None:
        """Process every literal of the document."""
        page = self.env.docname
        if page.startswith("generated/api/"):
            return
        seen: set[tuple[int, str]] = set()
        mentioned: set[str] = mentions(self.env).setdefault(page, set())
        for literal in list(self.document.findall(nodes.literal)):
            text = literal.astext()
            reference = self.reference(text, page)
            if reference is None or not linkable(literal):
                continue
            if not reference["reftarget"].startswith(PAGE):
                mentioned.add(reference["reftarget"])
            key = (id(section_of(literal)), reference["reftarget"])
            if key in seen:
                continue
            seen.add(key)
            literal.replace_self(reference)
            reference += literal

    def reference(self, text: str, page: str) -> addnodes.pending_xref | None:
        """Create a link to be resolved later."""
        target = target_of(text)
        if target is not None:
            return addnodes.pending_xref(
                refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True, refdoc=page
            )
        name = text
        known = name in by_page() and ("_" in name or any(map(str.isdigit, name)) or name in SHORT)
        if not known or name in PLAIN or page == by_page()[name]:
            return None
        return addnodes.pending_xref(
            refdomain="py", reftype="obj", reftarget=f"{PAGE}{name}", refexplicit=True, refwarn=True, refdoc=page
        )


PAGE = "page of "
#: samplers and schedules whose name has no other meaning
SHORT = {
    "ipndm",
    "pndm",
    "euler",
    "heun",
    "ddim",
    "ddpm",
    "lcm",
    "tcd",
    "lms",
    "karras",
    "deis",
    "stork",
    "gits",
    "fireflow",
    "ralston",
}


def linkable(literal: nodes.literal) -> bool:
    """Whether a literal is in running text, outside headings and links."""
    node: Any = literal.parent
    while node is not None:
        if isinstance(node, (nodes.reference, addnodes.pending_xref, nodes.title, nodes.rubric)):
            return False
        node = node.parent
    return True


def section_of(node: nodes.Node) -> nodes.Node:
    """Return the section that contains a node."""
    while node.parent is not None and not isinstance(node, nodes.section):
        node = node.parent
    return node


# ----------------------------------------------------------------------------------------------- unresolved references
def exact(_: Sphinx, document: nodes.document) -> None:
    """Look annotations up by exact name only, since a search through all names is slow; `resolve` handles the rest."""
    for node in document.findall(addnodes.pending_xref):
        if node.get("refdomain") == "py":
            node.attributes.pop("refspecific", None)


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node) -> Any:
    """Resolve a reference that is not a full name, before intersphinx."""
    if node.get("refdomain") != "py":
        return None
    if node["reftarget"].startswith(PAGE):
        name = node["reftarget"].removeprefix(PAGE)
        return make_refnode(app.builder, node["refdoc"], by_page()[name], "", content, name)
    objects = env.domains.python_domain.objects
    name = node["reftarget"].removesuffix("()").lstrip("~.")
    for candidate in candidates(name, node, env):
        full = candidate if candidate in objects else owner_of(candidate, env)
        if full:
            return make_refnode(
                app.builder, node["refdoc"], objects[full].docname, objects[full].node_id, content, candidate
            )
    short = name.rpartition(".")[2]
    if short in by_page() and (name == short or name.startswith("ksched.samplers")):
        return make_refnode(app.builder, node["refdoc"], by_page()[short], "", content, short)
    if name in {each.module for each in api.objects()}:
        return make_refnode(app.builder, node["refdoc"], "reference", "", content, name)
    node["reftarget"] = ELSEWHERE.get(name, name)
    private = name.startswith("numpy._typing") or is_internal(name)
    if node["reftarget"] == name and (node["refdoc"] == "reference" or private):
        return content  # the first line of a docstring in a table: its own page has the link; a type without a page
    return None


def is_internal(name: str) -> bool:
    """Whether a name belongs to the package but has no page: a module, type variable, alias, protocol or helper."""
    module, _, short = name.rpartition(".")
    places = [sys.modules.get(module)] if module else [m for key, m in sys.modules.items() if key.startswith("ksched")]
    if module.startswith("ksched") and hasattr(sys.modules.get(module), "__path__") and importlib.util.find_spec(name):
        return True
    return any(place is not None and short in vars(place) for place in places)


def candidates(name: str, node: addnodes.pending_xref, env: BuildEnvironment) -> Iterator[str]:
    """Yield the full names that a name may refer to."""
    yield name
    module, owner = node.get("py:module"), node.get("py:class")
    if module and owner:
        yield f"{module}.{owner}.{name}"
    if module:
        yield f"{module}.{name}"
    if name in public():
        yield public()[name]
    if name.startswith("ksched.") and name.rpartition(".")[2] in public():
        yield public()[name.rpartition(".")[2]]
    head, dot, rest = name.partition(".")
    if dot and head in public():
        yield f"{public()[head]}.{rest}"
    yield f"ksched.{name}"
    yield from by_ending(env).get(name, [])[:1]


def by_ending(env: BuildEnvironment) -> dict[str, list[str]]:
    """Map the last part of the name of each documented function and class to its full names."""
    if not hasattr(env, "ksched_endings"):
        found: defaultdict[str, list[str]] = defaultdict(list)
        for full, entry in env.domains.python_domain.objects.items():
            if entry.objtype in ("function", "class", "data", "exception") and full.rpartition(".")[2] not in by_page():
                found[full.rpartition(".")[2]].append(full)
        env.ksched_endings = dict(found)  # type: ignore[attr-defined]
    return env.ksched_endings  # type: ignore[attr-defined, no-any-return]


@cache
def values() -> dict[str, Any]:
    """Map full names to public objects."""
    return {each.full: each.value for each in api.objects()}


has_no_names = compile("", "nothing", "exec")


def owner_of(name: str, env: BuildEnvironment) -> str | None:
    """Return the documented class of an attribute that is not listed separately."""
    owner, _, attribute = name.rpartition(".")
    if owner not in env.domains.python_domain.objects or owner not in values():
        return None
    value = values()[owner]
    has = hasattr(value, attribute) or attribute in getattr(value, "__annotations__", {})
    has = has or attribute in getattr(getattr(value, "__init__", None), "__code__", has_no_names).co_names
    return owner if has else None


# ------------------------------------------------------------------------------------------- which guide links to what
def mentions(env: BuildEnvironment) -> dict[str, set[str]]:
    """Return, for each page, the public names that it links to."""
    if not hasattr(env, "ksched_mentions"):
        env.ksched_mentions = {}  # type: ignore[attr-defined]
    found: dict[str, set[str]] = env.ksched_mentions  # type: ignore[attr-defined]
    return found


def purge(_: Sphinx, env: BuildEnvironment, page: str) -> None:
    """Forget a page that will be read again."""
    mentions(env).pop(page, None)


def merge(_: Sphinx, env: BuildEnvironment, pages: Iterable[str], other: BuildEnvironment) -> None:
    """Merge the results of another process."""
    theirs = mentions(other)
    mentions(env).update({page: theirs[page] for page in pages if page in theirs})


def check(_: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that the reference lacks or that no guide links to."""
    listed = {id(each.value): each.full for each in api.objects() if callable(each.value)}
    by_name = {each.full for each in api.objects()}
    linked = set().union(*(found for page, found in mentions(env).items() if not page.startswith(NOT_GUIDES)))
    for name in ksched.__all__:
        value = getattr(ksched, name)
        full = f"ksched.{name}"
        if isinstance(value, type(ksched)):
            continue
        if full not in by_name and id(value) not in listed:
            log.warning("%s is not in docs/reference.md", full, type="ksched", subtype="reference")
    for full in sorted(by_name - linked):
        log.warning("no guide links to %s", full, type="ksched", subtype="guides")


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's hook."""
    app.add_transform(LinkLiterals)
    app.connect("doctree-read", exact)
    app.connect("missing-reference", resolve, priority=400)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}
