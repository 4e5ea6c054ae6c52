"""Random numbers of a run: each stream follows from the seed, the moment, the repetition and a name, never from what ran before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draw:
    """Which random numbers: those of a seed, at a moment, in a repetition.

    ``moment``: the stage from 0 and the round from 1; (0, 0) outside of rounds.
    """

    seed: int
    moment: tuple[int, int] = (0, 0)
    repetition: int = 0

    def number(self, *names: object) -> int:
        """A seed of 60 bits for a stream of that name, by SHA-256."""
        text = ":".join(map(str, (self.seed, *self.moment, self.repetition, *names)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 4

    def normal(self, shape: Sequence[int], *names: object) -> Tensor:
        """Independent N(0, 1) numbers in float64 on the CPU."""
        return torch.randn(tuple(shape), generator=self._generator(*names), dtype=torch.float64)

    def rows(self, shape: Sequence[int], count: int, *names: object) -> Tensor:
        """Independent whole numbers from 0 to ``count`` - 1, all equally likely."""
        return torch.randint(count, tuple(shape), generator=self._generator(*names))

    def _generator(self, *names: object) -> torch.Generator:
        return torch.Generator().manual_seed(self.number(*names))
