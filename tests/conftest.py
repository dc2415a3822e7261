"""Settings shared by all tests."""

from __future__ import annotations

import gc
import inspect
import os
import random
import signal
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest

try:
    import torch
except ModuleNotFoundError:  # as in the session no_torch
    torch = None  # type: ignore[assignment]

# Examples are derandomised so that a run of the suite is a function of the code alone.
hypothesis.settings.register_profile("short", deadline=None, derandomize=True, max_examples=4)
hypothesis.settings.register_profile("exhaustive", deadline=None, derandomize=True, max_examples=20)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
if torch is not None:
    torch.set_num_threads(1)
# Imports and thousands of tests make objects that stay; looking for garbage among them doubles the time they take.
gc.disable()
# What a shell starts in the background ignores Ctrl-C, and tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Draw fewer examples where only the short suite runs. ``HYPOTHESIS_PROFILE`` goes before."""
    profile = "short" if config.option.markexpr == "not exhaustive" else "exhaustive"
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", profile))


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as exhaustive what `representatives.short` leaves out."""
    for item in items:
        for mark in item.iter_markers("short"):
            (keep,) = mark.args
            parameters = item.callspec.params  # type: ignore[attr-defined]
            if not keep(*(parameters[name] for name in inspect.signature(keep).parameters)):
                item.add_marker(pytest.mark.exhaustive)


def pytest_collection_finish() -> None:
    """Turn garbage collection on again, and skip all objects that exist now."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def global_noise_untouched() -> Iterator[None]:
    """Nothing in the library may move a global random state; the tests of a module are checked together."""
    torch_before, others_before = _torch_state(), _other_states()
    yield
    assert torch_before == _torch_state(), "a test moved the global random state of torch"
    assert others_before == _other_states(), "a test moved the global random state of numpy or Python"


def _torch_state() -> bytes:
    return b"" if torch is None else torch.random.get_rng_state().numpy().tobytes()


def _other_states() -> tuple[object, ...]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - this is the state that must not move
    twister = state["state"]
    return twister["key"].tobytes(), twister["pos"], state["has_gauss"], state["gauss"], random.getstate()
