"""Noise is a value: a function of item seed and position, the same for any batch, dtype and order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ksched.noise import SeededNoise, item_seeds
from ksched.plan import Draw

DRAW = Draw(3.0, 1.5)
LIKE = torch.empty(3, 4, 8, 8)


def test_every_part_of_the_key_matters_and_nothing_else() -> None:
    base = SeededNoise((1, 2, 3))(DRAW, LIKE)
    for other in (Draw(3.0, 1.5000001), Draw(3.0000001, 1.5), Draw(3.0, 1.5, 1), Draw(3.0, 1.5, 0, 1)):
        assert not torch.equal(base, SeededNoise((1, 2, 3))(other, LIKE))
    assert torch.equal(base, SeededNoise((1, 2, 3))(DRAW, LIKE))
    assert torch.equal(base.flip(0), SeededNoise((3, 2, 1))(DRAW, LIKE))
    assert torch.equal(base[1:2], SeededNoise((2,))(DRAW, LIKE[:1]))
    assert not torch.equal(base[:1], SeededNoise((1 + 2**64,))(DRAW, LIKE[:1])), "seeds are not cut to 64 bits"
    assert torch.isfinite(SeededNoise((-1,))(DRAW, LIKE[:1])).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_all_dtypes_see_the_same_noise(dtype: torch.dtype) -> None:
    base = SeededNoise((1, 2, 3))(DRAW, LIKE)
    assert torch.equal(SeededNoise((1, 2, 3))(DRAW, LIKE.to(dtype)), base.to(dtype))


def test_it_is_normal() -> None:
    noise = SeededNoise(tuple(range(64)))(DRAW, torch.empty(64, 4, 32, 32)).double()
    n = noise.numel()
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        spread = {1: 1.0, 2: 2.0, 3: 15.0, 4: 96.0}[power] ** 0.5
        assert abs(float((noise**power).mean()) - moment) < 5 * spread / n**0.5
    across = np.corrcoef(noise.reshape(64, -1).numpy())
    assert np.abs(across - np.eye(64)).max() < 6 / 4096**0.5


def test_item_seeds() -> None:
    assert item_seeds(5, 3) == (5, 6, 7)
    assert item_seeds([9, 9, 1], 3) == (9, 9, 1)
    assert item_seeds(np.int64(5), 1) == (5,)
    assert item_seeds(np.array([5, 6]), 2) == (5, 6)


def test_the_rule_has_not_changed() -> None:
    """Bytes of the key, which must never change under this scheme's name: pictures depend on it."""
    from ksched.noise import _key

    assert _key(0, Draw(14.6, 5.0)) == 6478448714343511172
    keys = {_key(seed, Draw(a, b)) for seed in range(20) for a in (1.0, 2.0) for b in (0.5, 0.25)}
    assert len(keys) == 80
