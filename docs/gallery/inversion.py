"""From images to noise and back.

`Sampler.invert` finds the start noise that leads to an image. Between the noises of two
digits lie other digits: the model draws every step of the way.
"""

import matplotlib.pyplot as plt
import torch

import ksched

model = ksched.exact.digits()
sampler = ksched.build_sampler("heun", "karras", 20)
drawn = [torch.tensor(model.only(digit).sample(1, seed=4)) for digit in (3, 8)]
images = torch.cat(drawn).float().reshape(2, 1, 8, 8)
first, last = sampler.invert(model, images)

figure, panels = plt.subplots(1, 7, figsize=(5.8, 1.3))
for axes, t in zip(panels, torch.linspace(0, 1, 7)):
    angle = t * torch.pi / 2  # keeps the variance of the noise
    between = angle.cos() * first + angle.sin() * last
    axes.imshow(sampler.sample(model, between[None])[0, 0], cmap="gray", vmin=-1, vmax=1)
    axes.set_title(f"{t:.2f}")
    axes.set_axis_off()
