"""explain: what differs between two configurations, in words."""

from __future__ import annotations

import pytest

from ksched import Flow, explain
from ksched.explain import Configuration


def test_configurations_are_read_in_every_form() -> None:
    for text, want in [
        ("comfyui:dpmpp_2m_sde+karras", "comfyui:dpmpp_2m_sde+karras"),
        ("a1111:DPM++ 2M SDE Karras", "a1111:dpmpp_2m_sde+karras"),
        ("a1111: DPM++ 2M + Karras", "a1111:dpmpp_2m+karras"),
        ("Euler a", "ksched:euler_ancestral+normal"),
        ("diffusers:beta", "diffusers:beta"),
        ("simple", "ksched:simple"),
    ]:
        assert str(Configuration.parse(text)) == want


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ("comfyui:dpmpp_2m_sde+karras", "a1111:DPM++ 2M SDE Karras", ["= the same noise levels", "= the same table"]),
        ("beta", "diffusers:beta", ["- domain of the schedule: 'table' and 'sigma'", "most apart at level"]),
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
        (3, TypeError, "a configuration is text such as 'comfyui:dpmpp_2m_sde"),
        ("klingon:euler+karras", ValueError, "unknown dialect 'klingon'"),
        ("euler+karas", ValueError, r"unknown noise schedule 'karas'; did you mean karras\?"),
        ("frobnicate", ValueError, "unknown sampler 'frobnicate'"),
    ],
)
def test_nonsense(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        explain(text, "karras")
