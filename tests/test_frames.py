"""Frames of a clip at separate noise levels: bit equality, orders, noise, mistakes, and the exact distribution."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from cases import NAMES, PROCESSES, process_for
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_gaussian import Basis, Matrix, gain, orders
from representatives import in_turn, short

import ksched
from ksched import VP, Denoiser, Flow, Frames, Sampler, build_sampler
from ksched.execution.batch import Batch
from ksched.joint_runs import autoregressive, pyramid
from ksched.kernels import normal_table
from ksched.noise import streams
from ksched.noise.clip import ClipNoise
from ksched.noise.sources import CallableNoise, seeded_source
from ksched.plan.rows import Draw


def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A model that sees every frame by itself, at one level for the clip or one for each frame."""
    sigma = sigma.reshape(*sigma.shape, *[1] * (x.ndim - sigma.ndim)).to(x.dtype)
    return x / (1 + sigma * sigma), x / (2 + sigma)


def mixing(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A model in which every frame sees all others of its row."""
    denoised, uncond = model(x, sigma)
    mean = denoised.mean(1, keepdim=True) / 2
    return denoised / 2 + mean, uncond / 2 + mean


def clip(sampler: Sampler, shape: tuple[int, ...] = (2, 5, 3), **how: Any) -> torch.Tensor:
    return sampler.initial_state(shape, seed=1, **how)


# Offset 0


@short(lambda name, process: process == in_turn(NAMES.index(name), PROCESSES))
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", NAMES)
def test_offset_0_is_sample_bit_for_bit(name: str, process: str) -> None:
    sampler = build_sampler(name, "simple", 4, process=process_for(name, PROCESSES[process]))
    x = clip(sampler)
    assert torch.equal(ksched.frames(sampler, x, offset=0, seed=7).sample(mixing), sampler.sample(mixing, x, seed=7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde", "restart", "uni_pc"])
@pytest.mark.parametrize("noise", [None, "brownian"])
def test_offset_0_is_sample_in_every_dtype_and_noise(name: str, dtype: torch.dtype, noise: Any) -> None:
    sampler = build_sampler(name, "karras", 4)
    x = clip(sampler, (2, 3, 5, 4), dtype=dtype)
    frames = ksched.frames(sampler, x, seed=[7, 3], noise=noise)
    assert frames.sigma.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    result = frames.sample(mixing)
    assert result.dtype == dtype
    assert torch.equal(result, sampler.sample(mixing, x, seed=[7, 3], noise=noise))


def test_offset_0_asks_own_noise_as_sample_does() -> None:
    """A generator of one's own moves on with every call, so the calls must be the same."""
    sampler = build_sampler("dpmpp_sde", "karras", 4)
    x = clip(sampler)

    def own() -> Any:
        generator, buffer = torch.Generator().manual_seed(3), torch.empty_like(x)
        return lambda start, end: torch.randn(x.shape, generator=generator, out=buffer)

    assert torch.equal(ksched.frames(sampler, x, noise=own()).sample(mixing), sampler.sample(mixing, x, noise=own()))


def test_offset_0_holds_where_frames_begin_and_end_inside_the_chunks_of_their_noise() -> None:
    sampler = build_sampler("euler_ancestral", "karras", 3)
    x = clip(sampler, (2, 3, 50000))
    assert torch.equal(ksched.frames(sampler, x, seed=7).sample(model), sampler.sample(model, x, seed=7))


# Orders


@st.composite
def tables(draw: st.DrawFn, steps: int, frames: int) -> list[list[int]]:
    """Any table that is one: each column rises from 0, or is context, in steps of any size."""
    rows = draw(st.integers(1, 6))
    columns = []
    for k in range(frames):
        context = k > 0 and draw(st.booleans()) and draw(st.booleans())
        inner = sorted(draw(st.lists(st.integers(0, steps), min_size=rows, max_size=rows)))
        columns.append([steps] * (rows + 2) if context else [0, *inner, steps])
    return [list(row) for row in zip(*columns, strict=True)]


@settings(max_examples=15, deadline=None)
@given(
    data=st.data(),
    name=st.sampled_from(["euler", "heun", "dpmpp_2m_sde", "dpmpp_sde", "lms", "euler_cfg_pp", "restart", "seeds_3"]),
)
def test_a_model_that_sees_frames_apart_gives_one_clip_in_every_order(data: st.DataObject, name: str) -> None:
    """So every frame makes its steps, waits in between, and gets its own slice of the noise, whenever its turn is."""
    sampler = build_sampler(name, "karras", 4)
    x = clip(sampler, (2, 4, 3))
    table = data.draw(tables(4, 4))
    clean = [k for k in range(4) if table[0][k] == 4]
    frames = ksched.frames(sampler, x, schedule=table, seed=7)
    result = frames.sample(model)
    whole = sampler.sample(model, x, seed=7)
    for k in range(4):
        assert torch.equal(result[:, k], x[:, k] if k in clean else whole[:, k]), k
    assert frames.tick == frames.ticks >= sampler.nfe


@pytest.mark.parametrize("noise", [None, "brownian", "own"])
@pytest.mark.parametrize(("offset", "context"), [(1, 0), (3, 0), (2, 2), (7, 1)])
def test_the_same_clip_at_every_offset(offset: int, context: int, noise: Any) -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 6)
    x = clip(sampler)
    draws: dict[Any, torch.Tensor] = {}

    def own(start: float, end: float) -> torch.Tensor:
        return draws.setdefault((start, end), torch.randn(x.shape, generator=torch.Generator().manual_seed(len(draws))))

    how: dict[str, Any] = {"noise": own} if noise == "own" else {"seed": 7, "noise": noise}
    frames = ksched.frames(sampler, x, offset=offset, context=context, **how)
    assert frames.ticks == sampler.nfe + offset * (4 - context)
    result, whole = frames.sample(model), sampler.sample(model, x, **how)
    assert torch.equal(result[:, context:], whole[:, context:])
    assert torch.equal(result[:, :context], x[:, :context])


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m_sde"])
def test_frames_wait_at_the_first_level_and_stay_at_0_and_are_not_written_meanwhile(name: str) -> None:
    sampler = build_sampler(name, "karras", 4, process=Flow(3.0))
    x = clip(sampler, (2, 4, 3))
    frames = ksched.frames(sampler, x, offset=2, context=1, seed=7)
    process, before, seen = Flow(3.0), frames.x, []
    while not frames.done:
        now, moving = frames.x, frames.moving
        assert torch.equal(now[:, 0], x[:, 0])
        assert frames.sigma.shape == frames.timestep.shape == (2, 4)
        for k in range(1, 4):
            calls = min(max(frames.tick - 2 * (k - 1), 0), sampler.nfe)
            done = calls == sampler.nfe
            at = 0.0 if done else sampler.plan.levels[calls].label
            assert frames.sigma[:, k].tolist() == pytest.approx([at] * 2)
            assert frames.timestep[:, k].tolist() == pytest.approx([0.0 if done else float(process.timestep(at))] * 2)
            if calls == 0:
                assert torch.equal(now[:, k], x[:, k])
                assert at == sampler.sigmas[0]
        seen.append(moving)
        kept = now.clone()
        answer = model(now, frames.sigma)
        still = [k for k in range(4) if k not in moving]
        answer[0][:, still] = torch.nan  # whatever is said of a frame whose turn it is not
        frames.feed(*answer)
        assert torch.equal(now, kept)
        assert torch.equal(frames.x[:, still], kept[:, still])
    assert seen[0] == (1,)
    assert seen[2] == (1, 2)
    assert seen[-1] == (3,)
    assert torch.equal(before, x)
    assert not frames.sigma.any()
    assert not frames.timestep.any()
    assert torch.equal(frames.x[:, 1:], sampler.sample(model, x, seed=7)[:, 1:])


