"""What classifier-free guidance does.

Guidance with a scale above 1 pushes samples of one class away from the others, past the
data. At 1 it is the conditional distribution.
"""

import matplotlib.pyplot as plt
import torch

import ksched
from ksched import guidance

means = [[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]]
data = ksched.exact.GaussianMixture([1 / 3] * 3, means, 0.09, labels=[0, 1, 2])
wanted = data.only(1)
sampler = ksched.build_sampler("dpmpp_2m", "karras", 20)
generator = torch.Generator().manual_seed(0)
x = sampler.sigmas[0] * torch.randn(300, 2, generator=generator)

figure, panels = plt.subplots(1, 3, sharex=True, sharey=True)
for axes, scale in zip(panels, (1.0, 2.0, 5.0)):
    found = sampler.sample(guidance.cfg(wanted, data, scale), x)
    axes.plot(*data.sample(600, seed=0).T, ".", color="0.5", alpha=0.3, markersize=3)
    axes.plot(*found.T, ".", color="C1", markersize=3)
    axes.set(title=f"scale {scale:g}", aspect="equal")
