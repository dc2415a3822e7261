"""`SamplingConfig`: what it accepts, what it refuses and how, and exact round trips through JSON and TOML."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from representatives import each

from ksched import NoiseSchedule, SamplerType, parse_label
from ksched.stable_diffusion import POPULAR, PRESETS, SamplingConfig

FOX = {"prompt": "a red fox"}


def test_the_example_works_as_is() -> None:
    config = SamplingConfig.from_json(
        '{"prompt": "a red fox", "steps": 30, "sampler": "euler_ancestral", "schedule": "karras"}'
    )
    assert (config.prompt, config.steps, config.sampler, config.schedule) == (
        "a red fox",
        30,
        "euler_ancestral",
        "karras",
    )
    assert (config.count, config.seeds, config.width, config.height) == (1, (0,), None, None)


# every kind of mistake, and what is said of it
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "the field 'prompt' is missing"),
    ({"prompt": 5}, TypeError, "prompt must be text; got 5"),
    ({"prompt": None}, TypeError, "prompt must be text; got None"),
    ({"prompt": "\ud800"}, ValueError, "half a surrogate pair"),
    (FOX | {"negative_prompt": ["ugly"]}, TypeError, "negative_prompt must be text"),
    (FOX | {"steps": 0}, ValueError, "steps must be at least 1 and at most"),
    (
        FOX | {"steps": 1001},
        ValueError,
        "at most 1000, the number that models are trained with; got 1001",
    ),
    (FOX | {"steps": 20.0}, TypeError, "steps must be a whole number; got 20.0"),
    (FOX | {"steps": "20"}, TypeError, "steps must be a whole number; got '20'"),
    (FOX | {"steps": True}, TypeError, "steps must be a whole number; got True"),
    (FOX | {"guidance_scale": -1}, ValueError, "guidance_scale must be at least 0 and at most 100; got -1"),
    (FOX | {"guidance_scale": 101}, ValueError, "at most 100; got 101"),
    (FOX | {"guidance_scale": float("nan")}, ValueError, "guidance_scale must be at least 0 and at most 100; got nan"),
    (FOX | {"guidance_scale": float("inf")}, ValueError, "at most 100; got inf"),
    (FOX | {"guidance_scale": "7.5"}, TypeError, "guidance_scale must be a number; got '7.5'"),
    (FOX | {"guidance_scale": True}, TypeError, "guidance_scale must be a number; got True"),
    (FOX | {"guidance_rescale": 1.5}, ValueError, "guidance_rescale must be at least 0 and at most 1; got 1.5"),
    (FOX | {"seed": -1}, ValueError, "seed must be at least 0"),
    (FOX | {"seed": 2**63}, ValueError, "seed must be at least 0 and at most 9223372036854775807"),
    (FOX | {"seed": 2**63 - 2, "count": 3}, ValueError, "seed of the last image must be at least 0 and at most"),
    (FOX | {"seed": 1.5}, TypeError, "seed must be a whole number; got 1.5"),
    (FOX | {"seed": "7"}, TypeError, "seed must be a whole number; got '7'"),
    (FOX | {"seed": [1, True]}, TypeError, r"seed\[1\] must be a whole number; got True"),
    (FOX | {"seed": []}, ValueError, "got 0 seeds for no number of images"),
    (FOX | {"seed": [1, 2], "count": 3}, ValueError, "got 2 seeds for 3 images"),
    (FOX | {"count": 0}, ValueError, "count must be at least 1"),
    (FOX | {"count": 1.0}, TypeError, "count must be a whole number"),
    (FOX | {"width": 513}, ValueError, "width must be a multiple of 8; got 513. Use 512 or 520"),
    (FOX | {"height": 0}, ValueError, "height must be at least 8 and at most 16384; got 0"),
    (FOX | {"height": 512.0}, TypeError, "height must be a whole number; got 512.0"),
    (FOX | {"width": 20000}, ValueError, "width must be at least 8 and at most 16384; got 20000"),
    (FOX | {"sampler": "dpmp_2m"}, ValueError, "unknown sampler 'dpmp_2m'; did you mean .*dpmpp_2m"),
    (FOX | {"sampler": None}, TypeError, "sampler must be text; got None"),
    (
        FOX | {"sampler": "DPM++ 2M Karras"},
        ValueError,
        "'DPM.. 2M Karras' is sampler 'dpmpp_2m' with noise schedule 'karras'",
    ),
    (FOX | {"schedule": "karas"}, ValueError, "unknown noise schedule 'karas'; did you mean karras"),
    (FOX | {"schedule": 3}, TypeError, "schedule must be text; got 3"),
    (FOX | {"strength": 0}, ValueError, "strength must be above 0"),
    (FOX | {"strength": 1.2}, ValueError, "strength must be at least 0 and at most 1; got 1.2"),
    (FOX | {"strength": False}, TypeError, "strength must be a number; got False"),
    (FOX | {"sampler_options": {"etaa": 1.0}}, TypeError, "sampler euler has no option 'etaa'; it has s_churn"),
    (FOX | {"sampler": "ddim", "sampler_options": {"eta": float("nan")}}, ValueError, "eta must be a number; got nan"),
    (FOX | {"sampler": "ddim", "sampler_options": {"eta": "1"}}, TypeError, "sampler ddim: eta must be a number"),
    (FOX | {"sampler_options": ["eta"]}, TypeError, "sampler_options must be a mapping of option names to values"),
    (FOX | {"schedule_options": {"rho": 7.0}}, TypeError, "schedule simple has no option 'rho'"),
    (FOX | {"schedule": "karras", "schedule_options": {"rho": -7.0}}, ValueError, "schedule karras: rho must be"),
    (FOX | {"process": {"shfit": 3.0}}, TypeError, "process has no option 'shfit'; did you mean 'shift'"),
    (FOX | {"process": {"shift": -1.0}}, ValueError, "process: shift must be"),
    (FOX | {"process": {"prediction_type": 3}}, TypeError, "prediction_type must be text; got 3"),
    (FOX | {"stepz": 30}, ValueError, "unknown field 'stepz'; did you mean 'steps'"),
    (FOX | {"what": 30}, ValueError, "unknown field 'what'; known: prompt, .*label, preset"),
    (FOX | {"scheduler": "euler"}, ValueError, "'scheduler' is no longer used.*pass 'sampler'.*and 'schedule'"),
    (
        FOX | {"scheduler": "dpmpp_2m_karras"},
        ValueError,
        "'dpmpp_2m_karras' is sampler 'dpmpp_2m' with schedule 'karras'",
    ),
    (FOX | {"preset": "quick"}, ValueError, "preset must be one of fast, balanced, high_quality; got 'quick'"),
    (FOX | {"label": "DPM++ 2M Karras", "schedule": "beta"}, ValueError, "label sets sampler and schedule; leave out"),
    (FOX | {"label": "Eulr b"}, ValueError, "unknown sampler"),
]


@each("entries, kind, said", BAD)
def test_mistakes(entries: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        SamplingConfig.from_dict(entries)
    assert "\n" not in str(caught.value)


def test_text_that_is_no_configuration() -> None:
    with pytest.raises(ValueError, match="must be JSON; line 1"):
        SamplingConfig.from_json("{'prompt': 1}")
    with pytest.raises(TypeError, match="must be a mapping of field names to values; got list"):
        SamplingConfig.from_json("[]")
    with pytest.raises(ValueError, match="must be TOML"):
        SamplingConfig.from_toml("prompt = a red fox")


def test_names_are_read_in_everyones_spelling_and_kept_as_ours() -> None:
    config = SamplingConfig("a red fox", sampler="DPM++ 2M SDE", schedule="get_sigmas_karras")
    assert (config.sampler, config.schedule) == ("dpmpp_2m_sde", "karras")


@pytest.mark.parametrize("label", POPULAR)
def test_labels(label: str) -> None:
    config = SamplingConfig.from_label("a red fox", label, steps=7)
    assert (config.sampler, config.schedule) == tuple(map(str, parse_label(label)))
    assert config.steps == 7


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset: str) -> None:
    config = SamplingConfig.from_preset("a red fox", preset)
    assert {name: getattr(config, name) for name in PRESETS[preset]} == PRESETS[preset]
    assert SamplingConfig.from_preset("a red fox", preset, steps=3).steps == 3


def test_seeds() -> None:
    assert SamplingConfig("x", seed=7, count=4).seeds == (7, 8, 9, 10)
    assert SamplingConfig("x", seed=[9, 3]).count == 2
    single = SamplingConfig("x", seed=7, count=4).single(2)
    assert (single.seed, single.count, single.seeds) == (9, 1, (9,))


def test_it_cannot_be_changed() -> None:
    config = SamplingConfig("x", sampler="ddim", sampler_options={"eta": 0.5})
    with pytest.raises(AttributeError):
        config.steps = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.sampler_options["eta"] = 1.0  # type: ignore[index]
    assert hash(config) == hash(SamplingConfig.from_json(config.to_json()))
    assert pickle.loads(pickle.dumps(config)) == config


@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"])),
    steps=st.integers(1, 1000),
    scale=st.floats(0, 100),
    seed=st.one_of(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3)),
    sampler=st.sampled_from(SamplerType),
    schedule=st.sampled_from(NoiseSchedule),
    width=st.one_of(st.none(), st.integers(1, 200).map(lambda n: 8 * n)),
    process=st.fixed_dictionaries({}, optional={"shift": st.floats(0.1, 10), "rescale_betas_zero_snr": st.booleans()}),
)
def test_json_and_toml_bring_it_back(
    prompt: str,
    steps: int,
    scale: float,
    seed: int | list[int],
    sampler: SamplerType,
    schedule: NoiseSchedule,
    width: int | None,
    process: dict[str, Any],
) -> None:
    config = SamplingConfig(
        prompt, prompt, steps, scale, seed=seed, width=width, sampler=sampler, schedule=schedule, process=process
    )
    assert SamplingConfig.from_json(config.to_json()) == config
    assert SamplingConfig.from_toml(config.to_toml()) == config
    assert SamplingConfig.from_dict(json.loads(config.to_json(indent=2))) == config


def test_options_in_toml() -> None:
    options = {"s_churn": 5.0, "s_tmax": float("inf")}
    config = SamplingConfig(
        "x", sampler="euler", sampler_options=options, schedule="karras", schedule_options={"rho": 5}
    )
    text = config.to_toml()
    assert "[sampler_options]\ns_churn = 5.0\ns_tmax = inf\n" in text
    assert SamplingConfig.from_toml(text) == config
    assert SamplingConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("text", ["[" * 50_000, '{"a":' * 50_000, b"\xff", "\0", '{"prompt": "a", "prompt": "b"}'])
def test_damaged_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="the configuration must be JSON; "):
        SamplingConfig.from_json(text)


@pytest.mark.parametrize("text", ["a=" + "[" * 50_000, "a=" + "{a=" * 50_000, "a." * 50_000 + "a=1", "a=" + "9" * 5000])
def test_damaged_toml_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="the configuration must be TOML; "):
        SamplingConfig.from_toml(text)


def test_numbers_that_are_too_large() -> None:
    for text in ('{"prompt": "", "guidance_scale": 1' + "0" * 307 + "}", '{"prompt": "", "guidance_scale": 1e999}'):
        with pytest.raises(ValueError, match="guidance_scale must be at least 0 and at most 100"):
            SamplingConfig.from_json(text)
    for name in ("guidance_scale", "steps"):
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            SamplingConfig.from_dict({"prompt": "", name: 10**400})


def test_words_of_earlier_versions_and_other_programs_are_read() -> None:
    """Saved settings say ``max_order`` and "denoise"; ours are ``order`` and "denoised"."""
    saved = SamplingConfig.from_dict({"prompt": "a", "sampler": "deis", "sampler_options": {"max_order": 2}})
    assert saved == SamplingConfig("a", sampler="deis", sampler_options={"order": 2})
    ended = SamplingConfig.from_dict({"prompt": "a", "sampler": "auto", "sampler_options": {"end": "denoise"}})
    assert ended.sampler_options == {"end": "denoised"}
    with pytest.raises(ValueError, match="another name for order"):
        SamplingConfig("a", sampler="deis", sampler_options={"max_order": 2, "order": 2})
