"""Handwritten digits in a few calls.

`auto` is a plan whose coefficients and noise levels were fitted for the number of model
calls that you give. Its digits are there in five calls, where Euler's are still blurred.
"""

import matplotlib.pyplot as plt
import torch

import ksched

model = ksched.exact.digits()
noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))

figure, panels = plt.subplots(2, 4)
for row, name in zip(panels, ("euler", "auto")):
    for axes, calls in zip(row, (3, 4, 6, 10)):
        schedule = {"schedule": "karras"} if name == "euler" else {}
        sampler = ksched.build_sampler(name, calls=calls, **schedule)
        image = sampler.sample(model, sampler.sigmas[0] * noise)
        axes.imshow(image[0, 0], cmap="gray", vmin=-1, vmax=1)
        axes.set_title(f"{name}, {calls} calls")
        axes.set_axis_off()
