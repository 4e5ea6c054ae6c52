"""Exported graphs that need no decomposition: every operator is known already, in-place activations are made functional.

Decomposing traces the whole program again, which takes twice the time of the export itself.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

import pkcompiler.ops.entries  # noqa: F401  (fills the table)
from pkcompiler.ops.decompose import REWRITES
from pkcompiler.ops.gates import PASS_THROUGH, is_pointwise
from pkcompiler.ops.table import TABLE


def make_plain(module: fx.GraphModule) -> bool:
    """Whether the graph can be lifted as it is; in-place activations in it have then been replaced by functional ones."""
    calls = [n for n in module.graph.nodes if n.op == "call_function"]
    swaps = [(n, functional_of(n)) for n in calls if _mutates(n)]
    if any(target is None for _, target in swaps) or not all(_known(n) for n in calls if not _mutates(n)):
        return False
    for node, target in swaps:
        node.target = target
        source = node.args[0]
        order = {n: i for i, n in enumerate(module.graph.nodes)}
        source.replace_all_uses_with(node, delete_user_cb=lambda user, at=order[node], order=order: order[user] > at)
    module.recompile()
    return True


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _known(node: fx.Node) -> bool:
    target = node.target
    if target in (operator.getitem, torch.ops.aten.sym_size.int):
        return True
    if not isinstance(target, torch._ops.OpOverload) or target in REWRITES:
        return False
    return str(target) in TABLE or str(target) in PASS_THROUGH or is_pointwise(target)


def functional_of(node: fx.Node) -> Any:
    """The functional twin of an in-place activation (``relu_`` -> ``relu``) whose input is a fresh tensor; None otherwise."""
    target: Any = node.target
    packet, _, overload = str(target).removeprefix("aten.").partition(".")
    twin = getattr(getattr(torch.ops.aten, packet.removesuffix("_"), None), overload, None)
    source = node.args[0] if node.args else None
    if twin is None or not is_pointwise(twin) or not isinstance(source, fx.Node):
        return None
    fresh = source.op == "call_function" and not _is_view(source)
    return twin if fresh and not any(_is_view(user) for user in source.users) else None


def _is_view(node: fx.Node) -> bool:
    """A view of its input (by the operator's schema), or something that may hand its input on."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and any(
        r.alias_info and not r.alias_info.is_write for r in target._schema.returns
    ):
        return True
    return str(target) in PASS_THROUGH or target is operator.getitem
