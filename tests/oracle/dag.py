"""A network as a directed acyclic graph of scalars: one node per tensor entry, edges that carry parameter indices.

A node's number is its position in ``Dag.nodes``; a node refers to earlier nodes only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import nn

EdgeKind = Literal["plain", "constant", "centre"]


@dataclass(frozen=True, slots=True)
class Edge:
    """``coefficient * prod(parameters) * node``. ``constant``: from a constant source; ``centre``: the centring of a normalise."""

    source: int
    coefficient: float = 1.0
    parameters: tuple[int, ...] = ()
    kind: EdgeKind = "plain"


@dataclass(frozen=True, slots=True)
class Input:
    """Entry ``position`` of the encoded input."""

    position: int


@dataclass(frozen=True, slots=True)
class One:
    """The value 1, from which biases, parameters that enter as values, and constant sources start."""


@dataclass(frozen=True, slots=True)
class Sum:
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class Gate:
    source: int
    phi: str


@dataclass(frozen=True, slots=True)
class Max:
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mul:
    """``left * right``."""

    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Divide:
    """``source / deviation(group)``: ``layer`` sqrt(var + eps), ``rms`` sqrt(mean square + eps)."""

    source: int
    group: tuple[int, ...]
    kind: Literal["layer", "rms"]
    eps: float = 0.0


@dataclass(frozen=True, slots=True)
class SoftmaxEntry:
    """Entry ``which`` of the softmax over the allowed ``scores``."""

    scores: tuple[int, ...]
    which: int


Node = Input | One | Sum | Gate | Max | Mul | Divide | SoftmaxEntry


@dataclass(slots=True)
class Dag:
    """The scalar graph and its hand-written builders; node tensors are integer arrays without the batch dimension."""

    module: nn.Module
    nodes: list[Node] = field(default_factory=lambda: [One()])
    outputs: tuple[int, ...] = ()
    inputs: int = 0
    parameters: tuple[tuple[str, int], ...] = ()
    index: dict[tuple[str, int], int] = field(default_factory=dict)
    cache: dict = field(default_factory=dict)
    _slots: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        listed = []
        for name, tensor in self.module.named_parameters():
            start = len(listed)
            listed += [(name, flat) for flat in range(tensor.numel())]
            self._slots[id(tensor)] = np.arange(start, len(listed)).reshape(tuple(tensor.shape))
        self.parameters = tuple(listed)
        self.index = {entry: number for number, entry in enumerate(listed)}

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def slot(self, tensor: torch.Tensor) -> np.ndarray:
        """Parameter indices of a parameter, in its shape."""
        return self._slots[id(tensor)]

    def input(self, *shape: int) -> np.ndarray:
        """The next input tensor, one node per entry."""
        count = int(np.prod(shape))
        nodes = [self.add(Input(self.inputs + position)) for position in range(count)]
        self.inputs += count
        return np.array(nodes).reshape(shape)

    def _each(self, shape: tuple[int, ...], edges_at) -> np.ndarray:
        result = np.empty(shape, dtype=int)
        for place in np.ndindex(*shape):
            result[place] = self.add(Sum(tuple(edges_at(place))))
        return result

    def bias(self, tensor: torch.Tensor | None, place: tuple[int, ...] | int) -> list[Edge]:
        return [] if tensor is None else [Edge(0, 1.0, (int(self.slot(tensor)[place]),))]

    def value(self, tensor: torch.Tensor) -> np.ndarray:
        """A parameter that enters as a value."""
        return self._each(tuple(tensor.shape), lambda place: self.bias(tensor, place))

    def linear(self, x: np.ndarray, layer: nn.Linear) -> np.ndarray:
        w = self.slot(layer.weight)

        def edges(place):
            row, o = x[place[:-1]], place[-1]
            return [Edge(int(row[i]), 1.0, (int(w[o, i]),)) for i in range(w.shape[1])] + self.bias(layer.bias, o)

        return self._each((*x.shape[:-1], w.shape[0]), edges)

    def embedding(self, rows: np.ndarray, weight: torch.Tensor) -> np.ndarray:
        """``rows`` [position, vocabulary]: one node per row that a position may choose."""
        w = self.slot(weight)
        return self._each(
            (rows.shape[0], w.shape[1]), lambda at: [Edge(int(rows[at[0], v]), 1.0, (int(w[v, at[1]]),)) for v in range(w.shape[0])]
        )

    def conv(self, x: np.ndarray, layer: nn.Module) -> np.ndarray:
        """Any number of spatial dimensions; x [channels, spatial...]."""
        w, rank = self.slot(layer.weight), x.ndim - 1
        s, p, d = layer.stride, layer.padding, layer.dilation
        per_group, out_per_group = w.shape[1], w.shape[0] // layer.groups
        size = [(x.shape[a + 1] + 2 * p[a] - d[a] * (w.shape[a + 2] - 1) - 1) // s[a] + 1 for a in range(rank)]

        def edges(place):
            o, at = place[0], place[1:]
            found = []
            for c in range(per_group):
                for k in np.ndindex(*w.shape[2:]):
                    where = [at[a] * s[a] - p[a] + k[a] * d[a] for a in range(rank)]
                    if all(0 <= where[a] < x.shape[a + 1] for a in range(rank)):
                        channel = (o // out_per_group) * per_group + c
                        found.append(Edge(int(x[(channel, *where)]), 1.0, (int(w[(o, c, *k)]),)))
            return found + self.bias(layer.bias, o)

        return self._each((w.shape[0], *size), edges)

    def conv_transposed(self, x: np.ndarray, layer: nn.Module) -> np.ndarray:
        """The adjoint of a convolution; weight [in, out / groups, kernel...]."""
        w, rank = self.slot(layer.weight), x.ndim - 1
        s, p, d, extra = layer.stride, layer.padding, layer.dilation, layer.output_padding
        size = [(x.shape[a + 1] - 1) * s[a] - 2 * p[a] + d[a] * (w.shape[a + 2] - 1) + extra[a] + 1 for a in range(rank)]
        reached: dict[tuple[int, ...], list[Edge]] = {}
        in_per_group = x.shape[0] // layer.groups
        for place in np.ndindex(*x.shape):
            group = place[0] // in_per_group
            for o, k in itertools.product(range(w.shape[1]), np.ndindex(*w.shape[2:])):
                where = tuple(place[a + 1] * s[a] - p[a] + k[a] * d[a] for a in range(rank))
                reached.setdefault((group * w.shape[1] + o, *where), []).append(
                    Edge(int(x[place]), 1.0, (int(w[(place[0], o, *k)]),))
                )
        shape = (w.shape[1] * layer.groups, *size)
        return self._each(shape, lambda place: reached.get(place, []) + self.bias(layer.bias, place[0]))

    def _windows(self, x: np.ndarray, kernel: int, stride: int, padding: int) -> dict[tuple[int, ...], list[int]]:
        rank = x.ndim - 1
        size = [(n + 2 * padding - kernel) // stride + 1 for n in x.shape[1:]]
        found = {}
        for place in np.ndindex(x.shape[0], *size):
            inside = []
            for k in np.ndindex(*[kernel] * rank):
                where = [place[a + 1] * stride - padding + k[a] for a in range(rank)]
                if all(0 <= where[a] < x.shape[a + 1] for a in range(rank)):
                    inside.append(int(x[(place[0], *where)]))
            found[place] = inside
        return found

    def average_pool(self, x: np.ndarray, kernel: int, stride: int, padding: int, include_pad: bool) -> np.ndarray:
        windows = self._windows(x, kernel, stride, padding)
        whole = kernel ** (x.ndim - 1)
        result = {at: [Edge(i, 1.0 / (whole if include_pad else len(inside))) for i in inside] for at, inside in windows.items()}
        return self._each(tuple(1 + max(at[a] for at in windows) for a in range(x.ndim)), result.__getitem__)

    def max_pool(self, x: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
        windows = self._windows(x, kernel, stride, padding)
        result = np.empty(tuple(1 + max(at[a] for at in windows) for a in range(x.ndim)), dtype=int)
        for at, inside in windows.items():
            result[at] = self.add(Max(tuple(inside)))
        return result

    def batch_norm(self, x: np.ndarray, layer: nn.Module) -> np.ndarray:
        """Evaluation mode; x [channels, ...]. The mean is a constant source that passes through the gain."""
        inverse = 1.0 / np.sqrt(layer.running_var.detach().numpy() + layer.eps)
        mean = layer.running_mean.detach().numpy()
        gain = self.slot(layer.weight)

        def edges(place):
            c = place[0]
            by = (int(gain[c]),)
            shift = Edge(0, float(-mean[c] * inverse[c]), by, "constant")
            return [Edge(int(x[place]), float(inverse[c]), by), shift, *self.bias(layer.bias, c)]

        return self._each(x.shape, edges)

    def normalise(self, x: np.ndarray, groups: list[np.ndarray], kind: str, eps: float, gain, bias) -> np.ndarray:
        """``groups``: flat positions of x that share a deviation; ``gain``, ``bias``: parameter index by flat position.

        ``kind``: that of :class:`Divide`, or ``norm``, x over its Euclidean norm: ``rms`` over the square root of the group's size.
        """
        flat, result = x.reshape(-1), np.empty(x.size, dtype=int)
        for group in groups:
            members = tuple(int(n) for n in flat[group])
            for position in group:
                node = int(flat[position])
                if kind == "layer":
                    centre = tuple(Edge(m, -1.0 / len(members), (), "centre") for m in members)
                    node = self.add(Sum((Edge(node), *centre)))
                node = self.add(Divide(node, members, "rms" if kind == "norm" else kind, eps))
                scale = len(members) ** -0.5 if kind == "norm" else 1.0
                by = () if gain is None else (int(gain[position]),)
                added = () if bias is None else (Edge(0, 1.0, (int(bias[position]),)),)
                result[position] = self.add(Sum((Edge(node, scale, by), *added)))
        return result.reshape(x.shape)

    def gate(self, x: np.ndarray, phi: str) -> np.ndarray:
        return np.array([self.add(Gate(int(n), phi)) for n in x.reshape(-1)]).reshape(x.shape)

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        left, right = np.broadcast_arrays(left, right)
        pairs = zip(left.reshape(-1), right.reshape(-1), strict=True)
        return np.array([self.add(Mul(int(a), int(b))) for a, b in pairs]).reshape(left.shape)

    def matmul(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """A product of two matrices of nodes."""
        places = np.ndindex(left.shape[0], right.shape[1])
        terms = ([Edge(self.add(Mul(int(a), int(b)))) for a, b in zip(left[i], right[:, j], strict=True)] for i, j in places)
        return np.array([self.add(Sum(tuple(edges))) for edges in terms]).reshape(left.shape[0], right.shape[1])

    def combine(self, terms: list[tuple[np.ndarray, float]], constant: float = 0.0) -> np.ndarray:
        """A sum of tensors with literal factors, and a literal added as a constant source."""
        arrays = np.broadcast_arrays(*(x for x, _ in terms))
        added = [Edge(0, constant, (), "constant")] if constant else []
        factors = [f for _, f in terms]
        return self._each(arrays[0].shape, lambda at: [Edge(int(x[at]), f) for x, f in zip(arrays, factors, strict=True)] + added)

    def scale(self, x: np.ndarray, gain: torch.Tensor) -> np.ndarray:
        """Elementwise by a parameter over the last dimension."""
        by = self.slot(gain)
        return self._each(x.shape, lambda at: [Edge(int(x[at]), 1.0, (int(by[at[-1]]),))])

    def mean(self, x: np.ndarray) -> np.ndarray:
        """The mean over the last dimension."""
        return self._each(x.shape[:-1], lambda at: [Edge(int(n), 1.0 / x.shape[-1]) for n in x[at]])

    def softmax(self, scores: np.ndarray) -> np.ndarray:
        """Over the last dimension of a matrix."""
        rows = [tuple(int(n) for n in row) for row in scores]
        return np.array([[self.add(SoftmaxEntry(row, j)) for j in range(len(row))] for row in rows])

    def attention(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool = False) -> np.ndarray:
        """One head; q, k, v [position, channel]."""
        length, width = v.shape
        result = np.empty((q.shape[0], width), dtype=int)
        for i in range(q.shape[0]):
            allowed = range(i + 1) if causal else range(length)
            scores = []
            for j in allowed:
                parts = tuple(Edge(self.add(Mul(int(a), int(b))), q.shape[1] ** -0.5) for a, b in zip(q[i], k[j], strict=True))
                scores.append(self.add(Sum(parts)))
            weights = [self.add(SoftmaxEntry(tuple(scores), j)) for j in allowed]
            for c in range(width):
                result[i, c] = self.add(Sum(tuple(Edge(self.add(Mul(int(v[j, c]), weights[j]))) for j in allowed)))
        return result
