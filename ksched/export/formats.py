"""A plan's table in the syntax of a language, inserted into that language's reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from ksched.execution.layout import DENOISED, UNCOND, Segment, Terms, layout
from ksched.plan.plan import Plan

__all__ = ["Format", "export"]


class Format(StrEnum):
    """The formats in which a plan can be written."""

    JSON = "json"
    C = "c"
    RUST = "rust"
    JS = "js"


class _Call(NamedTuple):
    """Call the model on a buffer."""

    buffer: int
    sigma: float


class _Noise(NamedTuple):
    """Draw noise into a buffer."""

    buffer: int
    sigma_from: float
    sigma_to: float
    limit: float


class _Form(NamedTuple):
    """Form a sum in a buffer, which may be one of its sources."""

    buffer: int
    terms: Terms


_Step = _Call | _Noise | _Form


def export(plan: Plan, format: Format | str, title: str = "A plan of ksched.") -> str:
    """A plan as source code that runs it, or as JSON.

    Parameters
    ----------
    plan : Plan
        The plan to write.
    format : Format or str
        "json", which `ksched.Plan.from_json` reads; or "c", "rust" or "js", for a self-contained file.
    title : str
        Title of the file, a one-line comment.

    Returns
    -------
    text of the file, ending with a line break

    Raises
    ------
    ValueError
        For an unknown format.

    Notes
    -----
    The table is the plan in the memory layout of `ksched.Sampler.sample`: model calls, noises and sums over numbered
    buffers, each of which is reused as soon as nothing reads it any more. The buffers of the model's answer come last.
    Sums use double precision.
    """
    if format not in [*Format]:
        raise ValueError(f"format must be one of {', '.join(repr(str(one)) for one in Format)}; got {format!r}")
    known = Format(format)
    if known is Format.JSON:
        return f"{plan.to_json()}\n"
    name, statement, number = _LANGUAGES[known]
    program, steps = layout(plan), list(_steps(plan))
    places = {DENOISED: program.buffers, UNCOND: program.buffers + 1}

    def placed(terms: Terms) -> Terms:
        return tuple((places.get(source, source), value) for source, value in terms)

    shown = [_Form(step.buffer, placed(step.terms)) if isinstance(step, _Form) else step for step in steps]
    words = {
        "TITLE": " ".join(title.replace("*/", "* /").split()),
        "START": f"{plan.start.label:.9g}",
        "BUFFERS": str(program.buffers + (2 if program.both or known is Format.RUST else 1)),
        "RESULT": str(program.states[-1]),
        "DENOISED": str(program.buffers),
        "BOTH": {Format.C: str(int(program.both))}.get(known, str(program.both).lower()),
        "UNCOND_NOTE": _UNCOND[known][program.both],
        "NOISE_NOTE": "" if plan.draws else ", which this plan never does",
        "STEPS": "\n".join(statement(shown)),
        "TERMS": "\n".join(
            f"    {{{source}, {number(value)}}},"
            for step in shown
            if isinstance(step, _Form)
            for source, value in step.terms
        ),
    }
    text = Path(__file__).with_name("readers").joinpath(name).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _steps(plan: Plan) -> Iterable[_Step]:
    """The steps of a run, in order."""
    program = layout(plan)
    yield from _turn(plan, program.before)
    for level, turn in zip(plan.levels, program.segments, strict=True):
        yield _Call(turn.x, level.label)
        yield from _turn(plan, turn)


def _turn(plan: Plan, turn: Segment) -> Iterable[_Step]:
    """The steps after a call: noises, then sums."""
    for number, buffer in turn.draws:
        draw = plan.draws[number]
        yield _Noise(buffer, draw.sigma_from, draw.sigma_to, draw.limit)
    for operation in turn.operations:
        yield _Form(operation.out, operation.terms)


def _c(steps: Iterable[_Step]) -> Iterable[str]:
    first = 0
    for step in steps:
        if isinstance(step, _Form):
            yield f"    {{KSCHED_FORM, {step.buffer}, {first}, {len(step.terms)}, 0, 0, 0}},"
            first += len(step.terms)
        elif isinstance(step, _Call):
            yield f"    {{KSCHED_CALL, {step.buffer}, 0, 0, {_c_number(step.sigma)}, 0, 0}},"
        else:
            yield f"    {{KSCHED_NOISE, {step.buffer}, 0, 0, {', '.join(map(_c_number, step[1:]))}}},"


def _rust(steps: Iterable[_Step]) -> Iterable[str]:
    for step in steps:
        if isinstance(step, _Form):
            terms = ", ".join(f"({source}, {_rust_number(value)})" for source, value in step.terms)
            yield f"    Form {{ out: {step.buffer}, terms: &[{terms}] }},"
        elif isinstance(step, _Call):
            yield f"    Call {{ x: {step.buffer}, sigma: {_rust_number(step.sigma)} }},"
        else:
            values = dict(zip(("from", "to", "limit"), map(_rust_number, step[1:]), strict=True))
            yield f"    Noise {{ out: {step.buffer}, {', '.join(f'{name}: {v}' for name, v in values.items())} }},"


def _js(steps: Iterable[_Step]) -> Iterable[str]:
    for step in steps:
        if isinstance(step, _Form):
            terms = "".join(f", [{source}, {_js_number(value)}]" for source, value in step.terms)
            yield f'  ["form", {step.buffer}{terms}],'
        else:
            what = "call" if isinstance(step, _Call) else "noise"
            yield f'  ["{what}", {step.buffer}, {", ".join(map(_js_number, step[1:]))}],'


def _numbers(infinity: str) -> Callable[[float], str]:
    """A function that writes a float exactly in a language's syntax."""

    def written(value: float) -> str:
        return infinity if value == math.inf else repr(float(value))

    return written


_c_number, _rust_number, _js_number = map(_numbers, ("INFINITY", "f64::INFINITY", "Infinity"))


# for each language: the reader's file, how it writes steps, and how it writes numbers
_LANGUAGES: dict[Format, tuple[str, Callable[[Iterable[_Step]], Iterable[str]], Callable[[float], str]]] = {
    Format.C: ("plan.h", _c, _c_number),
    Format.RUST: ("plan.rs", _rust, _rust_number),
    Format.JS: ("plan.mjs", _js, _js_number),
}


# the reader's comment on the unconditional prediction, for plans that do not need it and for plans that do
_UNCOND = {
    Format.C: ("uncond is NULL", "uncond likewise, without the condition"),
    Format.RUST: ("`uncond` may be left as it is", "`uncond` likewise, without the condition"),
    Format.JS: ("an array like x", "which is [denoised, uncond] for this plan"),
}
