"""A small page of the explorer, and what Python makes of the runs that the page is asked for."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import numpy as np

import ksched
from ksched.explorer import Case, Selection, page_html
from ksched.explorer.plane_data import DATA_SETS, as_mixture
from ksched.plan.plan import Plan

__all__ = ["PROCESSES", "SMALL", "cases", "content", "expected_ends", "page", "question"]


def _single(process: ksched.Process, sampler: str) -> Plan:
    return ksched.build_sampler(sampler, "karras", 4, process=process).plan


#: processes whose states no short rule describes, and whose noise is not of unit variance
_OTHERS: dict[str, ksched.Process] = {"trig-flow": ksched.TrigFlow(), "preserving": ksched.VP(variance_preserving=True)}

#: every planned sampler on the processes of a page, and single plans on others
SMALL = Selection(
    schedules=("karras",),
    steps=(4,),
    few=(),
    more=tuple(
        Case(name, "karras", sampler, 4, "", _single(process, sampler))
        for name, process in _OTHERS.items()
        for sampler in ("dpmpp_2m_sde", "heun")
    ),
)
PROCESSES = {**SMALL.processes, **_OTHERS}


@cache
def page() -> str:
    """The page of `SMALL`."""
    return page_html(SMALL)


@cache
def cases() -> tuple[Case, ...]:
    """The plans of `SMALL`."""
    return tuple(SMALL.cases())


def content(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL)
    assert found
    read: dict[str, Any] = json.loads(found[1])
    return read


def expected_ends(plan: Plan, process: ksched.Process, asked: dict[str, Any]) -> np.ndarray[Any, Any]:
    """What Python makes of a run that the page is asked for."""
    import torch

    whole = as_mixture(asked["data"], process)
    some = whole if asked["label"] is None else whole.only(asked["label"])

    def model(x: Any, sigma: float) -> tuple[Any, Any]:
        state = torch.from_numpy(x)
        uncond = whole(state, sigma).numpy()
        return uncond + asked["scale"] * (some(state, sigma).numpy() - uncond), uncond

    shape = (asked["count"], 2)
    x = ksched.arrays.initial_state(plan, shape, seed=asked["seed"], dtype=np.float64)
    both = any(row.both for row in plan.rows)
    denoise = model if both else lambda x, sigma: model(x, sigma)[0]
    return ksched.arrays.run(plan, denoise, x, seed=asked["seed"])


def question(case: Case, number: int) -> dict[str, Any]:
    """What the page is asked for a plan: every data set, with and without guidance."""
    names = {"process": case.process, "schedule": case.schedule, "sampler": case.sampler, "steps": case.steps}
    guided = (
        {"label": 1, "scale": 2.5}
        if number % 3 == 0 or any(row.both for row in case.plan.rows)
        else {"label": None, "scale": 1}
    )
    return {**names, "variant": case.variant, "data": list(DATA_SETS)[number % 4], "seed": number, "count": 8, **guided}
