"""Numbers of a program that depend on how many samples there are: shapes may, what a sample's output is computed from may not."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from pkcompiler.ops.gates import is_pointwise

PROBES = (2, 3, 4, 5, 7, 64)
"""Numbers of samples at which such a number is evaluated."""


def sized_numbers(graph: fx.Graph) -> dict[fx.Node, bool]:
    """The numbers that depend on the number of samples; True for whole multiples of it, which are sizes of a batch."""
    found = {}
    for node in graph.nodes:
        values = _at_probes(node.meta.get("val"))
        if len(set(values)) > 1:
            multiple = all(v * PROBES[0] == values[0] * n for v, n in zip(values, PROBES, strict=True))
            found[node] = multiple and isinstance(node.meta["val"], torch.SymInt)
    return found


def _at_probes(value: Any) -> list[Any]:
    """A symbolic number at every probe; nothing for plain numbers, and for those that are read out of tensors."""
    if not isinstance(value, torch.SymInt | torch.SymFloat):
        return []
    expression = value.node.expr
    symbols = sorted(expression.free_symbols, key=str)
    if not symbols or any(str(s).startswith(("u", "zuf")) for s in symbols):
        return []
    return [expression.subs(dict.fromkeys(symbols, n)) for n in PROBES]


def reads_size(node: fx.Node, sized: dict[fx.Node, bool]) -> bool:
    """Whether an operator computes with the number of samples: it is pointwise, or takes what is no size of a batch."""
    return any(n in sized and (is_pointwise(node.target) or not sized[n]) for n in node.all_input_nodes)
