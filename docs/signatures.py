"""Signatures as the source writes them: annotations are not evaluated, and limits of options are left out."""

from __future__ import annotations

import ast
import inspect
import sys
from typing import Any, Literal, get_args, get_origin

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

__all__ = ["setup"]


class Plain(ast.NodeTransformer):
    """``Annotated[X, ...]`` is ``X``, and a name of literals is what it stands for."""

    def __init__(self, module: str) -> None:
        self.names = vars(sys.modules.get(module, ast))

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """Leave out what stands with a type."""
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "Annotated" and isinstance(node.slice, ast.Tuple):
            return node.slice.elts[0]
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Write out a short list of words."""
        value = self.names.get(node.id)
        if get_origin(value) is Literal and len(get_args(value)) <= 8:
            words = ast.Tuple([ast.Constant(word) for word in get_args(value)], ast.Load())
            return ast.Subscript(ast.Name("Literal", ast.Load()), words, ast.Load())
        return node


def plain(annotation: Any, module: str) -> Any:
    """An annotation for the reader."""
    if not isinstance(annotation, str):
        return annotation
    return ast.unparse(Plain(module).visit(ast.parse(annotation.strip("'\""), mode="eval")))


def process(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Called by autodoc."""
    if signature is None or what not in ("function", "method", "class"):
        return None
    try:
        found = inspect.signature(obj)
    except (TypeError, ValueError):
        return None
    module = getattr(obj, "__module__", "")
    arguments = [p.replace(annotation=plain(p.annotation, module)) for p in found.parameters.values()]
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
