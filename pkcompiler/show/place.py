"""Where nodes and edges of a drawing lie: layers from top to bottom, folded into columns like a newspaper.

A layered drawing (Sugiyama, Tagawa, Toda 1981) with the longest chain kept straight. Edges run at right angles; what passes a layer
by runs in a track of its own, beside the nodes. Units are pixels at zoom 1; y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pkcompiler.show.nodes import Drawing

WIDTH, HEIGHT = 178.0, 42.0
ROW, LANE = 66.0, 196.0
TRACK, GUTTER, MARGIN = 13.0, 58.0, 22.0
CORNER = 7.0
ASPECT = 1.35
"""Width over height of the frame that the drawing should fill."""
MOST = 16
"""Columns, at most."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Placed:
    """``centres[i]`` of node i; ``routes[j]``, the corners of edge j; all of it within (0, 0) and (``width``, ``height``)."""

    centres: tuple[Point, ...]
    routes: tuple[tuple[Point, ...], ...]
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class _Grid:
    """Rank, lane and column of every node; the first rank of every column (and one behind the last)."""

    ranks: Sequence[int]
    lanes: Sequence[int]
    starts: Sequence[int]

    def column(self, rank: int) -> int:
        return sum(start <= rank for start in self.starts[1:])

    def right(self, first: int, last: int) -> int:
        """The rightmost lane in use between two ranks."""
        return max((lane for r, lane in zip(self.ranks, self.lanes, strict=True) if first <= r <= last), default=0)

    def free(self, lane: int, first: int, last: int) -> bool:
        return not any(lane == at and first <= r <= last for r, at in zip(self.ranks, self.lanes, strict=True))


def place(drawing: Drawing) -> Placed:
    """Positions for every node and every edge; the same drawing gives the same positions."""
    before, after = _neighbours(drawing)
    ranks = _ranks(before, after)
    lanes = _lanes(ranks, before, after)
    crossing = [len({a for a, b in drawing.edges if ranks[a] < r <= ranks[b]}) for r in range(max(ranks) + 1)]
    grid, tracks, lefts, (width, height) = min(
        (_folded(_Grid(ranks, lanes, starts), drawing.edges) for starts in _foldings(crossing)),
        key=lambda folded: max(folded[3][0], ASPECT * folded[3][1]),
    )
    centres = tuple(
        (lefts[grid.column(r)] + lane * LANE + WIDTH / 2, MARGIN + (r - grid.starts[grid.column(r)]) * ROW + HEIGHT / 2)
        for r, lane in zip(ranks, lanes, strict=True)
    )
    router = _Router(grid, centres, lefts, tracks, height)
    return Placed(centres, tuple(router.route(a, b) for a, b in drawing.edges), width, height)


def rounded(corners: Sequence[Point], radius: float = CORNER, steps: int = 4) -> list[Point]:
    """The polyline with its corners rounded off."""
    out = [corners[0]]
    for (x0, y0), (x1, y1), (x2, y2) in zip(corners, corners[1:], corners[2:], strict=False):
        before, after = math.dist((x0, y0), (x1, y1)), math.dist((x1, y1), (x2, y2))
        r = min(radius, before / 2, after / 2)
        if r <= 0:
            continue
        a = (x1 + (x0 - x1) * r / before, y1 + (y0 - y1) * r / before)
        b = (x1 + (x2 - x1) * r / after, y1 + (y2 - y1) * r / after)
        for t in (i / steps for i in range(steps + 1)):
            u, v, w = (1 - t) ** 2, 2 * t * (1 - t), t * t
            out.append((u * a[0] + v * x1 + w * b[0], u * a[1] + v * y1 + w * b[1]))
    return [*out, corners[-1]]


# ranks, lanes, columns ------------------------------------------------------------------------------------------------


def _neighbours(drawing: Drawing) -> tuple[list[list[int]], list[list[int]]]:
    before: list[list[int]] = [[] for _ in drawing.nodes]
    after: list[list[int]] = [[] for _ in drawing.nodes]
    for a, b in drawing.edges:
        before[b].append(a)
        after[a].append(b)
    return before, after


