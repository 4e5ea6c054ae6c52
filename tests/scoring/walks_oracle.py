"""The definition of a walk on a network of scalars: all walks of a tiny network, and how likely each is."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from oracle.dag import Edge, Gate, Input, Max, One, Sum


class Enumerated:
    """All walks of a tiny network and their probabilities, from its graph of scalars alone."""

    def __init__(self, case):
        self.dag, self.theta = case.dag, np.abs(case.theta)
        self.shape = tuple(case.example_inputs[0].shape[1:])
        shapes = dict(case.module.named_parameters())
        self.wide = {i for i, (name, _) in enumerate(self.dag.parameters) if shapes[name].ndim > 1}
        self.into = [self.edges(node) for node in self.dag.nodes]
        self.fed = [False] * len(self.into)
        for number, node in enumerate(self.dag.nodes):
            self.fed[number] = isinstance(node, Input) or any(self.fed[e.source] for e in self.into[number])
        self.ends = [number in self.dag.outputs for number in range(len(self.into))]
        for number in reversed(range(len(self.into))):
            for edge in self.into[number]:
                self.ends[edge.source] |= self.ends[number]
        self.out = defaultdict(list)
        for number, edges in enumerate(self.into):
            for edge in edges:
                if self.ends[number]:
                    self.out[edge.source].append((number, edge))

    def edges(self, node):
        match node:
            case Sum(edges):
                return [e for e in edges if not isinstance(self.dag.nodes[e.source], One)]
            case Gate(source):
                return [Edge(source)]
            case Max(sources):
                return [Edge(s) for s in sources]
        return []

    def reader(self, number, edge):
        """Which layer or operation an edge belongs to."""
        if edge.parameters:
            return self.dag.parameters[edge.parameters[0]][0]
        return type(self.dag.nodes[number]).__name__

    def shared(self, edges):
        """Probabilities of edges of one operation: by the weight where they carry one that is chosen by, else equal."""
        sizes = [self.theta[e.parameters[0]] if set(e.parameters) & self.wide else 1.0 for e in edges]
        return np.array(sizes) / sum(sizes)

    def forward(self):
        inputs = [n for n, node in enumerate(self.dag.nodes) if isinstance(node, Input)]
        channels = self.shape[0] if len(self.shape) > 1 else len(inputs)
        return self.total(np.array(inputs).reshape(channels, -1), self.ends, self.ahead)

    def backward(self, channels):
        return self.total(np.array(self.dag.outputs).reshape(channels, -1), self.fed, self.back)

    def total(self, units, alive, go):
        found = defaultdict(float)
        units = [[int(n) for n in unit if alive[n]] for unit in units]
        units = [unit for unit in units if unit]
        for unit in units:
            for node in unit:
                go(node, (), 1.0 / len(units) / len(unit), found)
        return found

    def ahead(self, node, path, chance, found):
        if node in self.dag.outputs:
            found[path] += chance
            return
        by_reader = defaultdict(list)
        for number, edge in self.out[node]:
            by_reader[self.reader(number, edge)].append((number, edge))
        for ways in by_reader.values():
            for (number, edge), p in zip(ways, self.shared([e for _, e in ways]), strict=True):
                self.ahead(number, path + self.crossed(edge), chance * p / len(by_reader), found)

    def back(self, node, path, chance, found):
        ways = [e for e in self.into[node] if self.fed[e.source]]
        if not ways:
            found[path] += chance
            return
        for edge, p in zip(ways, self.shared(ways), strict=True):
            self.back(edge.source, path + self.crossed(edge), chance * p, found)

    def crossed(self, edge):
        return tuple(self.dag.parameters[i] for i in edge.parameters if i in self.wide)
