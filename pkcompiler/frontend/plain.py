"""Exported graphs made plain: in-place activations become functional where no decomposition is needed, effects are called plainly.

Decomposing traces the whole program again, which takes twice the time of the export itself. torch wraps operators whose order
matters in ``with_effects``; without their tokens they are calls like any other.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import ExportGraphSignature, TokenArgument

import pkcompiler.ops.entries  # noqa: F401  (fills the table)
from pkcompiler.ops.decompose import is_decomposed, is_rewritten
from pkcompiler.ops.gates import PASS_THROUGH, is_pointwise
from pkcompiler.ops.table import TABLE


def make_plain(module: fx.GraphModule) -> bool:
    """Whether the graph can be lifted as it is; in-place activations in it have then been replaced by functional ones."""
    calls = [n for n in module.graph.nodes if n.op == "call_function"]
    swaps = [(n, functional_of(n)) for n in calls if mutates(n)]
    if any(target is None for _, target in swaps) or not all(_known(n) for n in calls if not mutates(n)):
        return False
    for node, target in swaps:
        node.target = target
        source = node.args[0]
        order = {n: i for i, n in enumerate(module.graph.nodes)}
        source.replace_all_uses_with(node, delete_user_cb=lambda user, at=order[node], order=order: order[user] > at)
    module.recompile()
    return True


def mutates(node: fx.Node) -> bool:
    """Whether it calls an operator that writes into one of its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _known(node: fx.Node) -> bool:
    target = node.target
    if target in (operator.getitem, torch.ops.aten.sym_size.int):
        return True
    if not isinstance(target, torch._ops.OpOverload) or is_rewritten(target):
        return False
    return str(target) in TABLE or str(target) in PASS_THROUGH or _is_gate(target)


def _is_gate(target: Any) -> bool:
    """A pointwise operator that decomposing leaves as it is, so that no other operator of the model changes what it stands for."""
    return is_pointwise(target) and not is_decomposed(target)


def functional_of(node: fx.Node) -> Any:
    """The functional twin of an in-place activation (``relu_`` -> ``relu``) whose input is a fresh tensor; None otherwise."""
    target: Any = node.target
    packet, _, overload = str(target).removeprefix("aten.").partition(".")
    twin = getattr(getattr(torch.ops.aten, packet.removesuffix("_"), None), overload, None)
    source = node.args[0] if node.args else None
    if twin is None or not _is_gate(twin) or not isinstance(source, fx.Node):
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


# effect tokens ------------------------------------------------------------------------------------------------------------


def drop_tokens(module: fx.GraphModule, signature: ExportGraphSignature) -> None:
    """Unwrap every ``with_effects(token, operator, ...)``, and take the tokens out of the inputs and outputs."""
    tokens = {spec.arg.name for spec in signature.input_specs if isinstance(spec.arg, TokenArgument)}
    if not tokens:
        return
    graph = module.graph
    dead = {node for node in graph.find_nodes(op="placeholder") if node.name in tokens}
    for node in graph.find_nodes(op="call_function", target=torch.ops.higher_order.with_effects):
        dead |= _unwrap(graph, node)
    output = graph.output_node()
    (results,) = output.args
    assert isinstance(results, tuple | list)
    ends = [isinstance(spec.arg, TokenArgument) for spec in signature.output_specs]
    output.args = (tuple(result for result, token in zip(results, ends, strict=True) if not token),)
    for node in reversed(list(graph.nodes)):
        if node in dead and not node.users:
            graph.erase_node(node)
    module.recompile()


def _unwrap(graph: fx.Graph, node: fx.Node) -> set[fx.Node]:
    """Put the operator itself in the place of its wrapper, whose first result is the next token; returns what is left over."""
    target: Any = node.args[1]
    if not isinstance(target, torch._ops.OpOverload):
        return set()
    value = node.meta.get("val")
    results = value[1:] if isinstance(value, tuple | list) else ()
    single = len(target._schema.returns) == 1
    with graph.inserting_before(node):
        plain = graph.call_function(target, tuple(node.args[2:]), dict(node.kwargs))
    plain.meta = {**node.meta, "val": (results[0] if single and results else tuple(results)) if target._schema.returns else None}
    left = {node}
    for user in list(node.users):
        assert user.target is operator.getitem and isinstance(user.args[1], int)
        if user.args[1] == 0:
            left.add(user)
        elif single:
            user.replace_all_uses_with(plain)
            left.add(user)
        else:
            user.args = (plain, user.args[1] - 1)
    return left
