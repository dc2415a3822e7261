"""The facts of a sampler and its options, in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from ksched.options import Option
from ksched.samplers.spec import SamplerSpec

__all__ = ["allowed", "option_texts", "sampler_facts"]


# ------------------------------------------------------------------------------------------- declared facts, in words
def sampler_facts(spec: SamplerSpec) -> dict[str, str]:
    """The declared facts of a sampler, as phrases without a full stop."""
    order = str(spec.order) if spec.order else "0: it does not converge to the ODE"
    facts = {"order": order if spec.weak_order is None else f"{order}; weak order with noise {spec.weak_order}"}
    if spec.adaptive:
        calls = f"{spec.calls} per try; the error estimate decides the number of tries"
    elif spec.calls is None:
        calls = "depends on the noise levels"
    elif callable(spec.calls):
        calls = f"varies by step: {spec.nfe(10)} for 10 steps to sigma 0"
    else:
        calls = f"{spec.calls} per step"
        calls += f", {spec.calls_to_zero} for the step to sigma 0" if spec.calls != spec.calls_to_zero else ""
    noise = "none with its default options" if "s_noise" in spec.own_options else "none"
    if spec.draws is None:
        noise = "depends on the noise levels"
    elif spec.draws:
        noise = f"{spec.draws} per step that does not end at sigma 0"
    facts |= {"model calls": calls, "noise": noise}
    if not spec.keeps_variance:
        facts["variance"] = "states do not have the variance of their levels"
    if spec.flow_only:
        facts["runs on"] = "flow processes only"
    if spec.uncond:
        facts["needs"] = "the unconditional prediction too"
    if spec.adaptive:
        facts["plan"] = "none: the sampler chooses its steps from the model's answers"
    return facts


#: a type in a docstring, such as "float or sequence of float"; the description then stands below it
_TYPE = re.compile(r"[\w.]+((, | or |, or | and | of )[\w.]+)*")


def option_texts(function: Callable[..., Any]) -> dict[str, str]:
    """Description of each parameter of a function, on one line, from the "Parameters" of its docstring."""
    lines = (function.__doc__ or "").splitlines()
    start = next((k + 2 for k, line in enumerate(lines) if line.strip() == "Parameters"), len(lines))
    entries: list[tuple[list[str], list[str]]] = []
    for line in lines[start:]:
        begins = re.match(r" {4}([\w, ]+) : (.+)", line)
        if begins:
            entries.append((begins[1].split(", "), [begins[2]]))
        elif entries and line.startswith(" " * 8):
            entries[-1][1].append(line.strip())
        else:
            break
    texts: dict[str, str] = {}
    for names, (first, *below) in entries:
        described = below if below and _TYPE.fullmatch(first) else [first, *below]
        texts |= dict.fromkeys(names, re.sub(r"`+", "", " ".join(described)).removesuffix("."))
    return texts


def allowed(option: Option, quote: str = "") -> str:
    """The values that an option takes, quoted with ``quote``: "'bh1', 'bh2'", "number from 0 to 1"."""
    if get_origin(option.kind) is Literal:
        return ", ".join(f"{quote}{value!r}{quote}" for value in get_args(option.kind)).replace("'", '"')
    if option.kind is bool:
        return f"{quote}True{quote}, {quote}False{quote}"
    if option.per_step:
        return f"{allowed(option._replace(per_step=False), quote)}, or one per step"
    word = ("None, " if option.default is None else "") + ("whole number" if option.kind is int else "number")
    if option.high >= 2**31:
        if option.low <= -1e300:
            return f"any {word}"
        return f"{word} above 0" if 0 < option.low < 1e-300 else f"{word} from {option.low:g}"
    return f"{word} from {option.low:g} to {option.high:g}"