def test_a_pyramid_of_one_call_a_step_is_the_offset_and_of_two_keeps_steps_together() -> None:
    one, two = build_sampler("dpmpp_2m_sde", "karras", 5), build_sampler("heun", "karras", 5)
    x = clip(one, (1, 4, 3))
    table = ksched.frames(one, x, schedule=pyramid(5, 4, lag=2), seed=7)
    offset = ksched.frames(one, x, offset=2, seed=7)
    assert table.order == offset.order
    assert torch.equal(table.sample(mixing), offset.sample(mixing))
    frames = ksched.frames(two, x, schedule=pyramid(5, 4))
    labels = {float(np.float32(sigma)): step for step, sigma in enumerate(two.sigmas)}
    rows = []
    while not frames.done:
        if len({float(s) for s in frames.sigma[0]}) and frames.tick % 2 == 0:
            rows.append([labels[float(s)] for s in frames.sigma[0]])
        frames.feed(*mixing(frames.x, frames.sigma))
    assert rows[:3] == [[0, 0, 0, 0], [1, 0, 0, 0], [2, 1, 0, 0]]


def test_autoregressive_blocks_finish_one_after_another() -> None:
    sampler = build_sampler("heun", "karras", 3)
    x = clip(sampler, (1, 5, 3))
    frames = ksched.frames(sampler, x, schedule=autoregressive(3, 5, block=2, context=1))
    moving = []
    while not frames.done:
        moving.append(frames.moving)
        frames.feed(*mixing(frames.x, frames.sigma))
    assert moving == [(1, 2)] * sampler.nfe + [(3, 4)] * sampler.nfe
    assert autoregressive(3, 5, block=2)[-4].tolist() == [3, 3, 3, 3, 0]
    assert pyramid(3, 3, lag=0).tolist() == [[n] * 3 for n in range(4)]


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "heun", "uni_pc"])
def test_a_frame_may_begin_at_a_later_step(name: str) -> None:
    sampler = build_sampler(name, "karras", 5)
    x = clip(sampler, (2, 3, 4))
    x[:, 1] *= float(sampler.sigmas[2] / sampler.sigmas[0])
    frames = ksched.frames(sampler, x, schedule=[[0, 2, 5], [3, 3, 5], [5, 5, 5]], seed=7)
    assert frames.sigma[0].tolist() == pytest.approx([sampler.sigmas[0], sampler.sigmas[2], 0])
    result = frames.sample(model)
    later = build_sampler(name, sigmas=sampler.sigmas[2:])
    assert torch.equal(result[:, 0], sampler.sample(model, x, seed=7)[:, 0])
    assert torch.equal(result[:, 1], later.sample(model, x, seed=7)[:, 1])
    assert torch.equal(result[:, 2], x[:, 2])


