"""Scores to masks (docs/theory.md, section 7): exactly so many survivors, ties in order of position; or the k-th-smallest rule.

The entries that compete are laid end to end in the graph's order of parameters, so that "position" has one meaning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pkcompiler.diagnostics import fail, first_few, typed_or_called
from pkcompiler.selection.budget import Entries, choose
from pkcompiler.selection.candidates import Candidates, left_over, quotas
from pkcompiler.selection.quantity import Quantity, weights
from pkcompiler.selection.structures import Structure

Masks = dict[str, Tensor]


SAMPLE = 1 << 16
"""Entries looked at to bracket a threshold before everything is compared with it."""


@dataclass(slots=True, eq=False)
class Survivors:
    """The positions that masks keep, remembered from the round that made them (finding them again costs a pass over all).

    A mask is recognised by being the same tensor; masks that keep more than half are not remembered, to save their memory.
    """

    _known: dict[str, tuple[Tensor, np.ndarray]] = field(default_factory=dict)

    def of(self, name: str, mask: Tensor) -> np.ndarray:
        """The flat positions of the entries that ``mask`` keeps, ascending."""
        known = self._known.get(name)
        return known[1] if known and known[0] is mask else np.flatnonzero(mask.numpy())

    def remember(self, name: str, mask: Tensor, places: np.ndarray) -> None:
        """Take down the flat positions that ``mask`` keeps; masks that keep more than half are left out."""
        if 2 * places.size <= mask.numel():
            self._known[name] = (mask, places)


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """The entries that compete: their scores end to end (largest best), and per parameter their positions (None: all of them)."""

    names: Sequence[str]
    shapes: Sequence[tuple[int, ...]]
    positions: Sequence[np.ndarray | None]
    counts: Sequence[int]
    scores: np.ndarray

    @property
    def size(self) -> int:
        """All entries, those that do not compete included."""
        return sum(math.prod(shape) for shape in self.shapes)

    def masks(self, kept: np.ndarray, survivors: Survivors) -> Masks:
        """A choice among the competing entries, as masks of the parameters."""
        out, start = {}, 0
        for name, shape, places, count in zip(self.names, self.shapes, self.positions, self.counts, strict=True):
            chosen = kept[start : start + count]
            start += count
            if places is None:
                out[name] = torch.from_numpy(chosen.copy()).reshape(shape)
                continue
            left = places.take(np.flatnonzero(chosen), mode="clip")
            whole = np.zeros(math.prod(shape), dtype=bool)
            whole[left] = True
            out[name] = torch.from_numpy(whole).reshape(shape)
            survivors.remember(name, out[name], left)
        return out


def select(
    scores: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    found: Candidates,
    density: float,
    *,
    rule: str = "exact",
    scope: str = "global",
    among: str = "kept",
    order: str = "largest",
    survivors: Survivors | None = None,
    structure: Structure | None = None,
    budget: int | None = None,
    quantity: Quantity | None = None,
    ground: Mapping[str, Tensor] | None = None,
) -> Masks:
    """The masks of all candidates at ``density``, given the masks before this round.

    ``rule``: ``exact`` keeps round(density * N) entries; ``kth_le`` drops every score <= the k-th smallest of all N with
    k = int((1 - density) N), where entries pruned before count as score 0. ``among``: ``kept`` (a mask only shrinks) or ``all``
    (of what ``ground`` keeps, where it names the parameter).
    ``structure`` and ``quantity`` with its ``budget`` (in place of the density): see :mod:`~pkcompiler.selection.budget`.
    Protected parameters keep what the masks leave of them. ``survivors`` carries positions from round to round.

    Raises ``PKC507`` for NaN scores.
    """
    found = found.under(masks)
    names = found.competing
    known = survivors or Survivors()
    shares = quotas(found, density, scope) if rule == "exact" else None
    groups = [list(names)] if scope == "global" else [[n] for n in names]
    alone = left_over(found, density)
    compete = masks if among == "kept" else ground or {}
    out: Masks = {n: masks[n] if n in masks else torch.ones(found.shapes[n], dtype=torch.bool) for n in found.protected}
    if structure is not None or budget is not None:
        pool = _pool(list(names), scores, compete, found, order, known)
        counted = quantity or weights(found.sizes)
        most = found.kept_at(density) if budget is None else budget
        entries = Entries(pool.names, pool.positions, pool.counts, pool.scores)
        out |= pool.masks(choose(entries, found, structure, counted, most, shares), known)
        return {n: out[n] for n in found.sizes}
    for group in groups:
        pool = _pool(group, scores, compete, found, order, known)
        if rule == "kth_le":
            whole = scope == "global"
            kept = _above_threshold(pool, int((1 - density) * found.total if whole else (1 - alone) * found.sizes[group[0]]))
        elif shares is None:
            budget = found.kept_at(density) - sum(found.protected_entries.values())
            kept = _with_floors(pool, found, budget)
        else:
            kept = best(pool.scores, max(shares[group[0]], found.floors.get(group[0], 0)))
        out |= pool.masks(kept, known)
    return {n: out[n] for n in found.sizes}


def _pool(
    names: Sequence[str],
    scores: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    found: Candidates,
    order: str,
    survivors: Survivors,
) -> _Pool:
    given = {n: masks[n] for n in names if n in masks}
    positions = [survivors.of(n, given[n]) if n in given else None for n in names]
    counts = [found.sizes[n] if places is None else places.size for n, places in zip(names, positions, strict=True)]
    flat = np.empty(sum(counts), dtype=scores[names[0]].detach().cpu().numpy().dtype)
    start = 0
    for name, places, count in zip(names, positions, counts, strict=True):
        values: np.ndarray = scores[name].detach().reshape(-1).cpu().numpy()
        piece = flat[start : start + count]
        if places is None:
            piece[:] = values
        else:
            values.take(places, out=piece, mode="clip")  # "raise" would copy once more
        start += count
    with np.errstate(over="ignore"):
        square = np.dot(flat, flat)
    if np.isnan(square):
        refuse_nan("the scores of the pass are", "the pass", {n: scores[n] for n in names})
    return _Pool(names, [found.shapes[n] for n in names], positions, counts, -flat if order == "smallest" else flat)


def best(scores: np.ndarray, budget: int) -> np.ndarray:
    """Marks the ``budget`` largest scores; equal ones in order of position."""
    if budget <= 0 or budget >= scores.size:
        return np.full(scores.size, budget > 0)
    threshold, above = kth_largest(scores, budget)
    kept: np.ndarray = scores > threshold
    kept[np.flatnonzero(scores == threshold)[: budget - above]] = True
    return kept


def kth_largest(scores: np.ndarray, k: int) -> tuple[float, int]:
    """The k-th largest entry, exactly, and how many are larger.

    Two quantiles of a strided sample bracket it, and only what lies between is partitioned; a bracket that misses is widened.
    """
    n = scores.size
    sample = np.sort(scores[:: _stride(n)]) if n > 4 * SAMPLE else scores[:0]
    place = sample.size * (1 - k / n)
    margin = 4 * math.sqrt(sample.size * (k / n) * (1 - k / n)) + 4
    while 2 * margin < sample.size:
        low = sample[max(0, int(place - margin))]
        high = sample[min(sample.size - 1, int(place + margin))]
        above = int(np.count_nonzero(scores > high))
        band = scores.take(np.flatnonzero((scores >= low) & (scores <= high)))
        if above < k <= above + band.size:
            value = np.partition(band, band.size - (k - above))[band.size - (k - above)]
            return value, above + int(np.count_nonzero(band > value))
        margin *= 4
    value = np.partition(scores, n - k)[n - k]
    return value, int(np.count_nonzero(scores > value))


def _stride(n: int) -> int:
    """About n / SAMPLE, sharing no factor with the usual widths and kernels, so that the sample is not one column of a kernel."""
    stride = max(1, n // SAMPLE)
    while math.gcd(stride, 2 * 3 * 5 * 7) != 1:
        stride += 1
    return stride


def _with_floors(pool: _Pool, found: Candidates, budget: int) -> np.ndarray:
    """Globally the best, after every floor has been served from its own parameter."""
    if not any(found.floors.get(n, 0) for n in pool.names):
        return best(pool.scores, budget)
    reserved = np.zeros(pool.scores.size, dtype=bool)
    start = 0
    for name, count in zip(pool.names, pool.counts, strict=True):
        reserved[start : start + count] = best(pool.scores[start : start + count], found.floors.get(name, 0))
        start += count
    rest = np.flatnonzero(~reserved)
    chosen = best(pool.scores.take(rest), budget - int(np.count_nonzero(reserved)))
    reserved[rest.take(np.flatnonzero(chosen))] = True
    return reserved


def _above_threshold(pool: _Pool, k: int) -> np.ndarray:
    """Every competing entry whose score exceeds the k-th smallest, where what is pruned already counts as 0."""
    gone = pool.size - pool.scores.size
    k = min(k, pool.size)
    if k < 1:
        return np.ones(pool.scores.size, dtype=bool)
    if k <= gone:
        return pool.scores > 0.0
    bar, _ = kth_largest(pool.scores, pool.size - k + 1)
    return pool.scores > bar


def refuse_nan(what: str, source: str, *given: Mapping[str, Tensor]) -> None:
    """``PKC507`` where an entry is NaN, which names the first parameters. ``what`` is NaN, by a fault of ``source``."""
    bad = {n: t.dtype for scores in given for n, t in scores.items() if bool(t.isnan().any())}
    if not bad:
        return
    notes = [f"check {source} for 0/0 or log of 0"]
    if torch.float64 not in bad.values():
        option = typed_or_called("--dtype float64", "dtype=torch.float64")
        notes.append(f"or these masks let the network overflow float32: score in float64, {option}")
    raise fail("PKC507", f"{what} NaN for {first_few([repr(n) for n in bad], 3)}", *notes)
