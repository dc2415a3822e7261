"""Shared by training and evaluation of the handwritten-digit checkpoint: real digits, held-out ones, prompts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

SEED = 0
HELD_OUT = 1 / 3  # share of real digits that train the classifier; the networks never see them
SIDE, MARGIN = 32, 2
CONTRAST = 1.5  # upscaled strokes are soft; this factor makes their edges steeper

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "{}",
    "a {}",
    "a handwritten {}",
    "the digit {}",
    "the number {}",
    "a picture of the number {}",
)


class Digits(NamedTuple):
    """Real digits: images (n, 1, 32, 32), paper 1 and ink -1, and their labels."""

    images: torch.Tensor
    labels: np.ndarray


def real() -> tuple[Digits, Digits]:
    """Real digits for training, and held-out ones."""
    data = load_digits()
    ink = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    side = SIDE - 2 * MARGIN  # digits touch the edge of their 8x8 pixels
    ink = interpolate(ink, size=(side, side), mode="bicubic").clamp(0, 1)
    images = 1 - 2 * pad(((ink - 0.5) * CONTRAST + 0.5).clamp(0, 1), [MARGIN] * 4)
    held = np.random.default_rng(SEED).random(len(images)) < HELD_OUT
    mask = torch.from_numpy(held)
    return Digits(images[~mask], data.target[~held]), Digits(images[mask], data.target[held])


def jittered(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image rotated by up to 6 degrees, slanted, stretched by 6 % and shifted by a pixel."""
    turn, slant, wide, high, right, down = 2 * torch.rand(6, len(images), generator=generator) - 1
    turn, slant, wide, high = 0.1 * turn, 0.1 * slant, 1 + 0.06 * wide, 1 + 0.06 * high
    rows = [wide * turn.cos(), slant - turn.sin(), right / 16, turn.sin(), high * turn.cos(), down / 16]
    grid = affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), list(images.shape), align_corners=False)
    return 1 - grid_sample(1 - images, grid, align_corners=False)  # areas from outside the image are paper


def prompts(digit: int) -> list[str]:
    """All prompts for a digit that training uses."""
    asked = [template.format(name) for template in TEMPLATES for name in (WORDS[digit], str(digit))]
    return [text.replace("a eight", "an eight").replace("a 8", "an 8") for text in asked]


def judge(held: Digits) -> SVC:
    """A classifier of 32x32 images, fitted to the held-out digits."""
    return SVC(C=10.0).fit(held.images.flatten(1).numpy(), held.labels)
