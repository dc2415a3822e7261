"""The README and docs are correct: examples print what they show, and tables match the registries."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import statistics
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ksched import Flow
from ksched.plan.analysis import table
from ksched.samplers.registry import families, sampler_spec, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules import SCHEDULES, schedule_options
from ksched.schedules.grid import Grid

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


def printed(code: str) -> str:
    """What an example of the README prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), torch.random.fork_rng(devices=[]):  # pipelines draw from torch's own state
        exec(compile(code, "README.md", "exec"), {})
    return out.getvalue()


EXAMPLES = list(zip(blocks("README.md", "python"), blocks("README.md", "text"), strict=True))


@pytest.mark.parametrize(("example", "output"), EXAMPLES, ids=["network", "diffusers", "plan"])
def test_the_examples_run_as_printed(example: str, output: str) -> None:
    if "diffusers" in example:
        for module in ("diffusers", "transformers"):
            pytest.importorskip(module)
    threads = torch.get_num_threads()
    assert printed(example) == output
    assert torch.get_num_threads() == threads


def test_the_numbers_are_measured() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in ("tuned", "overhead", "batching")}
    at = results["tuned"]["auto"]["sd"]
    auto = statistics.geometric_mean(seed["main"] for seed in at["8"]["seeds"].values())
    assert f"`auto` ends {auto:.1%}".replace("%", " %") in text
    best = [f"{at[calls]['peer']['error']:.1%}".replace("%", " %") for calls in ("8", "10")]
    assert f"ends {best[0]} away, and with 10 calls {best[1]}." in text
    (cell,) = (c for c in results["overhead"]["cells"] if (c["sampler"], c["shape"]) == ("dpmpp_2m", "1x4x64x64"))
    ours, theirs, pipeline = (cell["microseconds"][name] for name in ("ksched", "k-diffusion", "diffusers"))
    assert f"takes {ours:.0f} µs; it takes {theirs:.0f} µs in k-diffusion and {pipeline:.0f} µs in diffusers" in text
    summary = results["overhead"]["summary"]
    assert f"Over {summary['cells']} cases ksched is {summary['ratio']['geometric_mean']:.1f} times as fast" in text
    alone = results["batching"]["one_by_one"]
    assert f"of {alone['rows per call']:.1f} rows on average: {alone['equal']} of {alone['of']} end" in text


def test_the_picture_shows_what_its_text_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    module = doc_module("error_by_nfe", monkeypatch)
    accuracy, tuned = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("accuracy", "tuned"))
    figure = module.draw()
    assert len(figure.axes) == len(module.RANGES)
    for of, axes in zip(module.RANGES, figure.axes, strict=True):
        lines = module.curves(of, accuracy, tuned)
        assert [list(line.get_xdata()) for line in axes.lines] == [[5, 6, 8, 10, 15, 20]] * len(lines)
        for calls, error in lines["auto"].items():
            assert error < min(lines[name][calls] for name in lines if name != "auto")  # auto is lowest


def test_from_a_network_to_samples_takes_ten_lines() -> None:
    example, _ = EXAMPLES[0]
    assert len([line for line in example.splitlines() if line]) <= 10


def test_install_lines_name_what_the_project_has() -> None:
    text, project = (ROOT / "README.md").read_text(), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name for found in re.findall(r"\.\[([\w,]+)\]", text) for name in found.split(",")}
    assert extras >= {"cli", "diffusers", "plot"}
    assert extras <= set(project["optional-dependencies"])
    needs = dict(requirement.split(">=") for requirement in project["dependencies"])
    words = {"numpy": "NumPy", "scipy": "SciPy", "torch": "PyTorch"}
    assert needs.keys() == words.keys()
    for name, version in needs.items():
        assert f"{words[name]} {version}+" in text
    assert f"Python {project['requires-python'].removeprefix('>=')} or newer" in text


@pytest.mark.parametrize("page", ["README.md", "docs/catalogue.md"])
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", (ROOT / page).read_text())
    assert links
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def doc_module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that writes pages of the documentation."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_names_are_what_the_registrations_say(monkeypatch: pytest.MonkeyPatch) -> None:
    names = doc_module("sampler_names", monkeypatch)
    assert names.FILE.read_text(encoding="utf-8") == names.sampler_names(), "run python docs/sampler_names.py"


def test_the_catalogue_is_what_the_registries_say(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    page = (ROOT / "docs" / "catalogue.md").read_text()
    assert page == doc_module("catalogue", monkeypatch).catalogue(), "build the documentation: it writes the page anew"
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    names = [row[0].strip("|` ") for row in rows]
    processes = ["VP", "EDM", "VE", "Flow", "FlowVE", "AngleV", "Cascade", "TrigFlow"]
    assert sorted(names) == sorted([*(spec.name for spec in samplers()), *SCHEDULES, *processes])
    facts = dict(zip(names, rows, strict=True))
    for spec in samplers():
        assert facts[spec.name][1] == str(spec.order)
        assert all(f"`{option}=" in facts[spec.name][5] for option in spec.own_options)
    for name, entry in SCHEDULES.items():
        assert facts[name][1] == entry.formula
        assert all(f"`{option}=" in facts[name][2] for option in schedule_options(name))


def test_samplers_are_grouped_by_their_family() -> None:
    groups = families()
    assert "Others" not in groups
    assert sorted(spec.name for specs in groups.values() for spec in specs) == sorted(spec.name for spec in samplers())

    def one(run: Any, grid: Grid, x: Any) -> Any:
        return x

    foreign = SamplerSpec("one", one, 1, "a test")
    own = SamplerSpec("two", one, 1, "a test", family="runge_kutta")
    assert families([foreign, sampler_spec("heun"), own]) == {
        "Runge-Kutta": [sampler_spec("heun"), own],
        "Others": [foreign],
    }


def test_pages_say_what_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of every sampler has all of its options; those that it calls the same are, on another grid."""
    for module in ("numpydoc", "matplotlib", "pybtex", "sphinx"):
        pytest.importorskip(module)
    generate = doc_module("generate", monkeypatch)
    catalogue = generate.on_site((ROOT / "docs" / "catalogue.md").read_text())
    for sampler in samplers():
        page = generate.sampler_page(sampler, set())
        assert all(f"| `{name}` |" in page for name in sampler.own_options)
        assert "$$\n" in page
        assert "**Use it when** " in page
        assert ("## Its plan" in page, "## A run" in page) == (not sampler.adaptive, sampler.adaptive)
        assert f"| [`{sampler.name}`](generated/samplers/{sampler.name}.md) |" in catalogue
    grid = Grid.of([0.95, 0.8, 0.72, 0.4, 0.3, 0.1, 0.0], Flow(2.0))
    uncond = {sampler.name for sampler in samplers() if sampler.uncond}
    for group in generate.groups():
        plans = [sampler_spec(name).plan(grid, dict(options)) for name, options in group.items() if name not in uncond]
        for plan in plans[1:]:
            assert plan.draws == plans[0].draws
            np.testing.assert_allclose(table(plan), table(plans[0]), atol=1e-12)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140


def test_the_two_commands_are_there() -> None:
    text = (ROOT / "README.md").read_text()
    for session in ("demo", "tests"):
        assert f"    python -m pip install nox && python -m nox -s {session}\n" in text


def test_a_new_sampler_is_at_most_twenty_lines() -> None:
    example = next(block for block in blocks("docs/add-a-sampler.md", "{testcode}") if "register_sampler" in block)
    function = example[example.index("def ") : example.index("ksched.register_sampler")]
    assert len([line for line in function.splitlines() if line.strip()]) <= 20
    assert example.count("register_sampler") == 1
