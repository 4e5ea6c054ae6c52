"""Which parameters compete, which are protected, how many entries of each are kept at a density (docs/theory.md, section 7)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np
from torch import Tensor

from pkcompiler.diagnostics import Diagnostic, PkcError, fail, first_few, typed_or_called
from pkcompiler.ir.maps import Normalise, Scale
from pkcompiler.ir.types import PathGraph, Slot
from pkcompiler.ir.weights import Sides, reads_of, sides_of


@dataclass(frozen=True, slots=True)
class Candidates:
    """``sizes``: the entries of every parameter that counts in N, in the graph's order; ``protected``: those that ``except`` keeps;
    ``floors``: the fewest entries to keep of some."""

    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    protected: frozenset[str]
    floors: Mapping[str, int]
    sides: Mapping[str, Sides] = field(default_factory=dict)  # of the weights of dense layers and convolutions
    held: Mapping[str, int] = field(default_factory=dict)  # what protected ones keep, where masks before have pruned them

    @property
    def total(self) -> int:
        """N: what is prunable after ``include`` and before ``except``."""
        return sum(self.sizes.values())

    @property
    def competing(self) -> tuple[str, ...]:
        """The parameters that are not protected, in the graph's order."""
        return tuple(n for n in self.sizes if n not in self.protected)

    @property
    def protected_entries(self) -> dict[str, int]:
        """What every protected parameter keeps."""
        return {n: self.held.get(n, size) for n, size in self.sizes.items() if n in self.protected}

    def under(self, masks: Mapping[str, Tensor]) -> Candidates:
        """The same where masks have pruned some: what is protected keeps what they have left of it."""
        return replace(self, held={n: int(np.count_nonzero(masks[n].cpu().numpy())) for n in self.protected if n in masks})

    def kept_at(self, density: float) -> int:
        """round(density * N)."""
        return round(density * self.total)


def candidates(
    graph: PathGraph,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    floors: Sequence[tuple[str, float]] = (),
    frozen: Collection[str] = (),
) -> Candidates:
    """The candidates of a stage. Globs that match nothing are errors (``PKC402``), all reported at once.

    ``frozen``: the parameters of the model that do not train, for ``except = frozen``.
    """
    slots = {s.name: s for s in graph.parameters}
    kinds = {n: found | {"frozen"} if n in frozen else found for n, found in parameter_kinds(graph).items()}
    errors: list[Diagnostic] = []
    chosen = {s.name for s in graph.prunable} | _matching(include, slots, kinds, "include", errors)
    protected = _matching(exclude, slots, kinds, "except", errors) & chosen
    lowest: dict[str, int] = {}
    for glob, fraction in floors:
        hits = _matching((glob,), slots, kinds, "floor", errors)
        if hits and not hits & chosen:
            errors.append(_idle_floor(glob, chosen))
        for name in sorted(hits & chosen):
            lowest[name] = max(lowest.get(name, 0), math.ceil(fraction * math.prod(_shape(slots[name]))))
    if errors:
        raise PkcError(*errors)
    ordered = [s.name for s in graph.parameters if s.name in chosen]
    if ordered and not any(math.prod(_shape(slots[n])) for n in ordered):
        raise fail("PKC402", f"the prunable parameters hold no entry: {first_few(ordered)}", "give their layers inputs and outputs")
    if not ordered:
        raise fail(
            "PKC402",
            "the model has no prunable parameter",
            "weights of linear and convolution layers are; add others: "
            + typed_or_called("--include GLOB", 'include = "GLOB" in a stage of schedule='),
        )
    shapes = {n: _shape(slots[n]) for n in ordered}
    return Candidates({n: math.prod(shapes[n]) for n in ordered}, shapes, frozenset(protected), lowest, sides_of(graph))


def pruned_frozen(stages: Sequence[Candidates], frozen: Collection[str]) -> str:
    """What there is to say of parameters that do not train and compete all the same; '' where there are none."""
    names = list(dict.fromkeys(n for found in stages for n in found.competing if n in frozen))
    shown = first_few([f"'{n}'" for n in names], 3)
    return f"frozen parameters (requires_grad = False) are pruned, too: {shown}; except = frozen keeps them" if names else ""


def _idle_floor(glob: str, chosen: set[str]) -> Diagnostic:
    names = ", ".join(sorted(chosen)[:4])
    message = f'floor "{glob}" matches only parameters that are never pruned here'
    return Diagnostic("PKC402", message, notes=(f"what competes is called {names}, ...; leave the floor out",))


def _shape(slot: Slot) -> tuple[int, ...]:
    """A parameter's shape (which holds no batch dimension)."""
    return tuple(d for d in slot.type.shape if isinstance(d, int))


def parameter_kinds(graph: PathGraph) -> dict[str, set[str]]:
    """Which of ``bias``, ``norm``, ``embedding`` each parameter is."""
    kinds: dict[str, set[str]] = {s.name: set() for s in graph.parameters}
    for slot, kind, op in reads_of(graph.ops):
        if slot not in kinds:
            continue
        if kind == "bias":
            kinds[slot].add("bias")
        if isinstance(op.map, Scale | Normalise):
            kinds[slot].add("norm")
        if kind == "embed":
            kinds[slot].add("embedding")
    return kinds


