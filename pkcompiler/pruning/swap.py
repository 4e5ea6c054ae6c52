"""Swapping: of the kept weights the worst go, and as many come back by another score (Evci et al. 2020, arXiv:1911.11134).

What has just gone may come back, as published. Equal scores are taken in order of position. Protected parameters take no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pkcompiler.diagnostics import Diagnostic, PkcError
from pkcompiler.pruning.candidates import Candidates
from pkcompiler.pruning.select import Masks, best
from pkcompiler.pruning.shapes import Block, groups_of


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
) -> Masks:
    """The masks of all candidates after a swap, with as many entries (blocks) as before.

    ``part`` of what is kept, round(part * kept), goes by its scores (``order``: which are kept), and comes back by the largest of
    ``regrow`` among all that is then gone. ``scope``: ``global``, or anything else for each parameter on its own. With ``block``,
    whole blocks are swapped by the sums of their scores. Floors are kept. Raises ``PKC507`` for NaN scores.
    """
    out: Masks = {n: masks[n] if n in masks else torch.ones(found.shapes[n], dtype=torch.bool) for n in found.sizes}
    names = found.competing
    _refuse_nan(names, scores, regrow)
    for group in [names] if scope == "global" else [(n,) for n in names]:
        pieces = [_units(n, out[n], scores[n], regrow[n], found, block) for n in group]
        kept, low, high = (np.concatenate([p[i] for p in pieces]) for i in range(3))
        low = -low if order == "smallest" else low
        least = np.concatenate([_floor(p[0], p[1], found.floors.get(n, 0), order) for n, p in zip(group, pieces, strict=True)])
        chosen = _swapped(kept, low, high, part, least)
        start = 0
        for name, (own, _, _, of) in zip(group, pieces, strict=True):
            out[name] = torch.from_numpy(chosen[start : start + own.size][of]).reshape(found.shapes[name])
            start += own.size
    return out


def _units(
    name: str, mask: Tensor, scores: Tensor, regrow: Tensor, found: Candidates, block: Block | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which units are kept, both scores of each, and the unit of every entry."""
    kept, low, high = (t.detach().cpu().numpy().reshape(-1) for t in (mask.bool(), scores, regrow))
    if block is None:
        return kept, low.astype(np.float64), high.astype(np.float64), np.arange(kept.size)
    of, count = groups_of(block, found.shapes[name], found.sides[name])
    low, high = (np.bincount(of, weights=v, minlength=count) for v in (np.where(kept, low, 0.0), high))
    return np.bincount(of, weights=kept, minlength=count) > 0, low, high, of


def _floor(kept: np.ndarray, low: np.ndarray, least: int, order: str) -> np.ndarray:
    """The units of one parameter that its floor keeps from going: the best of what is kept."""
    ranked = np.where(kept, -low if order == "smallest" else low, -np.inf)
    return best(ranked, least) & kept if least else np.zeros(kept.size, dtype=bool)


def _swapped(kept: np.ndarray, low: np.ndarray, high: np.ndarray, part: float, least: np.ndarray) -> np.ndarray:
    free = np.flatnonzero(kept & ~least)
    count = min(round(part * int(np.count_nonzero(kept))), free.size)
    if not count:
        return kept.copy()
    stays = kept.copy()
    stays[free[~best(low[free], free.size - count)]] = False
    gone = np.flatnonzero(~stays)
    stays[gone[best(high[gone], count)]] = True
    return stays


def _refuse_nan(names: Sequence[str], *given: Mapping[str, Tensor]) -> None:
    bad = [n for n in names if any(bool(scores[n].isnan().any()) for scores in given)]
    if bad:
        note = "check score and regrow for 0/0 or log of 0"
        raise PkcError(*(Diagnostic("PKC507", f"swapping '{n}' by NaN scores", notes=(note,)) for n in bad))
