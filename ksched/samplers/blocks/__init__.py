"""Formulas that samplers share, by kind."""
