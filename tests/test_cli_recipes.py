"""``ksched recipes``: lists, searches, shows recipes with sources, and prints the settings for other programs."""

from __future__ import annotations

import json

import pytest
from command import Answer, Command, command_of

import ksched
from ksched import Dialect
from ksched.model_settings.elsewhere import elsewhere


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """``command("recipes", "svd")`` in this process."""
    return command_of(capsys)


def succeed(answer: Answer) -> str:
    assert answer.code == 0, answer.err
    return answer.out


def test_it_lists_every_recipe_and_searches_by_words(command: Command) -> None:
    every = json.loads(succeed(command("recipes", "--json")))
    assert [row["name"] for row in every] == list(ksched.recipes)
    found = succeed(command("recipes", "lightning"))
    assert "sdxl-lightning-4" in found
    assert "flux.1-dev" not in found


def test_it_shows_one_with_its_sources_and_its_levels(command: Command) -> None:
    page = succeed(command("recipes", "wan2.2-t2v-a14b"))
    assert "high_noise 0.875" in page
    assert "convert_wan_to_diffusers.py" in page
    assert "multiples of 16; 4 k + 1 frames; 720 x 1280, 480 x 832, 832 x 480" in page
    assert "channels 16, spatial 8, temporal 4, normalised by channel" in page
    assert "4 k + 1; got 80" in command("recipes", "wan2.2-t2v-a14b", "--frames", "80").err
    facts = json.loads(
        succeed(command("recipes", "flux.1-dev", "-n", "4", "--width", "512", "--height", "512", "--json"))
    )
    made = ksched.recipes["flux.1-dev"].build(steps=4, width=512, height=512)
    assert facts["sigmas"] == made.plan.call_sigmas.tolist()
    assert facts["diffusers"]["scheduler"] == "FlowMatchEulerDiscreteScheduler"


def test_a_size_without_a_model_and_an_unknown_one_are_refused(command: Command) -> None:
    assert "name it" in command("recipes", "-n", "4").err
    assert "did you mean 'flux.2-dev'" in command("recipes", "fluxx").err


@pytest.mark.parametrize(
    ("name", "program", "words"),
    [
        ("sdxl", Dialect.A1111, "Euler, DDIM; the same levels"),
        ("sdxl", Dialect.COMFYUI, "euler, ddim_uniform; the same levels"),
        ("sdxl-lightning-4", Dialect.COMFYUI, "euler, simple; the same levels"),
        ("ltx-2-distilled", Dialect.COMFYUI, "euler, linear_quadratic, shift 1; the same levels"),
        ("wan2.2-lightning-4", Dialect.COMFYUI, "euler, simple, shift 5; the same levels"),
        ("qwen-image", Dialect.A1111, "Euler; no scheduler has these levels, so pass the sigmas"),
    ],
)
def test_the_settings_of_other_programs_are_those_of_the_same_levels(name: str, program: Dialect, words: str) -> None:
    assert str(elsewhere(ksched.recipes[name])[program]) == words


def test_a_scheduler_of_nearly_the_same_levels_is_named_with_its_distance() -> None:
    near = elsewhere(ksched.recipes["flux.1-dev"])[Dialect.COMFYUI]
    assert str(near).startswith("euler, simple, shift 3.158; levels up to 0.00")
    process = ksched.Flow(near.shift or 0.0, 10_000)
    levels = ksched.calculate_sigmas("simple", 28, process, dialect="comfyui")[:-1]
    wanted = ksched.recipes["flux.1-dev"].build().sigmas[:-1]
    assert near.apart == max(abs(levels / wanted - 1))
