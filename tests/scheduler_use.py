"""How the pipelines of the installed diffusers use a scheduler, read from their source."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import diffusers

__all__ = ["FOLDERS", "ROOT", "rows_of", "uses"]

ROOT = Path(diffusers.__file__).parent
FOLDERS = ("pipelines", "modular_pipelines")

#: names with "scheduler" in them that are no scheduler, but something of one
NO_SCHEDULERS = ("output", "outputs", "kwargs", "config", "cls", "class", "type", "name", "step", "steps", "sigma")

#: dictionaries that are given to a method with **, by a part of their name
KEYWORDS = {"step_kwargs": "step", "scheduler_kwargs": "set_timesteps", "set_kwargs": "set_timesteps"}


def is_scheduler(node: ast.AST) -> bool:
    """Whether an expression is a scheduler, by its name."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return "scheduler" in name and name.rpartition("_")[2] not in NO_SCHEDULERS


@cache
def uses(every: int = 1) -> dict[str, set[str]]:
    """Every use, such as ``call step(eta=)``, and the files that make it; in one file of so many, which is quicker."""
    found: dict[str, set[str]] = defaultdict(set)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py"))[::every]:
            for row in rows_of(path.read_text(encoding="utf-8")):
                found[row].add(path.relative_to(ROOT).as_posix())
    return found


def rows_of(source: str) -> set[str]:
    """The uses of one file."""
    if not any(word in source for word in ("scheduler", "retrieve_timesteps", *KEYWORDS)):
        return set()
    nodes: list[ast.AST] = [ast.parse(source)]
    for parent in nodes:  # which grows
        for child in ast.iter_child_nodes(parent):
            if not isinstance(child, ast.expr_context | ast.operator):
                child.parent = parent  # type: ignore[attr-defined]
                nodes.append(child)
    return {row for node in nodes for row in _rows(node)}


def _rows(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and is_scheduler(node.value):
        yield from _of_attribute(node)
    elif isinstance(node, ast.Call):
        yield from _of_call(node)
    elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
        for inner in ast.walk(node):
            if (
                isinstance(inner, ast.Attribute)
                and is_scheduler(inner.value)
                and inner.attr in ("step", "set_timesteps")
            ):
                yield f"ask {inner.attr}({node.left.value}=)"
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
        yield from _of_dictionary(node.value.id, [node.slice])
    elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and isinstance(node.targets[0], ast.Name):
        yield from _of_dictionary(node.targets[0].id, node.value.keys)


def _of_attribute(node: ast.Attribute) -> Iterator[str]:
    parent = node.parent  # type: ignore[attr-defined]
    if node.attr in ("config", "_internal_dict") and isinstance(node.ctx, ast.Load):
        yield from _of_config(parent)
    elif isinstance(node.ctx, ast.Store):
        yield f"assign {node.attr}"
    elif isinstance(parent, ast.Call) and parent.func is node:
        yield f"call {node.attr}()"
        yield from (f"call {node.attr}({keyword.arg}=)" for keyword in parent.keywords if keyword.arg)
    elif isinstance(parent, ast.Subscript) and isinstance(parent.ctx, ast.Store):
        yield f"assign {node.attr}[...]"
    else:
        yield f"read {node.attr}"


def _of_config(parent: ast.AST) -> Iterator[str]:
    """What is read of a configuration, or written to it."""
    if isinstance(parent, ast.Attribute) and parent.attr != "get":
        yield f"{'assign' if isinstance(parent.ctx, ast.Store) else 'read'} config.{parent.attr}"
    elif isinstance(parent, ast.Attribute):
        call = parent.parent  # type: ignore[attr-defined]
        if isinstance(call, ast.Call):
            yield f"read config.{_text(call.args[0])}"
    else:
        yield "read config"


def _of_call(node: ast.Call) -> Iterator[str]:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    name = name or (node.func.attr if isinstance(node.func, ast.Attribute) else "")
    if "retrieve_timesteps" in name:  # hands its keywords on
        no_keywords = {"scheduler", None}
        yield from (f"call set_timesteps({k.arg}=)" for k in node.keywords if k.arg not in no_keywords)
    if name in ("hasattr", "getattr", "setattr") and is_scheduler(node.args[0]):
        yield f"{'assign' if name == 'setattr' else 'ask'} {_text(node.args[1])}"
    of = node.args[0] if name in ("getattr", "hasattr") else None
    if isinstance(of, ast.Attribute) and of.attr == "config" and is_scheduler(of.value):
        yield f"read config.{_text(node.args[1])}"
    if name == "isinstance" and is_scheduler(node.args[0]):
        kinds = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
        yield from (f"isinstance {ast.unparse(kind)}" for kind in kinds)


def _text(node: ast.expr | None) -> str:
    """A string that is written out; empty for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _of_dictionary(name: str, keys: list[ast.expr | None]) -> Iterator[str]:
    for part, method in KEYWORDS.items():
        if part in name:
            for key in keys:
                if _text(key):
                    yield f"call {method}({_text(key)}=)"
