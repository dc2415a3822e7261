"""Error against model calls.

How far a run ends from the exact solution depends on the number of model calls (NFE).
The model is a mixture of Gaussians fitted to handwritten digits, so the exact solution
is known and the error is the solver's own.
"""

import matplotlib.pyplot as plt
import torch

import ksched

model = ksched.exact.digits()
sigma_max = ksched.VP().sigma_max
x = sigma_max * torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
truth = model.solve(x, [sigma_max, 0.0])[-1]

calls = [5, 8, 12, 20, 30]
for name in ("euler", "heun", "dpmpp_2m", "uni_pc", "deis"):
    errors = []
    for n in calls:
        sampler = ksched.build_sampler(name, "karras", calls=n)
        errors.append((sampler.sample(model, x) - truth).square().mean().sqrt())
    plt.loglog(calls, errors, "o-", label=name)

plt.xticks(calls, calls)
plt.minorticks_off()
plt.xlabel("model calls (NFE)")
plt.ylabel("error")
plt.legend()
