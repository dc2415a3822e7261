"""Half of an image.

`guidance.observed` makes the denoiser of what an observation leaves open: here the right
half of a digit whose left half is seen.
"""

import matplotlib.pyplot as plt
import torch

import ksched
from ksched import guidance

digits = ksched.exact.digits()
original = torch.tensor(digits.only(3).sample(1, seed=4)).float().reshape(1, 1, 8, 8)
seen = torch.zeros(8, 8, dtype=torch.bool)
seen[:, :4] = True

model = guidance.observed(digits, seen, torch.where(seen, original, 0.0), std=0.1)
sampler = ksched.build_sampler("dpmpp_2m", "karras", 12)
samples = sampler.sample(model, sampler.initial_state((6, 1, 8, 8), seed=0))

pictures = [original[0, 0], torch.where(seen, original, -1.0)[0, 0], *samples[:, 0]]
titles = ["original", "seen", *["sample"] * 6]
figure, panels = plt.subplots(2, 4)
for axes, picture, title in zip(panels.flat, pictures, titles):
    axes.imshow(picture, cmap="gray", vmin=-1, vmax=1)
    axes.set_title(title)
    axes.set_axis_off()
