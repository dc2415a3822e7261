"""Trains the checkpoint that ships with the package: handwritten digits from a prompt, as a Stable Diffusion pipeline.

Run from the repository root: ``python benchmarks/fit_handwritten_digits.py``. Needs diffusers, transformers and
scikit-learn. An autoencoder, a tokenizer, a text encoder and a UNet learn from two thirds of scikit-learn's digits,
one after another except for the last two, which learn together. Writes ``ksched/data/handwritten_digits/``, a folder
that ``StableDiffusionPipeline.from_pretrained`` loads, with a record of the training in ``training.json``. With
``--scratch DIR`` an interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import random
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from _handwriting import HELD_OUT, SEED, SIDE, TEMPLATES, WORDS, Digits, jittered, judge, prompts, real
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import ksched

OUTPUT = Path(__file__).parents[1] / "ksched" / "data" / "handwritten_digits"
LENGTH = 32  # tokens; an unknown word takes one per letter
WIDTH = 64  # of the text encoder
KL_WEIGHT = 5e-4
COPIES = 16  # jittered copies of every training digit; the UNet would memorise the plain 1200
EMPTY = 0.12  # share of captions dropped, for classifier-free guidance
STRANGE = 0.1  # share of captions with a meaningless word
KNOWN = (*WORDS, "a", "an", "the", "handwritten", "digit", "number", "picture", "of")
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"()-_/+&"


def count(module: nn.Module) -> int:
    """Parameters of a network."""
    return sum(p.numel() for p in module.parameters())


def rate(step: int, steps: int, peak: float, warm: int = 50) -> float:
    """Learning rate: linear warm-up, cosine decay."""
    return peak * min(1.0, (step + 1) / warm) * (1 + math.cos(math.pi * step / steps)) / 2


# Parts


def make_tokenizer() -> transformers.CLIPTokenizer:
    """CLIP's tokenizer with its own vocabulary: letters, and merges that turn a known word into one token."""
    tokens = [*SIGNS, *(sign + "</w>" for sign in SIGNS)]
    merges = []
    for word in KNOWN:
        for i in range(1, len(word)):
            right = word[i] + "</w>" * (i == len(word) - 1)
            if (word[:i], right) not in merges:
                merges.append((word[:i], right))
                tokens.append(word[:i] + right)
    vocab = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)
    for word in KNOWN:
        assert len(tokenizer(word).input_ids) == 3, word
    return tokenizer


def write_vocabulary(tokenizer: transformers.CLIPTokenizer, folder: Path) -> None:
    """Write the two files that transformers reads before version 5."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]) + "\n")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")


def make_text_encoder(tokenizer: transformers.CLIPTokenizer) -> transformers.CLIPTextModel:
    """A text encoder of one layer, enough to find which digit a prompt names."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.CLIPTextModel(config)


def make_vae() -> diffusers.AutoencoderKL:
    """An autoencoder from 3x32x32 images to 4x8x8 latents."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 24, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        sample_size=SIDE,
    )


def make_unet() -> diffusers.UNet2DConditionModel:
    """A UNet that attends to the prompt at 4x4, which costs a fraction of 8x8."""
    return diffusers.UNet2DConditionModel(
        sample_size=SIDE // 4,
        block_out_channels=(48, 88),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # which is the number of heads
    )


def make_scheduler() -> diffusers.DDIMScheduler:
    """Stable Diffusion's process; it states that latents are not clipped, for other classes that read this setting."""
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


# Training


class Scratch:
    """The folder where a run saves its state, so that it can continue."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str) -> dict[str, Any] | None:
        """The saved state, or None."""
        path = self.folder / f"{name}.pt" if self.folder else None
        return torch.load(path) if path and path.exists() else None

    def save(self, name: str, data: dict[str, Any]) -> None:
        """Save the state; if killed meanwhile, the old file stays."""
        if self.folder:
            torch.save(data, self.folder / f"{name}.part")
            (self.folder / f"{name}.part").replace(self.folder / f"{name}.pt")


def reported(name: str, steps: int, start: int = 0) -> Iterator[int]:
    """The steps of a training, with progress messages."""
    began = time.perf_counter()
    for step in range(start, steps):
        yield step
        if (step + 1) % 50 == 0:
            each = (time.perf_counter() - began) / (step + 1 - start)
            print(f"{name}: {step + 1} of {steps} steps, {each:.2f} s each", flush=True)


def fit_vae(train: Digits, steps: int, batch: int, scratch: Scratch) -> tuple[diffusers.AutoencoderKL, dict[str, Any]]:
    """The trained autoencoder, with ``scaling_factor`` set, and a record of its training."""
    vae = make_vae()
    if kept := scratch.load("vae"):
        vae.load_state_dict(kept["vae"])
        vae.register_to_config(scaling_factor=kept["facts"]["scaling_factor"])
        return vae.eval(), kept["facts"]
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(vae.parameters(), weight_decay=1e-4)
    errors, divergences = [], []
    for step in reported("vae", steps):
        optimizer.param_groups[0]["lr"] = rate(step, steps, 3e-3)
        chosen = torch.randint(len(train.images), (batch,), generator=generator)
        images = jittered(train.images[chosen], generator).expand(-1, 3, -1, -1)
        posterior = vae.encode(images).latent_dist
        error = mse_loss(vae.decode(posterior.sample(generator)).sample, images)
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad(set_to_none=True)
        (error + KL_WEIGHT * divergence).backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        errors.append(error.item())
        divergences.append(divergence.item())
        if (step + 1) % 50 == 0:
            print(f"  error {np.mean(errors[-50:]):.5f}, divergence {np.mean(divergences[-50:]):.3f}", flush=True)
    vae.eval()
    scaling_factor = round(1 / float(latents_of(vae, train.images).std()), 5)
    vae.register_to_config(scaling_factor=scaling_factor)
    facts = {
        "steps": steps,
        "batch": batch,
        "seconds": time.perf_counter() - began,
        "final_square_error": float(np.mean(errors[-50:])),
        "final_kl_per_number": float(np.mean(divergences[-50:])),
        "kl_weight": KL_WEIGHT,
        "scaling_factor": scaling_factor,
    }
    scratch.save("vae", {"vae": vae.state_dict(), "facts": facts})
    return vae, facts


@torch.no_grad()
def latents_of(vae: diffusers.AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Means of the posteriors, unscaled."""
    parts = images.expand(-1, 3, -1, -1).split(200)
    return torch.cat([vae.encode(part).latent_dist.mean for part in parts])


