"""What a layer of ``balance`` is worth, and which of its masks is worth most: by the definition, over all masks."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def units(outer, inner, groups, size):
    """The two units that a kernel joins: outer ones are numbered through, inner ones within each group."""
    return ("outer", outer), ("inner", outer // size, inner)


def alike(paths):
    """Every tap that lies on a path counts the mean of those of its kernel that do."""
    found = np.zeros(paths.shape)
    for outer, inner in np.ndindex(*paths.shape[:2]):
        on = [p for p in paths[outer, inner] if p > 0]
        for tap, p in enumerate(paths[outer, inner]):
            found[outer, inner, tap] = sum(on) / len(on) if p > 0 else 0.0
    return found


def most_paths(paths, allowed, budget):
    return sum(sorted((p for p, a in zip(alike(paths).flat, allowed.flat, strict=True) if a), reverse=True)[:budget]) or 1.0


def worth(chosen, paths, allowed, groups, nodes, kernels, budget):
    """The objective of a set of (outer, inner, tap)."""
    size, counted = len(paths) // groups, alike(paths)
    reached = {u for o, i, _ in chosen for u in units(o, i, groups, size)}
    crossed = sum(counted[e] for e in chosen)
    opened = {(o, i) for o, i, _ in chosen}
    all_units = len(paths) + groups * paths.shape[1]
    share = crossed / most_paths(paths, allowed, budget)
    return nodes * len(reached) / all_units + (1 - nodes) * share + kernels * len(opened) / budget


def best(paths, allowed, groups, nodes, kernels, budget, count):
    """The largest worth of any ``count`` weights that are allowed and on a path."""
    live = [e for e in np.ndindex(*paths.shape) if allowed[e] and paths[e] > 0]
    given = (paths, allowed, groups, nodes, kernels, budget)
    return max(worth(chosen, *given) for chosen in combinations(live, min(count, len(live))))


def greedy(paths, allowed, tie, groups, nodes, kernels, budget):
    """One weight after another: of the largest gain, among equals of the largest tie, then the first."""
    given = (paths, allowed, groups, nodes, kernels, budget)
    left = [e for e in np.ndindex(*paths.shape) if allowed[e] and paths[e] > 0]
    taken: list[tuple[int, ...]] = []
    while left:
        before = worth(taken, *given)
        gains = [worth([*taken, e], *given) - before for e in left]
        top = max(gains)
        equal = [e for e, g in zip(left, gains, strict=True) if g > top - 1e-12]
        taken.append(min(equal, key=lambda e: (-tie[e], e)))
        left.remove(taken[-1])
    return taken
