"""Whether the handwritten-digit checkpoint draws the digits that it is asked for, and whether it copies.

Run from the repository root: ``python benchmarks/digits_recognised.py``; under ten minutes on two cores. A
classifier, fitted to real digits that the networks never saw, reads prompted digits: by guidance scale, sampler,
schedule and number of steps, and with negative prompts. Then the distance from each to the nearest training digit is
measured, beside that of held-out digits. ``fit_handwritten_digits.py`` makes the checkpoint.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import numpy as np
import torch
from _handwriting import SEED, WORDS, Digits, jittered, judge, prompts, real
from _measure import RESULTS, facts, table, write
from diffusers.utils import logging

import ksched
from ksched import guidance

FOLDER = Path(ksched.__file__).parent / "data" / "handwritten_digits"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "handwritten_digits.png"
PAIR, STEPS, SCALE = ("dpmpp_2m", "karras"), 20, 4.0
SCALES = (1.0, 2.0, 4.0, 7.5)
FEW_STEPS = (4, 8, 20)
SAMPLERS = ("dpmpp_2m", "euler", "heun", "uni_pc", "deis", "euler_ancestral", "dpmpp_2m_sde")
SCHEDULES = ("karras", "simple", "exponential", "sgm_uniform", "beta")
TARGET = 0.97
NEAREST = 8  # jittered copies of each real digit among which the nearest is looked for


class Checkpoint:
    """The modules of the checkpoint's folder, and digits drawn with them."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).to(device)
        self.device = torch.device(device)
        config = pipe.scheduler.config
        assert config.beta_schedule == "scaled_linear"
        self.process = ksched.VP.scaled_linear(config.beta_start, config.beta_end, config.num_train_timesteps)
        self.denoiser = ksched.Denoiser(pipe.unet, self.process, config.prediction_type)
        self.tokenizer, self.text_encoder, self.vae = pipe.tokenizer, pipe.text_encoder, pipe.vae
        self.rows = 0  # that the UNet has seen
        self.seconds = 0.0

    def embedded(self, texts: Sequence[str]) -> torch.Tensor:
        """Text embeddings for the UNet; each text is encoded once."""
        different = list(dict.fromkeys(texts))
        ids = self.tokenizer(
            different,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.device)
        states = self.text_encoder(ids).last_hidden_state
        place = {text: i for i, text in enumerate(different)}
        return states[[place[text] for text in texts]]

    def images(
        self,
        texts: Sequence[str],
        pair: tuple[str, str] = PAIR,
        steps: int = STEPS,
        scale: float = SCALE,
        negative: Sequence[str] | None = None,
    ) -> torch.Tensor:
        """Images (n, 1, 32, 32) of prompts; the noise of the n-th does not depend on the other settings."""
        began = time.perf_counter()
        sampler = ksched.build_sampler(*pair, steps=steps, process=self.process)
        x = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(len(texts))])
        wanted = {"encoder_hidden_states": self.embedded(texts)}
        if scale == 1:
            model = self.denoiser.given(**wanted)
        else:
            unwanted = {"encoder_hidden_states": self.embedded(negative or [""] * len(texts))}
            model = guidance.cfg(guidance.batched(self.denoiser, wanted, unwanted), None, scale)
        latents = sampler.sample(model, x.to(self.device) * sampler.sigmas[0], seed=list(range(len(texts))))
        images = self.decoded(latents / self.vae.config.scaling_factor)
        self.rows += sampler.nfe * len(texts) * (1 if scale == 1 else 2)
        self.seconds += time.perf_counter() - began
        return images

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Grey images in [-1, 1]."""
        return torch.cat([self.vae.decode(part).sample for part in latents.split(100)]).mean(1, True).clamp(-1, 1)

    def redrawn(self, images: torch.Tensor) -> torch.Tensor:
        """Images after encoding and decoding by the autoencoder."""
        return self.decoded(self.vae.encode(images.expand(-1, 3, -1, -1)).latent_dist.mean)


def share(reader: Any, images: torch.Tensor, digits: np.ndarray) -> float:
    """Share of images that are read as the requested digit."""
    return float(np.mean(reader.predict(images.flatten(1).cpu().numpy()) == digits))


def asked_for(count: int) -> tuple[list[str], np.ndarray]:
    """All kinds of prompts that training used, equally many per digit, and the digits."""
    digits = np.arange(count) % 10
    return [prompts(int(digit))[i // 10 % len(prompts(0))] for i, digit in enumerate(digits)], digits


def nearest(images: torch.Tensor, real_images: torch.Tensor) -> torch.Tensor:
    """Root mean square pixel difference to the nearest real image, jittered as in training."""
    generator = torch.Generator().manual_seed(SEED + 1)
    variants = [real_images, *(jittered(real_images, generator) for _ in range(NEAREST - 1))]
    return torch.cdist(images.flatten(1), torch.cat(variants).flatten(1)).amin(1) / images[0].numel() ** 0.5


def originality(made: torch.Tensor, drawn: torch.Tensor, train: Digits, held: Digits) -> dict[str, float]:
    """Distances to the nearest real digit, for generated digits and for held-out ones passed through the autoencoder.

    A copying generator is nearer to what it was trained on than to as many digits that it never saw.
    """
    some = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(SEED))[: len(held.images)]
    to_train, to_held = nearest(made, train.images[some]), nearest(made, held.images)
    return {
        "to the nearest of all training digits": float(nearest(made, train.images).median()),
        "held-out digits to the nearest of all training digits": float(nearest(drawn, train.images).median()),
        "to the nearest training digit of as many": float(to_train.median()),
        "to the nearest held-out digit": float(to_held.median()),
        "share nearer to a training digit": float((to_train < to_held).float().mean()),
        "smallest": float(nearest(made, train.images).min()),
        "smallest of held-out digits": float(nearest(drawn, train.images).min()),
    }


def avoided(checkpoint: Checkpoint, reader: Any, count: int) -> float:
    """Share of images that show the digit of their negative prompt; the prompt is empty, so a tenth is chance."""
    digits = np.arange(count) % 10
    negative = [f"a handwritten {WORDS[digit]}" for digit in digits]
    return share(reader, checkpoint.images([""] * count, negative=negative), digits)


def draw(checkpoint: Checkpoint, path: Path) -> None:
    """Draw five of every digit, and one seed at growing guidance scales."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    rows, scales = 5, (0.0, 1.0, 2.0, 4.0, 7.5)
    upper = checkpoint.images([f"a handwritten {WORDS[i % 10]}" for i in range(10 * rows)])
    lower = torch.cat([checkpoint.images(["three"] * 10, scale=scale) for scale in scales])
    figure, axes = plt.subplots(1, 2, figsize=(10, 2.9), layout="constrained")
    for axis, images in zip(axes, (upper, lower), strict=True):
        canvas = images.reshape(-1, 10, 32, 32).permute(0, 2, 1, 3).reshape(-1, 320)
        axis.imshow(canvas, cmap="gray", vmin=-1, vmax=1, extent=(0, 10, len(images) // 10, 0), interpolation="bicubic")
        axis.tick_params(length=0, labelsize=8)
        axis.set_yticks([])
        axis.set_xticks([])
    axes[0].set_title(f"a handwritten ...: {' + '.join(PAIR)}, {STEPS} steps, guidance {SCALE:g}", fontsize=9)
    axes[0].set_xticks(np.arange(10) + 0.5, WORDS)
    axes[1].set_title("three: ten seeds under more and more guidance", fontsize=9)
    axes[1].set_yticks(np.arange(len(scales)) + 0.5, [f"{scale:g}" for scale in scales])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads that torch may use")
    parser.add_argument("--images", type=int, default=500, help="number of digits per guidance scale")
    parser.add_argument("--few", type=int, default=100, help="number of digits per sampler and schedule")
    parser.add_argument("--model", type=Path, default=FOLDER, metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    given = parser.parse_args()
    changed = [f"--{s} {getattr(given, s)}" for s in ("images", "few") if getattr(given, s) != parser.get_default(s)]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    began, busy = time.perf_counter(), time.process_time()
    train, held = real()
    reader = judge(held)
    checkpoint = Checkpoint(given.model)
    drawn = checkpoint.redrawn(held.images)
    data: dict[str, Any] = {
        **facts(),
        "command": " ".join(["python benchmarks/digits_recognised.py", *changed]),
        "pair": list(PAIR),
        "steps": STEPS,
        "scale": SCALE,
        "images": given.images,
        "few": given.few,
        "reader": {
            "learned from": len(held.labels),
            "right on the training digits": share(reader, train.images, train.labels),
            "right on them after the autoencoder": share(reader, checkpoint.redrawn(train.images), train.labels),
        },
    }
    print(json.dumps(data["reader"], indent=1))

    texts, digits = asked_for(given.images)
    data["by scale"] = []
    for scale in SCALES:
        images = checkpoint.images(texts, scale=scale)
        data["by scale"].append({"scale": scale, "right": share(reader, images, digits)})
        print(f"{' + '.join(PAIR)}, {STEPS} steps, guidance {scale:g}: {data['by scale'][-1]['right']:.3f}", flush=True)
        if scale == SCALE:
            made = images
            right = reader.predict(images.flatten(1).cpu().numpy()) == digits
            data["by digit"] = [float(right[digits == digit].mean()) for digit in range(10)]
            data["right"] = float(right.mean())
        if scale == 1:
            plain = images
    print("by digit:", " ".join(f"{value:.2f}" for value in data["by digit"]))
    data["originality"] = {
        f"guidance {scale:g}": originality(images, drawn, train, held)
        for scale, images in ((1.0, plain), (SCALE, made))
    }
    print(json.dumps(data["originality"], indent=1), flush=True)

    texts, digits = asked_for(given.few)
    data["negative"] = avoided(checkpoint, reader, given.few)
    print(json.dumps(data["negative"]), flush=True)
    write(given.out, "digits_recognised", data)
    pairs = dict.fromkeys([*((name, PAIR[1]) for name in SAMPLERS), *((PAIR[0], name) for name in SCHEDULES)])
    data["by pair"] = []
    for pair in pairs:
        found = {n: share(reader, checkpoint.images(texts, pair, n), digits) for n in FEW_STEPS}
        data["by pair"].append({"sampler": pair[0], "schedule": pair[1], "right": found})
        print(*pair, {n: f"{value:.3f}" for n, value in found.items()}, flush=True)
        write(given.out, "digits_recognised", data)
    data["milliseconds per row of the UNet"] = 1e3 * checkpoint.seconds / checkpoint.rows
    data["seconds"] = time.perf_counter() - began
    data["processor seconds"] = time.process_time() - busy  # of all threads; says more than time on a busy machine
    header = ["sampler", "schedule", *(f"{n} steps" for n in FEW_STEPS)]
    body = [[r["sampler"], r["schedule"], *(f"{r['right'][n]:.3f}" for n in FEW_STEPS)] for r in data["by pair"]]
    print(f"\n{table(header, body)}\n\n{data['seconds']:.0f} seconds")
    write(given.out, "digits_recognised", data)
    if importlib.util.find_spec("matplotlib"):
        draw(checkpoint, PICTURE if given.out == RESULTS else given.out / "handwritten_digits.png")
    if data["right"] < TARGET:
        raise SystemExit(f"{data['right']:.3f} of the digits are recognised; {TARGET} is the least")


if __name__ == "__main__":
    main()
