"""Noise schedules compared.

A schedule is a list of sigmas, from the noise of the start down to 0. Where its steps
are small, the solver is exact; every schedule spends them elsewhere.
"""

import matplotlib.pyplot as plt

import ksched

for name in ("karras", "exponential", "beta", "simple", "linear", "kl_optimal"):
    sigmas = ksched.calculate_sigmas(name, 12)
    plt.semilogy(sigmas[:-1], "o-", label=name)

plt.xlabel("step")
plt.ylabel("sigma")
plt.legend()
