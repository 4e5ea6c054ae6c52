"""A path graph folded to what a reader calls layers: a convolution with its BatchNorm and gate is one node, attention another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pkcompiler.ir.maps import (
    Constant,
    Conv,
    Dense,
    Dim,
    Embed,
    Frozen,
    Gate,
    Merge,
    Named,
    Normalise,
    Product,
    Reindex,
    Resample,
    Scale,
    Softmax,
    Source,
    Window,
)
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.uses import uses
from pkcompiler.ir.walk import back
from pkcompiler.ir.weights import joinings

TITLE, DETAIL = 26, 33
"""Characters that fit into a box."""


@dataclass(frozen=True, slots=True)
class Node:
    """One box of the drawing. ``kind``: ``input``, ``weights``, ``merge``, ``other``. ``ops``: names of its operations in order.

    ``title`` and ``detail`` are its two lines; ``parameters``: the parameters that it reads; ``weight``: the one that gives it
    its colour ("" where it has none); ``shape``: of what it returns (``B`` for the batch); ``source``: the model's own line.
    """

    id: int
    kind: str
    title: str
    detail: str
    ops: tuple[str, ...]
    parameters: tuple[str, ...]
    weight: str
    shape: str
    source: str
    output: bool


@dataclass(frozen=True, slots=True)
class Drawing:
    """Nodes in topological order, and edges as pairs of their ids (positions in ``nodes``), without repeats."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]


def fold(graph: PathGraph) -> Drawing:
    """The drawing of a graph. Every operation lies in exactly one node, and the nodes form no cycle."""
    groups = _chains(graph, _regions(graph))
    order = _topological(graph, groups)
    if order is None:
        groups = _chains(graph, {op.name: op.name for op in graph.ops})
        order = _topological(graph, groups) or []
    number = {leader: len(graph.inputs) + i for i, leader in enumerate(order)}
    home = {v.name: i for i, v in enumerate(graph.inputs)} | {name: number[leader] for name, leader in groups.items()}
    members: dict[int, list[Op]] = {}
    for op in graph.ops:
        members.setdefault(home[op.name], []).append(op)
    inputs = [_input(i, v.name, shape_text(v.type.shape)) for i, v in enumerate(graph.inputs)]
    nodes = [_node(graph, i, ops) for i, ops in sorted(members.items())]
    pairs = {(home[x], home[op.name]): None for op in graph.ops for x in op.inputs if home[x] != home[op.name]}
    return Drawing((*inputs, *nodes), tuple(sorted(pairs)))


def shape_text(shape: Iterable[Dim]) -> str:
    """``B x 64 x 8 x 8``."""
    return " × ".join(str(d) if isinstance(d, int) else "B" for d in shape) or "scalar"


def shorten(name: str, length: int) -> str:
    """The end of a dotted name that fits, cut at a dot where there is one.

    >>> shorten("features.stage2.unit1.body.conv1", 20)
    '…unit1.body.conv1'
    """
    if len(name) <= length:
        return name
    tail = name[1 - length :]
    cut = tail.find(".")
    return "…" + (tail[cut + 1 :] if 0 <= cut < len(tail) - 8 else tail)


def values_of(nodes: Iterable[Node], values: Mapping[str, float | None]) -> list[float | None]:
    """Every node's value by its weight; None for nodes without one."""
    return [values.get(node.weight) if node.kind == "weights" else None for node in nodes]


def parts_of(values: Sequence[float | None]) -> list[float | None]:
    """Values as parts of the largest."""
    top = max((v for v in values if v is not None), default=0.0) or 1.0
    return [None if v is None else v / top for v in values]


# folding --------------------------------------------------------------------------------------------------------------


def _regions(graph: PathGraph) -> dict[str, str]:
    """Attention and the like: operations without a parameter, of one module, connected, that hold a product. By leader's name."""
    group = {op.name: op.name for op in graph.ops}
    inside = {
        op.name: op for op in graph.ops if not isinstance(op.map, Merge | Gate | Window | Resample) and not _stored(graph, op)
    }
    for op in graph.ops:
        for name in op.inputs if op.name in inside else ():
            if name in inside and inside[name].origin.module == op.origin.module:
                _join(group, name, op.name)
    maps = {op.name: op.map for op in graph.ops}
    whole = {leader: [n for n in group if group[n] == leader] for leader in dict.fromkeys(group.values())}
    reach = dict(back(graph, frozenset[str](), lambda _, parts: frozenset().union(*parts), _behind))
    for names in whole.values():
        if not any(isinstance(maps[n], Product) for n in names) or not _convex(names, reach):
            group |= {n: n for n in names}
    return group


def _chains(graph: PathGraph, group: dict[str, str]) -> dict[str, str]:
    """Gates, norms of a convolution, views and factors join the only one that feeds them."""
    users: dict[str, list[str]] = {}
    for op in graph.ops:
        for name in dict.fromkeys(op.inputs):
            users.setdefault(name, []).append(op.name)
    maps = {op.name: op.map for op in graph.ops}
    sizes = Counter(group.values())
    single = {op.name for op in graph.ops if sizes[group[op.name]] == 1}
    for op in graph.ops:
        before = dict.fromkeys(op.inputs)
        if len(before) != 1 or op.name not in single:
            continue
        (name,) = before
        if name in maps and len(users[name]) == 1 and name not in graph.outputs and _follows(op, maps[name]):
            group[op.name] = group[name]
    for op in graph.ops:
        readers = users.get(op.name, [])
        if isinstance(op.map, Source) and group[op.name] == op.name and len({group[r] for r in readers}) == 1:
            group[op.name] = group[readers[0]]
    return group