def _ranks(before: list[list[int]], after: list[list[int]]) -> list[int]:
    """As early as possible; what reads nothing lies right above its first reader."""
    ranks = [0] * len(before)
    for i in range(len(before)):
        ranks[i] = max((ranks[j] + 1 for j in before[i]), default=0)
    for i, readers in enumerate(after):
        if not before[i] and readers:
            ranks[i] = min(ranks[j] for j in readers) - 1
    return ranks


def _lanes(ranks: list[int], before: list[list[int]], after: list[list[int]]) -> list[int]:
    """Chains stay in their lane, the longest first; a lane stays free below a node all of whose readers come later."""
    heights = [0] * len(ranks)
    for i in reversed(range(len(ranks))):
        heights[i] = max((heights[j] + 1 for j in after[i]), default=0)
    heir = [
        max((j for j in readers if ranks[j] == ranks[i] + 1), key=lambda j: (heights[j], -j), default=-1)
        for i, readers in enumerate(after)
    ]
    taken: dict[int, set[int]] = {}
    lanes = [0] * len(ranks)
    for i in sorted(range(len(ranks)), key=lambda i: (ranks[i], -heights[i], i)):
        used = taken.setdefault(ranks[i], set())
        wanted = [lanes[j] for j in before[i] if heir[j] == i]
        lanes[i] = min((lane for lane in wanted if lane not in used), default=_free(used))
        last = max((ranks[j] for j in after[i]), default=ranks[i]) if heir[i] < 0 else ranks[i] + 1
        for rank in range(ranks[i], max(last, ranks[i] + 1)):
            taken.setdefault(rank, set()).add(lanes[i])
    return lanes


def _free(used: set[int]) -> int:
    return next(lane for lane in range(len(used) + 1) if lane not in used)


