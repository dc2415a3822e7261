"""Particles from noise to data.

The ODE moves every particle on a smooth path; an SDE draws fresh noise on the way and
ends somewhere else each time. Both end in the same distribution.
"""

import matplotlib.pyplot as plt
import torch

import ksched

angles = torch.arange(6) * torch.pi / 3
means = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
model = ksched.exact.GaussianMixture([1 / 6] * 6, means.tolist(), 0.02)

figure, panels = plt.subplots(1, 2, sharex=True, sharey=True)
for axes, name in zip(panels, ("dpmpp_2m", "dpmpp_2m_sde")):
    sampler = ksched.build_sampler(name, "karras", 30, process=ksched.EDM(sigma_max=10))
    run = sampler.start(sampler.initial_state((60, 2), seed=1), seed=2)
    path = [run.x]
    while not run.done:
        run.feed(model(run.x, run.sigma))
        path.append(run.x)
    path = torch.stack(path)
    axes.plot(path[..., 0], path[..., 1], color="C0", alpha=0.3, linewidth=0.7)
    axes.plot(*path[-1].T, ".", color="C1", zorder=3)
    axes.set(title=name, xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