def _matching(
    globs: Sequence[str], slots: Mapping[str, Slot], kinds: Mapping[str, set[str]], word: str, errors: list[Diagnostic]
) -> set[str]:
    found: set[str] = set()
    for glob in globs:
        hits = {n for n in slots if (glob[1:] in kinds[n] if glob.startswith("@") else fnmatchcase(n, glob))}
        if not hits and not glob.startswith("@"):
            names = ", ".join(list(slots)[:4])
            errors.append(
                Diagnostic("PKC402", f'{word} "{glob}" matches no parameter', notes=(f"parameters are called {names}, ...",))
            )
        found |= hits
    return found


def check_reachable(found: Candidates, density: float, named: str) -> None:
    """Refuse a target below what protection and floors keep (``PKC403``), with the number by which it misses."""
    wanted = found.kept_at(density)
    kept = sum(found.protected_entries.values())
    floors = sum(k for n, k in found.floors.items() if n not in found.protected)
    if kept + floors > wanted:
        raise fail(
            "PKC403",
            f"{named} keeps {wanted:,} of {found.total:,} weights, but 'except' and floors protect {kept + floors:,}: "
            f"{kept + floors - wanted:,} too many",
            _remedy(found, density, kept, floors),
        )


def _remedy(found: Candidates, density: float, kept: int, floors: int) -> str:
    """A density that can be met, and that leaves what competes its part: at least its floors, and one entry per parameter."""
    rest = found.total - kept
    if not rest:
        return "every weight is protected: leave out 'except', or protect less"
    least = sum(max(1, found.floors.get(n, 0)) for n in found.competing)
    left = max(round(density * rest), least, floors)
    ask = math.ceil(10_000 * (kept + left) / found.total) / 10_000
    others = found.kept_at(ask) - kept
    return f"a density of {ask:g} keeps them and {others:,} of the {rest:,} weights that are not protected; or protect less"


def quotas(found: Candidates, density: float, scope: str) -> dict[str, int] | None:
    """Entries to keep per competing parameter; None for ``global``.

    ``layer``: round(d * size) each, at the density d of what ``except`` and floors leave over. ``uniform`` and ``erk`` hand out
    exactly round(density * N), the protected entries taken off, in proportion to the sizes or to the Erdos-Renyi-Kernel densities
    (Evci et al. 2020, arXiv:1911.11134), by largest remainder.
    """
    if scope == "global":
        return None
    names = found.competing
    if scope == "layer":
        return _rounded_alone(density, found)
    budget = max(0, found.kept_at(density) - sum(found.protected_entries.values()))
    weights = {n: float(found.sizes[n]) if scope == "uniform" else _erk(found.shapes[n]) for n in names}
    return _above_floors(budget, weights, found)


def left_over(found: Candidates, density: float, fixed: Mapping[str, int] | None = None) -> float:
    """The density of what competes at which all candidates together keep ``density``; ``fixed``: entries that some keep whatever
    it is."""
    taken = {**found.protected_entries, **(fixed or {})}
    rest = sum(size for n, size in found.sizes.items() if n not in taken)
    if not taken or not rest:
        return density
    return min(1.0, max(0.0, (density * found.total - sum(taken.values())) / rest))


def _rounded_alone(density: float, found: Candidates) -> dict[str, int]:
    """One density for all that compete, each rounded for itself; who would fall below its floor is given the floor."""
    fixed: dict[str, int] = {}
    while True:
        part = left_over(found, density, fixed)
        shares = {n: fixed[n] if n in fixed else round(part * found.sizes[n]) for n in found.competing}
        low = {n: found.floors[n] for n, share in shares.items() if share < found.floors.get(n, 0)}
        if not low:
            return shares
        fixed |= low


def _above_floors(budget: int, weights: Mapping[str, float], found: Candidates) -> dict[str, int]:
    """Shares of which none lies below its floor: who would is given the floor, and the others share what is left."""
    fixed: dict[str, int] = {}
    while True:
        rest = {n: w for n, w in weights.items() if n not in fixed}
        shares = apportion(budget - sum(fixed.values()), rest, {n: found.sizes[n] for n in rest})
        low = {n: found.floors[n] for n, share in shares.items() if share < found.floors.get(n, 0)}
        if not low:
            return {n: fixed[n] if n in fixed else shares[n] for n in weights}
        fixed |= low


def _erk(shape: tuple[int, ...]) -> float:
    """The Erdos-Renyi-Kernel number of entries, up to a common factor: the sum of the dimensions."""
    return float(sum(shape))


def apportion(budget: int, weights: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, int]:
    """``budget`` entries in proportion to ``weights``, at most ``sizes`` each; ties of remainders go to the earlier name."""
    full: set[str] = set()
    while True:
        open_names = [n for n in weights if n not in full]
        left = budget - sum(sizes[n] for n in full)
        scale = left / sum(weights[n] for n in open_names) if open_names and left > 0 else 0.0
        over = {n for n in open_names if weights[n] * scale > sizes[n]}
        if not over:
            break
        full |= over
    share = {n: float(sizes[n]) if n in full else weights[n] * scale for n in weights}
    out = {n: math.floor(s) for n, s in share.items()}
    rest = min(budget, sum(sizes.values())) - sum(out.values())
    order = sorted(weights, key=lambda n: -(share[n] - out[n]))
    for name in [n for n in order if out[n] < sizes[n]][: max(0, rest)]:
        out[name] += 1
    return out


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
