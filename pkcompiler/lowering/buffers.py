"""What a recorded forward does to buffers: a graph writes in place as the forward does, and at its end where that assigns them."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch
from torch import fx, nn

from pkcompiler.lowering.call import call_with, fetch, in_place, store

VIEWS = frozenset(
    (
        "detach",
        "view",
        "reshape",
        "view_as",
        "reshape_as",
        "ravel",
        "t",
        "transpose",
        "swapaxes",
        "swapdims",
        "permute",
        "movedim",
        "moveaxis",
        "adjoint",
        "squeeze",
        "unsqueeze",
        "flatten",
        "unflatten",
        "narrow",
        "select",
        "expand",
        "expand_as",
        "chunk",
        "split",
        "tensor_split",
        "unbind",
        "diagonal",
        "unfold",
        "real",
        "imag",
        "contiguous",
        "to",
        "float",
        "double",
        "half",
        "bfloat16",
        "type",
        "type_as",
        "cpu",
    )
)
"""Methods and functions of torch whose result is, or may be, the memory of what they are called on."""

VIEW_ATTRIBUTES = ("data", "T", "H", "mT", "mH", "real", "imag")
WRITERS = frozenset({"setitem", "__setitem__"})
RUNNING = {"batch_norm": (1, 2), "instance_norm": (1, 2)}
"""Functions that write to operands without saying so, and which these are."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """What a graph does to buffers. ``origins``: those that it assigns, each with the buffer whose memory it is given, as it was
    read, or with what else made it; ``written``: those that it writes to in place.
    """

    origins: Mapping[str, str | fx.Node]
    written: frozenset[str]


def store_buffers(graph: fx.Graph, source: nn.Module, values: Mapping[str, fx.Node]) -> Buffers:
    """Write each buffer that gets another value at the end of a graph. What was read of it before stays as it was read.

    :param values: what is in the place of each buffer at the end, by name; what is that buffer itself, written in place, is left.
    """
    assigned = {name: value for name, value in values.items() if not is_read(value, name)}
    origins = {name: _origin(value) for name, value in assigned.items()}
    found = Buffers(
        {name: str(node.target) if node.op == "get_attr" else node for name, node in origins.items()},
        frozenset(written(graph, source)),
    )
    copies: dict[fx.Node, fx.Node] = {}
    for name in assigned:
        reads = [node for node in graph.nodes if node.op == "get_attr" and node.target == name]
        if reads:
            with graph.inserting_after(reads[0]):
                copy = graph.call_method("clone", (reads[0],))
            for read in reads:
                copies[read] = copy
                read.replace_all_uses_with(copy, delete_user_cb=partial(operator.is_not, copy))
    (output,) = graph.find_nodes(op="output")
    for name, value in assigned.items():
        with graph.inserting_before(output):
            graph.call_function(store, (graph.create_node("get_attr", name), copies.get(value, value), name))
    return found


def is_read(value: fx.Node, name: str) -> bool:
    """Whether a value is the buffer ``name`` as it was read, perhaps written in place since."""
    while (target := _returned(value)) is not None:
        value = target
    return value.op == "get_attr" and value.target == name


def one_memory(traces: Sequence[Buffers]) -> set[frozenset[str]]:
    """The pairs of buffers that may be one memory after some calls of the graphs, in any order, where each was its own before."""
    found: set[frozenset[str]] = set()
    while True:
        more = {pair for buffers in traces for pair in _joined(buffers.origins, found)} - found
        if not more:
            return found
        found |= more


def _joined(origins: Mapping[str, str | fx.Node], joined: Set[frozenset[str]]) -> Iterator[frozenset[str]]:
    """The pairs that are one memory after a call, where those ``joined`` may be before."""
    named = {name for pair in joined for name in pair} | {o for o in origins.values() if isinstance(o, str)} | origins.keys()
    for one, other in combinations(sorted(named), 2):
        a, b = origins.get(one, one), origins.get(other, other)
        if a == b or (isinstance(a, str) and isinstance(b, str) and frozenset((a, b)) in joined):
            yield frozenset((one, other))


def stored_by_export(graph: fx.Graph) -> dict[str, fx.Node]:
    """The values of buffers that an exported graph copies into them last, by name; the copies are taken out."""
    values: dict[str, fx.Node] = {}
    for node in reversed(list(graph.nodes)[:-1]):
        if node.target is not torch.ops.aten.copy_.default or node.users or node.args[0].target in values:
            break
        values[node.args[0].target] = node.args[1]
        graph.erase_node(node)
    return values


# writes -------------------------------------------------------------------------------------------------------------------


def written(graph: fx.Graph, source: nn.Module) -> Iterator[str]:
    """The names of parameters, buffers and constants into whose memory a graph writes. ``source``: whose members it names."""
    for node in graph.nodes:
        for operand in _written_by(node, source):
            origin = _origin(operand)
            if origin.op == "get_attr":
                yield str(origin.target)


def called(graph: fx.Graph) -> Iterator[str]:
    """The modules that a graph calls as wholes, by name."""
    for node in graph.nodes:
        if node.op == "call_module":
            yield str(node.target)
        elif node.target is call_with and isinstance(node.args[0], fx.Node):
            yield str(node.args[0].target)


def _written_by(node: fx.Node, source: nn.Module) -> Iterator[fx.Node]:
    """The operands that a node writes to: the first of an operation in place, those that a graph within the graph writes to."""
    operands = [a for a in node.args if isinstance(a, fx.Node)]
    if node.target is not store and operands and _writes(node):
        yield operands[0]
    out = node.kwargs.get("out")
    yield from (value for value in (out if isinstance(out, tuple) else (out,)) if isinstance(value, fx.Node))
    for place in RUNNING.get(getattr(node.target, "__name__", ""), ()):
        if len(node.args) > place and isinstance(given := node.args[place], fx.Node):
            yield given
    inner = [a for a in operands if a.op == "get_attr" and isinstance(fetch(source, str(a.target)), fx.GraphModule)]
    for graph in (fetch(source, str(a.target)).graph for a in inner):
        given = operands[operands.index(inner[0]) + 1 :]
        places = [origin for n in graph.nodes for o in _written_by(n, source) if (origin := _origin(o)).op == "placeholder"]
        yield from (a for a, p in zip(given, graph.find_nodes(op="placeholder"), strict=False) if p in places)


def _origin(node: fx.Node) -> fx.Node:
    """Whose memory a value is."""
    while True:
        before = _returned(node)
        if before is None and _is_view(node):
            before = next((a for a in node.args if isinstance(a, fx.Node)), None)
        if before is None:
            return node
        node = before


def _returned(node: fx.Node) -> fx.Node | None:
    """The operand that an operation in place returns."""
    operands = [a for a in node.args if isinstance(a, fx.Node)]
    return operands[0] if operands and node.target is not store and _writes(node) else None


def _writes(node: fx.Node) -> bool:
    if node.target is in_place or node.kwargs.get("inplace") is True:
        return True
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    in_place_name = name.endswith("_") and not name.endswith("__")
    return node.op in ("call_method", "call_function") and (in_place_name or name in WRITERS)


def _is_view(node: fx.Node) -> bool:
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target.is_view or node.target._opname in VIEWS
    if node.target is getattr:
        return node.args[1] in VIEW_ATTRIBUTES
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    return node.target is operator.getitem or (node.op in ("call_method", "call_function") and name in VIEWS)
