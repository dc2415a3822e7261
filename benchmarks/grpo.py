"""Reinforcement learning that reaches the known answer: GRPO on a reward whose optimum has a closed form.

A small flow model learns a mixture of three Gaussians in the plane. It is then fine-tuned for ``reward - KL``. The
optimum is the mixture tilted by ``exp(reward)``: for a linear reward another mixture, in closed form. Three stochastic
steps are compared: `flow_sde`, and `dpmpp_2m_sde` at the same entropy and at eta 1. ``distance`` is the sliced
Wasserstein-2 distance of 40,000 results from the tilted mixture. ``gap`` is how far the objective is from its largest
value, in nats: the KL divergence of the distribution of all paths from the optimal one.

``python benchmarks/grpo.py --threads 2``: under two minutes on two cores. Writes grpo.json.
"""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import torch
from _measure import arguments, facts, table, write

import ksched

PROCESS = ksched.Flow()
STEPS, GROUPS, SIZE, ITERATIONS, INNER = 10, 64, 16, 50, 2
CLIP, RATE = 0.2, 2e-3
MANY = 40_000  # results that laws are compared by
MEANS, STD, WEIGHTS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 0.4, torch.tensor([0.4, 0.3, 0.3])
REWARD = torch.tensor([0.6, 0.3])  # of a result x: REWARD @ x


class Velocity(torch.nn.Module):
    """A flow model: (x, timestep) -> eps - x0."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        layers = [torch.nn.Linear(8, width), torch.nn.SiLU(), torch.nn.Linear(width, width), torch.nn.SiLU()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(width, 2))

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The velocity at a state."""
        angle = timestep[:, None] / 1000 * math.pi * torch.tensor([0.5, 1.0, 2.0])
        out: torch.Tensor = self.layers(torch.cat([x, angle.sin(), angle.cos()], 1))
        return out


