"""Samplers as probability laws: the laws of their steps, and runs with log-probabilities."""
