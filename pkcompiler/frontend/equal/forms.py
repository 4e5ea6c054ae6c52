"""Equal forms: softmax, centring, norms and frozen BatchNorms that are written out stand in the program as what they are.

A functional depends on the function, not on how it is written (docs/theory.md, section 1). The rewritten program computes the same,
to rounding; the certificates compare it with the module itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from pkcompiler.frontend.equal.distributed import factored
from pkcompiler.frontend.equal.gains import behind_gate
from pkcompiler.frontend.equal.norms import normalised, root_mean_square
from pkcompiler.frontend.equal.paired import paired, sized
from pkcompiler.frontend.equal.reading import ADD, DATA, MUL, SUB, VALUE
from pkcompiler.frontend.equal.softmax import SOFTMAXES, exp_of_log_softmax, shifted, softmax
from pkcompiler.frontend.export import Program
from pkcompiler.frontend.lift.classify import op_name
from pkcompiler.ops.gates import is_random

Form = Callable[[fx.Node], None]


def make_equal(program: Program) -> None:
    """Rewrite the program in place, in order."""
    graph = program.module.graph
    compute_once(graph)
    for node in graph.nodes:
        node.meta[DATA] = node.name in program.inputs or any(n.meta[DATA] for n in node.all_input_nodes)
        node.meta[VALUE] = program.lifted.get(node.name, program.tensors.get(program.buffers.get(node.name, "")))
    for forms in (FIRST, THEN):
        for node in list(graph.nodes):
            for form in forms.get(op_name(node), ()):
                form(node)
        graph.eliminate_dead_code()
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default  # equal forms may lie in memory in another order
    program.module.recompile()


def compute_once(graph: fx.Graph) -> None:
    """What is written twice (``x[:, :2] * torch.sigmoid(x[:, :2])``) is one value, so that a gate of it is seen as one."""
    found: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        operator = node.target
        if not isinstance(operator, torch._ops.OpOverload) or operator._schema.is_mutable or is_random(operator, node.args):
            continue
        if node.users and found.setdefault((operator, key(node.args), key(dict(node.kwargs))), node) is not node:
            node.replace_all_uses_with(found[operator, key(node.args), key(dict(node.kwargs))])


def key(value: Any) -> Any:
    """An argument, to be compared: equal numbers of different types differ."""
    match value:
        case list() | tuple():
            return tuple(map(key, value))
        case dict():
            return tuple((name, key(v)) for name, v in sorted(value.items()))
    return (type(value), repr(value) if isinstance(value, float) else value)


FIRST: dict[str, tuple[Form, ...]] = {
    MUL: (softmax, paired, behind_gate),
    ADD: (factored,),
    SUB: (factored,),
    "aten.exp.default": (exp_of_log_softmax,),
    **dict.fromkeys(SOFTMAXES, (shifted,)),
}
"""What is put together, or apart, so that one operation stands for one thing."""

THEN: dict[str, tuple[Form, ...]] = {MUL: (normalised, root_mean_square, sized)}
"""Norms, each of which is a factor of its own by now."""