def _follows(op: Op, before: object) -> bool:
    match op.map:
        case Gate() | Constant() | Frozen() | Softmax() | Reindex():
            return True
        case Scale():
            return not isinstance(before, Window | Resample)
        case _:
            return False


def _join(group: dict[str, str], one: str, other: str) -> None:
    kept, gone = group[one], group[other]
    for name, leader in group.items():
        group[name] = kept if leader == gone else leader


def _behind(op: Op, behind: frozenset[str]) -> list[frozenset[str]]:
    """What depends on each value that an operation reads, from what depends on its result."""
    return [behind | {op.name}] * len(op.inputs)


def _convex(names: list[str], reach: Mapping[str, frozenset[str]]) -> bool:
    """Whether no path leaves the group and comes back."""
    inside = set(names)
    after = set().union(*(reach[n] for n in names)) - inside
    return not any(reach[n] & inside for n in after)


def _topological(graph: PathGraph, group: dict[str, str]) -> list[str] | None:
    """The groups' leaders, each behind all that it reads; None where they form a cycle."""
    reads: dict[str, set[str]] = {leader: set() for leader in group.values()}
    for op in graph.ops:
        reads[group[op.name]] |= {group[x] for x in op.inputs if x in group} - {group[op.name]}
    waiting = list(dict.fromkeys(group[op.name] for op in graph.ops))
    done: dict[str, None] = {}
    while waiting:
        ready = next((leader for leader in waiting if reads[leader] <= done.keys()), None)
        if ready is None:
            return None
        waiting.remove(ready)
        done[ready] = None
    return list(done)


# texts ----------------------------------------------------------------------------------------------------------------


def _input(i: int, name: str, shape: str) -> Node:
    return Node(i, "input", name, f"input {shape}", (), (), "", shape, "", False)


def _node(graph: PathGraph, i: int, ops: list[Op]) -> Node:
    parameters = tuple(dict.fromkeys(name for op in ops for name in _stored(graph, op)))
    head = next((op for op, _ in joinings(ops) if _stored(graph, op)), None)
    head = head or next((op for op in ops if _stored(graph, op) and not isinstance(op.map, Source)), None)
    lead = head or next((op for op in ops if isinstance(op.map, Merge | Product)), ops[0])
    weight = _stored(graph, head)[0] if head else (parameters[0] if parameters else "")
    kind = "merge" if isinstance(lead.map, Merge) else "weights" if weight else "other"
    outputs = any(op.name in graph.outputs for op in ops)
    shape = shape_text(ops[-1].result.type.shape)
    source = next((op.origin.source for op in (lead, *ops) if op.origin.source), "")
    detail = " · ".join(dict.fromkeys(word for op in ops if (word := _word(graph, op, op is lead))))
    return Node(i, kind, _title(lead, weight), detail, tuple(op.name for op in ops), parameters, weight, shape, source, outputs)


def _title(lead: Op, weight: str) -> str:
    """The module of the weight; else the operation's own module, and what it does."""
    if weight and not isinstance(lead.map, Merge):
        return weight.removesuffix(".weight")
    return lead.origin.module or lead.name


def _word(graph: PathGraph, op: Op, lead: bool) -> str:
    """What an operation is called on the second line; views behind something else are not worth a word."""
    match op.map:
        case Conv(weight):
            size = graph.slot(weight).type.shape
            kernel, stride = "×".join(map(str, size[2:])), op.map.stride
            step = f" /{stride[0]}" if stride and stride[0] != 1 else ""
            groups = f" in {op.map.groups} groups" if op.map.groups > 1 else ""
            return f"conv {kernel}{step}, {_width(op.result.type.shape, 1)} ch{groups}"
        case Dense(weight):
            shape = graph.slot(weight).type.shape
            return "dense " + " → ".join(map(str, reversed(shape)))
        case Embed(weight):
            return "embedding " + " × ".join(map(str, graph.slot(weight).type.shape))
        case Scale():
            return "norm" if op.map.center or op.map.factor else "scale"
        case Normalise():
            return "centre" if op.map.kind == "centre" else f"{op.map.kind} norm"
        case Gate():
            return op.map.kind
        case Window():
            return "max-pool"
        case Resample():
            return "average pool" if "average" in op.map.kind else "resize"
        case Softmax():
            return "softmax"
        case Product():
            return "product" if op.map.kind == "mul" else op.map.kind
        case Merge():
            return "add"
        case Source(Named(slot)):
            return f"+ {slot}"
        case Reindex():
            return op.map.fn if lead or op.map.fn in ("cat", "sum") else ""
        case Constant() | Frozen() | Source():
            return "factor" if lead else ""


def _width(shape: tuple[Dim, ...], at: int) -> str:
    return str(shape[at]) if len(shape) > at else "?"


def _stored(graph: PathGraph, op: Op) -> tuple[str, ...]:
    """The parameters that an operation reads."""
    return tuple(dict.fromkeys(use.slot for use in uses(op.map) if graph.slot(use.slot).role == "parameter"))
