"""Running plans on tensors: memory layout, buffers, runs and batches of runs."""
