"""Published sigmas of distilled models, as schedules; experts by noise level, with counted calls."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from representatives import each

import ksched
from ksched import few_step, guidance
from ksched.processes.host_levels import carry, host_levels


@pytest.mark.parametrize(
    ("timesteps", "how", "expected"),
    [
        # Self-Forcing, LightX2V and Wan 2.2 Lightning: a list before the shift
        ([1000, 750, 500, 250], {"shift": 5}, [1, 0.9375, 5 / 6, 0.625, 0]),
        # FastVideo's Wan 2.2 A14B, shift 12, eight steps
        (
            [1000, 850, 700, 550, 350, 275, 200, 125],
            {"shift": 12},
            [12 * u / (1 + 11 * u) for u in (1, 0.85, 0.7, 0.55, 0.35, 0.275, 0.2, 0.125, 0)],
        ),
        # FastVideo's DMD and CausVid: on the nearest of a table of shift 8
        ([1000, 757, 522], {"shift": 8, "rule": "nearest"}, [1, 2.24 / 2.96, 0.96 / 1.84, 0]),
        ([1000, 757, 522, 0], {"shift": 8, "rule": "nearest"}, [1, 2.24 / 2.96, 0.96 / 1.84, 0]),
        # LTX-2 distilled, after the shift
        (
            [1000, 993.75, 987.5, 981.25, 975, 909.375, 725, 421.875],
            {"rule": "as_is"},
            [1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0],
        ),
        ([1000], {"shift": 3}, [1, 0]),
    ],
)
def test_lists_are_read_as_their_programs_mean_them(timesteps: Any, how: dict[str, Any], expected: Any) -> None:
    np.testing.assert_allclose(few_step(timesteps, **how), expected, rtol=1e-12)


def test_the_warp_is_the_place_in_the_shifted_table_that_the_programs_look_up() -> None:
    sigmas = np.linspace(1, 0, 1001)[:-1]
    table = np.append(5 * sigmas / (1 + 4 * sigmas), 0.0)  # their timesteps over 1000, with the 0 they append
    listed = [1000, 937, 750, 500, 250, 1]
    np.testing.assert_allclose(few_step(listed, shift=5)[:-1], table[[1000 - t for t in listed]], rtol=1e-12)


def test_lists_of_models_with_a_table_of_betas_are_places_in_it() -> None:
    lightning = ksched.recipes["sdxl-lightning-4"].build()
    np.testing.assert_allclose(few_step([999, 749, 499, 249], process=ksched.VP()), lightning.sigmas, rtol=1e-9)
    turbo = ksched.recipes["sdxl-turbo"].build()
    np.testing.assert_allclose(few_step([999], process=ksched.VP()), turbo.sigmas, rtol=1e-9)
    dmd2 = ksched.recipes["dmd2-sdxl-4"].build()
    np.testing.assert_allclose(few_step([999, 759, 499, 259], process=ksched.VP()), dmd2.sigmas, rtol=1e-9)


@each("listed", [[math.atan(80), 1.5, 1.4, 1.0], [math.atan(200), 1.3, 1.0, 0.6], [1.5708, 1.3], [math.atan(160)]])
def test_lists_of_angles_are_levels_of_as_much_noise_to_the_data_on_either_process(listed: list[float]) -> None:
    flow, trig = few_step(listed, rule="angles"), few_step(listed, process=ksched.TrigFlow())
    angles = np.minimum(listed, np.pi / 2)
    np.testing.assert_allclose(flow[:-1], np.sin(angles) / (np.cos(angles) + np.sin(angles)), rtol=1e-12)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(1 / trig[:-1], 1 / flow[:-1] - 1, atol=1e-12)
    assert flow[-1] == trig[-1] == 0
    sampler = ksched.build_sampler("lcm", sigmas=trig, process=ksched.TrigFlow())
    np.testing.assert_allclose(sampler.timesteps, angles, atol=1e-12)  # the network is told the angle


def test_a_run_on_angles_is_scms_loop() -> None:
    data, angles = 0.5, [1.5708, 1.3, 0.7]
    process = ksched.TrigFlow(data)
    sampler = ksched.build_sampler("lcm", sigmas=few_step(angles, process=process), process=process)
    noises = [torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    left = iter(noises[1:])
    told: list[float] = []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:  # F of the paper
        told.append(float(t[0]))
        return torch.tanh(x + t.reshape(-1, 1))

    denoiser = ksched.Denoiser(lambda x, t: data * network(x / data, t), process, "v_prediction")
    found = sampler.sample(denoiser, data * noises[0], noise=lambda start, end: next(left))
    x, turns = data * noises[0], [math.pi / 2, 1.3, 0.7, 0.0]
    for k, (angle, after) in enumerate(pairwise(turns)):
        answer = data * network(x / data, torch.full((3,), angle, dtype=torch.float64))
        x0 = math.cos(angle) * x - math.sin(angle) * answer
        x = math.cos(after) * x0 + (math.sin(after) * data * noises[k + 1] if after else 0)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)
    assert told[:3] == pytest.approx(turns[:-1])


@pytest.mark.parametrize(
    ("timesteps", "how", "message"),
    [
        ([250, 500], {}, "strictly decreasing"),
        ([1001, 500], {}, "at most 1000"),
        ([0], {}, "above 0"),
        ([1000, 500], {"rule": "warped"}, "rule"),
        ([1000, 500], {"shift": 0}, "shift"),
        ([1.6, 1.0], {"rule": "angles"}, r"at most 1\.5708"),
        ([999, 499], {"shift": 3, "process": ksched.VP()}, "shift and rule apply to flow models only"),
    ],
)
def test_lists_that_are_none_are_refused(timesteps: Any, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        few_step(timesteps, **how)


# -------------------------------------------------------------------------------------------------------------- experts
class Counted:
    """A denoiser that predicts one number, and notes how many rows it was asked for."""

    def __init__(self, value: float, pair: bool = False) -> None:
        self.value, self.pair = value, pair
        self.rows: list[int] = []
        self.sigmas: list[float] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> Any:
        self.rows.append(len(x))
        self.sigmas.extend(sigma.tolist())
        found = torch.full_like(x, self.value)
        return (found, found - 1) if self.pair else found


def test_one_network_is_asked_a_call_and_the_boundary_is_the_upper_ones() -> None:
    high, low = Counted(2.0), Counted(-1.0)
    model = guidance.experts({0.875: high, 0.0: low})
    sampler = ksched.build_sampler("euler", sigmas=[1.0, 0.875, 0.5, 0.25, 0.0], process=ksched.Flow())
    found = sampler.sample(model, torch.zeros(3, 2))
    assert high.sigmas == [1.0] * 3 + [0.875] * 3
    assert low.sigmas == [0.5] * 3 + [0.25] * 3
    assert len(high.rows) + len(low.rows) == sampler.nfe
    assert torch.equal(found, torch.full((3, 2), -1.0))


def test_a_wan_run_changes_networks_where_its_pipeline_does() -> None:
    high, low = Counted(0.0), Counted(0.0)
    recipe = ksched.recipes["wan2.2-t2v-a14b"]
    named = {"high_noise": high, "low_noise": low}
    sampler = recipe.build()
    sampler.sample(guidance.experts({sigma: named[name] for name, sigma in recipe.experts.items()}), torch.zeros(1, 2))
    told = sampler.timesteps  # the pipeline compares whole timesteps with 875
    assert (len(high.rows), len(low.rows)) == (int((told >= 875).sum()), int((told < 875).sum()))


def test_rows_of_a_batch_go_to_their_own_experts_and_come_back_in_their_places() -> None:
    def run_with(model: Any, steps: int, rows: int) -> torch.Tensor:
        sampler = ksched.build_sampler("euler", steps=steps, process=ksched.Flow())
        return sampler.sample(model, torch.ones(rows, 2))

    high, low = Counted(2.0), Counted(-1.0)
    model = guidance.experts({0.5: high, 0.0: low})
    batch = ksched.batch.Batch()
    runs = [
        ksched.build_sampler("euler", steps=n, process=ksched.Flow()).start(torch.ones(rows, 2))
        for n, rows in ((2, 1), (5, 2), (3, 1))
    ]
    for run in runs:
        batch.add(run)
    ticks = 0
    while batch.runs:
        before = len(high.rows), len(low.rows)
        batch.tick(model)
        ticks += 1
        assert len(high.rows) - before[0] <= 1
        assert len(low.rows) - before[1] <= 1
    assert ticks == 5
    assert sum(high.rows) + sum(low.rows) == 2 * 1 + 5 * 2 + 3 * 1
    for run, (n, rows) in zip(runs, ((2, 1), (5, 2), (3, 1)), strict=True):
        alone = run_with(guidance.experts({0.5: Counted(2.0), 0.0: Counted(-1.0)}), n, rows)
        assert torch.equal(run.x, alone)


def test_levels_are_taken_from_the_host_where_they_came_along() -> None:
    model = guidance.experts({0.5: Counted(1.0), 0.0: Counted(0.0)})
    sigma = torch.full((3,), torch.nan)  # what is on the device is not looked at
    carry(sigma, (0.9, 0.1, 0.5))
    assert model(torch.zeros(3, 1), sigma).flatten().tolist() == [1.0, 0.0, 1.0]


def test_runs_and_batches_hand_their_levels_along() -> None:
    sampler = ksched.build_sampler("dpmpp_2m", steps=4, process=ksched.Flow(3.0))
    one, two = (sampler.start(torch.zeros(rows, 2), seed=0) for rows in (1, 2))
    assert host_levels(one.sigma) == (1.0,)
    two.feed(torch.zeros(2, 2))
    batch = ksched.batch.Batch()
    batch.add(one)
    batch.add(two)
    level = float(sampler.sigmas[1])
    assert host_levels(batch.sigma) == (1.0, level, level)


def test_a_bound_is_met_in_the_dtype_of_a_sigma_that_came_from_elsewhere() -> None:
    model = guidance.experts({0.9: Counted(1.0), 0.0: Counted(0.0)})
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert model(torch.zeros(1, 1), torch.tensor([0.9], dtype=dtype)).item() == 1.0


def test_pairs_are_joined_and_guidance_goes_around_or_inside() -> None:
    model = guidance.experts({0.5: Counted(1.0, pair=True), 0.0: Counted(0.0, pair=True)})
    denoised, uncond = model(torch.zeros(2, 1), torch.tensor([0.9, 0.1]))
    assert denoised.flatten().tolist() == [1.0, 0.0]
    assert uncond.flatten().tolist() == [0.0, -1.0]
    cond = guidance.experts({0.5: Counted(1.0), 0.0: Counted(2.0)})
    around = guidance.cfg(cond, guidance.experts({0.0: Counted(0.0)}), 3.0)
    assert around(torch.zeros(2, 1), torch.tensor([0.9, 0.1]))[0].flatten().tolist() == [3.0, 6.0]
    mixed = guidance.experts({0.5: Counted(1.0, pair=True), 0.0: Counted(0.0)})
    with pytest.raises(ValueError, match="either all experts or none must return"):
        mixed(torch.zeros(2, 1), torch.tensor([0.9, 0.1]))


def test_experts_know_the_process_that_they_share() -> None:
    def of(process: ksched.Process) -> ksched.Denoiser:
        return ksched.Denoiser(lambda x, t: x, process, prediction="flow")

    assert guidance.experts({0.5: of(ksched.Flow()), 0.0: of(ksched.Flow())}).process == ksched.Flow()  # type: ignore[attr-defined]
    assert guidance.experts({0.5: of(ksched.Flow()), 0.0: Counted(0.0)}).process is None  # type: ignore[attr-defined]


def test_what_is_no_set_of_experts_is_refused() -> None:
    with pytest.raises(TypeError, match="mapping"):
        guidance.experts([Counted(0.0)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="callable"):
        guidance.experts({0.0: 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="lowest sigma"):
        guidance.experts({-0.1: Counted(0.0)})
    only_high = guidance.experts({0.875: Counted(0.0)})
    with pytest.raises(ValueError, match=r"no expert is for sigma 0\.5"):
        only_high(torch.zeros(1, 1), torch.tensor([0.5]))


def test_levels_are_split_where_the_experts_take_turns() -> None:
    levels = ksched.recipes["wan2.2-lightning-4"].build().sigmas
    high, low = ksched.schedules.split_at(levels, 0.875)
    np.testing.assert_allclose(high, [1, 0.9375, 5 / 6])
    np.testing.assert_allclose(low, [5 / 6, 0.625, 0])
    at_a_level, rest = ksched.schedules.split_at([1.0, 0.875, 0.5, 0.0], 0.875)  # inclusive
    assert at_a_level.tolist() == [1.0, 0.875, 0.5]
    assert rest.tolist() == [0.5, 0.0]
    assert ksched.schedules.split_at([0.5, 0.25, 0.0], 0.875)[0].tolist() == [0.5]
    assert ksched.schedules.split_at([0.5, 0.25, 0.0], 0.0)[1].tolist() == [0.0]
    with pytest.raises(ValueError, match="sigma"):
        ksched.schedules.split_at([0.5, 0.0], -1.0)