# Noise


@pytest.mark.parametrize("kind", ["seeded", "brownian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "shape", [(2, 3, 7), (1, 5, 30000), (2, 2, 65536), (1, 3, 100000), (2, 4, 2, 2, 3), (1, 2, 0), (3, 2)]
)
def test_the_noise_of_a_frame_is_its_slice(kind: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    source = seeded_source(kind, tuple(range(shape[0])), VP())
    draws = [Draw(5.0, 2.0), Draw(2.0, 0.7, 1), Draw(0.7, 0.0, 0, 2, 1.5)]
    noise = ClipNoise(source, shape, [dict.fromkeys(draws, 1)] * shape[1])
    like = torch.empty(shape, dtype=dtype)
    for draw in draws:
        whole = source(draw, like)
        for k in reversed(range(shape[1])):
            part = noise.frame(k)(draw, like[:, k])
            assert torch.equal(part, whole[:, k])
            out = torch.empty(shape, dtype=dtype)[:, k]
            assert torch.equal(noise.frame(k)(draw, out, out=out), whole[:, k])
    noise.forget([1] * shape[1])
    assert not noise._chunks


@pytest.mark.parametrize("kind", ["seeded", "brownian"])
@pytest.mark.parametrize(
    ("count", "parts"),
    [(700, [(0, 1), (3, 300), (600, 100)]), (150000, [(0, 70000), (65536, 10), (65000, 85000), (140000, 10000)])],
)
def test_a_slice_on_a_device_is_that_of_the_whole(kind: str, count: int, parts: list[tuple[int, int]]) -> None:
    """Tested with plain operations on the CPU; a GPU's give the same bits."""
    source: Any = seeded_source(kind, (1, 5), VP())
    for draw in Draw(5.0, 2.0), Draw(0.7, 0.0):
        whole = source(draw, torch.empty(2, count))
        for first, width in parts:
            part = source.slice_on(torch.device("cpu"), draw, count, first, width)
            assert torch.equal(part, whole[:, first : first + width])


@pytest.mark.parametrize("shape", [(2, 16, 4096), (1, 5, 50000), (1, 3, 65536), (1, 40, 300)])
@pytest.mark.parametrize(
    "how", [{"offset": 3}, {"offset": 0}, {"schedule": autoregressive(4, 40)}, {"offset": 2, "context": 2}]
)
def test_no_number_is_drawn_twice_and_none_is_kept_in_vain(
    shape: tuple[int, ...], how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "schedule" in how:
        how = {"schedule": how["schedule"][: 4 * shape[1] + 1, : shape[1]]}
    made: list[Any] = []

    def counted(key: Any, count: int, first: int, out: Any) -> None:
        made.append((key, first))
        normal_table.fill_normals(key, count, first, out)

    monkeypatch.setattr(streams, "fill_normals", counted)
    sampler = build_sampler("euler_ancestral", "karras", 4)
    x = torch.full(shape, 14.0)
    frames = ksched.frames(sampler, x, seed=7, **how)
    while not frames.done:
        frames.feed(x)
    assert len(made) == len(set(made)) <= len(sampler.plan.draws) * shape[0] * -(-shape[1] * shape[2] // 65536)
    assert not frames._noise._chunks


def test_own_noise_is_asked_once_for_each_interval_and_kept_until_the_last_frame_has_it() -> None:
    sampler = build_sampler("euler_ancestral", "karras", 4)
    x = clip(sampler, (1, 3, 2))
    asked: list[tuple[float, float]] = []

    def noise(start: float, end: float) -> torch.Tensor:
        asked.append((start, end))
        return torch.full_like(x, len(asked))

    frames = ksched.frames(sampler, x, offset=2, noise=noise)
    held = []
    while not frames.done:
        frames.feed(*model(frames.x, frames.sigma))
        held.append(len(frames._noise.clips))
    assert asked == [draw[:2] for draw in sampler.plan.draws]
    assert held == [1, 2, 3, 3, 2, 1, 0, 0]


def test_own_noise_that_fails_moves_no_frame() -> None:
    sampler = build_sampler("euler_ancestral", "karras", 4)
    x = clip(sampler, (1, 3, 2))
    fails = [False, True]

    def noise(start: float, end: float) -> torch.Tensor:
        if fails and fails.pop(0):
            raise OSError("no noise today")
        return torch.full_like(x, start)

    frames = ksched.frames(sampler, x, offset=1, noise=noise)
    with pytest.raises(OSError, match="no noise today"):
        frames.sample(model)
    assert frames.tick == 1
    assert [run.nfe for run in frames.members] == [1, 0, 0]
    whole = sampler.sample(model, x, noise=lambda start, end: torch.full_like(x, start))
    assert torch.equal(frames.sample(model), whole)


# Mistakes


def test_what_is_no_clip_or_no_order_is_refused_before_the_first_call() -> None:
    sampler = build_sampler("euler", "karras", 4)
    x = clip(sampler, (1, 3, 2))
    frames: Any = ksched.frames
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"offset": -1}, "offset must be a whole number of at least 0"),
        ({"offset": 1.5}, "offset must be a whole number"),
        ({"context": 3}, "context must leave a frame to denoise: at most 2 of 3; got 3"),
        ({"context": -1}, "context must be a whole number"),
        ({"offset": 1, "schedule": pyramid(4, 3)}, "either offset and context, or schedule"),
        ({"context": 1, "schedule": pyramid(4, 3)}, "either offset and context, or schedule"),
        ({"schedule": pyramid(4, 2)}, r"schedule must be a table.*shape \(rows, 3\); got shape \(7|6, 2\)"),
        ({"schedule": [[0, 0, 0], [4, 4]]}, "rows have different lengths"),
        ({"schedule": []}, "schedule must be a table"),
        ({"schedule": [[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]}, "got shape .2, 3., float64"),
        ({"schedule": "pyramid"}, "schedule must be a table"),
        ({"schedule": [[0, 0, 0], [4, 5, 4]]}, "got 5 in row 1 for frame 1"),
        ({"schedule": [[0, -1, 0], [4, 4, 4]]}, "got -1 in row 0 for frame 1"),
        ({"schedule": [[0, 0, 0], [2, 3, 2], [4, 2, 4]]}, "must not decrease.*frame 1 has 3 and then 2 in row 2"),
        ({"schedule": [[0, 0, 0], [4, 4, 3]]}, "last row of schedule must be 4 for every frame; got 3 for frame 2"),
        ({"schedule": [[4, 4, 4]]}, "must leave something to denoise"),
        ({"seed": 1, "noise": lambda start, end: x}, "either seed or noise"),
    ]
    for how, text in wrong:
        with pytest.raises((TypeError, ValueError), match=text):
            frames(sampler, x, **how)
    with pytest.raises(TypeError, match="rk_adaptive is adaptive: it chooses its steps from the model's answers"):
        frames(build_sampler("rk_adaptive", "karras", 4), x)
    with pytest.raises(ValueError, match=r"x must be a clip of shape \(batch, frames, ...\); got \(3,\)"):
        frames(sampler, torch.ones(3))
    with pytest.raises(ValueError, match="x must be a clip"):
        frames(sampler, torch.ones(1, 0, 3))
    with pytest.raises(TypeError, match="floating-point"):
        frames(sampler, torch.ones(1, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="must come from build_sampler; got str"):
        frames("euler", x)
    with pytest.raises(ValueError, match="draws noise: give seed"):
        frames(build_sampler("euler_ancestral", "karras", 4), x)
    plan = build_sampler(build_sampler("dpmpp_2m", "karras", 4).plan)
    assert torch.equal(frames(plan, x, offset=2).sample(model), plan.sample(model, x))
    with pytest.raises(ValueError, match="a frame cannot start at step 1"):
        frames(plan, x, schedule=[[0, 1, 0], [4, 4, 4]])
    for how, text in ({"lag": -1}, "lag"), ({"context": 3}, "context"):
        with pytest.raises(ValueError, match=text):
            pyramid(4, 3, **how)
    with pytest.raises(ValueError, match="block"):
        autoregressive(4, 3, block=0)


def test_a_wrong_answer_moves_no_frame() -> None:
    sampler = build_sampler("euler_cfg_pp", "karras", 4)
    x = clip(sampler, (1, 3, 2))
    frames: Any = ksched.frames(sampler, x, offset=1)
    wrong: list[tuple[Any, type[Exception], str]] = [
        ((x[:, :2], x), ValueError, "denoised must have the state's shape"),
        ((x,), TypeError, r"needs \(denoised, uncond\)"),
        ((x, x[:, :2]), ValueError, "uncond must have the state's shape"),
        (("x", x), TypeError, "denoised must be a tensor"),
    ]
    for given_, kind, text in wrong:
        with pytest.raises(kind, match=text):
            frames.feed(*given_)
    with pytest.raises(TypeError, match="model must be callable"):
        frames.sample(3)
    assert frames.tick == 0
    assert torch.equal(frames.x, x)
    frames.sample(model)
    with pytest.raises(RuntimeError, match="the frames are done"):
        frames.feed(x, x)
    with pytest.raises(ValueError, match="must mean the same states"):
        ksched.frames(build_sampler("euler", "simple", 3), x).sample(Denoiser(lambda x, t: x, Flow(), "flow"))


# States, copies, threads


def begun(kind: str = "seeded") -> Frames:
    """Frames some calls in, of which the last two have not begun, or have just done so."""
    sampler = build_sampler("dpmpp_2m_sde", "karras", 5)
    x = clip(sampler, (2, 5, 3))
    how: dict[str, Any] = {"noise": own_noise} if kind == "own" else {"seed": [4, 9]}
    if kind == "brownian":
        how["noise"] = "brownian"
    return ksched.frames(sampler, x, offset=2, context=1, **how)


def own_noise(start: float, end: float) -> torch.Tensor:
    """Other numbers at every call, so one call too many changes the clip."""
    own_noise.calls += 1  # type: ignore[attr-defined]
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(own_noise.calls))  # type: ignore[attr-defined]


own_noise.calls = 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["seeded", "brownian", "own"])
@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle", "state"])
def test_a_copy_goes_on_bit_for_bit(kind: str, how: str) -> None:
    own_noise.calls = 0  # type: ignore[attr-defined]
    end = begun(kind).sample(mixing)
    own_noise.calls = 0  # type: ignore[attr-defined]
    frames = begun(kind)
    for _ in range(5):
        frames.feed(*mixing(frames.x, frames.sigma))
    asked = own_noise.calls  # type: ignore[attr-defined]
    if how == "state":
        other = begun(kind)
        other._clean[0].zero_()
        if kind != "own":
            sampler = other.sampler
            other = ksched.frames(sampler, torch.zeros(2, 5, 3), offset=2, context=1, seed=0)
        other.load_state_dict(pickle.loads(pickle.dumps(frames.state_dict())))
    else:
        ways: dict[str, Any] = {
            "copy": copy.copy,
            "deepcopy": copy.deepcopy,
            "pickle": lambda f: pickle.loads(pickle.dumps(f)),
        }
        other = ways[how](frames)
    assert own_noise.calls == asked  # type: ignore[attr-defined]
    assert other.tick == 5
    assert torch.equal(other.x, frames.x)
    assert torch.equal(other.sample(mixing), end)
    assert frames.tick == 5
    own_noise.calls = asked  # type: ignore[attr-defined]
    assert torch.equal(frames.sample(mixing), end)


@pytest.mark.parametrize("kind", ["seeded", "own"])
def test_a_damaged_state_is_refused_whole(kind: str) -> None:
    frames = begun(kind)
    for _ in range(4):
        frames.feed(*mixing(frames.x, frames.sigma))
    state = frames.state_dict()
    frames.feed(*mixing(frames.x, frames.sigma))
    before, parts = frames.x, state["frames"]
    damaged: list[Any] = [None, {}, parts[1], {**state, "version": 2}, {**state, "calls": -1}, {**state, "calls": 3}]
    damaged += [{**state, "order": "other"}, {**state, "dtype": "float16"}, {**state, "clean": []}]
    damaged += [
        {**state, "frames": parts[:-1]},
        {**state, "frames": [None, parts[2], *parts[2:]]},
        {**state, "frames": 3},
    ]
    damaged += [{**state, "frames": [*parts[:-1], {**parts[-1], "registers": {}}]}]
    damaged += [{**state, "clean": [torch.zeros(2, 4)]}, {**state, "clean": [None]}]
    damaged += [{key: value for key, value in state.items() if key != name} for name in state if name != "noise"]
    if kind == "own":
        assert len(state["drawn"]) == 4
        damaged += [{**state, "drawn": state["drawn"][1:]}, {**state, "drawn": [None] * 4}]
        damaged += [begun("own").state_dict() | {"calls": 4}]
    else:
        damaged += [{**state, "seeds": [1]}, {**state, "noise": "another rule"}]
    for other in damaged:
        with pytest.raises(ValueError, match=r"state|noise"):
            frames.load_state_dict(other)
        assert frames.tick == 5
        assert torch.equal(frames.x, before)
    frames.load_state_dict(state)
    assert frames.tick == 4


def test_frames_that_record_gradients_are_followed_and_name_state_dict_when_copied() -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 3)
    x = clip(sampler, (1, 3, 2), dtype=torch.float64).requires_grad_()
    frames = ksched.frames(sampler, x, offset=1, context=1, seed=1)
    result = frames.sample(mixing)
    result.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.abs().min() > 0
    for act in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"state_dict\(\)"):
            act(frames)
    again = ksched.frames(sampler, x.detach(), offset=1, context=1, seed=1).sample(mixing)
    assert not again.requires_grad
    assert torch.allclose(again, result.detach(), rtol=1e-12)


