"""The adapters of serving engines: requests of any recipe and sampler share a batch, each with its solo result."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ksched
from ksched import VP, Denoiser, Flow, Sampler, build_sampler
from ksched.execution.run import Run
from ksched.integrations.servers import RequestScheduler, sglang, vllm_omni
from ksched.integrations.servers.request import step_together

RECIPES = [
    "sd1.5",
    "sdxl",
    "sdxl-lightning-4",
    "lcm-dreamshaper-v7",
    "sd2.1",
    "flux.1-dev",
    "flux.1-schnell",
    "sd3.5-large",
    "qwen-image-lightning-4",
    "wan2.2-t2v-a14b",
    "wan2.2-lightning-4",
    "self-forcing-wan2.1-1.3b",
    "pixart-sigma",
    "svd",
    "cosmos-1-7b",
    "sana-1600m",
]
WIDTH = 6


def network(x: torch.Tensor, timestep: torch.Tensor, *, prompt: torch.Tensor) -> torch.Tensor:
    """Not linear, and made of operations that round a number alike wherever it stands."""
    bent = x / (1 + x * x) + prompt
    return bent / (1 + timestep.reshape(-1, 1) / 700)


@dataclass
class Request:
    sampler: Sampler
    prediction: str
    seed: int
    items: int = 1
    at: int = 0  # the tick at which it arrives
    prompt: torch.Tensor = field(init=False)
    noise: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.prompt = torch.rand(self.items, 1, generator=generator)
        self.noise = torch.randn(self.items, WIDTH, generator=generator)

    def alone(self) -> torch.Tensor:
        process = self.sampler.process
        denoiser = Denoiser(network, process, self.prediction).given(prompt=self.prompt)
        x = self.noise * process.noise_std(self.sampler.plan.start.label)
        return self.sampler.sample(denoiser, x, seed=self.seed if self.sampler.plan.draws else None)


def sixteen() -> list[Request]:
    """Recipes with steps of their own, of both kinds of process, from Euler to several calls a step."""
    rng, requests = random.Random(3), []
    for seed, name in enumerate(RECIPES):
        recipe = ksched.recipes[name]
        try:
            sampler = recipe.build(steps=3 + seed % 6)
        except ValueError:  # a distilled model, whose levels are its own
            sampler = recipe.build()
        requests.append(Request(sampler, str(recipe.prediction), seed, 1 + seed % 2, rng.randint(0, 9)))
    return requests


def others() -> list[Request]:
    samplers = [build_sampler(name, "karras", 4) for name in ("heun", "dpmpp_2m_sde", "seeds_2", "sa_solver")]
    samplers += [build_sampler("auto", steps=5), build_sampler(build_sampler("uni_pc", steps=8).plan.skip([3, 5]))]
    flows = [build_sampler(name, "simple", 5, process=Flow(3.0)) for name in ("dpmpp_2m_sde", "flow_sde", "er_sde")]
    requests = [Request(sampler, "epsilon", 30 + k, at=k) for k, sampler in enumerate(samplers)]
    return requests + [Request(sampler, "flow", 50 + k, at=k) for k, sampler in enumerate(flows)]


# ------------------------------------------------------------------------------------------ an engine like vLLM-Omni


class Pipeline:
    """What a model brings along."""

    color_format = "RGB"

    def prepare_encode(self, state: Any, **kwargs: Any) -> Any:
        state.prompt_embeds, state.latents = state.sampling.prompt, state.sampling.noise.clone()
        return state

    def denoise_step(self, input_batch: Any, **kwargs: Any) -> torch.Tensor:
        return network(input_batch.latents, input_batch.timesteps, prompt=input_batch.prompt_embeds)

    def post_decode(self, state: Any, **kwargs: Any) -> Any:
        return state.latents


class Runner:
    """Steps all requests that are there; its buffers are used again at every step."""

    def __init__(self) -> None:
        self.pipeline = vllm_omni.StepPipeline(
            Pipeline(), lambda state: state.sampling.sampler, prediction=lambda state: state.sampling.prediction
        )
        self.states: dict[int, Any] = {}
        self.rows: list[int] = []
        self._buffer = torch.empty(64, WIDTH)

    def add(self, request: Request, saved: Any = None) -> int:
        state = SimpleNamespace(sampling=request, extra={})
        with torch.inference_mode():
            state = self.pipeline.resume(state, saved) if saved else self.pipeline.prepare_encode(state)
        self.states[id(request)] = state
        return id(request)

    @torch.inference_mode()
    def tick(self) -> Iterator[tuple[int, torch.Tensor]]:
        states = list(self.states.values())
        counts = [len(state.latents) for state in states]
        together = self._buffer[: sum(counts)]
        together.copy_(torch.cat([state.latents for state in states]))
        for state, rows in zip(states, torch.split(together, counts), strict=True):
            state.latents.copy_(rows)  # as the engine scatters what it gathered
        times = [state.timesteps[state.step_index].expand(n) for state, n in zip(states, counts, strict=True)]
        prompts = torch.cat([state.prompt_embeds for state in states])
        view = SimpleNamespace(latents=together, timesteps=torch.cat(times), prompt_embeds=prompts)
        output = self.pipeline.denoise_step(view)
        assert output is not None
        self.rows.append(len(output))
        done = []
        for (key, state), rows in zip([*self.states.items()], torch.split(output, counts), strict=True):
            self.pipeline.step_scheduler(state, rows)
            if state.step_index >= len(state.timesteps):
                done.append((key, self.pipeline.post_decode(state)))
                del self.states[key]
        yield from done


def served_by_vllm_omni(requests: list[Request]) -> tuple[dict[int, torch.Tensor], list[int]]:
    runner, results, tick = Runner(), dict[int, torch.Tensor](), 0
    assert runner.pipeline.color_format == "RGB"  # the rest is the pipeline's own
    while len(results) < len(requests):
        assert tick < 500
        for request in requests:
            if request.at == tick:
                runner.add(request)
        results |= dict(runner.tick()) if runner.states else {}
        tick += 1
    return results, runner.rows


# --------------------------------------------------------------------------------------------- an engine like SGLang


def served_by_sglang(requests: list[Request], most: int) -> tuple[dict[int, torch.Tensor], list[int]]:
    """Packed steps of those that have waited longest, and alone where only one is there."""
    states, results, rows, tick = list[Any](), dict[int, torch.Tensor](), list[int](), 0
    while len(results) < len(requests):
        assert tick < 500
        for request in requests:
            if request.at == tick:
                context = SimpleNamespace(latents=request.noise.clone())
                seed = request.seed if request.sampler.plan.draws else None
                sglang.prepare(context, request.sampler, prediction=request.prediction, seed=seed)
                states.append(SimpleNamespace(denoising_context=context, step_index=0, request=request))
        tick += 1
        group, states = states[:most], states[most:]
        contexts = [state.denoising_context for state in group]
        times = [c.timesteps[s.step_index].expand(len(c.latents)) for c, s in zip(contexts, group, strict=True)]
        if len(group) > 1:
            solver = sglang.build_batched_solver(group, torch.device("cpu"))
            packed = solver.scale_model_input(torch.cat([context.latents for context in contexts]))
            prompts = torch.cat([state.request.prompt for state in group])
            packed = solver.step_rows(network(packed, torch.cat(times), prompt=prompts), packed, group)
            for context, part in zip(contexts, torch.split(packed, [len(c.latents) for c in contexts]), strict=True):
                context.latents = part
            rows.append(len(packed))
        elif group:
            scheduler, x = contexts[0].scheduler, contexts[0].latents
            seen = scheduler.scale_model_input(x, times[0])
            output = network(seen, times[0], prompt=group[0].request.prompt)
            contexts[0].latents = scheduler.step(
                model_output=output, timestep=times[0][0], sample=x, return_dict=False
            )[0]
        for state in group:
            state.step_index += 1
            if state.step_index == len(state.denoising_context.timesteps):
                results[id(state.request)] = state.denoising_context.latents
            else:
                states.append(state)
    return results, rows


@pytest.mark.parametrize("requests", [sixteen, others])
@pytest.mark.parametrize("engine", ["vllm-omni", "sglang"])
def test_every_request_is_bit_for_bit_what_it_is_alone(requests: Any, engine: str) -> None:
    asked = requests()
    if engine == "sglang":
        results, rows = served_by_sglang(asked, most=7)
    else:
        results, rows = served_by_vllm_omni(asked)
    assert max(rows) > 6  # they did share their calls
    for request in asked:
        assert torch.equal(results[id(request)], request.alone()), request.sampler


def test_a_request_is_cancelled_and_another_goes_on_elsewhere() -> None:
    asked = [*sixteen()[:4], *others()[1:3]]
    for request in asked:
        request.at = 0
    first = Runner()
    for request in asked:
        first.add(request)
    results = {key: x for _ in range(2) for key, x in first.tick()}
    del first.states[id(asked[0])]  # cancelled: nothing else is to be told
    moved = asked[4]
    file = io.BytesIO()
    torch.save(vllm_omni.save(first.states.pop(id(moved))), file)
    while first.states:
        results |= dict(first.tick())
    second = Runner()
    file.seek(0)
    second.add(moved, saved=torch.load(file, weights_only=True))
    assert second.states[id(moved)].step_index == 2
    while second.states:
        results |= dict(second.tick())
    assert len(results) == len(asked) - 1
    for request in asked[1:]:
        assert torch.equal(results[id(request)], request.alone()), request.sampler


def test_sequences_of_different_lengths_are_packed() -> None:
    """Each is at the start of its rows, as an engine pads them."""
    sampler = build_sampler("dpmpp_2m_sde", "simple", 3, process=Flow())
    states, alone = [], []
    for seed, length in enumerate((4, 9)):
        noise = torch.randn(1, length, 8, generator=torch.Generator().manual_seed(seed))
        alone.append(sampler.sample(Denoiser(lambda x, t: x / (1 + x * x), Flow(), "flow"), noise, seed=seed))
        context = SimpleNamespace(latents=noise)
        sglang.prepare(context, sampler, seed=seed)
        states.append(SimpleNamespace(denoising_context=context, step_index=0))
    solver = sglang.PackedSolver.try_build(states, torch.device("cpu"))
    for _ in range(3):
        packed = torch.zeros(2, 9, 8)
        for row, state in zip(packed, states, strict=True):
            row[: state.denoising_context.latents.shape[1]] = state.denoising_context.latents[0]
        packed = solver.step_rows(packed / (1 + packed * packed), packed, states)
        for row, state in zip(packed, states, strict=True):
            state.denoising_context.latents = row[None, : state.denoising_context.latents.shape[1]]
    for state, expected in zip(states, alone, strict=True):
        assert torch.equal(state.denoising_context.latents, expected)


def test_a_scheduler_is_copied_and_saved_with_its_request() -> None:
    request = others()[1]
    context = SimpleNamespace(latents=request.noise)
    sglang.prepare(context, request.sampler, prediction="epsilon", seed=request.seed)

    def step(context: Any, scheduler: Any) -> None:
        t = scheduler.timesteps[scheduler.step_index].expand(1)
        output = network(context.latents, t, prompt=request.prompt)
        context.latents = scheduler.step(output, t, context.latents)[0]

    step(context, context.scheduler)
    clone = copy.deepcopy(context)  # as the engine isolates a request
    other = SimpleNamespace(latents=None)
    sglang.resume(other, request.sampler, context.scheduler.state_dict(), prediction="epsilon")
    for each in (context, clone, other):
        while not each.scheduler.done:
            step(each, each.scheduler)
        assert torch.equal(each.latents, request.alone())


def test_edited_latents_count_where_that_was_said() -> None:
    sampler = build_sampler("dpmpp_2m", steps=3)
    x = torch.ones(1, WIDTH) * sampler.sigmas[0]
    scheduler = RequestScheduler(sampler, prediction="epsilon", edited=True)
    run = sampler.start(x)
    assert isinstance(run, Run)
    latents = scheduler.start(x)
    conversions = Denoiser(network, VP(), "epsilon").conversions(sampler.plan.call_sigmas)
    for norm, of_x, of_output in conversions:
        held = latents.clone()
        held[:, 0] = 0.25  # such as a first frame
        run.replace(held * norm)
        output = held / (1 + held * held)
        run.feed_output(output, of_x, of_output)
        latents = scheduler.step(output, None, held)[0]
    assert torch.equal(latents, run.x)
    strict = RequestScheduler(sampler, prediction="epsilon")
    latents = strict.start(x)
    with pytest.raises(ValueError, match="edited=True"):
        strict.step(latents, None, latents + 1)
    assert strict.step_index == 0


def test_a_request_that_fails_is_told_of_and_the_others_have_advanced() -> None:
    sampler, x = build_sampler("euler", steps=2), torch.ones(1, 3)
    schedulers = [RequestScheduler(sampler, prediction="epsilon") for _ in range(3)]
    outputs = [scheduler.start(x) for scheduler in schedulers]
    assert schedulers[1].run is not None
    schedulers[1].run.x.add_(1)  # nobody may
    with pytest.raises(RuntimeError, match="one of them wrote to it"):
        step_together(schedulers, outputs)
    assert [scheduler.step_index for scheduler in schedulers] == [1, 0, 1]


def test_what_the_contracts_cannot_do_is_refused() -> None:
    with pytest.raises(TypeError, match="also needs the unconditional one"):
        RequestScheduler(build_sampler("euler_cfg_pp", steps=3), prediction="epsilon")
    with pytest.raises(TypeError, match="it has no plan"):
        RequestScheduler(build_sampler("dpm_adaptive"), prediction="epsilon")
    waiting = RequestScheduler(build_sampler("euler", steps=1), prediction="epsilon")
    with pytest.raises(RuntimeError, match="call start or resume first"):
        waiting.step(torch.ones(1, 2))
    waiting.start(torch.ones(1, 2))
    with pytest.raises(ValueError, match="shape"):
        waiting.step(torch.ones(2, 2))
    waiting.step(torch.ones(1, 2))
    with pytest.raises(RuntimeError, match="the request is done"):
        waiting.step(torch.ones(1, 2))
    with pytest.raises(ValueError, match="call prepare on each"):
        sglang.build_batched_solver(
            [SimpleNamespace(denoising_context=SimpleNamespace(scheduler=None))], torch.device("cpu")
        )
