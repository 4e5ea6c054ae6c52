"""The order in which walks first visit weights, until as many are visited as a round keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pkcompiler.diagnostics import fail, first_few
from pkcompiler.scoring.functions.orders.walks.draw import Bits, Ints
from pkcompiler.scoring.functions.orders.walks.walker import Walker, generator
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.selection.candidates import Goal

SMALLEST, LARGEST = 256, 16384
"""Walks made at once: these grow with the number of walks made before, and depend on nothing else."""

PATIENCE = 20
"""Times that walks are made to fill up a target with hops between units already on a path, before the last walk is cut instead."""

EFFORT = 200
"""Walks per weight of the largest parameter, before a target is given up."""


@dataclass(slots=True, eq=False)
class Order:
    """First visits in order. ``counted``: the entries that the goal counts; ``ranks``: of every entry, -1 while not visited."""

    walker: Walker
    counted: Bits
    ranks: Ints
    visited: int = 0
    kept: int = 0
    walks: int = 0
    tries: int = 0
    closing: Bits | None = None  # once a whole walk would pass the goal: what may still be visited

    @classmethod
    def of(cls, walker: Walker, goal: Goal | None) -> Order:
        """Nothing visited. What counts are the entries of the goal's parameters; without a goal those of all."""
        counted = np.zeros(walker.size, dtype=bool)
        for name in walker.slots:
            counted[walker.part(name)] = goal is None or name in goal.names
        return cls(walker, counted, np.full(walker.size, -1, dtype=np.int64))

    def take(self, ids: Ints) -> None:
        """Visit these, in this order (each once, none visited before)."""
        self.ranks[ids] = self.visited + np.arange(ids.size)
        self.visited += ids.size
        self.kept += int(np.count_nonzero(self.counted[ids]))

    def add(self, walks: Ints, ids: Ints, most: int | None) -> None:
        """Visit what these walks visit; from the first walk on that would pass ``most``, only what joins units on a path."""
        walks, ids = self._fresh(walks, ids)
        running = self.kept + np.cumsum(self.counted[ids])
        if most is None or not ids.size or running[-1] <= most:
            self.take(ids)
            return
        if self.closing is None:
            whole = walks < walks[np.searchsorted(running, most, side="right")]
            self.take(ids[whole])
            self.closing = self.walker.closing(self.ranks >= 0)
            walks, ids = walks[~whole], ids[~whole]
        self.tries += 1 if (self.closing & self.counted & (self.ranks < 0)).any() else PATIENCE
        if self.tries <= PATIENCE:
            ids = ids[self.closing[ids] & self.counted[ids]]
        self.take(ids[: np.searchsorted(np.cumsum(self.counted[ids]), most - self.kept) + 1] if self.kept < most else ids[:0])

    def _fresh(self, walks: Ints, ids: Ints) -> tuple[Ints, Ints]:
        """First visits alone, in order."""
        fresh = self.ranks[ids] < 0
        walks, ids = walks[fresh], ids[fresh]
        first = np.sort(np.unique(ids, return_index=True)[1])
        return walks[first], ids[first]

    def short(self, goal: Goal) -> dict[str, tuple[int, int]]:
        """The parameters of which the goal wants more than is visited: how many there are, and how many it wants."""
        found = {}
        for name, wanted in goal.each.items():
            have = int(np.count_nonzero(self.ranks[self.walker.part(name)] >= 0)) if name in self.walker.starts else 0
            if have < wanted:
                found[name] = (have, wanted)
        return found


def order_of(walker: Walker, goal: Goal | None, draw: Draw) -> Order:
    """Walk until the goal is met; without one, half as many walks as the largest parameter has entries.

    With a goal for the total alone, the walks from the first on that would pass it add only what joins units that are already on a
    path, so that everything visited lies on one. Raises ``PKC562`` for a goal beyond what lies on paths, ``PKC563`` for one
    that is not met after very many walks, ``PKC564`` where no walk leads from an input to an output.
    """
    order = Order.of(walker, goal)
    largest = max((walker.weights[n].numel() for n in walker.slots), default=0)
    if not walker.connected:
        raise fail(
            "PKC564",
            "no walk leads from an input to an output: all weights of some layer are 0 or pruned",
            "initialise them, or start from other masks",
        )
    if goal is not None:
        _possible(order, goal)
    limit = (EFFORT * largest if goal else largest // 2) + SMALLEST
    most = goal.total if goal and not goal.each else None
    number = 0
    while order.walks < limit and not _met(order, goal):
        count = min(LARGEST, SMALLEST + order.walks // 4 // 2 * 2)
        walks, ids = walker.run(order.walks, count, generator(draw.number("walks", number)))
        order.add(walks, ids, most)
        order.walks += count
        number += 1
        if goal is None and order.visited == int(np.count_nonzero(walker.reachable)):
            break
    if goal is not None and not _met(order, goal):
        raise _missed(order, goal)
    return order


def _met(order: Order, goal: Goal | None) -> bool:
    return goal is not None and order.kept >= goal.total and not order.short(goal)


def _possible(order: Order, goal: Goal) -> None:
    most = int(np.count_nonzero(order.walker.reachable & order.counted))
    whole = int(np.count_nonzero(order.counted))
    if most < goal.total:
        walker = order.walker
        closed = [n for n in sorted(goal.names) if n not in walker.starts or not walker.reachable[walker.part(n)].any()]
        why = [f"walks cross no entry of {first_few(closed)}: 0, pruned, or factors of a computed weight"] if closed else []
        raise fail(
            "PKC562",
            f"{goal.total:,} weights are to be kept, and only {most:,} of {whole:,} lie on a path of weights other than 0",
            *why,
            f"keep at most {most:,}: a density of {most / max(1, whole):.4f} of what competes",
        )


def _missed(order: Order, goal: Goal) -> Exception:
    short = order.short(goal)
    name, (have, wanted) = next(iter(short.items()), ("all parameters", (order.kept, goal.total)))
    lower = "choose a lower density: large weights are visited again and again before the smallest ones are"
    return fail(
        "PKC563",
        f"{order.walks:,} walks visited {have:,} weights of {name}, and {wanted:,} are to be kept",
        lower if not short else "use scope = global, or a lower density",
    )
