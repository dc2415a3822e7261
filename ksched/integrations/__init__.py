"""Adapters for other programs."""
