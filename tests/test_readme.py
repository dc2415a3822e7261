"""README and docs say what is true: the example prints what is printed, the tables are the registries."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ksched import Flow
from ksched.analysis import table
from ksched.grid import Grid
from ksched.registry import sampler_spec, samplers
from ksched.schedules import SCHEDULES, schedule_options

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


def test_the_example_runs_as_printed() -> None:
    (example,), (printed,) = blocks("README.md", "python"), blocks("README.md", "text")
    lines = [line for line in example.splitlines() if line]
    assert len(lines) <= 10
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(example, "README.md", "exec"), {})
    assert out.getvalue() == printed
    assert torch.get_num_threads() == 1


def test_the_tables_are_the_registries() -> None:
    rows = [
        f"| `{name}` | {entry.formula} | {', '.join(schedule_options(name))} |".replace("|  |", "| |")
        for name, entry in SCHEDULES.items()
    ]
    listed = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert listed == rows


def test_samplers_are_listed_by_the_module_they_live_in() -> None:
    families: dict[str, list[str]] = {}
    for spec in samplers():
        families.setdefault(spec.function.__module__, []).append(spec.name)
    lines = (ROOT / "README.md").read_text().splitlines()
    start = lines.index("| family | samplers |") + 2
    rows = lines[start : lines.index("", start)]
    assert sorted(re.findall(r"`(\w+)`", row) for row in rows) == sorted(families.values())


def test_pages_say_what_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of every sampler has all of its options; those that it calls the same are, on another grid."""
    for module in ("numpydoc", "matplotlib"):
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(ROOT / "docs")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    catalogue = generate.catalogue()
    for sampler in samplers():
        page = generate.sampler_page(sampler)
        assert all(f"| `{name}` |" in page for name in sampler.own_options)
        assert ("## Its plan" in page, "## A run" in page) == (not sampler.adaptive, sampler.adaptive)
        assert f"(samplers/{sampler.name}.md)" in catalogue
    grid = Grid.of([0.95, 0.8, 0.72, 0.4, 0.3, 0.1, 0.0], Flow(2.0))
    uncond = {sampler.name for sampler in samplers() if sampler.uncond}
    for group in generate.groups():
        plans = [sampler_spec(name).plan(grid, dict(options)) for name, options in group.items() if name not in uncond]
        for plan in plans[1:]:
            assert plan.draws == plans[0].draws
            np.testing.assert_allclose(table(plan), table(plans[0]), atol=1e-12)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_the_two_commands_are_there() -> None:
    text = (ROOT / "README.md").read_text()
    for session in ("demo", "tests"):
        assert f"    python -m pip install nox && python -m nox -s {session}\n" in text


def test_a_new_sampler_is_at_most_twenty_lines() -> None:
    example = next(block for block in blocks("docs/add-a-sampler.md", "{testcode}") if "register_sampler" in block)
    function = example[example.index("def ") : example.index("ksched.register_sampler")]
    assert len([line for line in function.splitlines() if line.strip()]) <= 20
    assert example.count("register_sampler") == 1
