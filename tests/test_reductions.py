"""Samplers that become a simpler one at some option have its table, to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import COORDINATES
from hypothesis import given
from hypothesis import strategies as st

from ksched import Process, build_sampler
from ksched.analysis import table
from ksched.testing import sigma_curves

REDUCTIONS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("euler_ancestral", {"eta": 0.0}, "euler", {}),
    ("ddim", {}, "euler", {}),
    ("ddim", {"eta": 0.4}, "euler_ancestral", {"eta": 0.4}),
    ("ddpm", {}, "ddim", {"eta": 1.0}),
    ("euler", {"s_churn": 5.0, "s_tmin": 1e300}, "euler", {}),
    ("heun", {"s_churn": 5.0, "s_tmax": 0.0}, "heun", {}),
    ("dpmpp_2m_sde", {"eta": 0.0}, "dpmpp_2m", {}),
    ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}, "dpmpp_2m", {"solver_type": "heun"}),
    ("uni_pc", {"order": 1, "corrector": False}, "euler", {}),
    ("uni_pc", {"order": 1, "corrector": False, "variant": "bh2"}, "euler", {}),
    ("uni_pc", {"order": 2, "corrector": False, "lower_order_final": False, "variant": "bh2"}, "dpmpp_2m", {}),
]


@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize("case", REDUCTIONS, ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}-{c[3]}")
@given(data=st.data())
def test_reduction(
    case: tuple[str, dict[str, Any], str, dict[str, Any]], process: Process, data: st.DataObject
) -> None:
    name, options, simpler, simpler_options = case
    sigmas = data.draw(sigma_curves(process))
    if name == "uni_pc" and simpler == "dpmpp_2m":
        sigmas = sigmas[np.isfinite([process.level(s).lam for s in sigmas]) | (sigmas == 0)]
    got = table(build_sampler(name, sigmas=sigmas, process=process, **options).plan)
    want = table(build_sampler(simpler, sigmas=sigmas, process=process, **simpler_options).plan)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_different_samplers_have_different_tables() -> None:
    heun, midpoint = (table(build_sampler(n, "karras", 5).plan) for n in ("dpmpp_2m", "uni_pc"))
    assert np.abs(heun - midpoint).max() > 0.01


def test_ddim_is_the_formula_of_the_paper() -> None:
    """Eq. 12 and 16 of arXiv:2010.02502, written in alpha-bar, against the table of one step."""
    process = COORDINATES["vp_preserving"]
    for eta in (0.0, 0.5, 1.0):
        plan = build_sampler("ddim", sigmas=[9.0, 2.0], process=process, eta=eta).plan
        before, after = (process.alpha(s) ** 2 for s in (9.0, 2.0))
        fresh = eta * ((1 - after) / (1 - before)) ** 0.5 * (1 - before / after) ** 0.5
        direction = (1 - after - fresh**2) ** 0.5  # factor of eps = (x - sqrt(before) D) / sqrt(1 - before)
        want = [direction / (1 - before) ** 0.5, after**0.5 - direction * (before / (1 - before)) ** 0.5]
        want += [0.0] + ([fresh] if eta else [])
        np.testing.assert_allclose(table(plan)[-1], want, rtol=1e-12)
