"""Settings shared by all tests."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

# Examples are derandomised so that a run of the suite is a function of the code alone.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def global_noise_untouched() -> object:
    """Nothing in the library may read or move the global random state of torch."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state()), "the global random state of torch moved"
