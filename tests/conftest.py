"""Settings shared by all tests."""

from __future__ import annotations

import os
import random
import signal

import hypothesis
import numpy as np
import pytest
import torch

# Examples are derandomised so that a run of the suite is a function of the code alone.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=20)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
torch.set_num_threads(1)
# What a shell starts in the background ignores Ctrl-C, and tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def global_noise_untouched() -> object:
    """Nothing in the library may move a global random state."""
    torch_before, others_before = torch.random.get_rng_state(), _other_states()
    yield
    assert torch.equal(torch_before, torch.random.get_rng_state()), "the global random state of torch moved"
    assert others_before == _other_states(), "the global random state of numpy or Python moved"


def _other_states() -> tuple[object, ...]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - this is the state that must not move
    twister = state["state"]
    return twister["key"].tobytes(), twister["pos"], state["has_gauss"], state["gauss"], random.getstate()
