"""Plans from damaged files: the text gives either a plan that runs or one clear ValueError."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from representatives import each

import ksched
from ksched import VE, VP, Flow, Plan, build_sampler
from ksched.execution.layout import layout
from ksched.execution.loop import run_plan
from ksched.plan.rows import Register
from ksched.samplers.from_plan import placed

PLANS = {
    "noise": build_sampler("dpmpp_sde", "karras", 3).plan,
    "pairs": build_sampler("euler_cfg_pp", "karras", 3).plan,
    "flow": build_sampler("seeds_2", "simple", 3, process=Flow()).plan,
    "infinite": build_sampler(
        "dpmpp_2m_sde", "simple", 3, process=VP(variance_preserving=True, zero_terminal_snr=True)
    ).plan,
}
NOISE = json.loads(PLANS["noise"].to_json())


def refused(text: Any, message: str = ".") -> None:
    """A plan is refused at once, in one line that is short."""
    with pytest.raises(ValueError, match=message) as caught:
        Plan.from_json(text)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


TEXTS = {
    "lists": "[" * 100_000,
    "mappings": '{"a":' * 100_000,
    "lists that end": "[" * 100_000 + "]" * 100_000,
    "a list": "[]",
    "nothing": "",
    "a number": "3",
    "a long number": "1" * 100_000,
    "other bytes": b"\xff\xfe\x00{",
    "a null": "\0",
    "half of one": PLANS["noise"].to_json()[:-100],
    "two of them": PLANS["noise"].to_json() * 2,
    "a name twice": PLANS["noise"].to_json()[:-1] + ', "draws": []}',
    "a deep report": PLANS["noise"].to_json()[:-1] + ', "report": {"a": ' + "[" * 500 + "]" * 500 + "}}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_row_30_text_that_is_no_plan(text: Any) -> None:
    refused(text, "not a ksched plan in JSON, version 1: ")


def at(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for name in path[:-1]:
            data = data[name]
        data[path[-1]] = to

    return change


def without(*path: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for name in path[:-1]:
            data = data[name]
        del data[path[-1]]

    return change


TERM = ("rows", 1, "terms", 0)
DAMAGE: dict[str, tuple[Callable[[Any], None], str]] = {
    "another format": (at("format", to="other"), "format 'other'"),
    "another version": (at("version", to=2), "version 2"),
    "no version": (without("version"), "'version' is missing"),
    "no rows": (without("rows"), "'rows' is missing"),
    "rows in a mapping": (at("rows", to={}), "rows must be a list; got {}"),
    "a row in a list": (at("rows", 1, to=[]), r"rows\[1\] must be a mapping"),
    "no terms": (without("rows", 1, "terms"), "'terms' is missing"),
    "a term alone": (at(*TERM, to=["x0"]), "must have 2 values; got 1"),
    "a coefficient of text": (at(*TERM, 1, to="1.5"), r"rows\[1\] must be a number; got '1.5'"),
    "a coefficient of infinity": (at(*TERM, 1, to="inf"), "finite coefficients; got inf"),
    "an infinity of JSON": (at(*TERM, 1, to=math.inf), "Infinity is not a number in JSON"),
    "no number": (at(*TERM, 1, to=math.nan), "NaN is not a number in JSON"),
    "a coefficient that is true": (at(*TERM, 1, to=True), "must be a number; got True"),
    "a coefficient of 400 digits": (at(*TERM, 1, to=10**400), "more than 308 digits"),
    "x-1": (at(*TERM, 0, to="x-1"), "must name registers such as x0.*got 'x-1'"),
    "x1e5": (at(*TERM, 0, to="x1e5"), "must name registers"),
    "x٣": (at(*TERM, 0, to="x٣"), "must name registers"),
    "x": (at(*TERM, 0, to="x"), "must name registers"),
    "a register of a number": (at(*TERM, 0, to=0), "must be text; got 0"),
    "a register of many digits": (at(*TERM, 0, to="x" + "9" * 5000), "must name registers"),
    "a register to come": (at(*TERM, 0, to="x7"), "refers to x7, which does not exist yet"),
    "no pair": (at(*TERM, 0, to="U0"), "refers to U0, which does not exist yet"),
    "a register twice": (at("rows", 1, "terms", 1, 0, to="x0"), "row x1 must read each register once"),
    "a step of a half": (at("rows", 1, "step", to=0.5), "must be a whole number; got 0.5"),
    "a step of text": (at("rows", 1, "step", to="0"), "must be a whole number; got '0'"),
    "a step below 0": (at("rows", 0, "step", to=-1), "steps of rows must not decrease.*got -1 in row x0"),
    "a step too high": (at("rows", 1, "step", to=3), "must be below 3.*got 3 in row x1"),
    "a step that decreases": (at("rows", 0, "step", to=2), "must not decrease.*got 0 in row x1"),
    "both of a number": (at("rows", 0, "both", to=1), "must be true or false; got 1"),
    "a level of three": (at("rows", 0, "level", to=[1, 1, 1]), "must have 4 values; got 3"),
    "a level below 0": (at("rows", 0, "level", to=[-1, 1, -1, 0]), "row x0 must have a level"),
    "a level of text": (at("rows", 0, "level", 1, to="nan"), "must be a number; got 'nan'"),
    "a level of no signal and no noise": (at("end", to=[0, 0, 0, "inf"]), "end must have a level"),
    "lam of another level": (at("rows", 0, "level", 3, to=2.0), r"with lam = log\(alpha / sigma\)"),
    "lam without an end": (at("rows", 0, "level", 3, to="inf"), r"with lam = log\(alpha / sigma\)"),
    "lam at no noise": (at("end", 3, to=0.0), r"with lam = log\(alpha / sigma\)"),
    "another start": (at("start", to=[1.0, 1.0, 1.0, 0.0]), "the start level of a plan must be that of its sigmas"),
    "another end": (at("sigmas", -1, to=0.001), "the end level of a plan must be that of its sigmas"),
    "fewer sigmas": (without("sigmas", 1), "must be below 2, the number of schedule steps"),
    "no sigmas": (at("sigmas", to=[]), "the sigmas of a plan must be"),
    "sigmas below 0": (at("sigmas", 1, to=-1000.0), "must be one or more numbers >= 0"),
    "sigmas without an end": (at("sigmas", 2, to="inf"), "finite except at the two ends"),
    "sigmas in a mapping": (at("sigmas", to={"a": 1}), "sigmas must be a list"),
    "a draw below 0": (at("draws", 0, 0, to=-1.0), "noise xi0 must be between sigmas of at least 0"),
    "a draw of text": (at("draws", 0, 0, to="one"), r"draws\[0\] must be a number"),
    "a draw of three": (without("draws", 0, 3), r"draws\[0\] must have 4 values; got 3"),
    "a visit of a half": (at("draws", 0, 2, to=0.5), "must be a whole number"),
    "a visit below 0": (at("draws", 0, 2, to=-1), "must have a visit of at least 0"),
    "a stream of 65 bits": (
        at("draws", 0, 3, to=1 << 64),
        "must have a visit of at least 0 and a stream, both of 64 bits",
    ),
    "a noise that nothing reads": (at("draws", to=NOISE["draws"] + [[1.0, 0.5, 0, 0]]), "must be used by a row"),
    "a noise twice": (at("draws", 1, to=NOISE["draws"][0]), "every noise of a plan must be different"),
    "no noises": (at("draws", to=[]), "refers to xi0, which does not exist yet"),
    "a report in a list": (at("report", to=[["a", 1]]), "report must be a mapping"),
}


@each("what", DAMAGE)
def test_a_damaged_plan_is_refused_when_it_is_read(what: str) -> None:
    change, message = DAMAGE[what]
    data = json.loads(json.dumps(NOISE))
    assert Plan.from_json(json.dumps(data)) == PLANS["noise"]
    change(data)
    refused(json.dumps(data), message)


def test_a_plan_that_was_changed_in_memory_is_checked_too() -> None:
    plan = PLANS["noise"]
    with pytest.raises(ValueError, match="one or more numbers >= 0"):
        dataclasses.replace(plan, sigmas=(1.0, math.nan))
    with pytest.raises(ValueError, match=r"with lam = log\(alpha / sigma\)"):
        dataclasses.replace(plan, start=plan.start._replace(lam=0.0))


SOME = st.sampled_from('{}[],:".-+0e1nul\\é\u2028\0')  # all of Unicode takes a second to list
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 3),
    st.floats(),
    st.sampled_from(["inf", "-inf", "nan", "x0", "D0", "U0", "xi0", "xi1", "x-1", "x1", "", "\0"]),
    st.lists(st.floats(), max_size=4),
    st.dictionaries(st.sampled_from(["level", "terms"]), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in plain data but the whole."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [found for key, inner in items for found in ((*path, key), *places(inner, (*path, key)))]


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=3 * settings().max_examples)
@given(data=st.data())
def test_whatever_is_changed_it_runs_or_it_is_refused(name: str, data: st.DataObject) -> None:
    whole = json.loads(PLANS[name].to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        paths = places(whole)
        path = data.draw(st.sampled_from(paths))
        change = without(*path) if data.draw(st.booleans()) else at(*path, to=data.draw(JUNK))
        change(whole)
    text = json.dumps(whole)
    if data.draw(st.booleans()):
        first = data.draw(st.integers(0, len(text)))
        text = text[:first] + data.draw(st.text(SOME, max_size=3)) + text[first + data.draw(st.integers(0, 3)) :]
    try:
        plan = Plan.from_json(text)
    except ValueError:
        refused(text)
        return
    assert Plan.from_json(plan.to_json()) == plan
    assert str(plan)
    runs(plan)


def runs(plan: Plan) -> None:
    """A plan runs by itself, and as a sampler of its process where it fits."""

    def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x / 2, x / 3

    x = torch.ones(1, 2)
    assert run_plan(plan, model, x, lambda start, end: torch.zeros(1, 2)).shape == (1, 2)
    for process in (VP(), Flow(), VE()):
        try:
            sampler = build_sampler(plan, process=process)
            assert sampler.plan.nfe == plan.nfe
        except ValueError:
            continue
        assert sampler.sample(model, x, seed=1).shape == (1, 2)


def test_levels_of_any_size_meet_a_process_in_words() -> None:
    """A plan that starts at next to no signal, far below what a process has a level for."""
    data = json.loads(build_sampler("euler", sigmas=[3.0, 1.0, 0.0], process=VE()).plan.to_json())
    far = [3.0, 1e-320, 3.0, math.log(1e-320) - math.log(3.0)]
    data["start"] = data["rows"][0]["level"] = far
    plan = Plan.from_json(json.dumps(data))
    for process in (VP(), Flow(), VE()):
        with pytest.raises(ValueError, match="the plan starts at a noise-to-signal ratio of"):
            placed(plan, process)


def test_every_plan_that_is_written_is_read() -> None:
    """Those with infinite levels, of samplers that go over the levels twice, of auto, of tune with its report."""

    def twice(run: Any, grid: Any, x: Any) -> Any:
        for _ in range(2):
            for s, _ in grid.steps():
                x = run.denoise(x, s)
        return x

    grid = ksched.schedules.grid.Grid.of([3.0, 1.0, 0.0], VE())
    up = ksched.schedules.grid.Grid(Flow(), tuple(map(Flow().level, (0.0, 0.25, 0.25, 0.5, 1.0))))
    plans = [
        *PLANS.values(),
        ksched.plan.trace.trace(twice, up, {}),
        ksched.plan.trace.trace(twice, grid, {}),
        build_sampler("euler", sigmas=[3.0]).plan,
    ]
    plans += [build_sampler("auto", steps=n, process=p).plan for n in (1, 5, 12) for p in (VP(), Flow())]
    plans.append(ksched.tune(ksched.exact.digits().sample(100, 0), 2, level=0))
    for plan in plans:
        again = Plan.from_json(plan.to_json())
        assert (again, again.report) == (plan, plan.report)
    assert plans[-1].report


# -------------------------------------------------------------------------------------------------------- long plans


def long_plan(steps: int, kind: str) -> str:
    """The JSON of a plan of many rows; its result does not matter."""
    sigmas = np.append(np.geomspace(80.0, 0.01, steps), 0.0).tolist()
    levels = [[s, 1.0, s, "inf" if s == 0 else -math.log(s)] for s in sigmas]
    draws: list[Any] = []
    rows: list[dict[str, Any]] = [{"terms": [], "level": levels[0], "step": 0, "both": False}]
    for k in range(1, steps + 1):
        terms = [[f"x{k - 1}", 0.5], [f"D{k - 1}", 0.5 if k < steps else 0.25]]
        if kind == "noise":
            draws.append([*sigmas[k - 1 : k + 1], 0, 0])
            terms += [[f"xi{m}", 0.1] for m in range(max(0, k - 2), k)]
        if kind == "all held" and k == steps:
            terms += [[f"D{m}", 0.25 / steps] for m in range(steps - 1)]
        level = None if k == steps else levels[k]
        rows.append({"terms": terms, "level": level, "step": min(k, steps - 1), "both": False})
    head = {"format": "ksched-plan", "version": 1, "sigmas": sigmas, "start": levels[0], "end": levels[-1]}
    return json.dumps({**head, "draws": draws, "rows": rows})


def lines_of(act: Callable[[], object]) -> int:
    """How many lines of Python something runs, which is the same on every machine."""
    count = 0

    def line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return line

    before = sys.gettrace()
    sys.settrace(line)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("kind", ["noise", "all held"])
def test_row_57_twice_the_rows_are_twice_the_work(kind: str) -> None:
    def work(steps: int) -> int:
        text = long_plan(steps, kind)

        def act() -> None:
            plan = Plan.from_json(text)
            assert plan.live_registers == (5 if kind == "noise" else steps + 2)
            assert len(layout(plan).segments) == steps

        return lines_of(act)

    assert work(400) < 2.3 * work(200)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_sde"])
def test_twice_the_steps_are_twice_the_work(name: str) -> None:
    def work(steps: int) -> int:
        sigmas = np.append(np.geomspace(80.0, 0.01, steps), 0.0)
        return lines_of(lambda: build_sampler(name, sigmas=sigmas, process=VE()).plan)

    assert work(200) < 2.3 * work(100)


def test_registers_that_stay_take_room_once() -> None:
    program = layout(Plan.from_json(long_plan(500, "all held")))
    assert [register for register, _ in program.held[-1]] == [Register("x", 500)]
    last = dict(program.held[499])
    assert last.keys() == {Register("x", 499), *(Register("D", m) for m in range(499))}
    assert len(set(last.values())) == 500
    nodes = program.held._nodes  # type: ignore[attr-defined]
    assert sum(map(len, nodes)) < 30 * 500


def test_a_long_row_runs() -> None:
    plan = Plan.from_json(long_plan(300, "all held"))
    x = torch.ones(1, 3, dtype=torch.float64)
    states, outputs = [x], list[torch.Tensor]()
    for row in plan.rows[1:]:
        outputs.append(torch.tanh(states[-1]))
        registers = {"x": states, "D": outputs}
        states.append(sum(value * registers[r.kind][r.number] for r, value in row.terms))  # type: ignore[arg-type]
    torch.testing.assert_close(run_plan(plan, lambda x, sigma: torch.tanh(x), x), states[-1], rtol=1e-12, atol=0)
