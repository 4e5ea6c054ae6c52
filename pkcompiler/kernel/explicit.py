"""The Path Kernel of a small graph from its paths, one by one (docs/theory.md, sections 1 and 3).

Pi = J J^T (paths x paths),   G = J^T J (parameters x parameters),   J_pi = d v_p / d theta_i = n_ip v_p / theta_i
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn

from pkcompiler.arguments import checked, methods_checked
from pkcompiler.diagnostics import fail
from pkcompiler.frontend.capture import captured_for_caller
from pkcompiler.ir.types import PathGraph
from pkcompiler.kernel.scalars import ONE, Entry, Node, Scalars, scalars
from pkcompiler.modes import in_own_modes, methods_in_own_modes
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.sources import check_finite, check_masks, check_tensors

MOST_PATHS = 4000


@dataclass(frozen=True, slots=True)
class Path:
    """One path (through products: one tuple of paths): its fixed factor, the parameter entries that it crosses (with repetition, in
    order), the entries that it starts from, and the output entry that it ends in. Positions are flattened."""

    factor: float
    crossed: tuple[Entry, ...]
    sources: tuple[Node, ...]
    output: Node


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """``values`` [n, n], symmetric, and a label per row: what is drawn of Pi."""

    values: Tensor
    labels: tuple[str, ...]


@methods_checked
@methods_in_own_modes
@dataclass(frozen=True, slots=True, eq=False)
class ExplicitKernel:
    """``values`` [paths] (v_p), ``jacobian`` [paths, size] (float64), ``labels`` one per path, ``names``: parameters in the
    order of the columns.

    Paths are ordered by output entry; those that cross a dropped parameter are left out.
    """

    paths: tuple[Path, ...]
    values: Tensor
    jacobian: Tensor
    names: tuple[str, ...]
    labels: tuple[str, ...]

    def __repr__(self) -> str:
        return f"ExplicitKernel({len(self.paths)} paths, {self.jacobian.shape[1]} parameter entries)"

    @property
    def kernel(self) -> Tensor:
        """Pi [paths, paths]."""
        return self.jacobian @ self.jacobian.T

    @property
    def gram(self) -> Tensor:
        """G [size, size], rows and columns in the order of ``path_kernel``."""
        return self.jacobian.T @ self.jacobian

    def heat_map(self, most: int = 200) -> HeatMap:
        """Pi, restricted to the ``most`` paths with the largest diagonal entries, in the order of the paths."""
        mass = self.jacobian.square().sum(1)
        chosen = mass.argsort(descending=True, stable=True)[:most].sort().values
        rows = self.jacobian[chosen]
        return HeatMap(rows @ rows.T, tuple(self.labels[i] for i in chosen.tolist()))


@checked
@in_own_modes
def explicit(
    graph: PathGraph | nn.Module,
    inputs: Any,
    masks: Mapping[str, Tensor] | None = None,
    *,
    pools: str = "sum",
    products: str = "pairs",
    constants: str = "on",
    limit: int = MOST_PATHS,
) -> ExplicitKernel:
    """The Path Kernel by enumeration, for small graphs: ``explicit(model, example_inputs)`` or ``explicit(graph, tensors)``.

    Raises ``PKC520`` for ``pools="max"``, ``PKC524`` where the graph has more than ``limit`` paths or 5000 scalar
    units, and the errors of ``path_kernel``.
    """
    if isinstance(graph, nn.Module):
        captured = captured_for_caller(graph, inputs, dtype=torch.float64)
        graph, inputs = captured.graph, captured.tensors
    check_tensors(graph, inputs)
    check_masks(graph, masks)
    check_finite(graph, inputs)
    if pools == "max":
        raise fail(
            "PKC520", "pools = max has no list of paths: they are enumerated through every entry of a window", 'use pools="sum"'
        )
    chosen = settings(edge="theta^2", pools=pools, products=products, constants=constants)
    found = scalars(graph, inputs, chosen)
    _drop(found, masks or {})
    count = count_scalar_paths(found)
    if count > limit:
        raise fail(
            "PKC524", f"the graph has {count} paths, and they are enumerated up to {limit}", "use path_kernel, or a larger limit="
        )
    return _kernel(graph, inputs, found.shapes, list_paths(found))


def _drop(found: Scalars, masks: Mapping[str, Tensor]) -> None:
    """Without the steps that cross a dropped parameter entry."""
    dropped = {n: frozenset((m.reshape(-1) == 0).nonzero().reshape(-1).tolist()) for n, m in masks.items()}
    edges = found.graph.edges(keys=True, data="entry")
    gone = [(u, v, key) for u, v, key, entry in edges if entry and entry[1] in dropped.get(entry[0], ())]
    found.graph.remove_edges_from(gone)


def count_scalar_paths(found: Scalars) -> int:
    """The number of paths (of pairs, through products), exact, without listing them."""
    count: dict[Node, int] = dict.fromkeys((ONE, *found.inputs), 1)
    for node in nx.topological_sort(found.graph):
        sides = _sides(found, node)
        if node not in count:
            totals = [sum(count[u] for u, _ in side) for side in sides]
            count[node] = totals[0] * totals[1] if len(totals) == 2 else totals[0]
    return sum(count[node] for node in found.outputs)


def list_paths(found: Scalars) -> list[Path]:
    """All paths, by output entry: lists of paths to each node, in topological order."""
    alive = set(found.outputs).union(*(nx.ancestors(found.graph, node) for node in found.outputs))
    lists: dict[Node, list[Path]] = {node: [Path(1.0, (), (node,), node)] for node in (ONE, *found.inputs)}
    for node in nx.topological_sort(found.graph.subgraph(alive)):
        if node in lists:
            continue
        listed = [[_extended(p, data, node) for u, data in side for p in lists[u]] for side in _sides(found, node)]
        lists[node] = [_joined(p, q) for p in listed[0] for q in listed[1]] if len(listed) == 2 else listed[0]
    return [p for node in found.outputs for p in lists[node]]


def _sides(found: Scalars, node: Node) -> list[list[tuple[Node, Any]]]:
    """The steps into a node; of a product, those into its first and into its second factor."""
    steps = [(u, data) for u, _, data in found.graph.in_edges(node, data=True)]
    if not node[0].endswith(" *"):
        return [steps]
    return [[(u, data) for u, data in steps if data["side"] == side] for side in (0, 1)]


def _extended(path: Path, step: Any, node: Node) -> Path:
    crossed = path.crossed if step["entry"] is None else (*path.crossed, step["entry"])
    return Path(path.factor * step["factor"], crossed, path.sources, node)


def _joined(p: Path, q: Path) -> Path:
    return Path(p.factor * q.factor, p.crossed + q.crossed, p.sources + q.sources, p.output)


def _kernel(
    graph: PathGraph, tensors: Mapping[str, Tensor], sources: Mapping[str, tuple[int, ...]], paths: list[Path]
) -> ExplicitKernel:
    names = tuple(s.name for s in graph.parameters)
    theta = {n: tensors[n].detach().double().reshape(-1).tolist() for n in names}
    starts = dict(zip(names, _offsets([len(theta[n]) for n in names]), strict=True))
    values = torch.zeros(len(paths), dtype=torch.float64)
    jacobian = torch.zeros(len(paths), sum(map(len, theta.values())), dtype=torch.float64)
    for row, path in enumerate(paths):
        numbers = [theta[n][i] for n, i in path.crossed]
        values[row] = path.factor * _product(numbers)
        for at, (n, i) in enumerate(path.crossed):
            jacobian[row, starts[n] + i] += path.factor * _product(numbers[:at] + numbers[at + 1 :])
    shapes = {n: tuple(tensors[n].shape) for n in names} | dict(sources)
    return ExplicitKernel(tuple(paths), values, jacobian, names, tuple(_label(p, shapes) for p in paths))


def _offsets(lengths: list[int]) -> list[int]:
    return [sum(lengths[:i]) for i in range(len(lengths))]


def _product(numbers: list[float]) -> float:
    out = 1.0
    for number in numbers:
        out *= number
    return out


def _label(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """``x[0] fc1.weight[2,0] fc2.weight[1,2]``: the source, then what it crosses."""
    start = " ".join("1" if node == ONE else _place(node, shapes) for node in path.sources)
    return " ".join([start, *(_place(entry, shapes) for entry in path.crossed)])


def _place(entry: Entry, shapes: Mapping[str, tuple[int, ...]]) -> str:
    name, position = entry
    at = []
    for size in reversed(shapes[name]):
        at.append(position % size)
        position //= size
    return f"{name}[{','.join(map(str, reversed(at)))}]" if at else name
