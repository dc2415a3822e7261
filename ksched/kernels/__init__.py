"""Compiled code, and what it needs: random words, the table of normal numbers, sums in Numba and Triton."""
