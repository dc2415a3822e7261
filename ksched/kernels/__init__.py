"""Random words, the table of normal numbers, sums in Triton on a GPU, and what is asked of torch in private."""
