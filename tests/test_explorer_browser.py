"""The explorer in a real Chromium: nox -s explorer. Without a browser and its driver these tests are skipped."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explored import PROCESSES, cases, content, expected_ends, page, question

from ksched.explorer import Selection, page_html

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright drives the browser; nox -s explorer installs it"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH; nox -s explorer says how to get one")

WIDTHS = (360, 1280)
SCHEMES = ("light", "dark")
ONE = "#a=vp/karras/dpmpp_2m/4&t=1"
TWO = "#a=edm/karras/heun/4&b=flow/karras/dpmpp_2m_sde/4/eta=0.5&data=ring&class=0&scale=2&seed=11&t=0.5"


def until(page: Any, true: str) -> None:
    """Wait for an expression. Playwright's own way to wait uses ``eval``, which the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(true):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {true}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    state = random.getstate()  # the driver names its messages with random numbers
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()
    random.setstate(state)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    path.write_text(page(), encoding="utf-8")
    return path.as_uri()


class Visit:
    """A page that was opened, and all that it said and asked for."""

    def __init__(
        self,
        browser: Any,
        address: str,
        *,
        width: int = 1280,
        scheme: str = "light",
        motion: str = "reduce",
        clock: bool = False,
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion=motion
        )
        self.context.set_default_timeout(120_000)  # of a machine that does much else
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        if clock:  # time passes only when the test says so
            self.page.clock.install(time="2026-01-01T00:00:00")
            self.page.clock.pause_at("2026-01-01T01:00:00")
        self.page.goto(address)
        self.page.evaluate("explorer.ready.then(() => null)")

    def value(self, panel: str, name: str) -> str:
        """What is chosen in a menu of a run."""
        chosen: str = self.page.eval_on_selector(f".panel.{panel} select[name={name}]", "menu => menu.value")
        return chosen

    def fragment(self) -> str:
        return str(self.page.url).partition("#")[2]


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """``visit("#a=...", width, scheme)`` opens the page; at the end nothing may have gone wrong on it."""
    visits: list[Visit] = []

    def opened(fragment: str = "", **how: Any) -> Visit:
        visits.append(Visit(browser, address + fragment, **how))
        return visits[-1]

    yield opened
    for one in visits:
        one.context.close()
        assert one.said == []
        assert {url.partition("#")[0] for url in one.asked} == {address}


def test_every_planned_sampler_ends_where_it_does_in_python(visit: Any) -> None:
    opened = visit(ONE)
    asked = [question(case, number) for number, case in enumerate(cases())]
    every = "(asked) => Promise.all(asked.map((one) => explorer.result(one)))"
    for case, one, found in zip(cases(), asked, opened.page.evaluate(every, asked), strict=True):
        expected = expected_ends(case.plan, PROCESSES[case.process], one)
        np.testing.assert_allclose(np.array(found["x"]).reshape(-1, 2), expected, rtol=0, atol=1e-6, err_msg=str(one))
        assert found["nfe"] == case.plan.nfe
        assert found["text"] == str(case.plan)


