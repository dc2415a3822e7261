"""Plots, contact sheets and the demo."""