def _foldings(crossing: Sequence[int]) -> list[list[int]]:
    """First ranks of the columns, for every number of columns: of about equal height, broken where the fewest values cross."""
    count = len(crossing)
    found: dict[tuple[int, ...], None] = {(0, count): None}
    for number in range(2, min(MOST, count // 3) + 1):
        starts = [0]
        slack = max(1, round(count / number / 4))
        for i in range(1, number):
            ideal = round(i * count / number)
            near = [r for r in range(ideal - slack, ideal + slack + 1) if starts[-1] + 1 < r < count - 1]
            if near:
                starts.append(min(near, key=lambda r: (crossing[r], abs(r - ideal))))
        found[(*starts, count)] = None
    return [list(starts) for starts in found]


def _folded(grid: _Grid, edges: Sequence[tuple[int, int]]) -> tuple[_Grid, dict[tuple[int, int], int], list[float], Point]:
    tracks = _tracks(grid, edges)
    lefts, width = _lefts(grid, tracks)
    depth = max(b - a for a, b in zip(grid.starts, grid.starts[1:], strict=False))
    return grid, tracks, lefts, (width, depth * ROW - (ROW - HEIGHT) + 2 * MARGIN)


def _spans(grid: _Grid, edge: tuple[int, int]) -> tuple[int, int, int] | None:
    """The column and the ranks along which an edge needs a track; None where it needs none."""
    a, b = edge
    first, last = grid.ranks[a], grid.ranks[b]
    column = grid.column(first)
    end = grid.starts[column + 1] - 1
    if last > end:
        return None if first == end or grid.free(grid.lanes[a], first + 1, end) else (column, first, end)
    straight = last == first + 1 or grid.free(grid.lanes[a], first + 1, last - 1)
    return None if straight else (column, first, last)


def _tracks(grid: _Grid, edges: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """The number of its track, short ones inside. Edges that share their source share it."""
    wanted: dict[tuple[int, int], tuple[int, int, int]] = {e: span for e in edges if (span := _spans(grid, e))}
    found: dict[tuple[int, int], int] = {}
    for edge in sorted(wanted, key=lambda e: (wanted[e][2] - wanted[e][1], e)):
        column, first, last = wanted[edge]
        used = {
            found[e] for e in found if wanted[e][0] == column and wanted[e][1] < last and first < wanted[e][2] and e[0] != edge[0]
        }
        found[edge] = _free(used)
    return found


def _lefts(grid: _Grid, tracks: dict[tuple[int, int], int]) -> tuple[list[float], float]:
    """The left side of every column, and the width of all."""
    lefts, x = [], MARGIN
    for column, (first, end) in enumerate(zip(grid.starts, grid.starts[1:], strict=False)):
        lefts.append(x)
        beside = [n + 1 for (a, _), n in tracks.items() if grid.column(grid.ranks[a]) == column]
        x += grid.right(first, end - 1) * LANE + WIDTH + max(beside, default=0) * TRACK + GUTTER
    return lefts, x - GUTTER + MARGIN


@dataclass(frozen=True, slots=True)
class _Router:
    grid: _Grid
    centres: Sequence[Point]
    lefts: Sequence[float]
    tracks: dict[tuple[int, int], int]
    height: float

    def route(self, a: int, b: int) -> tuple[Point, ...]:
        """From below a node (or its right side) to above the next one (or its right side)."""
        same = self.grid.column(self.grid.ranks[a]) == self.grid.column(self.grid.ranks[b])
        points = self._within(a, b) if same else self._across(a, b)
        return tuple(p for i, p in enumerate(points) if i == 0 or p != points[i - 1])

    def _within(self, a: int, b: int) -> list[Point]:
        (xa, ya), (xb, yb) = self.centres[a], self.centres[b]
        if (a, b) not in self.tracks:
            return [(xa, ya + HEIGHT / 2), *self._above(b, xa), (xb, yb - HEIGHT / 2)]
        x = self._track(a, b, self.grid.ranks[b])
        return [*self._leave(a, x), *self._enter(b, x)]

    def _across(self, a: int, b: int) -> list[Point]:
        column, rank = self.grid.column(self.grid.ranks[a]), self.grid.ranks[b]
        (xa, ya), (xb, yb) = self.centres[a], self.centres[b]
        to = self.grid.column(rank)
        bottom, top = self.height - MARGIN / 2, MARGIN / 2
        up = self.lefts[column + 1] - GUTTER / 2
        start: list[Point] = [(xa, ya + HEIGHT / 2), (xa, bottom)]
        if (a, b) in self.tracks:
            x = self._track(a, b, self.grid.starts[column + 1] - 1)
            start = [*self._leave(a, x), (x, bottom)]
        if rank == self.grid.starts[to]:
            return [*start, (up, bottom), (up, top), (xb, top), (xb, yb - HEIGHT / 2)]
        down = self.lefts[to] - GUTTER / 2 + 8
        if to == column + 1:
            return [*start, (down, bottom), *self._above(b, down), (xb, yb - HEIGHT / 2)]
        return [*start, (up, bottom), (up, top), (down, top), *self._above(b, down), (xb, yb - HEIGHT / 2)]

    def _track(self, a: int, b: int, last: int) -> float:
        first = self.grid.ranks[a]
        return self.lefts[self.grid.column(first)] + self.grid.right(first, last) * LANE + WIDTH + (self.tracks[a, b] + 1) * TRACK

    def _above(self, b: int, x: float) -> list[Point]:
        xb, yb = self.centres[b]
        gap = yb - HEIGHT / 2 - (ROW - HEIGHT) / 2
        return [] if x == xb else [(x, gap), (xb, gap)]

    def _leave(self, a: int, x: float) -> list[Point]:
        xa, ya = self.centres[a]
        if self._rightmost(a):
            return [(xa + WIDTH / 2, ya), (x, ya)]
        gap = ya + HEIGHT / 2 + (ROW - HEIGHT) / 2
        return [(xa, ya + HEIGHT / 2), (xa, gap), (x, gap)]

    def _enter(self, b: int, x: float) -> list[Point]:
        xb, yb = self.centres[b]
        if self._rightmost(b):
            return [(x, yb), (xb + WIDTH / 2, yb)]
        return [*self._above(b, x), (xb, yb - HEIGHT / 2)]

    def _rightmost(self, i: int) -> bool:
        rank = self.grid.ranks[i]
        return self.grid.lanes[i] == self.grid.right(rank, rank)
