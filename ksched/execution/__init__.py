"""Running plans on tensors: layout in memory, buffers, runs, batches of runs."""
