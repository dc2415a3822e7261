"""Processes: the maps are inverses, the numbers are the field's, and tensors, arrays and floats agree."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from cases import PROCESSES
from hypothesis import given
from hypothesis import strategies as st

from ksched import EDM, VE, VP, Denoiser, Flow, Process, build_sampler

every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def inside(process: Process, u: float) -> float:
    """A sigma of the training range, from its log scale."""
    sigma: float = process.sigma_min ** (1 - u) * process.sigma_max**u
    return min(max(sigma, process.sigma_min), process.sigma_max)


@every_process
@given(u=st.floats(0, 1))
def test_sigma_and_timestep_are_inverses(process: Process, u: float) -> None:
    sigma = inside(process, u)
    timestep = process.timestep(sigma)
    assert process.sigma(timestep) == pytest.approx(sigma, rel=1e-10)
    assert process.timestep(process.sigma(timestep)) == pytest.approx(timestep, rel=1e-10, abs=1e-9)
    assert process.sigma_at(process.time(sigma)) == pytest.approx(sigma, rel=1e-10)
    assert process.sigma_at_position(process.position(sigma)) == pytest.approx(sigma, rel=1e-10)


@every_process
def test_the_table_is_the_training_range(process: Process) -> None:
    assert process.sigmas.dtype == np.float64
    assert not process.sigmas.flags.writeable
    # the ends of Cascade's curve are cut off and repeat
    inside = np.flatnonzero((process.sigmas > process.sigma_min) & (process.sigmas < process.sigma_max))
    assert (np.diff(process.sigmas[inside]) > 0).all()
    assert process.sigmas[0] == pytest.approx(process.sigma_min, rel=1e-15)
    assert process.sigmas[-1] == pytest.approx(process.sigma_max, rel=1e-15)
    np.testing.assert_allclose(process.position(process.sigmas[inside]), inside, atol=1e-6)


@every_process
@given(u=st.floats(0, 1))
def test_levels_agree_with_the_maps(process: Process, u: float) -> None:
    sigma = inside(process, u)
    level = process.level(sigma)
    assert level.label == sigma
    assert level.alpha == pytest.approx(process.alpha(sigma), rel=1e-14)
    assert level.sigma * process.noise_scale == pytest.approx(process.noise_std(sigma), rel=1e-14)
    if level.alpha > 0:
        assert level.lam == pytest.approx(math.log(level.alpha / level.sigma), rel=1e-9, abs=1e-12)
        again = process.level_at(level.lam)
        assert again.label == pytest.approx(sigma, rel=1e-12)
        assert again.alpha == pytest.approx(level.alpha, rel=1e-9)
    assert process.level(0.0) == (0.0, 1.0, 0.0, math.inf)


@every_process
def test_floats_arrays_and_tensors_agree(process: Process) -> None:
    sigmas = np.array([inside(process, u) for u in (0.0, 0.2, 0.5, 0.9, 1.0)])
    for name in ("timestep", "time", "alpha", "noise_std", "sigma", "sigma_at"):
        values = process.time(sigmas) if name == "sigma_at" else process.timestep(sigmas) if name == "sigma" else sigmas
        f = getattr(process, name)
        array = f(values)
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float64
        assert all(isinstance(f(float(v)), float) for v in values)
        np.testing.assert_allclose([f(float(v)) for v in values], array, rtol=1e-15)
        exact = f(torch.tensor(values, dtype=torch.float64))
        np.testing.assert_allclose(exact.numpy(), array, rtol=1e-12, atol=1e-12)
        single = f(torch.tensor(values, dtype=torch.float32))
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single.numpy(), array, rtol=2e-4, atol=1e-3)


def test_stable_diffusion_is_the_default() -> None:
    assert VP() == VP.scaled_linear()
    assert hash(VP()) == hash(VP.scaled_linear())
    assert VP().sigma_min == pytest.approx(0.029167158151720367, rel=1e-12)
    assert VP().sigma_max == pytest.approx(14.614641229333639, rel=1e-12)
    assert len(repr(VP())) < 100


def test_timesteps_of_table_entries_are_whole_in_float32_too() -> None:
    for process in (VP(), VP.cosine(), VP(zero_terminal_snr=True)):
        np.testing.assert_array_equal(process.timestep(process.sigmas), np.arange(1000))
        tensor = torch.tensor(process.sigmas, dtype=torch.float32)
        assert torch.equal(process.timestep(tensor), torch.arange(1000.0))
        np.testing.assert_array_equal(process.sigma(np.arange(1000)), process.sigmas)


def test_known_tables() -> None:
    assert VP.linear().sigma_max == pytest.approx(157.40728081040757, rel=1e-10)
    assert VP.cosine().sigma_max == pytest.approx(20291.169610019897, rel=1e-9)
    zero = VP(zero_terminal_snr=True)
    assert zero.sigma_max == pytest.approx(4518.7636986558555, rel=1e-12)
    assert zero.alphas_cumprod[-1] == 0
    assert zero.alphas_cumprod[0] == pytest.approx(VP().alphas_cumprod[0], rel=1e-12)
    assert Flow(3.0).sigma_min == pytest.approx(0.0029940119760479044, rel=1e-14)


def test_shift_bends_time_not_the_timestep() -> None:
    flow = Flow(3.0)
    assert flow.timestep(0.75) == 750
    assert flow.time(0.75) == pytest.approx(0.5)
    assert flow.sigma_at(0.5) == pytest.approx(0.75)


def test_outside_the_table_is_its_end() -> None:
    assert VP().timestep(100.0) == 999
    assert VP().timestep(0.0) == 0
    assert VP().sigma(-5.0) == VP().sigma_min
    assert VP().sigma(5000.0) == VP().sigma_max


def test_variance_preserving_states_reach_pure_noise() -> None:
    process = VP(zero_terminal_snr=True, variance_preserving=True)
    assert process.level(math.inf) == (math.inf, 0.0, 1.0, -math.inf)
    tensor = torch.tensor([math.inf, 1e30, 3.0, 0.0])
    torch.testing.assert_close(process.alpha(tensor), torch.tensor([0.0, 0.0, 0.1**0.5, 1.0]))
    torch.testing.assert_close(process.noise_std(tensor), torch.tensor([1.0, 1.0, 0.9**0.5, 0.0]))


@pytest.mark.parametrize("process", [VP(), VP(variance_preserving=True), EDM(), VE(), Flow()], ids=repr)
def test_add_noise(process: Process) -> None:
    x0, noise = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)
    sigmas = [0.25, 0.75]
    rows = [process.alpha(s) * x0[i] + process.noise_std(s) for i, s in enumerate(sigmas)]
    for sigma in (sigmas, np.array(sigmas), torch.tensor(sigmas)):
        torch.testing.assert_close(process.add_noise(x0, noise, sigma), torch.stack(rows))
    np.testing.assert_allclose(
        process.add_noise(x0.numpy(), noise.numpy(), sigmas), torch.stack(rows).numpy(), rtol=1e-6
    )
    torch.testing.assert_close(process.add_noise(x0, noise, 0.25)[0], rows[0])
    assert process.add_noise(x0, noise, 0.25).dtype == torch.float32


def test_a_subclass_of_a_process_behaves_as_its_base() -> None:
    """Facts are declared on the process and inherited; nothing asks for its very type."""

    class MyVP(VP):
        pass

    class MyFlow(Flow):
        pass

    for process, base in ((MyVP(), VP()), (MyFlow(3.0), Flow(3.0))):
        assert (process.predictions, process.is_flow, process.sigma_data) == (
            base.predictions,
            base.is_flow,
            base.sigma_data,
        )
        for name in ("auto", "euler_ancestral", "dpmpp_2m_sde"):
            ours, theirs = build_sampler(name, steps=5, process=process), build_sampler(name, steps=5, process=base)
            assert ours.plan == theirs.plan
    with pytest.raises(ValueError, match="a MyVP network predicts epsilon, score, v_prediction or sample; got 'flow'"):
        Denoiser(lambda x, t: x, MyVP(), prediction="flow")
    with pytest.raises(ValueError, match="a MyFlow network predicts flow, velocity_to_data or sample; got 'epsilon'"):
        Denoiser(lambda x, t: x, MyFlow())


@pytest.mark.parametrize("process", [VP(), Flow(3.0), EDM()], ids=repr)
def test_before_everything_and_after_it(process: Process) -> None:
    first = 1.0 if process.is_flow else math.inf
    assert [process.sigma_after(share) for share in (-0.5, 0, 1, 1.5)] == [first, first, 0, 0]


def test_time_from_noise_to_data() -> None:
    """Timesteps alone differ: 0 at noise, 1 at data, in networks' units as they say."""
    process = Flow(3.0, reverse_time=True)
    assert (process.timestep(1.0), process.timestep(0.25), process.timestep(0.0)) == (0.0, 0.75, 1.0)
    assert process.sigma(0.75) == 0.25
    assert Flow(timestep_scale=1000.0, reverse_time=True).timestep(0.25) == 750.0
    np.testing.assert_array_equal(process.sigmas, Flow(3.0).sigmas)
    assert repr(process) == "Flow(shift=3.0, num_timesteps=1000, timestep_scale=1.0, reverse_time=True)"
    assert eval(repr(process)) == process == pickle.loads(pickle.dumps(process)) == copy.deepcopy(process)
    assert process != Flow(3.0, timestep_scale=1.0)
    assert hash(process) != hash(Flow(3.0, timestep_scale=1.0))
    assert repr(Flow()) == "Flow(shift=1.0, num_timesteps=1000, timestep_scale=1000.0)"
    assert Flow.of_mu(1.15, reverse_time=True).timestep(1.0) == 0.0
    saved = Flow(3.0)
    state = {name: value for name, value in vars(saved).items() if name != "reverse_time"}  # from before there was any
    saved.__dict__.clear()
    saved.__dict__.update(state)
    assert saved == Flow(3.0)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "flow_sde", "rk_adaptive"])
def test_a_network_of_reverse_time_runs_as_the_plain_one(name: str) -> None:
    """(x, t) -> x0 - eps with t from noise to data, and (x, t) -> eps - x0 with t from data to noise."""

    def usual(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * (0.3 + t[:, None])

    def reverse(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -usual(x, 1 - t)

    plain, turned = Flow(3.0, timestep_scale=1.0), Flow(3.0, reverse_time=True)
    denoiser = Denoiser(reverse, turned, "velocity_to_data")
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    expected = build_sampler(name, "simple", 6, process=plain).sample(Denoiser(usual, plain, "flow"), x, seed=1)
    for process in (turned, plain):  # the states are the same, so the sampler may be of either
        sampler = build_sampler(name, "simple", 6, process=process)
        torch.testing.assert_close(sampler.sample(denoiser, x, seed=1), expected, rtol=1e-12, atol=1e-12)
    if name != "rk_adaptive":
        assert build_sampler(name, "simple", 6, process=turned).plan == sampler.plan