class Captions:
    """Token ids of captions for digits, each with a randomly chosen wording."""

    def __init__(self, tokenizer: transformers.CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self.random = random.Random(SEED)
        self.asked = [prompts(digit) for digit in range(10)]

    def one(self, digit: int) -> str:
        """A caption, sometimes with a meaningless word before or after it."""
        text = self.random.choice(self.asked[digit])
        if self.random.random() < STRANGE:
            word = "".join(self.random.choices(SIGNS[:26], k=self.random.randint(2, 8)))
            text = f"{word} {text}" if self.random.random() < 0.5 else f"{text} {word}"
        return text

    def __call__(self, digits: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids, and the digit that they name; 10 is none."""
        named = [10 if self.random.random() < EMPTY else int(digit) for digit in digits]
        return self.ids(["" if digit == 10 else self.one(digit) for digit in named]), torch.tensor(named)

    def ids(self, texts: list[str]) -> torch.Tensor:
        """Token ids, as diffusers' pipelines make them."""
        found = self.tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        return found.input_ids


def pretrain_text(encoder: transformers.CLIPTextModel, captions: Captions, steps: int) -> dict[str, Any]:
    """Pretrain the text encoder on which digit a caption names, which saves UNet training steps."""
    began = time.perf_counter()
    head = nn.Linear(WIDTH, 11)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()])
    digits = np.random.default_rng(SEED)
    losses = []
    for step in reported("text", steps):
        optimizer.param_groups[0]["lr"] = rate(step, steps, 3e-3)
        ids, named = captions(digits.integers(0, 10, 128))
        guess = head(encoder(ids).last_hidden_state)[ids == captions.tokenizer.eos_token_id]
        loss = cross_entropy(guess, named.repeat_interleave((ids == captions.tokenizer.eos_token_id).sum(1)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"steps": steps, "seconds": time.perf_counter() - began, "final_cross_entropy": float(np.mean(losses[-20:]))}


def fit_unet(
    latents: torch.Tensor, labels: np.ndarray, captions: Captions, steps: int, batch: int, peak: float, scratch: Scratch
) -> tuple[diffusers.UNet2DConditionModel, transformers.CLIPTextModel, dict[str, Any]]:
    """UNet and text encoder, both averaged over training, and a record of the training."""
    unet, text = make_unet(), make_text_encoder(captions.tokenizer)
    generator = torch.Generator().manual_seed(SEED)
    both = nn.ModuleList([unet, text])
    kept = scratch.load("unet")
    about: dict[str, Any] = kept["about"] if kept else {"text": pretrain_text(text, captions, 300)}
    average = deepcopy(both).requires_grad_(False)
    optimizer = torch.optim.AdamW(both.parameters(), weight_decay=0.01)
    first, losses, seconds = 0, [], 0.0
    if kept:
        both.load_state_dict(kept["both"])
        average.load_state_dict(kept["average"])
        optimizer.load_state_dict(kept["optimizer"])
        generator.set_state(kept["generator"])
        captions.random.setstate(kept["random"])
        first, losses, seconds = kept["step"], kept["losses"], kept["seconds"]
    alpha_bar = make_scheduler().alphas_cumprod
    began = time.perf_counter()
    for step in reported("unet", steps, first):
        optimizer.param_groups[0]["lr"] = rate(step, steps, peak)
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        ids, _ = captions(labels[chosen.numpy()])
        # one timestep from each of `batch` equal parts: the same expectation with less noise
        timesteps = ((torch.arange(batch) + torch.rand(batch, generator=generator)) * 1000 / batch).long()
        noise = torch.randn(batch, *latents.shape[1:], generator=generator)
        kept_share = alpha_bar[timesteps].reshape(-1, 1, 1, 1)
        noisy = kept_share.sqrt() * latents[chosen] + (1 - kept_share).sqrt() * noise
        loss = mse_loss(unet(noisy, timesteps, text(ids).last_hidden_state).sample, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        decay = min(0.997, (step + 1) / (step + 20))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), both.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        if (step + 1) % 50 == 0:
            print(f"  loss {np.mean(losses[-50:]):.4f}", flush=True)
        if (step + 1) % 100 == 0:
            now = {"both": both.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
            now |= {"generator": generator.get_state(), "random": captions.random.getstate(), "about": about}
            now |= {"step": step + 1, "losses": losses, "seconds": seconds + time.perf_counter() - began}
            scratch.save("unet", now)
    about["unet"] = {
        "steps": steps,
        "batch": batch,
        "learning_rate": peak,
        "seconds": seconds + time.perf_counter() - began,
        "final_loss": float(np.mean(losses[-100:])),
    }
    unet, text = average
    return unet.eval(), text.eval(), about


@torch.no_grad()
def recognised(pipe: diffusers.StableDiffusionPipeline, held: Digits, guidance: float, each: int = 10) -> float:
    """Share of prompted digits that the classifier recognises; a quick check, the benchmark measures it properly."""
    digits = np.repeat(np.arange(10), each)
    generator = torch.Generator().manual_seed(SEED)
    found = pipe(
        [f"a handwritten {WORDS[digit]}" for digit in digits],
        num_inference_steps=20,
        guidance_scale=guidance,
        generator=generator,
        output_type="np",
    ).images
    images = torch.from_numpy(found).mean(-1) * 2 - 1
    return float(np.mean(judge(held).predict(images.flatten(1).numpy()) == digits))


def write(folder: Path, parts: dict[str, Any], about: dict[str, Any], held: Digits) -> None:
    """Write the folder, with the networks in half precision."""
    pipe = diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    about["glance"] = {str(scale): recognised(pipe, held, scale) for scale in (1.0, 4.0)}
    print("recognised, 100 digits in full precision, by guidance scale:", about["glance"])
    for name in ("vae", "text_encoder", "unet"):
        parts[name].half()
    pipe.save_pretrained(folder)
    # transformers computes in the type that is named here, diffusers in float32 unless told: one UNet cannot take both
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    write_vocabulary(parts["tokenizer"], folder / "tokenizer")
    (folder / "training.json").write_text(json.dumps(about, indent=1) + "\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder.name}: {size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUTPUT, metavar="DIR")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="save progress there, and continue from it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vae-steps", type=int, default=1200)
    parser.add_argument("--vae-batch", type=int, default=48)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    given = parser.parse_args()
    settings = ("vae_steps", "vae_batch", "steps", "batch", "rate")
    changed = [
        f"--{s.replace('_', '-')} {getattr(given, s)}" for s in settings if getattr(given, s) != parser.get_default(s)
    ]
    torch.set_num_threads(given.threads)
    torch.manual_seed(SEED)
    scratch = Scratch(given.scratch)
    train, held = real()
    tokenizer = make_tokenizer()
    vae, vae_facts = fit_vae(train, given.vae_steps, given.vae_batch, scratch)
    generator = torch.Generator().manual_seed(SEED)
    copies = torch.cat([train.images, *(jittered(train.images, generator) for _ in range(COPIES - 1))])
    latents = vae.config.scaling_factor * latents_of(vae, copies)
    print(f"latents: mean {latents.mean((0, 2, 3)).tolist()}, std {latents.std((0, 2, 3)).tolist()}")
    torch.manual_seed(SEED)  # so that the UNet starts the same whether the autoencoder was fitted now or before
    unet, text, facts = fit_unet(
        latents,
        np.tile(train.labels, COPIES),
        Captions(tokenizer),
        given.steps,
        given.batch,
        given.rate,
        scratch,
    )
    parts = {
        "vae": vae,
        "text_encoder": text,
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": make_scheduler(),
    }
    about = {
        "script": "benchmarks/fit_handwritten_digits.py",
        "command": " ".join(["python benchmarks/fit_handwritten_digits.py", *changed]),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "seed": SEED,
        "data": {
            "from": "sklearn.datasets.load_digits",
            "training": len(train.labels),
            "held_out": len(held.labels),
            "rule": f"held out where numpy.random.default_rng({SEED}).random(1797) < {HELD_OUT:.6f}",
            "jittered_copies": COPIES,
            "templates": list(TEMPLATES),
            "empty_captions": EMPTY,
            "captions_with_a_strange_word": STRANGE,
        },
        "parameters": {"vae": count(vae), "text_encoder": count(text), "unet": count(unet)},
        "vae": vae_facts,
        **facts,
        "threads": given.threads,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "ksched": ksched.__version__,
        },
    }
    write(given.out, parts, about, held)


if __name__ == "__main__":
    main()
