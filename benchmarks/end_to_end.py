"""The sampler's share of a step with real networks: why ksched has no compiled code for the CPU.

A row is a network on a state. The benchmark times a call of the network, and a step of a few samplers without it (the
model returns a tensor that was made beforehand). ``share`` is the sampler's part of a whole step.

``python benchmarks/end_to_end.py``, ``--device cuda`` for a GPU. Writes end_to_end.json, or end_to_end_cuda.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
from _measure import Contender, arguments, facts, in_turns, named, table, write

from ksched import build_sampler

SAMPLERS = ("euler", "dpmpp_2m", "dpmpp_2m_sde", "seeds_3")
STEPS = 10

Network = Callable[[torch.Tensor], torch.Tensor]


def networks(device: torch.device) -> Iterator[tuple[str, tuple[int, ...], Network]]:
    """Networks of random weights, by name, and the state of each."""
    torch.manual_seed(0)
    perceptron = torch.nn.Sequential(
        torch.nn.Linear(2, 128), torch.nn.SiLU(), torch.nn.Linear(128, 128), torch.nn.SiLU(), torch.nn.Linear(128, 2)
    ).to(device)
    yield "perceptron of three layers, a run per point", (1024, 2), perceptron
    unet = diffusers.UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ).to(device)
    for batch in (1, 16):
        yield "UNet for CIFAR-10", (batch, 3, 32, 32), lambda x: unet(x, 5).sample
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=6, attention_head_dim=64, num_layers=12, sample_size=32, num_embeds_ada_norm=1000
    ).to(device)

    def diffusion_transformer(x: torch.Tensor) -> torch.Tensor:
        labels = torch.zeros(len(x), dtype=torch.long, device=device)
        output: torch.Tensor = transformer(x, timestep=labels, class_labels=labels).sample
        return output

    yield "DiT-S/2", (1, 4, 32, 32), diffusion_transformer
    latent = diffusers.UNet2DConditionModel(
        block_out_channels=(64, 128, 256, 256), cross_attention_dim=256, attention_head_dim=8
    ).to(device)
    prompt = torch.zeros(1, 77, 256, device=device)
    yield "UNet of Stable Diffusion, a fifth as wide", (1, 4, 64, 64), lambda x: latent(x, 5, prompt).sample
    video = torch.nn.Sequential(
        torch.nn.Conv3d(16, 32, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv3d(32, 16, 3, padding=1)
    ).to(device)
    yield "two convolutions over video", (1, 16, 21, 60, 104), video


def measure(name: str, shape: tuple[int, ...], network: Network, seconds: float, device: torch.device) -> Any:
    """A row: seconds of a network call, and of a step of every sampler without it."""
    answer = torch.randn(shape, device=device)
    x = 14.6146 * torch.randn(shape, device=device)
    contenders = [Contender("network", lambda: lambda: network(x))]
    for sampler in (build_sampler(each, "karras", STEPS) for each in SAMPLERS):
        seed = {"seed": 0} if sampler.plan.draws else {}

        def run(sampler: Any = sampler, seed: Any = seed) -> object:
            return sampler.sample(lambda x, sigma: answer, x, **seed)

        run()
        contenders.append(Contender(sampler.spec.name, lambda run=run: run, sampler.nfe))
    times = in_turns(contenders, seconds, device)
    call = times.pop("network")
    calls = {contender.name: contender.calls for contender in contenders[1:]}
    own = {name: time / calls[name] for name, time in times.items()}
    return {
        "network": name,
        "shape": named(shape),
        "call_microseconds": 1e6 * call,
        "sampler_microseconds": {name: 1e6 * time for name, time in own.items()},
        "share": {name: time / (time + call) for name, time in own.items()},
    }


def main() -> None:
    """Print the table and write JSON."""
    parser = arguments(__doc__, seconds=0.5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    with torch.no_grad():
        rows = [measure(*each, given.seconds, device) for each in networks(device)]
    print(
        table(
            ["network", "state", "call, ms", *(f"{name}, us" for name in SAMPLERS), "largest share"],
            [
                [
                    row["network"],
                    row["shape"],
                    f"{row['call_microseconds'] / 1000:.2f}",
                    *(f"{row['sampler_microseconds'][name]:.0f}" for name in SAMPLERS),
                    f"{max(row['share'].values()):.2%}",
                ]
                for row in rows
            ],
        )
    )
    suffix = "" if device.type == "cpu" else f"_{device.type}"
    write(given.out, f"end_to_end{suffix}", {**facts(device), "samplers": SAMPLERS, "rows": rows})


if __name__ == "__main__":
    main()
