"""Plots, contact sheets and the demonstration."""
