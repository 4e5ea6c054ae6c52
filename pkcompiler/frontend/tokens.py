"""Effect tokens out of a program: torch wraps operators whose order matters in ``with_effects``; they are called plainly again."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import ExportGraphSignature, TokenArgument


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
