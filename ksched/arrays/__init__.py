"""Plans on any arrays that can be added and multiplied by floats, without torch: NumPy, JAX, CuPy, MLX and others."""

from ksched.arrays.noises import initial_state, noise
from ksched.arrays.running import run
from ksched.arrays.scanning import scan

__all__ = ["initial_state", "noise", "run", "scan"]
