"""Plans on arrays: NumPy, and any object that adds and multiplies by floats, gives the executor's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from cases import PROCESSES, SPECS, gaussian_denoiser, process_for
from hypothesis import given
from hypothesis import strategies as st
from representatives import each

import ksched
from ksched import VE, VP, Flow, Process, arrays, build_sampler
from ksched.noise import SeededNoise
from ksched.noise.streams import seeded_numbers
from ksched.plan.rows import Draw
from ksched.samplers.spec import SamplerSpec

Floats = npt.NDArray[Any]

FORMS: dict[str, Process] = {"ve": VE(), "vp": VP(), "flow": Flow(3.0)}
SHAPE = (3, 5)


def gaussian(process: Process, both: bool = False, mean: float = 0.3, std: float = 0.7) -> Callable[..., Any]:
    """`gaussian_denoiser` for arrays, with another prediction beside it where both are asked for."""

    def denoise(x: Any, sigma: float) -> Any:
        alpha, noise = float(process.alpha(sigma)), float(process.noise_std(sigma))
        gain = alpha * std**2 / ((alpha * std) ** 2 + noise**2)
        denoised = mean + gain * (x - alpha * mean)
        return (denoised, 0.5 * denoised) if both else denoised

    return denoise


def on_tensors(process: Process, both: bool) -> Callable[..., Any]:
    model = gaussian_denoiser(process)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        denoised = model(x, sigma)
        return (denoised, 0.5 * denoised) if both else denoised

    return denoise


def needs_both(sampler: ksched.Sampler) -> bool:
    return any(row.both for row in sampler.plan.rows)


def stepped(sampler: ksched.Sampler, denoise: Callable[..., Any], x: Floats, noise: Floats) -> Floats:
    """The loop that `jax.lax.scan` is."""
    init, step, tables = arrays.scan(sampler)
    state = init(x, noise[0])
    for call in zip(tables, noise[1:], strict=True):
        state, nothing = step(denoise, state, call)
        assert nothing is None
    result: Floats = state[0]
    return result


@pytest.mark.parametrize("form", FORMS)
@each("spec", SPECS)
def test_a_run_is_that_of_the_executor(spec: SamplerSpec, form: str) -> None:
    process = process_for(spec, FORMS[form])
    sampler = build_sampler(str(spec.name), steps=7, process=process)
    both = needs_both(sampler)
    x = sampler.initial_state(SHAPE, seed=3, dtype=torch.float64)
    own = arrays.initial_state(sampler, SHAPE, seed=3, dtype=np.float64)
    assert own.tobytes() == x.numpy().tobytes()
    expected = sampler.sample(on_tensors(process, both), x, seed=7).numpy()
    scale = 1e-12 * max(1.0, float(abs(own).max()))  # what is cancelled in between is as large as the start
    denoise = gaussian(process, both)
    assert np.abs(arrays.run(sampler, denoise, own, seed=7) - expected).max() < scale
    assert np.abs(arrays.run(sampler.plan, denoise, own, seed=range(7, 10)) - expected).max() < scale
    assert np.abs(stepped(sampler, denoise, own, arrays.noise(sampler, SHAPE, seed=7)) - expected).max() < scale
    assert own.tobytes() == x.numpy().tobytes(), "nothing is written to the caller's array"


@pytest.mark.parametrize("form", FORMS)
def test_noise_of_the_callers_own_is_asked_for_as_the_executor_asks(form: str) -> None:
    process = FORMS[form]
    options: list[tuple[str, dict[str, Any]]] = [
        ("euler_ancestral", {}),
        ("heun", {"s_churn": 5.0}),
        ("seeds_3", {}),
        ("dpmpp_sde", {}),
        ("lcm", {"noise_clip_std": 0.5}),
    ]
    for name, given_ in options:
        sampler = build_sampler(name, steps=6, process=process, **given_)
        asked: dict[str, list[tuple[float, float]]] = {"tensors": [], "arrays": []}

        def noise(of: str, *ends: float, log: dict[str, list[tuple[float, float]]] = asked) -> Floats:
            log[of].append((ends[0], ends[1]))
            return np.random.default_rng(len(log[of])).standard_normal(SHAPE)

        x = arrays.initial_state(sampler, SHAPE, seed=1, dtype=np.float64)
        expected = sampler.sample(
            gaussian_denoiser(process), torch.from_numpy(x), noise=lambda s, t: torch.from_numpy(noise("tensors", s, t))
        )
        result = arrays.run(sampler, gaussian(process), x, lambda s, t: noise("arrays", s, t))
        assert asked["tensors"] == asked["arrays"]
        assert np.abs(result - expected.numpy()).max() < 1e-12 * max(1.0, float(abs(x).max()))


@pytest.mark.parametrize("options", [{}, {"s_churn": 30.0}], ids=str)
def test_noise_before_the_first_call_is_in_the_table_of_a_scan(options: dict[str, Any]) -> None:
    sampler = build_sampler("heun", "karras", 6, **options)
    x = arrays.initial_state(sampler, SHAPE, seed=3, dtype=np.float64)
    noise = arrays.noise(sampler, SHAPE, seed=7)
    assert noise.any() == bool(sampler.plan.draws)
    result = stepped(sampler, gaussian(VP()), x, noise)
    assert np.abs(result - arrays.run(sampler, gaussian(VP()), x, seed=7)).max() < 1e-12 * float(abs(x).max())


@pytest.mark.parametrize("name", PROCESSES)
def test_start_states_are_those_of_tensors_on_every_process(name: str) -> None:
    sampler = build_sampler("euler", "simple", 4, process=PROCESSES[name])
    for dtype, of_torch in ((np.float32, torch.float32), (np.float64, torch.float64)):
        expected = sampler.initial_state(SHAPE, seed=3, dtype=of_torch).numpy()
        assert arrays.initial_state(sampler, SHAPE, seed=3, dtype=dtype).tobytes() == expected.tobytes()
        assert arrays.initial_state(sampler.plan, SHAPE, seed=3, dtype=dtype).tobytes() == expected.tobytes()


class Counted:
    """A number that adds and multiplies by floats, of which there are so many at once, and which nothing else can."""

    alive = most = 0

    def __init__(self, value: Fraction) -> None:
        self.value = value
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= 1

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.value + other.value)

    def __rmul__(self, other: float) -> Counted:
        assert type(other) is float
        return Counted(self.value * Fraction(other))


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "uni_pc", "lms", "dpm_fast", "ipndm"])
def test_arrays_are_let_go_as_soon_as_no_row_reads_them(name: str) -> None:
    sampler = build_sampler(name, "karras", 12)
    Counted.most = Counted.alive = 0
    x = Counted(Fraction(10))
    result = arrays.run(sampler, lambda x, sigma: (1 / (1 + sigma * sigma)) * x, x)
    exact = arrays.run(sampler, gaussian(VP(), mean=0.0, std=1.0), np.array([10.0]))
    assert float(result.value) == pytest.approx(float(exact[0]), abs=1e-9)
    # beside the registers: the product and the sum that are being formed, and x, which the caller holds
    assert Counted.most <= sampler.plan.live_registers + 3
    assert Counted.alive == 2


def test_a_model_may_use_one_buffer_for_all_its_answers() -> None:
    sampler = build_sampler("dpmpp_3m_sde", "karras", 9, eta=0.0)
    x, buffer = arrays.initial_state(sampler, SHAPE, seed=1, dtype=np.float64), np.empty(SHAPE)
    fresh = gaussian(VP())

    def denoise(x: Floats, sigma: float) -> Floats:
        buffer[...] = fresh(x, sigma)
        return buffer

    result = arrays.run(sampler, denoise, x)
    assert result is not buffer
    assert np.array_equal(result, arrays.run(sampler, fresh, x))


def test_the_dtype_of_the_state_is_that_of_the_run() -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 6)
    for dtype in (np.float16, np.float32, np.float64):
        x = arrays.initial_state(sampler, SHAPE, seed=1, dtype=dtype)
        assert arrays.run(sampler, gaussian(VP()), x, seed=2).dtype == dtype
        assert stepped(sampler, gaussian(VP()), x, arrays.noise(sampler, SHAPE, seed=2)).dtype == dtype
    x = arrays.initial_state(sampler, SHAPE, seed=1)
    tensors = sampler.sample(gaussian_denoiser(VP()), torch.from_numpy(x), seed=2)
    assert np.abs(arrays.run(sampler, gaussian(VP()), x, seed=2) - tensors.numpy()).max() < 1e-5


@given(
    seeds=st.lists(st.integers(-(2**70), 2**130), min_size=1, max_size=3) | st.just(list(range(60))),
    shape=st.lists(st.integers(0, 9), max_size=3),
    draw=st.builds(
        Draw,
        st.floats(0, math.inf),
        st.floats(0, math.inf),
        st.integers(0, 2**63 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.sampled_from([math.inf, 1.5]),
    ),
)
def test_noise_is_that_of_tensors_byte_for_byte(seeds: list[int], shape: list[int], draw: Draw) -> None:
    whole = (len(seeds), *shape)
    expected = SeededNoise(tuple(seeds))(draw, torch.empty(whole))
    assert seeded_numbers(seeds, draw, whole).tobytes() == expected.numpy().tobytes()


def test_items_longer_than_a_chunk_too() -> None:
    shape = (2, 70001)
    expected = SeededNoise((5, 6))(Draw(3.0, 1.0), torch.empty(shape))
    assert seeded_numbers((5, 6), Draw(3.0, 1.0), shape).tobytes() == expected.numpy().tobytes()


def test_every_step_has_the_same_shape_and_few_registers() -> None:
    for spec in SPECS:
        sampler = build_sampler(str(spec.name), steps=9, process=process_for(spec))
        init, _, tables = arrays.scan(sampler)
        noise = arrays.noise(sampler, (1, 2), seed=1)
        state = init(np.ones((1, 2)), noise[0])
        both = needs_both(sampler)
        assert tables.shape == (sampler.nfe, len(state), len(state) + 2 + both + noise.shape[1])
        assert len(state) <= sampler.plan.live_registers
        assert np.array_equal(tables[:, 0, -1], sampler.plan.call_sigmas)


def test_what_is_wrong_is_said() -> None:
    noisy, plain = build_sampler("euler_ancestral", steps=4), build_sampler("euler", steps=4)
    x = np.ones(SHAPE)
    model = gaussian(VP())
    with pytest.raises(TypeError, match=r"plan must be a ksched.Plan or a ksched.Sampler; got str"):
        arrays.run("euler", model, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="draws noise: give seed="):
        arrays.run(noisy, model, x)
    with pytest.raises(ValueError, match="either seed or noise"):
        arrays.run(noisy, model, x, lambda s, t: x, seed=1)
    with pytest.raises(ValueError, match=r"denoised must have the state's shape \(3, 5\); got \(5,\)"):
        arrays.run(plain, lambda x, sigma: x[0], x)
    with pytest.raises(TypeError, match=r"needs \(denoised, uncond\)"):
        arrays.run(build_sampler("euler_cfg_pp", steps=4), model, x)
    with pytest.raises(TypeError, match=r"make a list from a NumPy array; give asarray="):
        arrays.run(noisy, model, _List(), seed=1)
    with pytest.raises(ValueError, match="got 2 seeds for a batch of 3"):
        arrays.run(noisy, model, x, seed=[1, 2])
    init, step, tables = arrays.scan(noisy)
    with pytest.raises(ValueError, match=r"a step of this sampler needs 1 noises, as \(table, noise\); got 0"):
        step(model, init(x), tables[0])
    churned = build_sampler("heun", steps=4, s_churn=10.0)
    with pytest.raises(ValueError, match=r"the start needs 1 noises, noise\[0\]; got 0"):
        arrays.scan(churned).init(x)
    with pytest.raises(TypeError, match="batch first"):
        arrays.initial_state(plain, 3, seed=1)  # type: ignore[arg-type]


class _List:
    """An array of nobody's kind."""

    shape = SHAPE


_List.__name__ = "list"


def test_a_pair_is_taken_where_one_prediction_is_needed() -> None:
    plain, x = build_sampler("euler", steps=4), np.ones(SHAPE)
    assert np.array_equal(arrays.run(plain, gaussian(VP(), both=True), x), arrays.run(plain, gaussian(VP()), x))
    init, step, tables = arrays.scan(plain)
    (one,), _ = step(gaussian(VP(), both=True), init(x), tables[0])
    (other,), _ = step(gaussian(VP()), init(x), (tables[0], ()))
    assert np.array_equal(one, other)
