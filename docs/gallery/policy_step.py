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
mean = torch.zeros(2, requires_grad=True)  # all that this network learns


def denoiser(x, sigma):  # exact for normal data of this mean and std 0.5
    sigma = sigma.reshape(-1, 1)
    gain = 0.25 * (1 - sigma) / (0.25 * (1 - sigma) ** 2 + sigma**2)
    return mean + gain * (x - (1 - sigma) * mean)


optimizer = torch.optim.Adam([mean], lr=0.05)
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