def test_frames_belong_to_one_thread() -> None:
    sampler = build_sampler("euler_ancestral", "karras", 3)
    x = clip(sampler, (1, 3, 2))
    inside, go_on = threading.Event(), threading.Event()

    def noise(start: float, end: float) -> torch.Tensor:
        inside.set()
        go_on.wait(5)
        return torch.zeros_like(x)

    frames = ksched.frames(sampler, x, noise=noise)
    first = threading.Thread(target=lambda: frames.feed(x))
    first.start()
    inside.wait(5)
    with pytest.raises(RuntimeError, match="one thread at a time"):
        frames.feed(x)
    go_on.set()
    first.join()
    assert frames.tick == 1


# A batch


def test_frames_in_a_batch_are_what_they_are_alone() -> None:
    def begin() -> list[Frames]:
        found = []
        for i, name in enumerate(("dpmpp_2m_sde", "heun", "euler_cfg_pp", "lms")):
            sampler = build_sampler(name, "karras", 3 + i, process=VP() if i % 2 else ksched.EDM())
            found.append(ksched.frames(sampler, clip(sampler, (1 + i % 2, 4, 3)), offset=i, context=i % 3, seed=i))
        return found

    batch, waiting, joined = Batch(), begin(), []
    while waiting or batch:
        if waiting:
            joined.append(batch.add(waiting.pop(0)))
        assert batch.sigma.shape == batch.timestep.shape == batch.x.shape[:2]
        batch.tick(mixing)
    for frames, other in zip(joined, begin(), strict=True):
        assert frames.done
        assert torch.equal(frames.x, other.sample(mixing))
    sampler = build_sampler("euler", "karras", 3)
    batch.add(ksched.frames(sampler, clip(sampler)))
    for stranger in (sampler.start(clip(sampler)), ksched.frames(sampler, clip(sampler, (2, 4, 3)))):
        with pytest.raises(ValueError, match="one shape, dtype and device"):
            batch.add(stranger)


