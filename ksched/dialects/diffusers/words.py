"""diffusers' words for the predictions of networks."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ksched.names.enums import Prediction

__all__ = ["is_velocity", "prediction_word"]

_WORDS: Mapping[Prediction, str] = {
    Prediction.EPSILON: "epsilon",
    Prediction.V_PREDICTION: "v_prediction",
    Prediction.SAMPLE: "sample",
    Prediction.FLOW: "flow_prediction",
}


def prediction_word(said: Any) -> Any:
    """A ``prediction_type`` from any program in diffusers' words; unknown values are returned unchanged."""
    if isinstance(said, str) and said not in _WORDS.values():
        with contextlib.suppress(ValueError):
            meant = Prediction.parse(said)
            return _WORDS.get(meant, meant.value)
    return said


def is_velocity(said: Any) -> bool:
    """Whether a ``prediction_type`` is a flow model's, of either sign; diffusers has no word for x0 - eps."""
    return prediction_word(said) in ("flow_prediction", Prediction.VELOCITY_TO_DATA.value)
