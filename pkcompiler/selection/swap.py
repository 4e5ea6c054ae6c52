"""Swapping: of the kept weights the worst go, and as many come back by another score (Evci et al. 2020, arXiv:1911.11134).

What has just gone may come back, as published. Equal scores are taken in order of position. Protected parameters take no part.
Units of unequal cost (blocks, weights under a budget) come back in the order of their scores, each that still fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pkcompiler.selection.budget import Room
from pkcompiler.selection.candidates import Candidates, quotas
from pkcompiler.selection.floors import served
from pkcompiler.selection.quantity import Quantity, weights
from pkcompiler.selection.select import Masks, best, refuse_nan
from pkcompiler.selection.structures import Block, groups_of

Ints = np.ndarray


@dataclass(frozen=True, slots=True)
class Limit:
    """What a swap of unequal units may keep: ``budget`` of a quantity, or (in other scopes than ``global``) the share of each
    parameter at ``part``."""

    quantity: Quantity
    budget: int
    part: float


def swap(
    masks: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    regrow: Mapping[str, Tensor],
    found: Candidates,
    part: float,
    *,
    scope: str = "global",
    order: str = "largest",
    block: Block | None = None,
    limit: Limit | None = None,
    ground: Mapping[str, Tensor] | None = None,
) -> Masks:
    """The masks of all candidates after a swap.

    ``part`` of what is kept, round(part * kept), goes by its scores (``order``: which are kept), and comes back by the largest of
    ``regrow`` among all that is then gone and that ``ground`` keeps (default: all). ``scope``: ``global``, or anything else for
    each parameter on its own. With ``block``, whole blocks are swapped by the sums of their scores. Weights of one cost are as many
    as before; of blocks, and under a ``limit`` of another quantity than weights, as many come back as it allows, and never more
    than before by a unit. Floors are kept. Raises ``PKC507`` for NaN scores.
    """
    out: Masks = {n: masks[n] if n in masks else torch.ones(found.shapes[n], dtype=torch.bool) for n in found.sizes}
    names = found.competing
    refuse_nan("the scores of the swap are", "score and regrow", *({n: found[n] for n in names} for found in (scores, regrow)))
    bound = limit or Limit(weights(found.sizes), 0, 0.0)
    even = block is None and bound.quantity.word == "density"
    shares = None if limit is None else quotas(found, limit.part, scope)
    sign = -1.0 if order == "smallest" else 1.0
    for group in [names] if scope == "global" else [(n,) for n in names]:
        pool = _pool(group, out, (scores, regrow), found, block=block, ground=ground or {}, sign=sign)
        least = pool.floors(found)
        if even:
            stays, back = _swapped(pool, part, least)
        else:
            most = bound.budget if shares is None else shares[group[0]]
            used = bound.quantity if shares is None else weights({n: found.sizes[n] for n in group})
            whole = found.protected_entries if shares is None else {}
            stays, back = _within(pool, part, least, used, most, whole)
        out |= pool.masks(stays, back, found)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """The units of some parameters end to end: entries, or blocks."""

    names: Sequence[str]
    owner: Ints  # the parameter of every unit, as its place in names
    unit: Ints  # the unit of every entry
    kept: np.ndarray  # of every entry
    may: np.ndarray  # whether an entry may be kept
    low: np.ndarray  # the score of every unit by which it stays
    high: np.ndarray  # the score by which it comes back
    now: Ints  # kept entries of every unit
    full: Ints  # entries that it has when it comes back

    def masks(self, stays: np.ndarray, back: np.ndarray, found: Candidates) -> Masks:
        """What stays as it is and what comes back, as masks of the parameters."""
        chosen = (stays[self.unit] & self.kept) | (back[self.unit] & self.may)
        pieces = np.split(chosen, np.cumsum([found.sizes[n] for n in self.names])[:-1])
        return {n: torch.from_numpy(p.copy()).reshape(found.shapes[n]) for n, p in zip(self.names, pieces, strict=True)}

    def floors(self, found: Candidates) -> np.ndarray:
        """The units that floors keep from going: the best of what is kept."""
        out = np.zeros(self.low.size, dtype=bool)
        for i, name in enumerate(self.names):
            if not found.floors.get(name, 0):
                continue
            own = np.flatnonzero((self.owner == i) & (self.now > 0))
            ranked = own[np.argsort(-self.low[own], kind="stable")]
            out[served(self.now, ranked, found.floors[name], sparing=False)] = True
        return out


def _pool(
    names: Sequence[str],
    masks: Masks,
    scores: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    found: Candidates,
    *,
    block: Block | None,
    ground: Mapping[str, Tensor],
    sign: float,
) -> _Pool:
    low, high = (np.concatenate([_flat(by[n]).astype(np.float64) for n in names]) for by in scores)
    kept = np.concatenate([_flat(masks[n].bool()) for n in names])
    may = kept | np.concatenate([_flat(ground[n].bool()) if n in ground else np.ones(found.sizes[n], dtype=bool) for n in names])
    if block is None:
        owner = np.repeat(np.arange(len(names)), [found.sizes[n] for n in names])
        unit, now, full = np.arange(kept.size), kept.astype(np.int64), may.astype(np.int64)
        return _Pool(names, owner, unit, kept, may, sign * low, high, now, full)
    blocks = [groups_of(block, found.shapes[n], found.sides[n]) for n in names]
    starts = np.cumsum([0, *(count for _, count in blocks)])
    unit = np.concatenate([of + start for (of, _), start in zip(blocks, starts[:-1], strict=True)])
    owner = np.repeat(np.arange(len(names)), np.diff(starts))
    summed = [np.bincount(unit, weights=v, minlength=owner.size) for v in (np.where(kept, low, 0.0), np.where(may, high, 0.0))]
    now, full = (np.bincount(unit, weights=v, minlength=owner.size).astype(np.int64) for v in (kept, may))
    return _Pool(names, owner, unit, kept, may, sign * summed[0], summed[1], now, full)


def _flat(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().cpu().numpy().reshape(-1)
    return found


def _worst_gone(pool: _Pool, part: float, free: np.ndarray) -> tuple[np.ndarray, int]:
    """What stays when the worst of what is free have gone, and how many have."""
    kept = pool.now > 0
    places = np.flatnonzero(kept & free)
    count = min(round(part * int(np.count_nonzero(kept))), places.size)
    kept[places[~best(pool.low[places], places.size - count)]] = False
    return kept, count


def _swapped(pool: _Pool, part: float, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units of one cost: what stays, and as many that come back as have gone."""
    stays, count = _worst_gone(pool, part, ~least)
    back = np.zeros(stays.size, dtype=bool)
    gone = np.flatnonzero(~stays & (pool.full > 0))
    back[gone[best(pool.high[gone], count)]] = True
    return stays, back


def _within(
    pool: _Pool, part: float, least: np.ndarray, quantity: Quantity, budget: int, whole: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Units of unequal costs: what stays, and what comes back in order, each that still fits. What costs nothing takes no part."""
    costs = np.array([quantity.costs[n] for n in pool.names])[pool.owner]
    stays, count = _worst_gone(pool, part, ~least & (costs > 0))
    back = np.zeros(stays.size, dtype=bool)
    if not count:
        return stays, back

    room = Room(pool.names, pool.owner, pool.full, quantity, budget, whole)
    before = room.amount(room.entries(np.flatnonzero(pool.now > 0), pool.now))
    room = replace(room, budget=max(before, min(budget, before + int((costs * pool.full).max()))))
    gone = np.flatnonzero(~stays & (pool.full > 0) & (costs > 0))
    order = gone[np.argsort(-pool.high[gone], kind="stable")]
    back[room.fill(order, room.entries(np.flatnonzero(stays), pool.now))] = True
    return stays, back
