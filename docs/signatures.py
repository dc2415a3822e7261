"""Signatures as written in the source: annotations are not evaluated, and limits of options are left out."""

from __future__ import annotations

import ast
import inspect
import sys
from typing import Annotated, Any, Literal, get_args, get_origin

from sphinx.application import Sphinx
from sphinx.util.inspect import object_description, stringify_signature
from sphinx.util.typing import stringify_annotation

__all__ = ["setup"]


class Shown:
    """A default that is shown as something other than Python code."""

    def __repr__(self) -> str:
        """Three dots."""
        return "..."


def default_of(value: Any) -> Any:
    """Return a default, or three dots if its repr is not code."""
    if value is inspect.Parameter.empty:
        return value
    try:
        ast.parse(object_description(value), mode="eval")
    except SyntaxError:
        return Shown()
    return value


class Plain(ast.NodeTransformer):
    """Replaces ``Annotated[X, ...]`` by ``X``, and the alias of a Literal by the Literal."""

    def __init__(self, module: str) -> None:
        self.names = vars(sys.modules.get(module, ast))

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """Drop the metadata of a type."""
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "Annotated" and isinstance(node.slice, ast.Tuple):
            return node.slice.elts[0]
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Expand the alias of a short Literal."""
        value = self.names.get(node.id)
        if get_origin(value) is Annotated:  # limits of an option
            return ast.parse(
                stringify_annotation(get_args(value)[0], "fully-qualified-except-typing"), mode="eval"
            ).body
        if get_origin(value) is Literal and len(get_args(value)) <= 8:
            words = ast.Tuple([ast.Constant(word) for word in get_args(value)], ast.Load())
            return ast.Subscript(ast.Name("Literal", ast.Load()), words, ast.Load())
        return node


def plain(annotation: Any, module: str) -> Any:
    """Simplify an annotation."""
    if not isinstance(annotation, str):
        return annotation
    return ast.unparse(Plain(module).visit(ast.parse(annotation.strip("'\""), mode="eval")))


def process(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Process a signature; autodoc calls this."""
    if signature is None or what not in ("function", "method", "class"):
        return None
    try:
        found = inspect.signature(obj)
    except (TypeError, ValueError):
        return None
    module = getattr(obj, "__module__", "")
    arguments = [
        p.replace(annotation=plain(p.annotation, module), default=default_of(p.default))
        for p in found.parameters.values()
    ]
    if what == "method" and arguments and arguments[0].name in ("self", "cls"):
        del arguments[0]
    result = found.return_annotation
    shown = found.replace(parameters=arguments, return_annotation=plain(result, module))
    text = stringify_signature(shown, show_return_annotation=False, unqualified_typehints=True)
    silent = what == "class" or result is inspect.Signature.empty
    return text, None if silent else str(plain(result, module) if isinstance(result, str) else returns)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's hook."""
    app.connect("autodoc-process-signature", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