# The law


FRAMES = 4
COVARIANCE: Matrix = 0.8 ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))


def law_error(name: str, steps: int, how: Any) -> float:
    """The error of the law of a clip, exact, from what becomes of basis vectors."""
    process = Flow()
    u = np.linspace(0.98, 0.02, steps + 1)
    sampler = build_sampler(name, sigmas=3 * u / (1 + 2 * u), process=process)
    basis = Basis(FRAMES, len(sampler.plan.draws))
    options = how(steps)
    noise = basis.noise((FRAMES,))
    frames = ksched.frames(sampler, basis.start(0, (FRAMES,)), noise=noise if sampler.plan.draws else None, **options)
    first = frames.sigma[0].numpy()

    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x @ gain(COVARIANCE, process, sigma[0].numpy()).T

    result = frames.sample(denoiser)

    def marginal(sigmas: Matrix) -> Matrix:
        found: Matrix = (1 - sigmas)[:, None] * COVARIANCE * (1 - sigmas) + np.diag(sigmas**2)
        return found

    found = basis.covariance(result, marginal(first))
    return float(np.abs(found - marginal(frames.sigma[0].numpy())).max())


ORDERS = {
    "at once": lambda steps: {"offset": 0},
    "rolling": lambda steps: {"offset": steps // 4},
    "context": lambda steps: {"offset": steps // 4, "context": 1},
    "pyramid": lambda steps: {"schedule": pyramid(steps, FRAMES, lag=steps // 2)},
    "autoregressive": lambda steps: {"schedule": autoregressive(steps, FRAMES, block=2)},
}


@pytest.mark.filterwarnings("ignore:the start of a run")
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("order", ORDERS)
def test_the_law_of_a_clip_tends_to_the_right_one_at_the_declared_order(name: str, order: str) -> None:
    how, declared = ORDERS[order], build_sampler(name, "karras", 3).order
    assert orders(lambda n: law_error(name, n, how), [48, 96])[0] > declared - 0.15
    assert law_error(name, 96, how) < 0.05


@pytest.mark.filterwarnings("ignore:the start of a run")
@pytest.mark.parametrize("order", ORDERS)
def test_the_law_of_a_clip_with_noise_tends_to_the_right_one(order: str) -> None:
    """Every noise is followed, so that the law is exact; first order."""
    assert orders(lambda n: law_error("euler_ancestral", n, ORDERS[order]), [32, 64])[0] > 0.75


def test_a_clip_source_of_own_noise_is_checked_as_for_a_run() -> None:
    sampler = build_sampler("euler_ancestral", "karras", 3)
    x = clip(sampler, (1, 3, 2))
    bad: Any
    for bad, text in (
        (lambda start, end: x[:, 0], "noise must have the state's shape"),
        (lambda start, end: 3, "must return a tensor"),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            ksched.frames(sampler, x, noise=bad).sample(model)
    assert isinstance(ksched.frames(sampler, x, noise=lambda start, end: x)._noise.source, CallableNoise)
