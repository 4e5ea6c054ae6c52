"""All entries of the operator table (importing this module fills it)."""

from pkcompiler.ops import arithmetic, attention, linear, normalise, pool, shape

__all__ = ["arithmetic", "attention", "linear", "normalise", "pool", "shape"]
