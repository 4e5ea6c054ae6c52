"""Plots and pages of results, and drawings of networks."""
