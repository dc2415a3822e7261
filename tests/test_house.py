"""The package's folders: imports point down only, there are no import cycles, and each folder is in the table.

The table is the one that docs/architecture.md shows, from the ground up.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from representatives import each

from ksched import SamplerType

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
ALONE = {"__init__", "__main__", "sampler", "tensor_runs", "types", "options"}
#: programs that only the drop-ins for them may import, and what is built on them
HOSTS = {"diffusers", "transformers", "comfy", "comfy_api", "k_diffusion", "modules"}
MAY_IMPORT_HOSTS = ("integrations", "stable_diffusion", "cli")


@cache
def floors() -> tuple[str, ...]:
    """Folders, and the files beside them, from the ground up."""
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert all(sentence.strip() for _, sentence in rows)
    return tuple(name.removesuffix("/").removesuffix(".py") for name, _ in rows)


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted((ROOT / "ksched").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def floor_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def parts(module: str) -> tuple[ast.AST, ...]:
    """Every node of a module's syntax."""
    return tuple(ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))))


def imported(module: str) -> Iterator[tuple[str, int]]:
    """Modules that a module imports, also inside functions and for types alone, and the lines."""
    known = modules()
    for node in parts(module):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}, line {node.lineno}: a relative import"
            origin = node.module or ""
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield (inner if inner in known else origin), node.lineno


@cache
def edges() -> dict[str, dict[str, int]]:
    """What each module imports of the package, and where."""
    return {name: {to: line for to, line in imported(name) if to in modules()} for name in modules()}


def test_every_folder_and_file_is_in_the_table() -> None:
    there = {path.name.removesuffix(".py") for path in (ROOT / "ksched").iterdir() if path.suffix in ("", ".py")}
    folders = there - {"__pycache__", "data"}
    assert folders == set(floors())
    assert {name for name in folders if (ROOT / "ksched" / f"{name}.py").exists()} == ALONE
    assert len(set(floors())) == len(floors())


@pytest.mark.parametrize("floor", floors())
def test_every_import_points_down(floor: str) -> None:
    order = {name: k for k, name in enumerate(floors())}
    wrong = [
        f"{name}, line {line}: imports {to}"
        for name, targets in edges().items()
        if floor_of(name) == floor
        for to, line in targets.items()
        if order[floor_of(to)] > order[floor]
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_in_a_ring() -> None:
    left = {name: set(targets) - {name} for name, targets in edges().items()}
    while True:
        read = set().union(*left.values())
        free = [name for name, targets in left.items() if not targets & left.keys() or name not in read]
        if not free:
            break
        for name in free:  # it imports nothing that is left, or nothing that is left imports it
            del left[name]
    inside = {name: sorted(targets & left.keys()) for name, targets in left.items()}
    assert not inside


def test_the_drop_ins_do_not_know_each_other() -> None:
    def host(name: str) -> str:
        return name.split(".")[2] if name.startswith("ksched.integrations.") else ""

    wrong = [(name, to) for name, targets in edges().items() for to in targets if host(name) and host(to)]
    assert not [(name, to) for name, to in wrong if host(name) != host(to)]


@each("name", [name for name in modules() if floor_of(name) not in MAY_IMPORT_HOSTS])
def test_host_programs_are_imported_by_their_drop_ins_alone(name: str) -> None:
    assert not {to.partition(".")[0] for to, _ in imported(name)} & HOSTS


#: where a sampler may be told from another by its name
MAY_ASK_FOR_NAMES = ("names", "dialects", "samplers")


@each("name", [name for name in modules() if floor_of(name) not in MAY_ASK_FOR_NAMES])
def test_nothing_else_decides_by_the_name_of_a_sampler(name: str) -> None:
    """What a drop-in must know of one sampler is a fact of its registration."""
    wrong = []
    for node in parts(name):
        if not isinstance(node, ast.Compare):
            continue
        for part in ast.walk(node):
            of_enum = isinstance(part, ast.Attribute) and ast.unparse(part.value) == "SamplerType"
            if of_enum or (isinstance(part, ast.Constant) and part.value in list(SamplerType)):
                wrong.append((node.lineno, ast.unparse(part)))
    assert not wrong


def test_frozen_classes_set_their_own_fields_in_one_way() -> None:
    ways = re.compile(r"vars\(self\)\.update|self\.__dict__\.update|object\.__setattr__")
    found = {name for name, path in modules().items() if ways.search(path.read_text(encoding="utf-8"))}
    assert found - {"ksched.types"} == {  # which unpickle themselves
        "ksched.execution.saved_state",  # a run that goes back to where it was
        "ksched.integrations.diffusers.course",
        "ksched.integrations.diffusers.written_levels",
    }
