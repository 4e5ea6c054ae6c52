"""How many entries a round keeps: how far walks go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pkcompiler.selection.candidates import Candidates, quotas


@dataclass(frozen=True, slots=True)
class Goal:
    """How many entries a round keeps.

    ``names``: the parameters that compete; ``total``: of all of them; ``each``: at least, of one.
    """

    names: frozenset[str]
    total: int
    each: Mapping[str, int]


def goal_of(found: Candidates, density: float, scope: str) -> Goal:
    """How many entries a round at ``density`` keeps of what competes."""
    names = frozenset(found.competing)
    shares = quotas(found, density, scope)
    floors = {n: k for n, k in found.floors.items() if n in names}
    if shares is not None:
        return Goal(names, sum(shares.values()), {n: max(k, floors.get(n, 0)) for n, k in shares.items()})
    protected = sum(found.protected_entries.values())
    return Goal(names, max(0, found.kept_at(density) - protected), floors)
