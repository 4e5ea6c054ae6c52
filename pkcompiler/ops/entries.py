"""All entries of the operator table (importing this module fills it)."""

from pkcompiler.ops import attention, linear, normalise, pool, shape, sums
from pkcompiler.ops.table import TABLE, Entry

MODULES = (sums, attention, linear, normalise, pool, shape)
"""The files that hold the entries; those of plug-ins join the same table."""


def entry_of(operator: str) -> Entry | None:
    """The entry of an overload such as ``aten.linear.default``; None when it has none."""
    return TABLE.get(operator)
