"""Plans that call the model at another level than the state's: the papers' formulas, and every executor."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from representatives import each

import ksched
from ksched import EDM, VP, Denoiser, Flow, Plan, arrays, build_sampler, tell
from ksched.execution.live import EagerContext
from ksched.execution.loop import run_plan
from ksched.export import export
from ksched.noise.seeded import SeededNoise
from ksched.plan.analysis import gaussian_law, marginals
from ksched.plan.rows import Register
from ksched.plan.trace import trace

PLAIN = VP()
PRESERVING = VP(variance_preserving=True)
COUNT = 6


def told_of(plan: Plan, share: float = 0.8) -> list[float]:
    """Told sigmas for a plan: the first equals the state's, the others differ from it."""
    first, *others = plan.call_sigmas.tolist()
    return [first, *(sigma * share ** (1 + k % 2) for k, sigma in enumerate(others))]


def told_plan(sampler: str = "dpmpp_2m", process: ksched.Process = PLAIN, **how: Any) -> Plan:
    plan = build_sampler(sampler, "karras" if process is PLAIN else "simple", COUNT, process=process, **how).plan
    return tell(plan, told_of(plan), process=process)


TOLD = told_plan()
NOISY = told_plan("dpmpp_2m_sde", eta=0.7)


def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Anything that depends on both; no denoiser of any data."""
    t = timestep.reshape(-1, *[1] * (x.ndim - 1)) / 1000
    output: torch.Tensor = torch.sin(3 * x + t) * (1 + t) + 0.3 * x
    return output


class Heard:
    """A denoiser that writes down the sigmas that it is called with."""

    def __init__(self) -> None:
        self.sigmas: list[float] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        self.sigmas.append(float(sigma.flatten()[0]))
        answer: torch.Tensor = model(x, sigma)
        return answer


def model(x: Any, sigma: Any) -> Any:
    s = sigma.reshape(-1, *[1] * (x.ndim - 1)) if hasattr(sigma, "reshape") else sigma
    return x / (1 + s * s) + 0.1 * s / (1 + s)


def start(plan: Plan, items: int = 2) -> torch.Tensor:
    noise = torch.randn(items, 3, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return noise * plan.start.sigma


# -------------------------------------------------------------------------------------------- the formulas of papers


def vp_time(process: ksched.Process, sigma: float) -> tuple[float, float, float]:
    """alpha and sigma of a variance-preserving state, and half their log-SNR."""
    alpha = 1 / np.sqrt(1 + sigma**2)
    return alpha, alpha * sigma, -float(np.log(sigma))


@pytest.mark.parametrize("process", [PLAIN, PRESERVING], ids=["ve coordinates", "vp coordinates"])
def test_ld3_with_a_solver_that_predicts_data(process: VP) -> None:
    """DPM-Solver++ 2M on variance-preserving states; noise of the network read as x0 at the time that it is told."""
    plan = build_sampler("dpmpp_2m", "karras", COUNT, process=process).plan
    told = told_of(plan)
    begin = start(plan) / (plan.start.sigma if process is PRESERVING else 1)
    found = run_plan(tell(plan, told, process=process), Denoiser(network, process), begin)
    x = begin / float(process.input_norm(plan.start.label))
    last: tuple[torch.Tensor, float] | None = None
    for (s, t), hears in zip(pairwise(plan.sigmas), told, strict=True):
        (_, s_s, l_s), (a_c, s_c, _) = vp_time(process, s), vp_time(process, hears)
        eps = network(x, torch.full((2,), float(process.timestep(hears)), dtype=x.dtype))
        x0 = (x - s_c * eps) / a_c
        if t == 0:
            x = x0
            break
        a_t, s_t, l_t = vp_time(process, t)
        h = l_t - l_s
        mean = x0 if last is None else x0 + h / last[1] / 2 * (x0 - last[0])
        x = s_t / s_s * x - a_t * np.expm1(-h) * mean
        last = x0, h
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_ld3_with_a_solver_that_predicts_noise() -> None:
    """Adams-Bashforth of order 2 (iPNDM) on the noise of a network that is told another time."""
    plan = build_sampler("ipndm", "karras", COUNT, process=PLAIN, order=2, end="integral").plan
    told = told_of(plan)
    found = run_plan(tell(plan, told, process=PLAIN, prediction="epsilon"), Denoiser(network, PLAIN), start(plan))
    x, last = start(plan), None
    for (s, t), hears in zip(pairwise(plan.sigmas), told, strict=True):
        time = torch.full((2,), float(PLAIN.timestep(hears)), dtype=x.dtype)
        eps = network(x / np.sqrt(1 + s**2), time)
        x = x + (t - s) * (eps if last is None else (3 * eps - last) / 2)
        last = eps
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@each("slopes", [False, True])
def test_a_flow_network_that_is_told_another_time(slopes: bool) -> None:
    """Euler: along the velocity, or towards the data that the velocity means at the time that it is told."""
    process = Flow(shift=3.0)
    plan = build_sampler("euler", "simple", COUNT, process=process).plan
    told = told_of(plan)
    made = tell(plan, told, process=process, prediction="flow" if slopes else None)
    found = run_plan(made, Denoiser(network, process, "flow"), start(plan))
    x = start(plan)
    for (s, t), hears in zip(pairwise(plan.sigmas), told, strict=True):
        velocity = network(x, torch.full((2,), float(process.timestep(hears)), dtype=x.dtype))
        slope = velocity if slopes else (x - (x - hears * velocity)) / s
        x = x + (t - s) * slope
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_edm_networks_hear_the_whole_of_what_they_are_told() -> None:
    process = EDM()
    plan = build_sampler("euler", "karras", COUNT, process=process).plan
    denoiser = Denoiser(network, process, "edm")
    x, told = start(plan), told_of(plan)
    found = run_plan(tell(plan, told, process=process), denoiser, x)
    for (s, t), hears in zip(pairwise(plan.sigmas), told, strict=True):
        x = x + (t - s) / s * (x - denoiser(x, hears))
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_what_is_told_already_changes_nothing_and_can_be_told_again() -> None:
    plan = build_sampler("uni_pc", "karras", COUNT).plan
    assert tell(plan, plan.call_sigmas, process=PLAIN) == plan
    for prediction in (None, "epsilon", "v_prediction"):
        twice = tell(TOLD, TOLD.call_sigmas * 1.1, process=PLAIN, prediction=prediction)
        again = tell(twice, TOLD.call_sigmas, process=PLAIN, prediction=prediction)
        assert again.levels == TOLD.levels
        assert again.state_levels == TOLD.state_levels
        np.testing.assert_allclose(ksched.analysis.table(again), ksched.analysis.table(TOLD), rtol=1e-9, atol=1e-9)
    for wrong in ([1.0], np.zeros(plan.nfe)):
        with pytest.raises(ValueError, match="one for each of the 6 model calls, above 0"):
            tell(plan, wrong, process=PLAIN)


# ------------------------------------------------------------------------------------------------------ every executor


def result(plan: Plan, **how: Any) -> torch.Tensor:
    """A run by hand: rows over registers, and the model called at its told level."""
    x, drawn = start(plan), how.get("noise", {})
    states: list[torch.Tensor] = []
    answers: list[torch.Tensor] = []
    for k, row in enumerate(plan.rows):
        known = {"x": states, "D": answers, "xi": drawn}
        state = x if not k else sum((value * known[r.kind][r.number] for r, value in row.terms), torch.zeros(()))
        states.append(state)
        if row.level is not None:
            answers.append(model(state, torch.full((len(x),), row.level.label, dtype=x.dtype)))
    return states[-1]


def by_hand(sampler: ksched.Sampler, heard: Heard, x: torch.Tensor) -> torch.Tensor:
    run = sampler.start(x)
    while not run.done:
        assert run.level.label == float(run.sigma[0]) == TOLD.call_sigmas[run.nfe]
        assert run.state_level == TOLD.state_levels[run.nfe]
        assert float(run.timestep[0]) == pytest.approx(float(PLAIN.timestep(run.level.label)))
        run.feed(heard(run.x, run.sigma))
    return run.x


def batched(sampler: ksched.Sampler, heard: Heard, x: torch.Tensor) -> torch.Tensor:
    batch, run = ksched.batch.Batch(), sampler.start(x)
    batch.add(run)
    while not run.done:
        batch.tick(heard)
    return run.x


def compiled(sampler: ksched.Sampler, heard: Heard, x: torch.Tensor) -> torch.Tensor:
    init, step, tables = arrays.scan(sampler)
    state = init(x.numpy())
    for table in tables:
        state, _ = step(
            lambda y, s: heard(torch.from_numpy(y), torch.tensor([s], dtype=torch.float64)).numpy(), state, table
        )
    return torch.from_numpy(state[0])


def streamed(sampler: ksched.Sampler, heard: Heard, x: torch.Tensor) -> torch.Tensor:
    streams = ksched.Streams(only=sampler.start(x))
    while not streams.done:
        streams.feed(only=heard(streams.x["only"], streams.sigma["only"]))
    return streams.x["only"]


EXECUTORS: dict[str, Callable[[ksched.Sampler, Heard, torch.Tensor], Any]] = {
    "sample": lambda sampler, heard, x: sampler.sample(heard, x),
    "live": lambda sampler, heard, x: sampler.live(heard, x),
    "start and feed": by_hand,
    "batch": batched,
    "parallel": lambda sampler, heard, x: sampler.parallel(heard, x, tolerance=0, window=1),
    "arrays": lambda sampler, heard, x: torch.from_numpy(
        arrays.run(
            sampler, lambda y, s: heard(torch.from_numpy(y), torch.tensor([s], dtype=torch.float64)).numpy(), x.numpy()
        )
    ),
    "scan": compiled,
    "streams": streamed,
    "traced anew": lambda sampler, heard, x: run_plan(
        trace(sampler.spec, sampler.grid, {}),
        heard,
        x,
    ),
}


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_executor_tells_it(name: str) -> None:
    heard = Heard()
    x = start(TOLD)
    found = EXECUTORS[name](build_sampler(TOLD), heard, x)
    torch.testing.assert_close(found, result(TOLD), rtol=1e-9, atol=1e-9)
    assert heard.sigmas == pytest.approx(TOLD.call_sigmas.tolist(), rel=1e-6)
    assert not np.allclose(TOLD.call_sigmas, [level.label for level in TOLD.state_levels], rtol=0.05)


def test_a_denoiser_is_asked_for_the_network_at_the_told_level() -> None:
    """The fast way through `Denoiser`, in a run, a batch and a record, is its call."""
    denoiser, sampler, x = Denoiser(network, PLAIN), build_sampler(NOISY), start(NOISY)
    plain = sampler.sample(lambda y, sigma: denoiser(y, sigma), x, seed=5)
    torch.testing.assert_close(sampler.sample(denoiser, x, seed=5), plain, rtol=1e-9, atol=1e-9)
    path = sampler.rollout(denoiser, x, seed=5)
    torch.testing.assert_close(path.x, plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sampler.log_prob(denoiser, path), path.log_prob, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(sampler.timesteps, PLAIN.timestep(NOISY.call_sigmas))
    clip = ksched.frames(sampler, x[:, None], offset=0, seed=5)
    while not clip.done:
        clip.feed(denoiser(clip.x[:, 0], clip.sigma[:, 0])[:, None])
    torch.testing.assert_close(clip.x[:, 0], plain, rtol=1e-9, atol=1e-9)


def test_callbacks_see_the_level_of_the_state() -> None:
    seen: list[float] = []
    build_sampler(TOLD).sample(model, start(TOLD), callback=lambda info: seen.append(info.sigma))
    assert seen == pytest.approx([level.label for level in TOLD.state_levels])


def test_a_run_is_saved_and_goes_on() -> None:
    sampler = build_sampler(TOLD)
    run, other = sampler.start(start(TOLD)), sampler.start(start(TOLD))
    for _ in range(3):
        run.feed(model(run.x, run.sigma))
    other.load_state_dict(run.state_dict())
    while not other.done:
        other.feed(model(other.x, other.sigma))
    torch.testing.assert_close(other.x, result(TOLD))


def test_it_is_run_back() -> None:
    sampler = build_sampler(TOLD)
    x = torch.randn(2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    begin = sampler.invert(model, x)
    torch.testing.assert_close(sampler.sample(model, begin), x, rtol=1e-7, atol=1e-7)


@each("share", [0.7, 1.3])
def test_it_means_the_same_in_other_coordinates(share: float) -> None:
    """A plan goes from x0 + sigma * eps to variance-preserving states, whose network is shown the same."""
    plan = build_sampler("dpmpp_2m", "karras", COUNT, process=PLAIN).plan
    made = tell(plan, told_of(plan, share), process=PLAIN)
    free = replace(made, rows=(*made.rows[:-1], made.rows[-1]._replace(terms=((Register("D", 5), 0.9),))))
    x = start(plan)
    for one in (made, free):
        there = build_sampler(one, process=PRESERVING)
        assert there.plan.tells_others
        moved = x / float(PLAIN.input_norm(plan.start.label))
        found = there.sample(Denoiser(network, PRESERVING), moved)
        torch.testing.assert_close(found, run_plan(one, Denoiser(network, PLAIN), x), rtol=1e-8, atol=1e-8)


def test_a_sampler_of_ones_own_may_tell_other_levels() -> None:
    def shifted(run: Any, grid: Any, x: Any) -> Any:
        for s, t in grid.steps():
            told = grid.process.level(0.9 * s.label)
            x = x + (t.sigma - s.sigma) / s.sigma * (x - run.denoise(x, s, told))
        return x

    plan = trace(shifted, build_sampler("euler", "karras", COUNT).grid, {})
    assert plan.call_sigmas == pytest.approx(0.9 * np.array(plan.sigmas[:-1]))
    assert [level.label for level in plan.state_levels] == pytest.approx(plan.sigmas[:-1])
    assert plan.call_steps == tuple(range(COUNT))
    heard = Heard()
    context = EagerContext(heard, start(plan), SeededNoise((0, 1)))
    found = shifted(context, build_sampler("euler", "karras", COUNT).grid, start(plan))
    torch.testing.assert_close(found, result(plan), rtol=1e-9, atol=1e-9)


def test_laws_on_normal_data_are_those_of_runs() -> None:
    data = ksched.exact.Gaussian(np.zeros(1), np.ones(1))
    law = gaussian_law(TOLD, std=1.0)
    found = run_plan(TOLD, data, torch.full((1, 1), TOLD.start.sigma, dtype=torch.float64))
    spread = np.hypot(1.0, TOLD.start.sigma) / TOLD.start.sigma
    assert law.variance == pytest.approx(float(found.square()) * spread**2)
    assert [each.level for each in marginals(TOLD)[:-1]] == [*TOLD.state_levels]


# ------------------------------------------------------------------------------------------------- files and languages


def test_json_is_version_2_where_it_tells_others_and_as_before_where_not() -> None:
    data = json.loads(TOLD.to_json())
    assert data["version"] == 2
    assert Plan.from_json(TOLD.to_json()) == TOLD
    assert (
        Plan.from_json(TOLD.to_json()).digest == TOLD.digest != build_sampler("dpmpp_2m", "karras", COUNT).plan.digest
    )
    plain = build_sampler("dpmpp_2m", "karras", COUNT).plan
    assert json.loads(plain.to_json())["version"] == 1
    assert "state_level" not in plain.to_json()
    with pytest.raises(ValueError, match="version 2: a plan of version 2 must have state levels"):
        Plan.from_json(plain.to_json().replace('"version": 1', '"version": 2'))
    assert "eval s=" in str(TOLD).splitlines()[1]
    assert " at " in str(TOLD).splitlines()[1]


def test_rows_that_contradict_themselves_are_refused() -> None:
    rows = list(TOLD.rows)
    cases = {
        "must leave out state_level": rows[1]._replace(level=rows[1].state_level),
        "with lam =": rows[1]._replace(state_level=ksched.Level(1.0, 1.0, 1.0, 3.0)),
        "no state_level": rows[-1]._replace(state_level=rows[1].state_level),
    }
    for said, row in cases.items():
        k = len(rows) - 1 if row.level is None else 1
        with pytest.raises(ValueError, match=said):
            replace(TOLD, rows=(*rows[:k], row, *rows[k + 1 :]))


def test_exported_programs_tell_it(tmp_path: Path) -> None:
    sigmas = [repr(float(sigma)) for sigma in TOLD.call_sigmas]
    for language in ("c", "rust", "js"):
        text = export(TOLD, language)
        assert all(sigma in text for sigma in sigmas)
    if shutil.which("node") is None:
        return
    (tmp_path / "plan.mjs").write_text(export(TOLD, "js"))
    (tmp_path / "main.mjs").write_text(
        'import { run } from "./plan.mjs";\n'
        "const heard = [];\n"
        "const denoise = (x, s) => { heard.push(s); return x.map((v) => v / (1 + s * s) + 0.1 * s / (1 + s)); };\n"
        f"const x = await run({start(TOLD).flatten().tolist()}, denoise);\n"
        "console.log(JSON.stringify([[...x], heard]));\n"
    )
    told = subprocess.run(["node", tmp_path / "main.mjs"], capture_output=True, text=True, check=True).stdout
    found, heard = json.loads(told)
    assert heard == TOLD.call_sigmas.tolist()
    np.testing.assert_allclose(found, result(TOLD).flatten().numpy(), rtol=1e-9, atol=1e-9)


def test_explain_says_what_is_told_and_whether_a_constant_comes_out() -> None:
    exact, free = (
        ksched.explain(TOLD),
        replace(TOLD, rows=(*TOLD.rows[:-1], TOLD.rows[-1]._replace(terms=((Register("D", 5), 0.965),)))),
    )
    assert "sigmas given to the model" in exact
    assert "= exact for a constant prediction" in exact
    assert "not exact for a constant prediction: from one x0 it makes 0.965 x0" in ksched.explain(free)
    assert "given to the model" not in ksched.explain(build_sampler("uni_pc", "karras", 8).plan)
    assert "= exact" in ksched.explain(build_sampler("dpmpp_2m_sde", "karras", 8, process=Flow()).plan)
    with pytest.raises(ValueError, match="explained alone"):
        ksched.explain(TOLD, "euler")


# ------------------------------------------------------------------------------------------------------------ drop-ins


def test_a_scheduler_of_diffusers_hands_over_the_told_timesteps() -> None:
    pytest.importorskip("diffusers")
    from diffusers import EulerDiscreteScheduler

    from ksched.integrations.diffusers.scheduler import KSchedScheduler

    stock = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ours = KSchedScheduler.from_config(stock.config, sampler=TOLD.to_json())
    ours.set_timesteps(COUNT)
    np.testing.assert_allclose(ours.timesteps.numpy(), PLAIN.timestep(TOLD.call_sigmas), rtol=1e-5)
    assert float(ours.init_noise_sigma) == pytest.approx(TOLD.start.sigma, rel=1e-5)
    denoiser = Denoiser(network, PLAIN)
    x = start(TOLD)
    for t in ours.timesteps:
        shown = ours.scale_model_input(x, t)
        x = ours.step(network(shown, t.expand(len(x)).double()), t, x).prev_sample
    torch.testing.assert_close(x, run_plan(TOLD, denoiser, start(TOLD)), rtol=1e-4, atol=1e-4)

    ours.set_timesteps(COUNT)
    ours.set_begin_index(2)
    level = float(ours.sigmas[2])
    assert level == pytest.approx(TOLD.call_sigmas[2], rel=1e-5)
    noised = ours.add_noise(torch.zeros(1, 4), torch.ones(1, 4), ours.timesteps[2:3])
    torch.testing.assert_close(noised, torch.full((1, 4), level), rtol=1e-5, atol=1e-5)
    y = torch.randn(2, 4, generator=torch.Generator().manual_seed(1)) * level
    want = build_sampler(TOLD, sigmas=[*TOLD.call_sigmas[2:], 0.0]).sample(denoiser, y)
    for t in ours.timesteps[2:]:
        y = ours.step(network(ours.scale_model_input(y, t), t.expand(len(y))), t, y).prev_sample
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)


def test_nodes_of_comfyui_call_the_model_at_the_told_sigma() -> None:
    from types import SimpleNamespace

    import fake_comfy

    from ksched.integrations.comfyui.nodes import NODES

    nodes = {node.name: node for node in NODES}
    sampling = fake_comfy.sampling(fake_comfy.EPS, fake_comfy.ModelSamplingDiscrete)
    held = SimpleNamespace(get_model_object=lambda name: sampling)
    sigmas = nodes["KSchedPlanSigmas"].run(model=held, plan=TOLD.to_json(), steps=COUNT)
    assert sigmas.tolist() == pytest.approx(list(TOLD.sigmas), rel=1e-4)
    heard = Heard()
    asked = SimpleNamespace(inner_model=SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling)))

    class Asked:
        inner_model = asked.inner_model

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
            return heard(x, sigma)

    with fake_comfy.installed():
        function = nodes["KSchedPlanSampler"].run(plan=TOLD.to_json()).sampler_function
    found = function(Asked(), start(TOLD).float(), sigmas, extra_args={"seed": 0})
    assert heard.sigmas == pytest.approx(TOLD.call_sigmas.tolist(), rel=1e-3)
    torch.testing.assert_close(found, result(TOLD).float(), rtol=1e-3, atol=1e-3)
