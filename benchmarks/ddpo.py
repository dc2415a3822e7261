"""Reinforcement learning on the handwritten-digit checkpoint: it learns to prefer a digit (DDPO).

The prompt is "a digit". The reward is the confidence of a classifier that the picture is a seven; the classifier was
fitted to real digits that the network never saw. The UNet is fine-tuned by clipped policy gradients (Black et al.
2023, arXiv:2305.13301), on the steps of `ddpm` as in that paper and on those of `dpmpp_2m_sde`, some of the steps in
each iteration. A held-out set of start noise is sampled every few iterations.

``python benchmarks/ddpo.py``: five minutes on one core. Writes ddpo.json and docs/images/ddpo.png.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import matplotlib
import numpy as np
import torch
from _handwriting import judge, real
from _measure import arguments, facts, table, write

import ksched

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path(ksched.__file__).parent / "data" / "handwritten_digits"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "ddpo.png"
PROMPT, WANTED = "a digit", 7
STEPS, BATCH, ITERATIONS, SCORED, EVERY, HELD = 10, 64, 10, 4, 1, 100
RATE, CLIP = 2e-4, 0.2
SAMPLERS = ("ddpm", "dpmpp_2m_sde")


class Reward:
    """The confidence of the classifier, from latents."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self._judge = judge(real()[1])

    def __call__(self, latents: torch.Tensor) -> tuple[np.ndarray, float]:
        """(margin of the wanted digit over the best other, share that is read as it)."""
        with torch.no_grad():
            images = self._vae.decode(latents / self._vae.config.scaling_factor).sample
        scores = self._judge.decision_function(images.mean(1).flatten(1).numpy())
        others = np.delete(scores, WANTED, axis=1).max(1)
        margin = scores[:, WANTED] - others
        return np.tanh(margin), float((margin > 0).mean())


def learned(name: str, iterations: int, size: int) -> dict[str, Any]:
    """Train from the checkpoint with one sampler and return the curve."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    process = ksched.VP.scaled_linear()
    ids = pipe.tokenizer([PROMPT], padding="max_length", return_tensors="pt").input_ids
    states = pipe.text_encoder(ids).last_hidden_state.detach()
    reward = Reward(pipe.vae)

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = pipe.unet(x, timestep, encoder_hidden_states=states.expand(len(x), -1, -1)).sample
        return out

    denoiser = ksched.Denoiser(network, process, "epsilon")
    sampler = ksched.build_sampler(name, "karras", STEPS, process=process)
    optimizer = torch.optim.AdamW(pipe.unet.parameters(), RATE)
    shape, generator = (4, 8, 8), np.random.default_rng(0)
    began = time.perf_counter()
    curve = []
    for iteration in range(iterations + 1):
        if iteration % EVERY == 0:
            with torch.no_grad():
                held = sampler.initial_state((HELD, *shape), seed=10**6)
                mean, share = reward(sampler.sample(denoiser, held, seed=2 * 10**6))
            curve.append({"pictures": iteration * size, "reward": float(mean.mean()), "share": share})
            print(name, curve[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
        if iteration == iterations:
            break
        seed = 1000 * (iteration + 1)
        path = sampler.rollout(denoiser, sampler.initial_state((size, *shape), seed=seed), seed=seed + 500)
        gained = torch.from_numpy(reward(path.x)[0]).float()
        advantage = (gained - gained.mean()) / (gained.std() + 1e-6)
        chosen = generator.permutation(path.steps)[:SCORED]
        for step in chosen.tolist():
            old = path.log_prob[path.steps.index(step)] / path.x[0].numel()
            new = sampler.log_prob(denoiser, path, steps=[step], reduce="mean")[0]
            ratio = torch.exp(path.x[0].numel() * (new - old))
            loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(pipe.unet.parameters(), 1.0)
            optimizer.step()
    return {"sampler": name, "curve": curve, "seconds": time.perf_counter() - began}


def main() -> None:
    """Print the table, draw the curve and write JSON."""
    parser = arguments(__doc__, seconds=0)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--batch", type=int, default=BATCH)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = [learned(name, given.iterations, given.batch) for name in SAMPLERS]
    print(
        table(
            ["sampler", *(str(point["pictures"]) for point in rows[0]["curve"])],
            [[row["sampler"], *(f"{point['share']:.0%}" for point in row["curve"])] for row in rows],
        )
    )
    write(given.out, "ddpo", {**facts(), "prompt": PROMPT, "wanted": WANTED, "steps": STEPS, "rows": rows})
    figure, axes = plt.subplots(figsize=(6, 3.2), dpi=150)
    for row in rows:
        axes.plot(
            [point["pictures"] for point in row["curve"]],
            [100 * point["share"] for point in row["curve"]],
            marker="o",
            label=row["sampler"],
        )
    axes.set(xlabel="pictures drawn for training", ylabel="read as a seven, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(PICTURE)


if __name__ == "__main__":
    main()
