"""Streams: every part gets its solo result, and parts that share a network have the right joint distribution."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from joint_gaussian import Basis, Matrix, gain, orders, spd

import ksched
from ksched import EDM, VP, Denoiser, Flow, Sampler, Streams, build_sampler
from ksched.execution.batch import Batch


def apart(x: Mapping[str, Any], sigma: Mapping[str, Any]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A model that sees every part, row and frame by itself."""
    return {name: alone(x[name], sigma[name]) for name in x}


def alone(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sigma = sigma.reshape(*sigma.shape, *[1] * (x.ndim - sigma.ndim)).to(x.dtype)
    return x / (1 + sigma * sigma), x / (2 + sigma)


def together(x: Mapping[str, Any], sigma: Mapping[str, Any]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A model in which every part depends on all others of its row."""
    means = {name: x[name].flatten(1).mean(1) / (1 + sigma[name].reshape(len(x[name]), -1).mean(1)) for name in x}
    mean = sum(means.values())
    both = {}
    for name, (denoised, uncond) in apart(x, sigma).items():
        shift = mean.reshape(-1, *[1] * (denoised.ndim - 1)).to(denoised.dtype) / 8
        both[name] = denoised + shift, uncond - shift
    return both


def part(
    name: str, steps: int, shape: tuple[int, ...], seed: int, process: ksched.Process | None = None, **how: Any
) -> tuple[Sampler, torch.Tensor, int]:
    sampler = build_sampler(name, "karras" if process is None else "simple", steps, process=process or VP())
    return sampler, sampler.initial_state(shape, seed=seed, **how), seed


KINDS = {
    "video": part("dpmpp_2m_sde", 7, (2, 3, 4), 1),
    "audio": part("heun", 3, (2, 5), 2, Flow(3.0)),
    "depth": part("euler_cfg_pp", 5, (2, 4, 4), 3, EDM(), dtype=torch.float16),
    "text": part("rk_adaptive", 3, (2, 6), 4),
    "pose": part("restart", 4, (2, 2), 5, dtype=torch.float64),
    "one": part("euler", 1, (2, 1), 6),
}


def started() -> Streams:
    runs: dict[str, Any] = {name: sampler.start(x, seed=seed) for name, (sampler, x, seed) in KINDS.items()}
    return Streams(**runs, context=torch.full((2, 3), 2.0))


def test_every_part_is_what_it_is_alone() -> None:
    """Samplers, schedules, processes, steps, dtypes, calls per step and noises of their own, adaptive ones too."""
    streams = started()
    results = streams.sample(apart)
    for name, (sampler, x, seed) in KINDS.items():
        assert torch.equal(results[name], sampler.sample(alone, x, seed=seed)), name
    assert torch.equal(results["context"], torch.full((2, 3), 2.0))
    assert streams.done
    calls = {name: run.nfe for name, run in streams.parts.items() if not isinstance(run, torch.Tensor)}
    assert streams.nfe == max(calls.values()) > min(calls.values()) == calls["one"] == 1


def test_a_part_that_is_done_stays_at_sigma_0_and_what_is_fed_to_it_is_ignored() -> None:
    streams = started()
    for _ in range(2):
        streams.feed(**apart(streams.x, streams.sigma))
    for name in ("one", "context"):
        like = streams.x[name]
        assert streams.sigma[name].tolist() == streams.timestep[name].tolist() == [0, 0]
        assert streams.sigma[name].dtype == torch.float32
        for given in (torch.full_like(like, torch.nan), "nothing", None):
            other = copy.copy(streams)
            other.feed(**{**apart(other.x, other.sigma), name: given})
            assert torch.equal(other.x[name], like)
        left_out = {key: value for key, value in apart(streams.x, streams.sigma).items() if key != name}
        copy.copy(streams).feed(**left_out)
    sampler, x, seed = KINDS["one"]
    assert torch.equal(streams.x["one"], sampler.sample(alone, x, seed=seed))
    assert streams.sigma["video"].shape == (2,)
    video: Any = streams.parts["video"]
    assert torch.equal(streams.sigma["video"], video.sigma)
    assert torch.equal(streams.timestep["video"], video.timestep)


def test_a_part_whose_levels_end_above_0_stays_at_its_last_level() -> None:
    process = Flow(3.0)
    short = build_sampler("euler", sigmas=[1.0, 0.5, 0.25], process=process)
    long = build_sampler("euler", sigmas=[1.0, 0.7, 0.5, 0.0], process=process)
    streams = Streams(a=short.start(torch.ones(1, 2)), b=long.start(torch.ones(1, 2)))
    for _ in range(2):
        streams.feed(a=streams.x["a"] / 2, b=streams.x["b"] / 2)
    assert streams.sigma["a"].tolist() == [0.25]
    assert streams.timestep["a"].tolist() == pytest.approx([float(process.timestep(0.25))])
    assert not streams.done


# Mistakes


def test_a_mistake_moves_no_part() -> None:
    streams = started()
    good = apart(streams.x, streams.sigma)
    before = {name: x.clone() for name, x in streams.x.items()}
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({**good, "audio": good["audio"][0][:1]}, ValueError, "the prediction for 'audio' does not fit.*shape"),
        ({**good, "audio": 3.0}, TypeError, "the prediction for 'audio' does not fit: denoised must be a tensor"),
        (
            {**good, "depth": good["depth"][0]},
            TypeError,
            r"'depth' does not fit: this sampler needs \(denoised, uncond\)",
        ),
        ({**good, "sound": good["audio"]}, ValueError, "names of the parts, video, audio.*got 'sound'"),
        ({k: v for k, v in good.items() if k != "pose"}, ValueError, "not done; 'pose' is missing"),
    ]
    for answers, kind, text in wrong:
        with pytest.raises(kind, match=text):
            streams.feed(**answers)
    with pytest.raises(TypeError, match="predictions must be a mapping with the names video, audio"):
        streams.sample(lambda x, sigma: x["audio"])  # type: ignore[arg-type,return-value]
    written = copy.copy(streams)
    written.x["audio"].add_(1)
    with pytest.raises(RuntimeError, match="must not modify x"):
        written.feed(**good)
    assert all(run.nfe == 0 for run in written.members)
    assert streams.nfe == 0
    assert all(torch.equal(streams.x[name], x) for name, x in before.items())
    assert all(run.nfe == 0 for run in streams.members)


def test_a_model_that_writes_to_context_or_results_is_found() -> None:
    streams = started()
    streams.feed(**apart(streams.x, streams.sigma))
    for name in ("context", "one"):
        other = copy.copy(streams)
        other.x[name].add_(1)
        with pytest.raises(RuntimeError, match="must not modify x"):
            other.feed(**apart(other.x, other.sigma))
        assert other.nfe == 1


def test_own_noise_that_fails_moves_no_part() -> None:
    fails = [False, True, False]

    def noise(start: float, end: float) -> torch.Tensor:
        if fails and fails.pop(0):
            raise OSError("no noise today")
        return torch.full((2, 3), 0.5)

    sampler = build_sampler("euler_ancestral", "karras", 4)
    x = sampler.initial_state((2, 3), seed=1)
    other, start, seed = KINDS["video"]
    streams = Streams(a=other.start(start, seed=seed), b=sampler.start(x, noise=noise))
    streams.feed(**apart(streams.x, streams.sigma))
    with pytest.raises(OSError, match="no noise today"):
        streams.sample(apart)
    assert [run.nfe for run in streams.members] == [1, 1]
    results = streams.sample(apart)
    assert torch.equal(results["a"], other.sample(alone, start, seed=seed))
    assert torch.equal(results["b"], sampler.sample(alone, x, noise=lambda start, end: torch.full((2, 3), 0.5)))


def test_an_adaptive_part_that_fails_leaves_the_others_where_they_are() -> None:
    def run(name: str) -> tuple[Sampler, torch.Tensor]:
        sampler = build_sampler(name, "karras", 3)
        return sampler, sampler.initial_state((1, 3), seed=1)

    parts = {"a": run("rk_adaptive"), "b": run("euler"), "c": run("dpm_adaptive")}
    streams = Streams(**{name: sampler.start(x) for name, (sampler, x) in parts.items()})
    broken = False

    def model(x: Any, sigma: Any) -> Any:
        answers: dict[str, Any] = apart(x, sigma)
        return {**answers, "c": x["c"] * torch.nan} if broken else answers

    streams.feed(**model(streams.x, streams.sigma))
    broken = True
    nfe: list[int] = []

    def go_on() -> None:
        while True:
            nfe[:] = [run.nfe for run in streams.members][:2]
            streams.feed(**model(streams.x, streams.sigma))

    with pytest.raises(ValueError, match=r"finite|NaN"):
        go_on()
    assert [run.nfe for run in streams.members][:2] == nfe
    broken = False
    results = streams.sample(model)
    for name, (sampler, x) in parts.items():
        assert torch.equal(results[name], sampler.sample(alone, x)), name


def test_what_cannot_be_a_part_is_refused() -> None:
    sampler, x, seed = KINDS["video"]
    run = sampler.start(x, seed=seed)
    any_streams: Any = Streams
    with pytest.raises(TypeError, match=r"video must be a run from Sampler\.start.*got Sampler"):
        any_streams(video=sampler)
    with pytest.raises(TypeError, match="got Streams"):
        any_streams(video=Streams(a=run))
    with pytest.raises(ValueError, match="streams must have a run"):
        Streams(video=x)
    with pytest.raises(ValueError, match="one occurs twice"):
        Streams(a=run, b=run)
    with pytest.raises(ValueError, match="a has 2 on cpu, b has 1 on cpu"):
        Streams(a=run, b=torch.ones(1, 3))
    with pytest.raises(TypeError, match="floating-point"):
        Streams(a=run, b=torch.ones(2, 3, dtype=torch.int64))
    streams = Streams(a=run)
    streams.sample(apart)
    with pytest.raises(RuntimeError, match="the streams are done"):
        streams.feed(a=x)
    with pytest.raises(TypeError, match="model must be callable"):
        streams.sample(None)  # type: ignore[arg-type]


def test_a_model_that_knows_its_process_must_agree_with_every_part() -> None:
    class Joint:
        process = Flow()

        def __call__(self, x: Any, sigma: Any) -> Any:
            return apart(x, sigma)

    flow, x, _ = part("euler", 3, (1, 3), 1, Flow(12.0))
    other, y, _ = part("euler", 3, (1, 3), 1)
    assert Streams(a=flow.start(x), b=flow.start(x)).sample(Joint())["a"].shape == x.shape
    streams = Streams(a=flow.start(x), b=other.start(y))
    with pytest.raises(ValueError, match="must mean the same states"):
        streams.sample(Joint())
    denoiser = Denoiser(lambda x, timestep: x, Flow(), "flow")
    with pytest.raises(ValueError, match="must mean the same states"):  # a part's sigma says where it comes from
        denoiser(streams.x["b"], streams.sigma["b"])


# Copies, states, threads


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda streams: pickle.loads(pickle.dumps(streams))])
def test_a_copy_is_streams_of_its_own(how: Any) -> None:
    streams = started()
    for _ in range(3):
        streams.feed(**together(streams.x, streams.sigma))
    other = how(streams)
    assert other.nfe == 3
    end = started().sample(together)
    results = other.sample(together)
    assert streams.nfe == 3
    assert all(torch.equal(results[name], x) for name, x in end.items())
    assert all(torch.equal(streams.sample(together)[name], x) for name, x in end.items())


def test_a_damaged_state_is_refused_whole() -> None:
    streams = started()
    for _ in range(2):
        streams.feed(**together(streams.x, streams.sigma))
    state = streams.state_dict()
    streams.feed(**together(streams.x, streams.sigma))
    before = {name: x.clone() for name, x in streams.x.items()}
    parts, clean = state["streams"], state["clean"]
    last = list(parts)[-1]
    damaged: list[Any] = [
        None,
        parts["video"],
        {**state, "version": 2},
        {**state, "calls": -1},
        {**state, "calls": True},
        {**state, "clean": {}},
        {**state, "clean": {"context": clean["context"].double()}},
        {**state, "clean": {"context": None}},
        {**state, "streams": {name: part for name, part in parts.items() if name != "audio"}},
        {**state, "streams": None},
    ]
    damaged += [{key: value for key, value in state.items() if key != name} for name in state]
    for name in parts:
        damaged.append({**state, "streams": {**parts, name: {**parts[name], "calls": -1}}})
        damaged.append({**state, "streams": {**parts, name: parts[last if name != last else "video"]}})
    for other in damaged:
        with pytest.raises(ValueError, match="state"):
            streams.load_state_dict(other)
        assert streams.nfe == 3
        assert all(torch.equal(streams.x[name], x) for name, x in before.items())
    end = started().sample(together)
    assert all(torch.equal(copy.copy(streams).sample(together)[name], x) for name, x in end.items())
    streams.load_state_dict(state)
    assert streams.nfe == 2
    assert all(torch.equal(streams.sample(together)[name], x) for name, x in end.items())


def test_streams_belong_to_one_thread() -> None:
    inside, go_on, errors = threading.Event(), threading.Event(), []

    def noise(start: float, end: float) -> torch.Tensor:
        inside.set()
        go_on.wait(5)
        return torch.zeros(2, 3)

    sampler = build_sampler("euler_ancestral", "karras", 3)
    x = sampler.initial_state((2, 3), seed=1)
    streams = Streams(a=sampler.start(x, noise=noise), b=sampler.start(x, seed=1))
    answers = apart(streams.x, streams.sigma)
    first = threading.Thread(target=lambda: streams.feed(**answers))
    first.start()
    inside.wait(5)
    try:
        streams.feed(**answers)
    except RuntimeError as error:
        errors.append(str(error))
    go_on.set()
    first.join()
    assert "one thread at a time" in errors[0]
    assert streams.nfe == 1
    assert [run.nfe for run in streams.members] == [1, 1]


def test_gradients_go_through_all_parts() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    sampler = build_sampler("dpmpp_2m_sde", "karras", 3)
    x = sampler.initial_state((2, 3), seed=1, dtype=torch.float64).requires_grad_()
    context = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)

    def model(x: Any, sigma: Any) -> Any:
        return {name: denoised * weight for name, (denoised, _) in together(x, sigma).items()}

    streams = Streams(a=sampler.start(x, seed=1), b=sampler.start(x.detach(), seed=2), c=context)
    total = sum(result.sum() for result in streams.sample(model).values())
    assert isinstance(total, torch.Tensor)
    total.backward()  # type: ignore[no-untyped-call]
    for leaf in (weight, x, context):
        assert leaf.grad is not None
        assert leaf.grad.abs().min() > 0
    plain = Streams(a=sampler.start(x.detach(), seed=1), b=sampler.start(x.detach(), seed=2), c=context.detach())
    assert not plain.sample(model)["a"].requires_grad


# A batch


def requests() -> list[Streams]:
    """The same parts with other samplers, steps and items, and one whose audio is given."""
    found = []
    for i, (video, audio) in enumerate(
        [("dpmpp_2m_sde", "heun"), ("euler", "dpmpp_2m"), ("euler_cfg_pp", "euler"), ("lms", "")]
    ):
        items = 1 + i % 2
        a, x, seed = part(video, 3 + i, (items, 3, 4), 10 * i, Flow(12.0))
        b, y, other = part(audio or "euler", 5 - i, (items, 5), 10 * i + 5, Flow(3.0))
        found.append(Streams(video=a.start(x, seed=seed), audio=b.start(y, seed=other) if audio else y))
    return found


def test_streams_in_a_batch_are_what_they_are_alone() -> None:
    batch, waiting, rows = Batch(), requests(), []
    joined, done = [], []
    while waiting or batch:
        if waiting:
            joined.append(batch.add(waiting.pop(0)))
        assert batch.x["video"].shape[1:] == (3, 4)
        assert batch.sigma["audio"].shape == batch.timestep["audio"].shape == batch.x["audio"].shape[:1]
        rows.append(len(batch.x["audio"]))
        done += batch.tick(together)
    assert {id(streams) for streams in joined} == {id(streams) for streams in done}
    assert max(rows) > 2
    for streams, other in zip(joined, requests(), strict=True):
        for name, x in other.sample(together).items():
            assert torch.equal(streams.x[name], x), name


def test_frames_and_runs_share_a_batch_as_parts_of_streams() -> None:
    def begin(i: int) -> Streams:
        video, x, seed = part("dpmpp_2m_sde", 3 + i, (1, 4, 3), i, Flow(12.0))
        audio, y, other = part("heun", 4, (1, 5), i + 10, Flow(3.0))
        return Streams(video=ksched.frames(video, x, offset=i, seed=seed), audio=audio.start(y, seed=other))

    batch = Batch()
    joined = [batch.add(begin(i)) for i in range(3)]
    assert batch.sigma["video"].shape == (3, 4)
    while batch:
        batch.tick(apart)
    for i, streams in enumerate(joined):
        for name, x in begin(i).sample(apart).items():
            assert torch.equal(streams.x[name], x)
        video, x, seed = part("dpmpp_2m_sde", 3 + i, (1, 4, 3), i, Flow(12.0))
        assert torch.equal(streams.x["video"], video.sample(alone, x, seed=seed))


def test_a_mistake_in_a_batch_moves_nobody_and_a_part_may_be_left_out_when_all_are_done_with_it() -> None:
    batch = Batch()
    a, b, *_ = (batch.add(streams) for streams in requests())
    with pytest.raises(ValueError, match="'audio' does not fit"):
        batch.feed({**together(batch.x, batch.sigma), "audio": batch.x["audio"][1:]})
    with pytest.raises(ValueError, match="'audio' is missing"):
        batch.feed({"video": together(batch.x, batch.sigma)["video"]})
    with pytest.raises(TypeError, match="must be a mapping"):
        batch.feed(batch.x["video"])
    assert a.nfe == b.nfe == 0
    sampler, x, seed = part("euler", 4, (1, 3), 1)
    short = build_sampler("euler", "karras", 1)
    alone_in_it = Batch()
    alone_in_it.add(Streams(a=sampler.start(x, seed=seed), b=short.start(x, seed=seed)))
    alone_in_it.feed(apart(alone_in_it.x, alone_in_it.sigma))
    alone_in_it.feed({"a": alone_in_it.x["a"] / 2})


def test_streams_that_fail_leave_a_batch_alone() -> None:
    def begin(name: str, seed: int) -> Streams:
        sampler = build_sampler(name, "karras", 3)
        x = sampler.initial_state((1, 3), seed=seed)
        return Streams(a=sampler.start(x, seed=seed), b=build_sampler("euler", "karras", 6).start(x))

    batch = Batch()
    good, bad = batch.add(begin("dpmpp_2m_sde", 1)), batch.add(begin("dpm_adaptive", 2))

    def model(x: Any, sigma: Any) -> Any:
        answers = {name: denoised.clone() for name, (denoised, _) in apart(x, sigma).items()}
        answers["a"][1:] = torch.nan
        return answers

    left: list[Any] = []
    while bad not in left:
        left += batch.tick(model)
    assert isinstance(bad.error, ValueError)
    with pytest.raises(RuntimeError, match="left its batch with an error"):
        _ = bad.x
    run: Any = bad.parts["b"]
    assert run.nfe == bad.nfe  # it did not move when the other failed
    while batch:
        batch.tick(apart)
    assert torch.equal(good.x["a"], begin("dpmpp_2m_sde", 1).sample(apart)["a"])


def test_what_cannot_share_a_batch_is_refused() -> None:
    batch = Batch()
    streams = batch.add(requests()[0])
    sampler, x, _ = part("euler", 3, (1, 3, 4), 1, Flow())
    video: Any = streams.parts["video"]
    for other in (
        sampler.start(x),
        ksched.frames(sampler, x),
        Streams(video=sampler.start(x)),
        Streams(video=sampler.start(x), sound=torch.ones(1, 5)),
        Streams(video=sampler.start(x), audio=torch.ones(1, 6)),
        Streams(video=ksched.frames(sampler, x), audio=torch.ones(1, 5)),
    ):
        with pytest.raises(ValueError, match="one shape, dtype and device"):
            batch.add(other)
    for taken in (streams, Streams(video=video, audio=torch.ones(1, 5))):
        with pytest.raises(ValueError, match="can be in a batch only once"):
            batch.add(taken)
    assert batch.remove(streams) is streams
    streams.sample(together)
    with pytest.raises(ValueError, match="must not be done when it joins"):
        batch.add(streams)


# The law


COVARIANCE = spd(5)


def levels(shift: float, steps: int) -> Matrix:
    """Levels of flow, spaced as a shift has them, with both ends inside."""
    u = np.linspace(0.98, 0.02, steps + 1)
    found: Matrix = shift * u / (1 + (shift - 1) * u)
    return found


def marginal(process: ksched.Process, sigmas: Matrix) -> Matrix:
    a, s = process.alpha(sigmas), process.noise_std(sigmas)
    found: Matrix = a[:, None] * COVARIANCE * a + np.diag(s**2)
    return found


def law_error(video: str, audio: str, steps: int, audio_steps: int, through_batch: bool = False) -> float:
    """The error of the law of video and audio, exact, from what becomes of basis vectors."""
    process = Flow()
    v = build_sampler(video, sigmas=levels(5.0, steps), process=process)
    a = build_sampler(audio, sigmas=levels(2.0, audio_steps), process=process)
    basis = Basis(5, v.nfe + a.nfe if v.plan.draws or a.plan.draws else 0)
    streams = Streams(
        video=v.start(basis.start(0, (3,)), noise=basis.noise((3,))),
        audio=a.start(basis.start(3, (2,)), noise=basis.noise((2,))),
    )

    def model(x: Any, sigma: Any) -> Any:
        at = np.array([float(sigma["video"][0])] * 3 + [float(sigma["audio"][0])] * 2)
        denoised = torch.cat([x["video"], x["audio"]], 1) @ gain(COVARIANCE, process, at).T
        return {"video": denoised[:, :3], "audio": denoised[:, 3:]}

    if through_batch:
        batch = Batch()
        batch.add(streams)
        while batch:
            batch.tick(model)
    else:
        streams.sample(model)
    results = torch.cat([streams.x["video"], streams.x["audio"]], 1)
    start, end = (np.array([v.sigmas[k]] * 3 + [a.sigmas[k]] * 2) for k in (0, -1))
    found = basis.covariance(results, marginal(process, start))
    return float(np.abs(found - marginal(process, end)).max())


@pytest.mark.filterwarnings("ignore:the start of a run")
@pytest.mark.parametrize(
    ("video", "audio", "share", "order"),
    [
        ("euler", "euler", 1, 1),
        ("euler", "euler", 2, 1),
        ("heun", "heun", 1, 2),
        ("heun", "heun", 2, 2),
        ("dpmpp_2m", "dpmpp_2m", 1, 2),
        ("dpmpp_2m", "dpmpp_2m", 2, 2),
        ("dpmpp_2m", "deis", 1, 2),
        ("dpmpp_2m", "euler", 1, 1),
    ],
)
def test_the_law_of_two_parts_tends_to_the_right_one_at_the_declared_order(
    video: str, audio: str, share: int, order: int
) -> None:
    """Two shifts; audio has as many steps or half as many. With half, it waits at its end while video continues."""
    measured = orders(lambda n: law_error(video, audio, n, n // share), [128, 256])
    assert measured[0] > order - 0.15
    assert law_error(video, audio, 256, 256 // share) < 0.05


@pytest.mark.filterwarnings("ignore:the start of a run")
@pytest.mark.parametrize("audio", ["euler_ancestral", "euler"])
def test_the_law_of_stochastic_parts_tends_to_the_right_one(audio: str) -> None:
    """Every noise of every part is followed, so that the law is exact; first order."""
    assert orders(lambda n: law_error("euler_ancestral", audio, n, n), [48, 96])[0] > 0.75
    assert orders(lambda n: law_error("dpmpp_2m_sde", audio, n, n), [48, 96])[0] > 0.75


@pytest.mark.filterwarnings("ignore:the start of a run")
def test_the_law_is_the_same_through_a_batch() -> None:
    assert law_error("dpmpp_2m", "heun", 16, 12, through_batch=True) == law_error("dpmpp_2m", "heun", 16, 12)