def drawn(count: int, generator: torch.Generator, tilted: bool = False) -> torch.Tensor:
    """Points of the mixture, or of the mixture tilted by exp(reward), which has other weights and means."""
    weights, means = WEIGHTS, MEANS
    if tilted:
        weights, means = weights * torch.exp(means @ REWARD), means + STD**2 * REWARD
    place = torch.multinomial(weights, count, replacement=True, generator=generator)
    return means[place] + STD * torch.randn(count, 2, generator=generator)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Sliced Wasserstein-2 distance of two sets of equally many points, over 64 directions."""
    angle = torch.arange(64) * math.pi / 64
    along = torch.stack([angle.cos(), angle.sin()])
    return ((a @ along).sort(0).values - (b @ along).sort(0).values).square().mean().sqrt().item()


def trained(generator: torch.Generator, iterations: int = 3000) -> Velocity:
    """A model of the mixture, trained by flow matching."""
    torch.manual_seed(0)
    net = Velocity()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in range(iterations):
        x0, eps = drawn(1024, generator), torch.randn(1024, 2, generator=generator)
        sigma = torch.rand(1024, 1, generator=generator)
        loss = (net((1 - sigma) * x0 + sigma * eps, 1000 * sigma[:, 0]) - (eps - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def finetuned(sampler: ksched.Sampler, reference: ksched.Denoiser, net: Velocity) -> ksched.Denoiser:
    """Fine-tunes by GRPO: results of one start compete, and the log-ratio to the reference is part of the reward."""
    net = copy.deepcopy(net)
    policy = ksched.Denoiser(net, PROCESS, "flow")
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
    for iteration in range(ITERATIONS):
        seed = 100_000 * (iteration + 1)
        x = sampler.initial_state((GROUPS, 2), seed=seed).repeat_interleave(SIZE, 0)
        path = sampler.rollout(policy, x, seed=seed + 50_000)
        with torch.no_grad():
            from_reference = (path.log_prob - sampler.log_prob(reference, path)).sum(0)
        gained = (path.x @ REWARD - from_reference).view(GROUPS, SIZE)
        advantage = (gained - gained.mean(1, keepdim=True)).flatten()
        for _ in range(INNER):
            ratio = torch.exp(sampler.log_prob(policy, path) - path.log_prob)
            loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return policy


def eta_for(entropy: float) -> float:
    """The eta at which the noise of `dpmpp_2m_sde` has a given total entropy."""
    low, high = 0.01, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if total_entropy(build("dpmpp_2m_sde", eta=middle)) > entropy else (middle, high)
    return low


def build(name: str, **options: Any) -> ksched.Sampler:
    """A sampler on the common sigmas."""
    return ksched.build_sampler(name, "simple", STEPS, process=PROCESS, **options)


def total_entropy(sampler: ksched.Sampler) -> float:
    """Entropy of the noise of a run in nats, per number of a state."""
    return sum(law.entropy for law in sampler.transitions)


def judged(
    sampler: ksched.Sampler, policy: ksched.Denoiser, reference: ksched.Denoiser, exact: torch.Tensor
) -> dict[str, float]:
    """Distance from the tilted mixture, mean reward, and distance of the objective from its largest value."""
    x = sampler.initial_state((MANY, 2), seed=10**7)
    path = sampler.rollout(policy, x, seed=2 * 10**7)
    plain = sampler.rollout(reference, x, seed=3 * 10**7).x
    with torch.no_grad():
        from_reference = (path.log_prob - sampler.log_prob(reference, path)).sum(0)
    reward = path.x @ REWARD
    largest = torch.logsumexp(plain @ REWARD, 0) - math.log(MANY)
    return {
        "distance": distance(path.x, exact),
        "reward": reward.mean().item(),
        "kl": from_reference.mean().item(),
        "gap": (largest - (reward - from_reference).mean()).item(),
    }


def main() -> None:
    """Print the table and write JSON."""
    given = arguments(__doc__, seconds=0).parse_args()
    torch.set_num_threads(given.threads)
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    net = trained(generator)
    reference = ksched.Denoiser(net, PROCESS, "flow")
    exact = drawn(MANY, generator, tilted=True)
    flow_sde = build("flow_sde")
    same = eta_for(total_entropy(flow_sde))
    contenders = {
        "flow_sde, noise_level 0.7": flow_sde,
        f"dpmpp_2m_sde, eta {same:.3f}": build("dpmpp_2m_sde", eta=same),
        "dpmpp_2m_sde, eta 1": build("dpmpp_2m_sde"),
    }
    rows = []
    for name, sampler in contenders.items():
        start = time.perf_counter()
        policy = finetuned(sampler, reference, net)
        taken = time.perf_counter() - start
        before, after = (judged(sampler, model, reference, exact) for model in (reference, policy))
        rows.append(
            {"rule": name, "entropy": total_entropy(sampler), "before": before, "after": after, "seconds": taken}
        )
    result = {
        **facts(),
        "floor": distance(drawn(MANY, generator, tilted=True), exact),
        "untilted": distance(drawn(MANY, generator), exact),
        "reward": (exact @ REWARD).mean().item(),
        "iterations": ITERATIONS,
        "batch": GROUPS * SIZE,
        "count": MANY,
        "rows": rows,
        "seconds": time.perf_counter() - began,
    }
    print(
        table(
            ["step", "entropy", "distance before", "after", "gap before", "after", "reward", "seconds"],
            [
                [
                    row["rule"],
                    f"{row['entropy']:.2f}",
                    f"{row['before']['distance']:.3f}",
                    f"{row['after']['distance']:.3f}",
                    f"{row['before']['gap']:.3f}",
                    f"{row['after']['gap']:.3f}",
                    f"{row['after']['reward']:.3f}",
                    f"{row['seconds']:.0f}",
                ]
                for row in rows
            ],
        )
    )
    print(f"two sets of the tilt: {result['floor']:.3f}; its reward {result['reward']:.3f}; {result['seconds']:.0f} s")
    write(given.out, "grpo", result)


if __name__ == "__main__":
    main()
