"""Samplers. Each is a pure function in its paper's notation: ``(run, grid, x, *, options) -> x``."""
