"""Names: ComfyUI's names as values, other programs' spellings as input, near misses, A1111's labels."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from representatives import short

from ksched import NoiseSchedule, SamplerType, build_sampler, parse_label
from ksched.names.enums import SCHEDULE_SPELLINGS
from ksched.names.sampler_type import SamplerName, ScheduleName
from ksched.names.spelling import spelling_key
from ksched.samplers.registry import samplers

SPELLINGS: dict[Any, list[tuple[str, str]]] = {
    SamplerType: [(word, spec.name) for spec in samplers() for word in spec.words],
    NoiseSchedule: [*SCHEDULE_SPELLINGS.items()],
}


@pytest.mark.parametrize("kind", [SamplerType, NoiseSchedule])
def test_every_spelling_of_a_member_is_read(kind: type[SamplerType] | type[NoiseSchedule]) -> None:
    for member in kind:
        for spelling in (
            member,
            member.value,
            member.name,
            member.value.replace("_", " ").title(),
            f" {member.value} ",
        ):
            assert kind.parse(spelling) is member
        assert json.loads(json.dumps({"name": member})) == {"name": member.value}
        assert f"{member}" == member.value


def test_defaults() -> None:
    assert SamplerType.default() is SamplerType.EULER
    assert NoiseSchedule.default() is NoiseSchedule.SIMPLE
    sampler = build_sampler()
    assert (sampler.spec.name, sampler.schedule, sampler.steps) == ("euler", NoiseSchedule.SIMPLE, 20)


@pytest.mark.parametrize(
    ("spelling", "member"),
    [
        ("DPM++ 2M", "dpmpp_2m"),
        ("dpm_solver_multistep", "dpmpp_2m"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("Euler a", "euler_ancestral"),
        ("k_euler_a", "euler_ancestral"),
        ("EulerAncestralDiscreteScheduler", "euler_ancestral"),
        ("sample_heun", "heun"),
        ("DPM++ 2S a", "dpmpp_2s_ancestral"),
        ("dpmpp_2m_sde_gpu", "dpmpp_2m_sde"),
        ("UniPC", "uni_pc"),
        ("DDIM", "ddim"),
    ],
)
def test_peers_spellings(spelling: str, member: str) -> None:
    assert SamplerType.parse(spelling) == member


@pytest.mark.parametrize("kind", SPELLINGS)
def test_every_spelling_is_read(kind: Any) -> None:
    for spelling, member in SPELLINGS[kind]:
        for written in (spelling, spelling.upper(), spelling.replace("_", " "), f" {spelling}"):
            assert kind.parse(written) is kind(member), written


def test_the_names_for_annotations_are_those_of_the_enums() -> None:
    assert get_args(SamplerName) == tuple(SamplerType)
    assert get_args(ScheduleName) == tuple(NoiseSchedule)


def test_no_spelling_means_two_things() -> None:
    for kind, spellings in SPELLINGS.items():
        meant: dict[str, str] = {spelling_key(member): member for member in kind}
        for spelling, member in spellings:
            assert meant.setdefault(spelling_key(spelling), member) == member, spelling


def test_a_miss_lists_near_names() -> None:
    with pytest.raises(ValueError, match=r"did you mean .*dpmpp_2m_sde"):
        SamplerType.parse("dpmpp_2m_sd")
    with pytest.raises(ValueError, match=r"did you mean .*exponential"):
        NoiseSchedule.parse("exponental")


@pytest.mark.parametrize(
    ("label", "sampler", "schedule"),
    [
        ("DPM++ 2M SDE Karras", "dpmpp_2m_sde", "karras"),
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("DPM++ 2S a Karras", "dpmpp_2s_ancestral", "karras"),
        ("Euler a", "euler_ancestral", "normal"),
        ("Euler a Karras", "euler_ancestral", "karras"),
        ("Euler SGM Uniform", "euler", "sgm_uniform"),
        ("Heun Automatic", "heun", "normal"),
        ("DPM++ 2M", "dpmpp_2m", "karras"),
        ("dpmpp_2m_sde karras", "dpmpp_2m_sde", "karras"),
    ],
)
def test_labels(label: str, sampler: str, schedule: str) -> None:
    assert parse_label(label) == (sampler, schedule)


@short(lambda part: part == 0)
@pytest.mark.parametrize("part", range(3))
def test_every_pair_has_a_label(part: int) -> None:
    """Every sampler, in each part with other schedules."""
    schedules = list(NoiseSchedule)
    for number, sampler in enumerate(SamplerType):
        for schedule in schedules[(number + part) % 3 :: 3]:
            assert parse_label(f"{sampler} {schedule}") == (sampler, schedule)
