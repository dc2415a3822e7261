"""A reinforcement-learning step.

A stochastic sampler is a policy: `Sampler.rollout` records the log-probability of each
noisy step, and `Sampler.log_prob` finds it again with gradients into the network. Here
plain policy gradients move a model's samples to where a reward wants them.
"""

import matplotlib.pyplot as plt
import torch

import ksched

process = ksched.Flow()
sampler = ksched.build_sampler("flow_sde", "simple", 6, process=process)
shift = torch.zeros(2, requires_grad=True)  # all that this network learns


def denoiser(x, sigma):
    return shift.expand_as(x)


optimizer = torch.optim.Adam([shift], lr=0.05)
rewards = []
for update in range(60):
    x = sampler.initial_state((64, 2), seed=update)
    with torch.no_grad():
        path = sampler.rollout(denoiser, x, seed=update)
    reward = -(path.x - torch.tensor([1.0, -1.0])).square().sum(1)
    rewards.append(float(reward.mean()))
    advantage = (reward - reward.mean()) / reward.std()
    loss = -(advantage * sampler.log_prob(denoiser, path).sum(0)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

plt.plot(rewards)
plt.xlabel("update")
plt.ylabel("mean reward")
