"""``balance(E)``: the order in which weights are taken as a score, layer after layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pkcompiler.ir.types import Op
from pkcompiler.ir.walk import forward
from pkcompiler.ir.weights import groups, joinings
from pkcompiler.lang.ast import Typed
from pkcompiler.scoring.functions.evaluation import Binding, Evaluation
from pkcompiler.scoring.functions.orders.balance.counts import Counts, Ending, Leads
from pkcompiler.scoring.functions.orders.balance.cover import Ints, Shares, in_turn, rounded, taken
from pkcompiler.scoring.terms import PARAM, Term
from pkcompiler.scoring.workspace import Workspace

RAISED = (0.25, 0.5, 1.0)
"""What units count in turn, where layers share so few of them that one cannot keep as much as it should on paths."""


def balanced(work: Workspace, tie: Term, nodes: float, kernels: float) -> Term:
    """Minus the rank of every entry in its parameter, from 0 on; what lies on no path shares the lowest score.

    ``tie``: [param], or a number: the larger goes first among equals. Each parameter is ordered where the first operation reads
    it, at the weights that are kept of those before it: as many as ``work.goal`` says, without one all that the mask keeps. Then,
    from the last one back, what does not lead on through the weights that are kept behind it gives way to what does. If then some
    layer keeps less on paths than it should, ``nodes`` is raised until none does, or else to where the least is missing.
    """
    work.refuse_computed("a balance of paths and units")
    found, turns = [], turns_of(work, tie)
    for share in (nodes, *(share for share in RAISED if share > nodes)):
        found.append(Ordering(work, turns, share, kernels))
        found[-1].forward()
        if work.goal is None:
            break
        found[-1].back()
        if not found[-1].missing:
            break
    best = min(found, key=lambda ordering: ordering.missing)
    best.others()
    lowest = -float(sum(t.numel() for t in best.wanted.values()))
    return Term(PARAM, {n: _score(best.ranks[n], t, lowest) for n, t in best.wanted.items()})


def turns_of(work: Workspace, tie: Term) -> dict[str, Ints]:
    """The turn of every entry among equals: the largest ``tie`` first, then in order of position."""
    ties = {n: tie.tensors[n] if tie.axes == PARAM else tie.tensor.expand(t.shape) for n, t in work.theta.items()}
    return {n: in_turn(t.detach().cpu().numpy()) for n, t in ties.items()}


class Ordering:
    """Walks over the operations. ``edges``: 0 and 1, of what is ordered already the weights that are kept. ``first``: the first
    layer that reads each weight, by operation."""

    def __init__(self, work: Workspace, turns: Mapping[str, Ints], nodes: float, kernels: float) -> None:
        self.work, self.nodes, self.kernels = work, nodes, kernels
        captured = work.captured
        self.graph, self.wanted = captured.graph, work.theta
        self.turns = turns
        self.counts = Counts(self.graph, captured.tensors, captured.static_batch)
        self.leads = Leads(self.graph, captured.tensors, captured.static_batch)
        self.edges = self.counts.plain.edges({n: m.cpu() for n, m in work.masks.items()})
        self.allowed = {n: e.numpy() > 0 for n, e in self.edges.items() if n in self.wanted}
        self.ranks: dict[str, Ints] = {}
        self.arriving: dict[str, Ending] = {}
        reading = [(op.name, map) for op, map in joinings(self.graph.ops) if map.weight in self.wanted]
        first = {map.weight: name for name, map in reversed(reading)}
        self.first = {name: map for name, map in reading if first[map.weight] == name}

    @torch.no_grad()
    def forward(self) -> None:
        """Order the weights of every operation, at those that are kept before it."""
        leads = {op.name: at for op, at in self.leads.back(self._binary()) if op.name in self.first}
        sources = self.counts.sources()

        def step(op: Op, inputs: list[Ending]) -> Ending:
            if op.name in self.first:
                self.arriving[op.name] = inputs[0]
                self._order(op, self._paths(op, leads[op.name]), None)
            return self.counts.after(op, inputs, self.edges)

        forward(self.graph, lambda value: sources.pop(value.name), step)

    @torch.no_grad()
    def back(self) -> None:
        """Order those anew that hold weights from which no path leads on, the others among them first."""
        edges = self._binary()
        for op, leads in self.leads.back(edges):
            if op.name not in self.first:
                continue
            name, paths = self.first[op.name].weight, self._paths(op, leads)
            kept = self.edges[name].numpy() > 0
            good = kept & (paths > 0)
            if (good == kept).all():
                continue
            self._order(op, paths, np.where(good.reshape(-1), self.ranks[name], -1))
            edges[name] = self.edges[name].float()

    @property
    def missing(self) -> int:
        """How many weights the layers keep less than they should, for want of paths."""
        names = [map.weight for map in self.first.values()]
        return sum(self._budget(n) - int(np.count_nonzero(self.edges[n].numpy())) for n in names)

    def _budget(self, name: str) -> int:
        there, goal = int(np.count_nonzero(self.allowed[name])), self.work.goal
        return there if goal is None else min(there, goal.each.get(name, there))

    def _binary(self) -> dict[str, Tensor]:
        return {n: e.float() for n, e in self.edges.items()}

    def _paths(self, op: Op, leads: Tensor) -> np.ndarray:
        found: np.ndarray = self.counts.through(op, self.arriving[op.name], self.first[op.name].weight, leads.double()).numpy()
        return found

    def _order(self, op: Op, paths: np.ndarray, held: Ints | None) -> None:
        """Rank the weights of an operation, and keep the first of them."""
        map = self.first[op.name]
        name = map.weight
        allowed = self.allowed[name]
        shape = (*allowed.shape[:2], math.prod(allowed.shape[2:]))
        budget = self._budget(name)
        shares = Shares(self.nodes, self.kernels, budget)
        ranks = taken(paths.reshape(shape), allowed.reshape(shape), self.turns[name].reshape(shape), groups(map), shares, held)
        self.ranks[name] = ranks
        self.edges[name] = torch.from_numpy(((ranks >= 0) & (ranks < budget)).astype(np.float64)).reshape(allowed.shape)

    def others(self) -> None:
        """Parameters that join no units (gains, biases, values): by the number of paths through each, all else kept as chosen."""
        ordered = {map.weight for map in self.first.values()}
        names = [n for n in self.wanted if n not in ordered]
        for name, paths in self._crossed(names).items():
            live = (self.allowed[name] & (paths > 0).numpy()).reshape(-1)
            order = np.lexsort((self.turns[name].reshape(-1), -np.where(live, rounded(paths.numpy().reshape(-1)), -np.inf)))
            self.ranks[name] = np.full(live.size, -1, dtype=np.int64)
            self.ranks[name][order[: live.sum()]] = np.arange(live.sum())

    def _crossed(self, names: list[str]) -> Mapping[str, Tensor]:
        """How many paths of the whole network cross each entry, whatever its mask, times a power of 2."""
        if not names:
            return {}
        leaves = {n: torch.ones_like(self.edges[n]).requires_grad_() for n in names}
        sources = {n: x.fed.tensor for n, x in self.counts.sources().items()}
        with torch.enable_grad():
            value = self.counts.constant.run({**self.edges, **leaves}, sources).tensor.sum()
            grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(names, grads, strict=True)}


def _score(ranks: Ints, like: Tensor, lowest: float) -> Tensor:
    return torch.from_numpy(np.where(ranks >= 0, 0.0 - ranks, lowest)).reshape(like.shape).to(like.device)


def _value(evaluation: Evaluation, node: Typed) -> Term:
    return balanced(evaluation.work, evaluation.evaluate(node.args[0]), float(node.words["nodes"]), float(node.words["kernels"]))


VALUES: dict[str, Binding] = {"balance": _value}
