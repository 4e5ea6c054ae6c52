"""Scores to masks (THEORY section 7): exactly so many survivors, ties in order of position; or the published k-th-smallest rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pkcompiler.pruning.candidates import Candidates, quotas

Masks = dict[str, Tensor]


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
) -> Masks:
    """The masks of all candidates at ``density``, given the masks before this round.

    ``rule``: ``exact`` keeps round(density * N) entries; ``kth_le`` drops every score <= the k-th smallest of all N with
    k = int((1 - density) N), where entries pruned before count as score 0. ``among``: ``kept`` (a mask only shrinks) or ``all``.
    A score of minus infinity loses to every other. Protected parameters keep everything.
    """
    names = found.competing
    pools = {n: _pool(scores[n], masks.get(n), among, order) for n in names}
    out: Masks = {n: torch.ones(found.shapes[n], dtype=torch.bool) for n in found.protected}
    if rule == "kth_le":
        dropped = found.total - sum(found.sizes[n] for n in found.protected)
        out |= _threshold(names, pools, masks, found, dropped, density, scope)
        return {n: out[n] for n in found.sizes}
    shares = quotas(found, density, scope)
    if shares is None:
        budget = max(0, found.kept_at(density) - sum(found.sizes[n] for n in found.protected))
        out |= _keep_floored(names, pools, masks, found, budget, among)
    else:
        for n in names:
            quota = max(shares[n], found.floors.get(n, 0))
            out |= _keep([n], pools, masks, found, quota, among)
    return {n: out[n] for n in found.sizes}


def _pool(scores: Tensor, mask: Tensor | None, among: str, order: str) -> np.ndarray:
    """The scores that compete, flat and in order of position, largest best."""
    flat = scores.detach().reshape(-1)
    if mask is not None and among == "kept":
        flat = flat[mask.reshape(-1).to(flat.device)]
    values: np.ndarray = flat.cpu().numpy()
    return -values if order == "smallest" else values


def _keep(
    names: Sequence[str],
    pools: Mapping[str, np.ndarray],
    masks: Mapping[str, Tensor],
    found: Candidates,
    budget: int,
    among: str,
) -> Masks:
    """The ``budget`` best of several parameters together."""
    chosen = best([pools[n] for n in names], budget)
    return {n: _place(kept, masks.get(n) if among == "kept" else None, found.shapes[n]) for n, kept in zip(names, chosen, strict=True)}


def best(pools: Sequence[np.ndarray], budget: int) -> list[np.ndarray]:
    """Boolean arrays marking the ``budget`` largest entries of all pools together; equal ones in order of position."""
    sizes = [p.size for p in pools]
    total = sum(sizes)
    if budget >= total:
        return [np.ones(n, dtype=bool) for n in sizes]
    if budget <= 0:
        return [np.zeros(n, dtype=bool) for n in sizes]
    everything = np.concatenate(pools) if len(pools) > 1 else pools[0].copy()
    threshold = np.partition(everything, total - budget)[total - budget]
    kept = [p > threshold for p in pools]
    missing = budget - sum(int(k.sum()) for k in kept)
    for mark, pool in zip(kept, pools, strict=True):
        if missing <= 0:
            break
        equal = np.flatnonzero(pool == threshold)[:missing]
        mark[equal] = True
        missing -= equal.size
    return kept


def _place(kept: np.ndarray, mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """A choice among competitors as a mask of the parameter's shape."""
    chosen = torch.from_numpy(kept)
    if mask is None:
        return chosen.reshape(shape)
    out = torch.zeros(mask.numel(), dtype=torch.bool)
    out[mask.reshape(-1).cpu()] = chosen
    return out.reshape(shape)


def _keep_floored(
    names: Sequence[str],
    pools: Mapping[str, np.ndarray],
    masks: Mapping[str, Tensor],
    found: Candidates,
    budget: int,
    among: str,
) -> Masks:
    """Globally the best, after every floor has been served from its own parameter."""
    floored = [n for n in names if found.floors.get(n, 0)]
    if not floored:
        return _keep(names, pools, masks, found, budget, among)
    reserved = {n: best([pools[n]], found.floors[n])[0] for n in floored}
    rest = {n: np.where(reserved[n], -np.inf, pools[n]) if n in reserved else pools[n] for n in names}
    open_budget = budget - sum(int(r.sum()) for r in reserved.values())
    chosen = dict(zip(names, best([rest[n] for n in names], max(0, open_budget)), strict=True))
    merged = {n: chosen[n] | reserved[n] if n in reserved else chosen[n] for n in names}
    return {n: _place(merged[n], masks.get(n) if among == "kept" else None, found.shapes[n]) for n in names}


def _threshold(
    names: Sequence[str],
    pools: Mapping[str, np.ndarray],
    masks: Mapping[str, Tensor],
    found: Candidates,
    total: int,
    density: float,
    scope: str,
) -> Masks:
    """The published rule, over everything or (``layer``, ``uniform``) over each parameter."""
    groups = [list(names)] if scope == "global" else [[n] for n in names]
    out: Masks = {}
    for group in groups:
        size = sum(found.sizes[n] for n in group)
        k = int((1 - density) * (found.total if scope == "global" else size))
        k = min(k, size)
        alive = sum(pools[n].size for n in group)
        gone = size - alive
        joined = np.concatenate([pools[n] for n in group])
        bar = -np.inf if k < 1 else 0.0 if k <= gone else np.partition(joined, k - gone - 1)[k - gone - 1]
        for n in group:
            out[n] = _place(pools[n] > bar, masks.get(n) if pools[n].size != found.sizes[n] else None, found.shapes[n])
    return out
