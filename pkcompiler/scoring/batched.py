"""Functions of the weights that are sums or joins over batches, differentiable twice, with one batch in memory at a time.

Nothing of a batch is kept for the way back: it is run again. A sum has its derivative computed with its value, since that costs no
second run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Piece = Callable[[Mapping[str, Tensor]], Tensor]
"""What one batch contributes at given weights."""


def added(pieces: Sequence[Piece], weights: Mapping[str, Tensor]) -> Tensor:
    """The sum of numbers, one of each batch."""
    if len(pieces) == 1:
        return _at_once(pieces[0], weights)
    out: Tensor = _Added.apply(_Batches(pieces, tuple(weights)), *weights.values())
    return out


def joined(pieces: Sequence[Piece], weights: Mapping[str, Tensor]) -> Tensor:
    """The values of all batches, joined along the samples (dimension 0)."""
    if len(pieces) == 1:
        return _at_once(pieces[0], weights)
    out: Tensor = _Joined.apply(_Batches(pieces, tuple(weights)), *weights.values())
    return out


def same_draws(piece: Piece, seed: int) -> Piece:
    """The piece with the same random numbers (dropout) in every run."""

    def run(weights: Mapping[str, Tensor]) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return piece(weights)

    return run


def _at_once(piece: Piece, weights: Mapping[str, Tensor]) -> Tensor:
    with torch.enable_grad():
        return piece(weights)


@dataclass(frozen=True, slots=True, eq=False)
class _Batches:
    pieces: Sequence[Piece]
    names: tuple[str, ...]

    def leaves(self, weights: Sequence[Tensor]) -> dict[str, Tensor]:
        return {n: w.detach().requires_grad_() for n, w in zip(self.names, weights, strict=True)}

    def pull(self, i: int, weights: Sequence[Tensor], cotangent: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        """The value of batch i, and its derivative by the weights along ``cotangent``."""
        leaves = self.leaves(weights)
        with torch.enable_grad():
            value = self.pieces[i](leaves)
        return value.detach(), list(torch.autograd.grad(value, list(leaves.values()), cotangent, allow_unused=True))

    def pull_twice(
        self, i: int, weights: Sequence[Tensor], cotangent: Tensor, vectors: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The derivatives by the cotangent and by the weights of <derivative of batch i along the cotangent, vectors>."""
        leaves, along = self.leaves(weights), cotangent.detach().requires_grad_()
        with torch.enable_grad():
            value = self.pieces[i](leaves)
            first = torch.autograd.grad(value, list(leaves.values()), along, create_graph=True, allow_unused=True)
            parts = [(g * v).sum() for g, v in zip(first, vectors, strict=True) if g is not None]
            product = torch.stack(parts).sum()
        found: list[Tensor | None] = list(torch.autograd.grad(product, [along, *leaves.values()], allow_unused=True))
        return torch.zeros_like(along) if found[0] is None else found[0], found[1:]


def _add(total: list[Tensor], parts: Sequence[Tensor | None]) -> list[Tensor]:
    return [t if p is None else t + p for t, p in zip(total, parts, strict=True)]


def _zeros(weights: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(w) for w in weights]


class _Added(Function):
    @staticmethod
    def forward(ctx: Any, batches: _Batches, *weights: Tensor) -> Tensor:
        values, grads = [], _zeros(weights)
        for i in range(len(batches.pieces)):
            value, parts = batches.pull(i, weights, None)
            values.append(value)
            grads = _add(grads, parts)
        ctx.batches, ctx.grads = batches, grads
        ctx.save_for_backward(*weights)
        return torch.stack(values).sum()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return (None, *_AddedPulled.apply(ctx.batches, ctx.grads, upstream, *ctx.saved_tensors))


class _AddedPulled(Function):
    """The derivative of a sum along ``upstream``, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, batches: _Batches, grads: list[Tensor], upstream: Tensor, *weights: Tensor) -> Any:
        ctx.batches, ctx.grads = batches, grads
        ctx.save_for_backward(upstream, *weights)
        return tuple(upstream * g for g in grads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *vectors: Tensor) -> Any:
        upstream, *weights = ctx.saved_tensors
        total = _zeros(weights)
        for i in range(len(ctx.batches.pieces)):
            total = _add(total, ctx.batches.pull_twice(i, weights, upstream, vectors)[1])
        along = torch.stack([(g * v).sum() for g, v in zip(ctx.grads, vectors, strict=True)]).sum()
        return (None, None, along, *total)


class _Joined(Function):
    @staticmethod
    def forward(ctx: Any, batches: _Batches, *weights: Tensor) -> Tensor:
        at = dict(zip(batches.names, weights, strict=True))
        values = [piece(at) for piece in batches.pieces]
        ctx.batches, ctx.lengths = batches, [len(v) for v in values]
        ctx.save_for_backward(*weights)
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return (None, *_JoinedPulled.apply(ctx.batches, ctx.lengths, upstream, *ctx.saved_tensors))


class _JoinedPulled(Function):
    """The derivative of joined values along ``upstream``, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, batches: _Batches, lengths: list[int], upstream: Tensor, *weights: Tensor) -> Any:
        ctx.batches, ctx.lengths = batches, lengths
        ctx.save_for_backward(upstream, *weights)
        total = _zeros(weights)
        for i, along in enumerate(upstream.split(lengths)):
            total = _add(total, batches.pull(i, weights, along)[1])
        return tuple(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *vectors: Tensor) -> Any:
        upstream, *weights = ctx.saved_tensors
        total, along = _zeros(weights), []
        for i, part in enumerate(upstream.split(ctx.lengths)):
            by_cotangent, by_weights = ctx.batches.pull_twice(i, weights, part, vectors)
            along.append(by_cotangent)
            total = _add(total, by_weights)
        return (None, None, torch.cat(along), *total)
