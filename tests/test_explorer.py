"""The explorer's page without a browser: what it stores, that it is one file, and its scripts under node."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import EVERY_NAME, NAMES
from command import Command, command_of
from explored import PROCESSES, SMALL, cases, content, expected_ends, page, question

import ksched
from ksched.explorer import Selection, html_page, is_page
from ksched.explorer.plane_data import DATA_SETS, as_data, as_mixture
from ksched.noise.streams import seeded_numbers
from ksched.plan.rows import Draw
from ksched.samplers.registry import sampler_spec

PAGE = Path(html_page.__file__).with_name("page")
SCRIPTS = sorted(PAGE.glob("*.mjs"))
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed; nox -s explorer runs this in Chromium too")


def inflated(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


@cache
def node_version() -> int:
    answer = subprocess.run([str(NODE), "--version"], capture_output=True, text=True, check=True, timeout=60)
    return int(answer.stdout.removeprefix("v").partition(".")[0])


def node(program: str, *arguments: Any) -> Any:
    """What a program prints as JSON; it imports the page's scripts and reads the arguments as JSON from stdin."""
    assert NODE is not None
    if node_version() < 18:
        pytest.skip("the page's scripts need node 18 or newer, as it has DecompressionStream")
    text = f"import {{ readFileSync }} from 'node:fs';\nconst given = JSON.parse(readFileSync(0, 'utf8'));\n{program}"
    ended = subprocess.run(
        [NODE, "--input-type=module", "-e", text.replace("@PAGE@", PAGE.as_uri())],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_the_page_has_every_planned_sampler_on_every_process_that_it_runs_on() -> None:
    stored = {(case.process, case.sampler) for case in cases()}
    assert {sampler for _, sampler in stored} == set(NAMES)
    for process, trained in SMALL.processes.items():
        for name in NAMES:
            assert ((process, name) in stored) == sampler_spec(name).runs_on(trained)
    assert not set(EVERY_NAME) - set(NAMES) & {sampler for _, sampler in stored}


def test_what_the_page_stores_is_the_plans() -> None:
    read = content(page())
    shapes = inflated(read["shapes"])
    blocks = {process: inflated(by["karras"]) for process, by in read["blocks"].items()}
    entries = {
        (process, *entry[:3]): (entry, blocks[process]) for process in blocks for entry in blocks[process]["plans"]
    }
    assert len(entries) == len(cases())
    for case in cases():
        entry, block = entries[case.process, case.sampler, case.variant, case.steps]
        _, _, _, shape, levels, draws, coefficients = entry
        rows, given = shapes[shape], iter(coefficients)
        for row, text in zip(case.plan.rows, rows, strict=True):
            mark, *registers = text.split()
            assert mark == f"{'' if row.level is None else 'b' if row.both else 'c'}{row.step}"
            assert registers == [str(register) for register, _ in row.terms]
            for _, value in row.terms:
                assert next(given) == pytest.approx(value, rel=1e-11, abs=0)
        assert next(given, None) is None
        sigmas, rule, told, _ = block["levels"][levels][:4]
        assert sigmas == list(case.plan.sigmas)  # to the bit, as draws are: noise is seeded with them
        scale = case.plan.noise_scale  # in the page noise has variance 1
        levels_of_calls = [(level.label, level.alpha, level.sigma * scale) for level in case.plan.levels]
        assert told == [level[0] if rule else list(level) for level in levels_of_calls]
        stored = [tuple(math.inf if value == "inf" else value for value in draw) for draw in block["draws"][draws]]
        assert stored == [tuple(draw) for draw in case.plan.draws]


def test_the_page_is_one_file_that_asks_for_nothing() -> None:
    text = page()
    scripts = text.replace(json.dumps(content(text)), "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|src=|fetch\(|XMLHttp|WebSocket|eval\(|Function\(", scripts)
    assert "default-src 'none'" in text
    assert not re.search(r"^(import|export) ", text, re.MULTILINE)
    assert not re.search(r"@[A-Z]+@", text)
    assert is_page(text)


def test_the_scripts_are_kept_short() -> None:
    for script in SCRIPTS:
        lines = script.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 450, script.name
        assert max(map(len, lines)) <= 120, script.name
    assert {script.stem for script in SCRIPTS} == set(html_page.SCRIPTS)


def test_no_two_scripts_use_one_name() -> None:
    # In the page they share a scope.
    names = [
        name
        for script in SCRIPTS
        for name in re.findall(
            r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)",
            script.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    ]
    assert len(names) == len(set(names)) > 50


@pytest.mark.parametrize("name", DATA_SETS)
def test_data_sets_have_standard_deviation_1(name: str) -> None:
    covariance = as_mixture(name, ksched.EDM()).covariance
    assert np.trace(covariance) / 2 == pytest.approx(1, abs=1e-5)
    assert set(as_data(name)["labels"]) == {0, 1}


@needs_node
def test_noise_is_that_of_python_to_the_bit() -> None:
    draws = [Draw(math.inf, math.inf), Draw(14.6146, 5.25), Draw(1.0, 0.3, 3, 2, 0.8), Draw(0.02, 1e-7)]
    seeds = [0, 7, 2**53 - 9000]
    program = """
      const { seededNoise } = await import("@PAGE@/noise.mjs");
      const [draws, seeds] = given;
      const read = ([from, to, visit, stream, limit]) =>
        ({ from: from ?? Infinity, to: to ?? Infinity, visit, stream, limit: limit ?? Infinity });
      console.log(JSON.stringify(seeds.map((seed) => draws.map((draw) => [...seededNoise(seed, 60)(read(draw))]))));
    """
    plain = [[None if value == math.inf else value for value in draw] for draw in draws]
    for seed, found in zip(seeds, node(program, plain, seeds), strict=True):
        for draw, numbers in zip(draws, found, strict=True):
            expected = seeded_numbers(range(seed, seed + 60), draw, (60, 2))
            np.testing.assert_array_equal(np.array(numbers).reshape(60, 2), expected)


RESULTS = """
  const { Store, result } = await import("@PAGE@/store.mjs");
  const [content, asked] = given;
  const store = new Store(content);
  const answers = [];
  for (const one of asked) answers.push(await result(store, one));
  console.log(JSON.stringify(answers));
"""


@needs_node
def test_every_planned_sampler_ends_where_it_does_in_python() -> None:
    asked = [question(case, number) for number, case in enumerate(cases())]
    for case, one, found in zip(cases(), asked, node(RESULTS, content(page()), asked), strict=True):
        expected = expected_ends(case.plan, PROCESSES[case.process], one)
        np.testing.assert_allclose(np.array(found["x"]).reshape(-1, 2), expected, rtol=0, atol=1e-6, err_msg=str(one))
        assert found["nfe"] == case.plan.nfe
        assert found["text"] == str(case.plan)


@needs_node
def test_the_exact_ode_is_that_of_python() -> None:
    sigmas = [14.6, 3.0, 0.5, 0.05, 0.0]
    process = ksched.VP()
    mixture = as_mixture("moons", process)
    x = 14.6 * np.random.default_rng(0).standard_normal((20, 2))
    program = """
      const { exactModel, exactPaths } = await import("@PAGE@/mixture.mjs");
      const [data, x, sigmas] = given;
      const levels = sigmas.map((sigma) => ({ label: sigma, alpha: 1, sigma }));
      const paths = exactPaths(exactModel(data), Float64Array.from(x), levels);
      const states = sigmas.map((sigma) => [...paths.get(sigma / (1 + sigma))].map((y) => y * (1 + sigma)));
      console.log(JSON.stringify(states));
    """
    found = node(program, as_data("moons"), x.ravel().tolist(), sigmas)
    np.testing.assert_allclose(np.array(found).reshape(5, 20, 2), mixture.solve(x, sigmas), rtol=0, atol=1e-6)


@needs_node
def test_settings_come_back_from_their_address() -> None:
    program = """
      const { readSettings, writeSettings } = await import("@PAGE@/settings.mjs");
      const content = { data: { moons: {}, ring: {} } };
      console.log(JSON.stringify(given.map((text) => writeSettings(readSettings(text, content)))));
    """
    a = "#a=vp/karras/dpmpp_2m_sde/10/eta%3D0.5"
    texts = [a, f"{a}&b=flow%20shift%3D3/simple/euler/20&data=ring&class=0&scale=2.5&seed=12&t=0.25"]
    assert node(program, *texts) == texts
    assert node(program, f"{a}&data=none&class=9&scale=x&seed=-3&t=7") == [f"{a}&seed=0&t=1"]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr("ksched.explorer.Selection", lambda more=(): Selection(schedules=(), few=(), more=more))
    return command_of(capsys)


def test_the_command_adds_the_plans_that_are_asked_for(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def browser(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", browser)
    out = tmp_path / "page.html"
    words = (
        "--sampler",
        "heun",
        "--sampler",
        "dpmpp_2m_sde",
        "--process",
        "flow",
        "--shift",
        3,
        "-n",
        7,
        "-o",
        "eta=0.7",
    )
    answer = command("explore", *words, "--out", out)
    assert (answer.code, answer.out, answer.err) == (0, f"{out}\n", "")
    read = content(out.read_text(encoding="utf-8"))
    plans = inflated(read["blocks"]["flow shift=3"]["karras"])["plans"]
    assert [entry[:3] for entry in plans] == [["heun", "", 7], ["dpmpp_2m_sde", "eta=0.7", 7]]
    plan = ksched.build_sampler("dpmpp_2m_sde", "karras", 7, process=ksched.Flow(3.0), eta=0.7).plan
    np.testing.assert_allclose(plans[1][-1], [value for row in plan.rows for _, value in row.terms], rtol=1e-11)
    start = "a=flow%20shift=3/karras/heun/7&b=flow%20shift=3/karras/dpmpp_2m_sde/7/eta=0.7"
    assert read["start"] == start
    assert opened == [out.as_uri()]
    assert command("explore", "--sampler", "auto", "-n", 6, "--out", out, "--no-open").code == 0  # it replaces a page
    assert len(opened) == 1
    assert content(out.read_text(encoding="utf-8"))["start"] == "a=vp/its%20own%20levels/auto/6"


def test_the_command_says_what_is_wrong(command: Command, tmp_path: Path) -> None:
    mine = tmp_path / "notes.html"
    mine.write_text("mine")
    for words, error in {
        ("--sampler", "dpm_adaptive"): "dpm_adaptive chooses its steps as it runs, so it has no plan to show",
        ("--sampler", "heun", "-o", "eta=1"): "sampler heun with schedule karras has no option 'eta'",
        ("--sampler", "heun", "--sampler", "lms", "--sampler", "ddim"): "at most 2 samplers side by side",
        ("--out", mine): f"--output must be a new file; {mine} exists: give another name, or --force to replace it",
        ("--out", tmp_path): f"{tmp_path} is a folder",
    }.items():
        answer = command("explore", "--no-open", *words)
        assert (answer.code, answer.out) == (2, "")
        assert error in answer.err
    assert mine.read_text() == "mine"
