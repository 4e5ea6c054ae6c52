"""Biased random walks on the unit graph of a model (Patil & Dovrolis 2021, arXiv:2010.11354).

The order in which they first visit weights is a score.
"""
