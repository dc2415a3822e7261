"""The facts of a release agree: versions, Python versions, links of the README, sessions of the workflows."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import ksched

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")}


def listed(workflow: str, key: str) -> list[str]:
    """A list in one line of a workflow."""
    (found,) = re.findall(rf"^ +{key}: \[(.*)\]$", WORKFLOWS[workflow], re.M)
    return [word.strip(' "') for word in found.split(",")]


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hook of the build, without the builder."""
    interface: Any = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = SimpleNamespace
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("package_metadata", ROOT / ".ci" / "package_metadata.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_citation_has_the_version_and_the_address() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r'^([\w-]+): "?(.*?)"?$', text, re.M))
    assert fields["version"] == ksched.__version__
    assert fields["license"] == PROJECT["project"]["license"]
    repository = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
    assert fields.get("repository-code", "") == repository, "write the address into CITATION.cff too"


def test_the_changelog_has_the_version() -> None:
    assert f"\n## [{ksched.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_python_versions_are_the_same_everywhere() -> None:
    prefix = "Programming Language :: Python :: "
    classified = [c.removeprefix(prefix) for c in PROJECT["project"]["classifiers"] if re.match(f"{prefix}3[.]", c)]
    assert classified == listed("ci", "python")
    assert PROJECT["project"]["requires-python"] == f">={classified[0]}"


def test_workflows_run_sessions_that_there_are() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    sessions = {f.name for f in tree.body if isinstance(f, ast.FunctionDef) and f.decorator_list}
    named = {name for text in WORKFLOWS.values() for name in re.findall(r"nox -s (\w+)$", text, re.M)}
    assert named | set(listed("ci", "session")) <= sessions
    assert {"tests", "package"} <= named
    for text in WORKFLOWS.values():
        used = re.findall(r"uses: (\S+)", text)
        assert [use for use in used if not re.search(r"@(v\d+|release/v\d+)$", use) and not use.startswith("./")] == []


def test_links_of_the_readme_on_a_package_index(metadata: Any) -> None:
    text = "See [a *page*](docs/a.md#x), ![a picture](docs/a.png)\n\n![alone](b.png)\n\n[x](https://h.org/x) [in](#y)."
    assert metadata.readme_for_index(text, "", "1.2") == "See a *page*, \n\n[x](https://h.org/x) [in](#y)."
    assert metadata.readme_for_index(text, "https://h.org/ksched", "1.2") == (
        "See [a *page*](https://h.org/ksched/blob/v1.2/docs/a.md#x), "
        "![a picture](https://h.org/ksched/raw/v1.2/docs/a.png)\n\n"
        "![alone](https://h.org/ksched/raw/v1.2/b.png)\n\n[x](https://h.org/x) [in](#y)."
    )


@pytest.mark.parametrize("address", ["", "https://h.org/ksched/"])
def test_the_metadata_follows_from_one_address(metadata: Any, address: str) -> None:
    table: dict[str, Any] = {"version": "1.2"}
    metadata.RepositoryLinks(root=str(ROOT), config={"repository": address}).update(table)
    shown = table["readme"]["text"]
    assert re.findall(r"\]\((?!https:|#)", shown) == []
    assert ("](https://h.org/ksched/blob/v1.2/docs/" in shown) == bool(address)
    assert table["urls"] == ({} if not address else table["urls"])
    assert all(url.startswith("https://h.org/ksched") and "//" not in url[8:] for url in table["urls"].values())
    assert bool(table["urls"]) == bool(address)
