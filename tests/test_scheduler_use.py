"""Every use that the installed diffusers' pipelines make of a scheduler works with ours, or is refused."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import pytest
from representatives import each

diffusers = pytest.importorskip("diffusers")

from scheduler_use import rows_of, uses  # noqa: E402

from ksched.dialects.diffusers.classes import CLASSES  # noqa: E402
from ksched.dialects.diffusers.scheduler_use import ANSWERED_NO, REFUSED_USE, SUPPORTED_USE  # noqa: E402
from ksched.integrations.diffusers.scheduler import KSchedScheduler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def pairs() -> list[tuple[Any, Any]]:
    """A scheduler of each class, and ours from it, before and after `set_timesteps`."""
    made = []
    for name in CLASSES:
        if name.endswith("InverseScheduler"):
            continue
        for steps in (None, 6):
            try:
                stock = getattr(diffusers, name)()
            except ImportError:  # torchsde is not installed
                continue
            ours = KSchedScheduler.from_diffusers(stock)
            if steps is not None:
                stock.set_timesteps(steps, **({"intermediate_timesteps": None} if name == "SCMScheduler" else {}))
                ours.set_timesteps(steps)
            made.append((stock, ours))
    return made


def having(name: str) -> list[tuple[Any, Any]]:
    """Those whose class has an attribute."""
    found = [(stock, ours) for stock, ours in pairs() if hasattr(stock, name)]
    assert found, f"no class has {name}"
    return found


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_no_use_is_unknown_and_no_row_is_left_over(every: int) -> None:
    tables = (SUPPORTED_USE, ANSWERED_NO, REFUSED_USE)
    for row, files in sorted(uses(every).items()):
        where = f"{row!r} ({', '.join(sorted(files)[:3])})"
        known = sum(row in table for table in tables)
        assert known == 1, f"{where} must be in one table of ksched/dialects/diffusers/scheduler_use.py"
    if every == 1 and diffusers.__version__ == "0.42.1":  # which the tables are of
        assert {row for table in tables for row in table} == set(uses())


def test_a_row_says_in_a_sentence_what_is_answered() -> None:
    assert all(text[0].islower() or text.startswith(("Bria", "LEDITS", "LTX", "HiDream", "Stable"))
               for text in ANSWERED_NO.values())  # fmt: skip


@each("row", SUPPORTED_USE)
def test_a_use_that_is_supported(row: str) -> None:
    kind, _, what = row.partition(" ")
    if what.startswith("config."):
        configuration(kind, what.removeprefix("config."))
    elif "(" in what:
        method, _, keyword = what.removesuffix(")").partition("(")
        call(method, keyword.removesuffix("="))
    elif kind == "assign":
        assign(what.removesuffix("[...]"))
    else:
        for stock, ours in having(what):
            assert hasattr(ours, what), f"{type(stock).__name__} has {what}"
    if kind == "ask" and "(" in what:
        method, _, keyword = what.removesuffix("=)").partition("(")
        assert keyword in inspect.signature(getattr(KSchedScheduler, method)).parameters


def configuration(kind: str, name: str) -> None:
    found = [(stock, ours) for stock, ours in pairs() if name in stock.config]
    assert found
    for stock, ours in found:
        assert ours.config.get(name) == stock.config.get(name) == getattr(ours.config, name)
    if kind == "assign":
        config = KSchedScheduler.from_diffusers(found[0][0]).config
        setattr(config, name, "trailing")
        assert getattr(config, name) == "trailing"


def call(method: str, keyword: str) -> None:
    for _, ours in having(method):
        parameters = inspect.signature(getattr(ours, method)).parameters
        var = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        assert not keyword or var or keyword in parameters


def assign(name: str) -> None:
    for _, ours in having(name):
        value = getattr(ours, name)
        setattr(ours, name, value)
        assert getattr(ours, name) is value or repr(getattr(ours, name)) == repr(value)


@pytest.mark.parametrize("row", [row for row in REFUSED_USE if row.startswith(("call step(", "call set_timesteps("))])
def test_a_keyword_that_is_refused_is_not_there(row: str) -> None:
    method, _, keyword = row.removeprefix("call ").removesuffix("=)").partition("(")
    assert keyword not in inspect.signature(getattr(KSchedScheduler, method)).parameters, f"{row!r} is supported now"


def test_the_reader() -> None:
    source = """
x = self.scheduler.step(a, t, x, eta=0.0).prev_sample
self.scheduler.sigmas[-1] = 0
scheduler.new_thing += 1
if "odd" in set(inspect.signature(self.scheduler.step).parameters): extra_step_kwargs["odd"] = 1
getattr(pipe.scheduler.config, "one", None), scheduler.config.get("two"), hasattr(scheduler, "three")
isinstance(self.low_res_scheduler, (A, B))
retrieve_timesteps(self.scheduler, n, device, sigmas=s, **kw)
other.config.four, scheduler_output.prev_sample
"""
    assert rows_of(source) == {
        "call step()", "call step(eta=)", "assign sigmas[...]", "assign new_thing", "ask step(odd=)", "read step",
        "call step(odd=)", "read config.one", "read config.two", "ask three", "isinstance A", "isinstance B",
        "call set_timesteps(sigmas=)", "read config",
    }  # fmt: skip
