"""explain: describes how two configurations differ."""

from __future__ import annotations

from typing import Any

import pytest
from cases import process_for
from representatives import each

from ksched import Dialect, Flow, NoiseSchedule, build_sampler, explain
from ksched.dialects.explain import Configuration
from ksched.dialects.peer import SamplerPeer
from ksched.dialects.peer_samplers import SAMPLER_PEERS
from ksched.samplers.coordinates import VIEW_OPTIONS, view
from ksched.samplers.facts import allowed, option_texts, sampler_facts
from ksched.samplers.registry import dialect_options, sampler_spec, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules import SCHEDULES, schedule_options


def test_configurations_are_read_in_every_form() -> None:
    for text, want in [
        ("comfyui:dpmpp_2m_sde+karras", "comfyui:dpmpp_2m_sde+karras"),
        ("a1111:DPM++ 2M SDE Karras", "a1111:dpmpp_2m_sde+karras"),
        ("a1111: DPM++ 2M + Karras", "a1111:dpmpp_2m+karras"),
        ("Euler a", "ksched:euler_ancestral+normal"),
        ("diffusers:beta", "diffusers:beta"),
        ("simple", "ksched:simple"),
        ("comfyui:dpm_fast", "comfyui:dpm_fast"),
        ("comfyui:dpmpp_2m_sde_gpu+karras", "comfyui:dpmpp_2m_sde+karras"),
        ("diffusers:UniPCMultistepScheduler", "diffusers:uni_pc"),
        ("a1111:HeunPP2", "a1111:heunpp2+normal"),
        ("a1111:SEEDS 2 DP Karras", "a1111:seeds_2+karras"),
        ("a1111:DDIM", "a1111:ddim+ddim_uniform"),
        ("a1111:DDIM Automatic", "a1111:ddim+ddim_uniform"),
        ("a1111:DPM++ 2M Automatic", "a1111:dpmpp_2m+karras"),
        ("comfyui:ddim", "comfyui:ddim"),
        ("ddim_uniform", "ksched:ddim_uniform"),
        ("DDIM uniform", "ksched:ddim_uniform"),
        ("diffusers:use_karras_sigmas", "diffusers:karras"),
    ]:
        assert str(Configuration.parse(text)) == want


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ("comfyui:dpmpp_2m_sde+karras", "a1111:DPM++ 2M SDE Karras", ["= the same noise levels", "= the same table"]),
        ("beta", "diffusers:beta", ["- domain of the schedule: 'table' and 'sigma'", "most different at level"]),
        ("kl_optimal", "a1111:kl_optimal", ["- final of the schedule: 'zero' and 'sigma_min'", "- noise levels"]),
        (
            "euler+karras",
            "heun+karras",
            ["- sampler: euler and heun", "- cost of the run: 10 model calls and 0"],
        ),
        ("euler+karras", "ddim+exponential", ["- schedule: karras and exponential", "= the same table"]),
        ("ddim_uniform", "comfyui:ddim_uniform", ["- stride of the schedule: 'even' and 'whole'", "= the same noise"]),
    ],
)
def test_differences_are_said(a: str, b: str, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = explain(a, b)
    assert capsys.readouterr().out == text + "\n"
    for words in said:
        assert words in text


def test_lengths_may_differ() -> None:
    assert "11 of them and 13" not in explain("ddim_uniform", "comfyui:ddim_uniform", steps=10)
    assert "31 of them and 32" in explain("ddim_uniform", "comfyui:ddim_uniform", steps=30)
    assert "- noise levels" in explain("normal", "comfyui:normal", process=Flow(3.0))


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (3, TypeError, "a configuration must be a string such as 'comfyui:dpmpp_2m_sde"),
        ("klingon:euler+karras", ValueError, "unknown dialect 'klingon'"),
        ("euler+karas", ValueError, r"unknown noise schedule 'karas'; did you mean karras\?"),
        ("frobnicate", ValueError, "unknown sampler 'frobnicate'"),
    ],
)
def test_nonsense(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        explain(text, "karras")


@each("program", [program for program in Dialect if program is not Dialect.KSCHED])
def test_every_name_of_another_program(program: Dialect) -> None:
    for peer in (peer for peer in SAMPLER_PEERS if peer.program is program):
        if peer.sampler is None:
            with pytest.raises(ValueError, match="ksched has no sampler"):
                explain(f"{peer.program}:{peer.name}")
        else:
            check_explanation(peer, sampler_spec(peer.sampler))


def check_explanation(peer: SamplerPeer, spec: SamplerSpec) -> None:
    text = explain(f"{peer.program}:{peer.name}", steps=5)
    lines = text.splitlines()
    assert lines[0].startswith(f"{peer.program}:{peer.sampler}")
    assert spec.summary.replace("`", "") in " ".join(text.split())
    assert peer.note.replace("`", "") in " ".join(text.split())
    assert max(len(line) for line in lines if line.startswith(" ")) <= 110
    changed = {**dialect_options(spec, peer.program), **peer.options}
    for name, value in changed.items():
        if value != spec.options[name].default:
            assert f"- {name} of the sampler: {value!r} and {spec.options[name].default!r}" in lines


@each("spec", samplers())
def test_the_table_is_that_of_the_dialect(spec: SamplerSpec) -> None:
    """On levels to 0 and on VP, where as_ve and start_after do nothing, other options make another table."""
    process = process_for(spec)
    text = explain(f"comfyui:{spec.name}+karras", f"{spec.name}+karras", steps=7, process=process)
    said = text.splitlines()[-1]
    if spec.adaptive:
        assert said == f"- {spec.name} chooses its steps by the model's answers: no table to compare"
    elif {*dialect_options(spec, Dialect.COMFYUI)} <= {"as_ve", "start_after", "split"}:
        assert said.startswith("= the same table of the run")
    else:
        how: dict[str, Any] = {"steps": 7, "process": process}
        plans = [build_sampler(spec.name, "karras", dialect=word, **how).plan for word in ("comfyui", "ksched")]
        assert said.startswith(("= the same table" if plans[0] == plans[1] else "- ", "= the same table"))


def test_options_are_compared_in_their_dialects() -> None:
    text = explain("comfyui:dpmpp_2m_sde+karras", "a1111:DPM++ 2M SDE Karras")
    assert (
        "- as_ve of the sampler: False and True\n  as_ve: On a flow process, treat states as x0 + sigma * eps" in text
    )
    assert "- start_after of the sampler: 0.0001 and 0.0\n  start_after: Start a run from pure noise" in text
    assert "= the same table of the run" in text
    on_flow = explain("comfyui:dpmpp_2m_sde+karras", "a1111:DPM++ 2M SDE Karras", process=Flow())
    assert "- another table of the run" in on_flow


def test_the_name_of_a_class_brings_its_options() -> None:
    text = explain("diffusers:sde-dpmsolver", "diffusers:dpmsolver")
    assert "- eta of the sampler: 1.0 and 0.0" in text
    assert "predict of the sampler" not in text
    assert "- cost of the run: 10 model calls and 9 noises; 10 model calls and 0 noises" in text
    assert Configuration.parse("diffusers:dpmsolver+karras").preset == (("predict", "eps"),)


def test_what_only_one_sampler_has_is_said_if_it_is_not_the_default() -> None:
    text = explain("comfyui:dpm_adaptive+karras", "euler+karras")
    assert "- end of the sampler: 'sigma_min' and 'not an option'" in text
    assert "rtol" not in text
    assert "- dpm_adaptive chooses its steps by the model's answers: no table to compare" in text


def test_adaptive_samplers_with_the_same_options() -> None:
    text = explain("comfyui:dpm_adaptive+karras", "k_diffusion:sample_dpm_adaptive+karras")
    assert text.splitlines()[-1].startswith(
        "= the same sampler with the same options; dpm_adaptive chooses its steps by"
    )


def test_levels_that_no_run_can_have() -> None:
    text = explain("comfyui:euler+vp", "euler+vp", process=Flow())
    assert "- no table of the run on the first's levels: sigmas must be at most 1 on this process" in text


def test_ours_alone_is_described_and_not_compared() -> None:
    assert explain("dpmpp_2m+karras").splitlines() == [
        "ksched:dpmpp_2m+karras",
        f"  dpmpp_2m: {sampler_spec('dpmpp_2m').summary.replace('`', '')} {sampler_spec('dpmpp_2m').source}.",
        "  karras: even in sigma ** (1 / rho). arXiv:2206.00364.",
    ]


def test_every_option_of_a_sampler_is_explained() -> None:
    for spec in samplers():
        texts = option_texts(spec.function)
        assert {*spec.own_options} <= {*texts}, spec.name
        assert all(text and "`" not in text and "\n" not in text for text in texts.values()), spec.name
    assert {*VIEW_OPTIONS} <= {*option_texts(view)}


@each("name", SCHEDULES)
def test_every_option_of_a_schedule_is_explained(name: NoiseSchedule) -> None:
    options = schedule_options(name)
    assert {*options} <= {*option_texts(SCHEDULES[name].function)}
    assert all(allowed(option) for option in options.values())


def test_a_docstring_may_be_missing() -> None:
    assert option_texts(lambda x: x) == {}


def test_facts_in_words() -> None:
    for spec in samplers():
        facts = sampler_facts(spec)
        assert ("needs" in facts, "plan" in facts) == (spec.uncond, spec.adaptive), spec.name
        assert str(spec.order) in facts["order"], spec.name
        assert (str(spec.draws) if spec.draws else "") in facts["noise"], spec.name
        assert all(text and not text.endswith(".") for text in facts.values()), spec.name
