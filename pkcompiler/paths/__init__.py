"""Sums over paths: sweeps, functionals, counts, reach, certificates."""
