"""Tangent kernels on data: the NTK, its frozen part, dynamics, trajectories."""
