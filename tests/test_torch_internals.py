"""Torch's private functions: each probe detects what it should, and without any the result is still right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

from ksched import build_sampler
from ksched.execution import buffers
from ksched.kernels import torch_internals
from ksched.kernels.torch_internals import block_of, out_of_place, owners_of, writes_to


def test_owners_of_a_block_are_counted() -> None:
    tensor = torch.zeros(4)
    alone = owners_of(block_of(tensor))
    view, array = tensor[1:], tensor.numpy()
    assert owners_of(block_of(tensor)) == owners_of(block_of(view)) > alone
    del view, array
    assert owners_of(block_of(tensor)) == alone


def test_writes_are_counted_through_views() -> None:
    tensor = torch.zeros(4)
    before = writes_to(tensor)
    tensor[1:].add_(1)
    assert writes_to(tensor) > before
    with torch.inference_mode():
        assert writes_to(torch.zeros(1)) == 0


def test_what_follows_every_value_is_noticed() -> None:
    plain = torch.zeros(2)
    assert not out_of_place(plain)
    assert out_of_place(plain, plain.clone().requires_grad_())
    with torch.no_grad():
        assert not out_of_place(plain.clone().requires_grad_())
    with forward_ad.dual_level():
        assert out_of_place(plain)
    noticed: list[bool] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        noticed.append(out_of_place(plain))
        return x.sum()

    torch.func.vmap(look)(plain)
    torch.func.grad(look)(plain)
    assert noticed == [True, True]
    assert not out_of_place(plain)


def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)


#: what a release of torch may take away, by the probe that then takes its plain way
MISSING: dict[str, tuple[Any, str, Callable[[], object]]] = {
    "owners": (buffers, "owners_of", lambda: torch_internals._unknown),
    "transforms": (torch_internals, "_transform", lambda: torch_internals._always),
    "forward differentiation": (torch_internals, "_forward_ad", lambda: torch_internals._find_forward_ad()),
}


@pytest.mark.parametrize("name", ["heun", "dpmpp_3m_sde", "uni_pc", "res_multistep_ancestral_cfg_pp"])
@pytest.mark.parametrize("probe", MISSING)
def test_without_a_probe_the_plain_way_gives_the_same(monkeypatch: pytest.MonkeyPatch, probe: str, name: str) -> None:
    sampler = build_sampler(name, "karras", 5)
    x = sampler.initial_state((2, 3, 16, 16), seed=3)

    def both(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tanh(x), torch.tanh(x / 2)

    asked = both if sampler.spec.uncond else model
    expected = sampler.sample(asked, x, seed=1)
    seen: list[torch.Tensor] = []
    owner, attribute, plain = MISSING[probe]
    if probe == "forward differentiation":
        monkeypatch.delattr(forward_ad, "_current_level")
    monkeypatch.setattr(owner, attribute, plain())
    with monkeypatch.context() as patch:
        if probe == "forward differentiation":
            patch.setattr(forward_ad, "_current_level", -1, raising=False)  # torch itself needs it
        found = sampler.sample(asked, x, seed=1, callback=lambda info: seen.append(info.x))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    kept = [state.clone() for state in seen]
    sampler.sample(asked, x, seed=2)  # nothing that was handed out is written to
    assert all(torch.equal(a, b) for a, b in zip(kept, seen, strict=True))


def test_a_probe_that_is_missing_or_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_storage_Use_Count", lambda block: 7)
    assert torch_internals._find_owners_of() is torch_internals._unknown
    monkeypatch.delattr(torch._C, "_storage_Use_Count")
    assert torch_internals._find_owners_of() is torch_internals._unknown
    monkeypatch.delattr(torch._C._functorch, "peek_interpreter_stack")
    assert torch_internals._find_transform()() is not None
