"""Analyses: the figures of a model that a block ``analysis`` of the language asks for."""
