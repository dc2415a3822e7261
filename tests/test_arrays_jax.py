"""Plans under JAX: one compilation for a whole run, gradients, batches, and the noise of torch's seeds.

Needs no torch, so that it runs where JAX is installed alone; ``nox -s jax`` does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from cases import SPECS, process_for

from ksched import VE, VP, Flow, Process, arrays, build_sampler

jax = pytest.importorskip("jax")
jnp = jax.numpy

FORMS: dict[str, Process] = {"ve": VE(), "vp": VP(), "flow": Flow(3.0)}
SHAPE = (3, 5)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def gaussian(both: bool = False, flow: bool = False) -> Callable[..., Any]:
    """The exact model of normal data of std 0.7, for sigmas that may be traced."""

    def denoise(x: Any, sigma: Any) -> Any:
        alpha = 1 - sigma if flow else 1.0
        denoised = alpha * 0.49 / (alpha * alpha * 0.49 + sigma * sigma) * x
        return (denoised, 0.5 * denoised) if both else denoised

    return denoise


def sample(sampler: Any, denoise: Callable[..., Any]) -> Callable[..., Any]:
    """A whole run as a pure function of the start and the noises."""
    init, step, tables = arrays.scan(sampler)

    def result(x: Any, noise: Any) -> Any:
        state, _ = jax.lax.scan(partial(step, denoise), init(x, noise[0]), (tables, noise[1:]))
        return state[0]

    return result


@pytest.mark.parametrize("form", FORMS)
def test_a_run_is_that_of_numpy(form: str) -> None:
    for spec in SPECS[:: 3 if form == "vp" else 9]:
        process = process_for(spec, FORMS[form])
        sampler = build_sampler(str(spec.name), steps=5, process=process)
        denoise = gaussian(any(row.both for row in sampler.plan.rows), process.is_flow)
        x = arrays.initial_state(sampler, SHAPE, seed=3, dtype=np.float64)
        expected = arrays.run(sampler, denoise, x, seed=7)
        scale = 1e-12 * max(1.0, float(abs(x).max()))
        result = arrays.run(sampler, denoise, jnp.asarray(x), seed=7)
        assert isinstance(result, jax.Array)
        assert np.abs(result - expected).max() < scale, spec.name
        if spec in SPECS[::9]:  # a compilation each
            scanned = jax.jit(sample(sampler, denoise))(x, arrays.noise(sampler, SHAPE, seed=7))
            assert np.abs(scanned - expected).max() < scale, spec.name


def test_a_seed_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    sampler = build_sampler("dpmpp_2m_sde", "karras", 8)
    x = sampler.initial_state(SHAPE, seed=3, dtype=torch.float64)
    expected = sampler.sample(lambda x, sigma: gaussian()(x, sigma.reshape(-1, 1).double()), x, seed=7).numpy()
    result = arrays.run(sampler, gaussian(), jnp.asarray(x.numpy()), seed=7)
    assert np.abs(np.asarray(result) - expected).max() < 1e-12 * float(abs(x).max())


def test_a_run_is_compiled_once_for_a_shape_and_not_for_every_step() -> None:
    traced = []

    def denoise(x: Any, sigma: Any) -> Any:
        traced.append(x.shape)
        return gaussian()(x, sigma)

    counts = []
    for steps in (4, 40):
        sampler = build_sampler("dpmpp_2m_sde", "karras", steps)
        whole = jax.jit(sample(sampler, denoise))
        traced.clear()
        for seed in (1, 2, 3):
            x = arrays.initial_state(sampler, SHAPE, seed=seed)
            whole(x, arrays.noise(sampler, SHAPE, seed=seed))
        counts.append(len(traced))
        x = arrays.initial_state(sampler, (4, 2), seed=1)
        whole(x, arrays.noise(sampler, (4, 2), seed=1))
        assert len(traced) == 2 * counts[-1]
    assert counts[0] == counts[1] <= 2  # lax.scan may trace its body twice, to find the types of its state


def test_samplers_of_one_shape_share_what_was_compiled() -> None:
    traced = []

    def denoise(x: Any, sigma: Any) -> Any:
        traced.append(x.shape)
        return gaussian()(x, sigma)

    runs = [build_sampler("dpmpp_2m", schedule, 9) for schedule in ("karras", "exponential", "simple")]
    _, step, _ = arrays.scan(runs[0])
    scanned = jax.jit(lambda state, tables: jax.lax.scan(partial(step, denoise), state, tables)[0][0])
    for sampler in runs:
        init, _, tables = arrays.scan(sampler)
        x = arrays.initial_state(sampler, SHAPE, seed=3, dtype=np.float64)
        result = scanned(init(jnp.asarray(x)), jnp.asarray(tables))
        assert np.abs(result - arrays.run(sampler, gaussian(), x)).max() < 1e-12 * float(abs(x).max())
    assert len(traced) <= 2


def test_gradients_go_through_a_whole_run() -> None:
    for name in ("heun", "dpmpp_2m_sde"):
        sampler = build_sampler(name, "karras", 6)
        x = arrays.initial_state(sampler, SHAPE, seed=1, dtype=np.float64)
        noise = arrays.noise(sampler, SHAPE, seed=1)

        def loss(weight: Any, sampler: Any = sampler, x: Any = x, noise: Any = noise) -> Any:
            def denoise(x: Any, sigma: Any) -> Any:
                return jnp.tanh(weight * gaussian()(x, sigma))

            return (sample(sampler, denoise)(x, noise) ** 2).sum()

        h = 1e-5
        compiled = jax.jit(loss)
        slope = (compiled(1.1 + h) - compiled(1.1 - h)) / (2 * h)
        assert abs(jax.jit(jax.grad(loss))(1.1) / slope - 1) < 1e-7


def test_a_batch_of_runs_is_those_of_each() -> None:
    sampler = build_sampler("euler_ancestral", "karras", 6)
    whole = sample(sampler, gaussian())
    x = np.stack([arrays.initial_state(sampler, SHAPE, seed=seed, dtype=np.float64) for seed in range(4)])
    noise = np.stack([arrays.noise(sampler, SHAPE, seed=seed) for seed in range(4)])
    together = jax.jit(jax.vmap(whole))(x, noise)
    for i in range(4):
        assert np.abs(together[i] - arrays.run(sampler, gaussian(), x[i], seed=i)).max() < 1e-12 * float(abs(x).max())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_dtype_of_the_state_is_that_of_the_scan(dtype: str) -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 4)
    x = jnp.asarray(arrays.initial_state(sampler, SHAPE, seed=1)).astype(dtype)
    result = jax.jit(sample(sampler, gaussian()))(x, arrays.noise(sampler, SHAPE, seed=1))
    assert result.dtype == dtype


def test_noise_of_jax_may_take_the_place_of_our_own() -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 12)
    own, shape = arrays.initial_state(sampler, (1, 100000), seed=1), (sampler.nfe + 1, 1, 1, 100000)

    def samples(key: Any) -> Any:
        one, other = jax.random.split(key)
        x = sampler.sigmas[0] * jax.random.normal(one, own.shape)
        return sample(sampler, gaussian())(x, jax.random.normal(other, shape))

    assert arrays.noise(sampler, own.shape, seed=1).shape == shape
    std = arrays.run(sampler, gaussian(), own, seed=1).std()
    assert abs(float(jax.jit(samples)(jax.random.key(0)).std()) / float(std) - 1) < 0.01