@pytest.mark.parametrize("fragment", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_loads_and_fits(visit: Any, width: int, scheme: str, fragment: str) -> None:
    opened = visit(fragment, width=width, scheme=scheme)
    if folder := os.environ.get("KSCHED_SCREENSHOTS"):
        name = f"explorer-{width}-{scheme}-{'two' if 'b=' in fragment else 'one'}.png"
        opened.page.screenshot(path=str(Path(folder, name)), full_page=True)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    overflowing = """() => [...document.querySelectorAll("main *:not(.scroll *, pre, pre *, option, optgroup)")]
        .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5).map((one) => one.outerHTML)"""
    assert opened.page.evaluate(overflowing) == []
    brightness = opened.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (max(brightness) < 60) == (scheme == "dark")
    for panel in "ab" if "b=" in fragment else "a":
        drawn = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size"
        assert opened.page.eval_on_selector(f".panel.{panel} canvas", drawn) > 100


def test_a_page_around_it_chooses_light_or_dark(visit: Any) -> None:
    page = visit(ONE, scheme="light").page
    ring = (
        "getComputedStyle(document.querySelector('canvas')).getPropertyValue('--exact')"  # what the canvas draws with
    )
    before = page.evaluate(ring)
    for theme, scheme in (("dark", "dark"), ("auto", "")):
        page.evaluate(f"postMessage({{ theme: '{theme}' }}, '*')")
        until(page, f"document.documentElement.style.colorScheme === '{scheme}'")
        assert (page.evaluate(ring) == before) is (theme == "auto")


def test_what_is_shown_is_the_run(visit: Any) -> None:
    opened = visit(ONE)
    plan = next(case.plan for case in cases() if case.names == ("vp", "karras", "dpmpp_2m", 4, ""))
    assert opened.page.text_content(".panel.a pre") == str(plan)
    assert opened.page.locator(".matrix .cell rect").count() == sum(len(row.terms) for row in plan.rows)
    assert opened.page.locator(".levels circle").count() == plan.nfe + 1
    facts = opened.page.locator(".facts dd").all_text_contents()
    assert facts[:2] == ["4", "0"]
    assert 1 < float(facts[2].removesuffix(" %")) < 30
    assert opened.page.text_content("#where") == "the end"


def test_settings_live_in_the_address(visit: Any) -> None:
    opened = visit(TWO)
    assert opened.value("a", "sampler") == "heun"
    assert opened.value("b", "variant") == "eta=0.5"
    opened.page.focus(".panel.a select[name=sampler]")
    opened.page.select_option(".panel.a select[name=sampler]", "uni_pc")
    until(opened.page, "location.hash.includes('/uni_pc/')")
    assert opened.page.evaluate("document.activeElement.name") == "sampler"
    opened.page.fill("input[name=seed]", "23")
    opened.page.press("input[name=seed]", "Enter")
    until(opened.page, "location.hash.includes('seed=23')")
    again = visit(f"#{opened.fragment()}")
    assert again.fragment() == opened.fragment()
    assert again.page.evaluate("explorer.settings()") == opened.page.evaluate("explorer.settings()")
    assert again.value("a", "sampler") == "uni_pc"
    again.page.evaluate("location.hash = '#a=edm/karras/lms/4&t=0'")  # as when a link is followed
    until(again.page, "document.querySelector('.panel.a select[name=sampler]').value === 'lms'")


def test_what_is_not_stored_cannot_be_chosen(visit: Any) -> None:
    opened = visit("#a=vp/karras/dpmpp_2m/17&t=1")
    assert "does not store dpmpp_2m, karras, 17 steps" in opened.page.text_content("#notice")
    assert opened.value("a", "steps") == "4"
    offered = opened.page.eval_on_selector_all(
        ".panel.a select[name=sampler] option", "all => all.map((one) => one.value)"
    )
    assert sorted(offered) == sorted({case.sampler for case in cases() if case.process == "vp"})
    opened.page.select_option(".panel.a select[name=process]", "flow")
    until(opened.page, "location.hash.startsWith('#a=flow/')")
    assert opened.page.locator("#notice").is_hidden()


@pytest.mark.parametrize("width", WIDTHS)
def test_two_runs_side_by_side(visit: Any, width: int) -> None:
    opened = visit(ONE, width=width)
    assert opened.page.locator(".panel").count() == 1
    opened.page.check("input[name=compare]")
    opened.page.wait_for_selector(".panel.b .cell")
    first, second = (opened.page.locator(f".panel.{letter}").bounding_box() for letter in "ab")
    beside = second["x"] >= first["x"] + first["width"]
    assert beside == (width == 1280)
    assert beside or second["y"] >= first["y"] + first["height"]
    opened.page.uncheck("input[name=compare]")
    until(opened.page, "!location.hash.includes('b=')")
    assert opened.page.locator(".panel").count() == 1


def test_it_plays_and_stops(visit: Any) -> None:
    opened = visit("#a=vp/karras/euler/4", motion="no-preference", clock=True)
    opened.page.clock.run_for(1000)
    assert 150 < int(opened.page.input_value("#progress")) < 250  # five seconds are the whole way
    opened.page.click("#play[aria-label=Pause]")
    opened.page.wait_for_selector("#play[aria-label=Play]")
    where = opened.page.input_value("#progress")
    opened.page.clock.run_for(1000)
    assert opened.page.input_value("#progress") == where
    assert "t=" not in opened.fragment()
    opened.page.click("#play")
    opened.page.clock.run_for(6000)
    assert opened.page.text_content("#where") == "the end"


def test_the_keyboard_does_it_all(visit: Any) -> None:
    opened = visit(ONE)
    opened.page.focus("#progress")
    opened.page.keyboard.press("Home")
    assert opened.page.get_attribute("#progress", "aria-valuetext").startswith("call 1 of 4, sigma 14.6")
    assert opened.fragment().endswith("t=0")
    opened.page.focus(".matrix svg")
    opened.page.keyboard.press("ArrowDown")
    assert re.match(r"0\.\d+ × x0 in x1 = \+0\.\d+ x0  \+0\.\d+ D0", opened.page.text_content("output.cell"))
    reached = set()
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        reached.add(
            opened.page.evaluate(
                "document.activeElement.name || document.activeElement.id || document.activeElement.tagName"
            )
        )
    assert reached >= {"data", "seed", "compare", "copy", "process", "sampler", "play", "progress", "SUMMARY"}
    unnamed = """() => [...document.querySelectorAll("select, input, button, canvas, svg")].filter((element) =>
        !(element.getAttribute("aria-label") || element.labels?.length || element.textContent.trim())).length"""
    assert opened.page.evaluate(unnamed) == 0


def test_the_whole_page_is_below_3_mb_and_opens(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "whole.html"
    path.write_text(page_html(), encoding="utf-8")
    assert path.stat().st_size < 3e6
    opened = Visit(browser, path.as_uri())
    read = content(path.read_text(encoding="utf-8"))
    assert set(read["blocks"]) == set(Selection().processes)
    opened.page.select_option(".panel.a select[name=schedule]", "cosine")
    until(opened.page, "location.hash.includes('/cosine/')")
    assert opened.page.eval_on_selector(".panel.a select[name=sampler]", "menu => menu.length") == len(Selection().few)
    assert opened.said == []
