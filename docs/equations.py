"""The equation of a sampler's step: from the plan, or from ``sampler_notes.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import ksched
from ksched import VE, Flow, calculate_sigmas
from ksched.plan.plan import Plan
from ksched.samplers.registry import samplers
from ksched.samplers.spec import SamplerSpec

__all__ = ["equation", "step_form", "use_when"]

LENGTH = 12
LETTERS = {"D": "b", "U": "c", "xi": "e"}
NOTATION = (
    r"$x_i$ is the state at level $i$, $\alpha_i$ and $\sigma_i$ its signal and noise, $D_i$ the prediction of $x_0$ "
    r"there; $s = \sigma / \alpha$, $u = x / \alpha$, $\lambda = -\log s$, $h_i = \lambda_{i+1} - \lambda_i$, "
    r"$\Delta_i = s_{i+1} - s_i$, $\hat\epsilon = (x - \alpha D) / \sigma$, $d = (u - D) / s$ the slope of the ODE "
    r"(on flow processes $u = x$, $s = \sigma$ and $d$ is the velocity), $\xi$ fresh normal noise"
)
GUIDED = r"; $U$ is the unconditional prediction, and $\hat\epsilon^{\,U}$, $d^{\,U}$ are computed from it"


@cache
def notes() -> Mapping[str, Any]:
    """Read ``sampler_notes.toml``, which is written by hand."""
    found = tomllib.loads(Path(__file__).with_name("sampler_notes.toml").read_text(encoding="utf-8"))
    wrong = {spec.name for spec in samplers()} ^ set(found["samplers"])
    if wrong:
        raise ValueError(
            f"docs/sampler_notes.toml must have every sampler and no other; wrong: {', '.join(sorted(wrong))}"
        )
    return found


def use_when(spec: SamplerSpec) -> str:
    """Return when to use a sampler, as the end of the sentence "Use it when"."""
    return str(notes()["samplers"][spec.name]["use"])


def equation(spec: SamplerSpec) -> str:
    """Return the update of a step, in LaTeX."""
    own = notes()["samplers"][spec.name].get("equation") or notes()["families"].get(spec.family, {}).get("equation")
    parts = [f"$$\n{own.strip()}\n$$"] if own else []
    form = None if spec.adaptive else step_form(spec)
    if form:
        parts += ["Read from its plan, a step in the middle of a run has the form", f"$$\n{form}\n$$"]
    return "\n\n".join([*parts, NOTATION + (GUIDED if spec.uncond else "") + "."])


def step_form(spec: SamplerSpec) -> str | None:
    """Return the predictions, states and noises that a middle step sums, in LaTeX; None if there are too many."""
    process = Flow() if spec.flow_only else VE()
    plan = ksched.build_sampler(spec.name, sigmas=calculate_sigmas("karras", LENGTH, process), process=process).plan
    rows = expanded(plan)
    begun = [k for k, row in enumerate(plan.rows) if row.step == LENGTH // 2 and row.level is not None]
    end = next((k for k, row in enumerate(plan.rows) if begun and k > begun[-1] and row.level is not None), None)
    if end is None:
        return None
    return from_predictions(plan, rows, end) or from_slopes(plan, rows, begun[0], end)


def from_predictions(plan: Plan, rows: Any, end: int) -> str | None:
    """Write a state as a multiple of an earlier one plus a sum of the last predictions."""
    if abs(rows[end, 0]) < 1e-12:
        start, left = None, rows[end, 1:]
    else:
        start, left = min(
            (difference(rows, end, start) for start in range(end) if abs(rows[start, 0]) > 1e-12),
            key=lambda found: int((abs(found[1]) > 1e-9).sum()),
        )
        if plan.rows[end].step - plan.rows[start].step > 1:
            return None
    if (abs(left) > 1e-9).sum() > 7:
        return None
    names = columns(plan, end)
    terms = [] if start is None else [f"a\\, {state(plan, start, end)}"]
    counts: dict[str, int] = {}
    used = map(int, np.flatnonzero(abs(left) > 1e-9))
    for column in sorted(used, key=lambda column: (names[column][0], -column)):
        kind, symbol = names[column]
        count = counts[kind] = counts.get(kind, -1) + 1
        terms.append(f"{LETTERS[kind]}_{{{count}}}\\, {symbol}")
    return f"{state(plan, end, end)} = " + " + ".join(terms)


def from_slopes(plan: Plan, rows: Any, start: int, end: int) -> str | None:
    """Write a state as the previous one plus a sum of the last slopes (differences of states and predictions)."""
    calls = [k for k, row in enumerate(plan.rows) if row.level is not None and k < end]
    noises = np.eye(rows.shape[1])[1 + 2 * len(plan.rows) :]
    for count in range(1, 6):
        past = list(range(len(calls)))[-count:][::-1]
        slopes = [rows[calls[n]] - np.eye(rows.shape[1])[1 + n] for n in past]
        basis = np.stack([rows[start], *slopes, *noises])
        weights, *_ = np.linalg.lstsq(basis.T, rows[end], rcond=None)
        if np.abs(weights @ basis - rows[end]).max() < 1e-8:
            terms = [state(plan, start, end)]
            terms += [f"w_{{{n}}}\\, d({state(plan, calls[k], end)})" for n, k in enumerate(past)]
            terms += [r"e\, \xi"] if np.abs(weights[1 + count :]).max(initial=0.0) > 1e-9 else []
            return f"{state(plan, end, end)} = " + " + ".join(terms)
    return None


def difference(rows: Any, end: int, start: int) -> tuple[int, Any]:
    """Subtract from a state the multiple of an earlier one that cancels the first state."""
    return start, rows[end, 1:] - rows[end, 0] / rows[start, 0] * rows[start, 1:]


def expanded(plan: Plan) -> Any:
    """Expand every row of a plan into a sum of the first state, the predictions and the noises."""
    width = 1 + 2 * len(plan.rows) + len(plan.draws)
    places = {"D": 1, "U": 1 + len(plan.rows), "xi": 1 + 2 * len(plan.rows)}
    found = np.zeros((len(plan.rows), width))
    for k, row in enumerate(plan.rows):
        if not row.terms:
            found[k, 0] = 1.0
        for register, weight in row.terms:
            if register.kind == "x":
                found[k] += weight * found[register.number]
            else:
                found[k, places[register.kind] + register.number] += weight
    return found


def columns(plan: Plan, end: int) -> dict[int, tuple[str, str]]:
    """Return the symbol of each column of `expanded` but the first; ``end`` is the state that is computed."""
    found: dict[int, tuple[str, str]] = {}
    calls = [k for k, row in enumerate(plan.rows) if row.level is not None]
    for number, k in enumerate(calls):
        for kind, offset in (("D", 0), ("U", len(plan.rows))):
            found[offset + number] = kind, f"{kind}({state(plan, k, end)})"
    for number in range(len(plan.draws)):
        found[2 * len(plan.rows) + number] = "xi", r"\xi"
    return found


def state(plan: Plan, k: int, end: int) -> str:
    """Name a state by its position relative to the current step: `x_{i+1}`, `x_{i-1}`, or a stage of the step."""
    place = plan.rows[k].step - plan.rows[end].step + 1
    same = [j for j, row in enumerate(plan.rows) if row.step == plan.rows[k].step and row.level is not None]
    stage = same.index(k) if k in same else None
    index = "i" if place == 0 else f"i{place:+d}"
    if stage is None:
        return f"\\bar x_{{{index}}}"
    return f"x_{{{index}}}" if stage == 0 else f"x_{{{index}}}^{{({stage})}}"
