"""Random words, the table of normal numbers, Triton kernels for sums on a GPU, and access to torch's private names."""
