"""Samples for passes that read data: named sets, files, the user's own; class-balanced, hashed, read once."""

from pkcompiler.data.load import load_data, parse_data
from pkcompiler.data.named import read
from pkcompiler.data.subset import LoadedData, subset

__all__ = ["LoadedData", "load_data", "parse_data", "read", "subset"]
