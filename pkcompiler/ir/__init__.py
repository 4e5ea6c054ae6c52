"""The typed path-graph IR."""

from pkcompiler.ir.types import Op, Origin, PathGraph, Slot, TensorType, Value

__all__ = ["Op", "Origin", "PathGraph", "Slot", "TensorType", "Value"]
