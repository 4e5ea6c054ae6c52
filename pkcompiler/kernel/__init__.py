"""The Path Kernel as an operator, and its spectra."""
