"""What a sampler is as a probability: the laws of its steps, and runs with their log-probabilities."""
