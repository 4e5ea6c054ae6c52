"""Which entries of a tensor are left: an index set for every dimension, and what of another set lies in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """``shape``: of the whole tensor; ``kept``: per dimension the positions that are left, ascending (int64), None = all of them.

    What is left out is 0, or nothing that matters reads it.
    """

    shape: tuple[int, ...]
    kept: tuple[Tensor | None, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Cut:
        """Nothing is left out."""
        return cls(tuple(shape), (None,) * len(shape))

    @classmethod
    def of(cls, shape: Sequence[int], kept: Sequence[Tensor | None]) -> Cut:
        """As given; an index set that holds every position is none."""
        pairs = zip(shape, kept, strict=True)
        return cls(tuple(shape), tuple(None if k is None or k.numel() == n else k for n, k in pairs))

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return all(k is None for k in self.kept)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of what is left."""
        return tuple(n if k is None else k.numel() for n, k in zip(self.shape, self.kept, strict=True))

    def with_dim(self, dim: int, kept: Tensor | None) -> Cut:
        """Another index set along one dimension."""
        dim %= len(self.shape)
        return Cut.of(self.shape, [kept if d == dim else k for d, k in enumerate(self.kept)])

    def take(self, tensor: Tensor) -> Tensor:
        """What is left of a whole tensor."""
        for dim, kept in enumerate(self.kept):
            if kept is not None:
                tensor = tensor.index_select(dim, kept.to(tensor.device))
        return tensor

    def put(self, part: Tensor, base: Tensor) -> Tensor:
        """A copy of ``base`` with ``part`` in the places that are left."""
        if self.is_whole:
            return part.clone()
        places = [torch.arange(n) if k is None else k for n, k in zip(self.shape, self.kept, strict=True)]
        out = base.clone()
        out[torch.meshgrid(*[p.to(base.device) for p in places], indexing="ij")] = part
        return out

    def indicator(self) -> Tensor:
        """bool [shape], True where an entry is left."""
        found = torch.ones(self.shape, dtype=torch.bool)
        for dim, kept in enumerate(self.kept):
            if kept is not None:
                along = torch.zeros(self.shape[dim], dtype=torch.bool)
                along[kept] = True
                found &= along.reshape([-1 if d == dim else 1 for d in range(len(self.shape))])
        return found


def cut_of(indicator: Tensor) -> Cut | None:
    """The cut whose indicator this is; None where what is left is no index set for each dimension."""
    kept = []
    for dim in range(indicator.dim()):
        along = indicator.movedim(dim, 0).reshape(indicator.shape[dim], -1).any(1)
        kept.append(along.nonzero().flatten())
    found = Cut.of(indicator.shape, kept)
    return found if torch.equal(found.indicator(), indicator) else None


def same(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether two index sets of one dimension are equal."""
    if left is None or right is None:
        return left is right
    return left is right or torch.equal(left, right)


def union(size: int, left: Tensor | None, right: Tensor | None) -> Tensor | None:
    """Positions in either set."""
    if left is None or right is None:
        return None
    found = torch.zeros(size, dtype=torch.bool)
    found[left] = found[right] = True
    return found.nonzero().flatten()


def common(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    """Positions in both sets."""
    if left is None or right is None:
        return right if left is None else left
    return left[torch.isin(left, right)]


def positions(within: Tensor | None, wanted: Tensor | None, size: int) -> Tensor:
    """Where the positions ``wanted`` lie among those of ``within``; one past its end for what it lacks."""
    own = torch.arange(size) if within is None else within
    place = torch.full((size,), own.numel(), dtype=torch.int64)
    place[own] = torch.arange(own.numel())
    return place if wanted is None else place[wanted]
