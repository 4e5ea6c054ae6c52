"""Sums, products and constants: ``+ - * /``, where, masks."""

from __future__ import annotations

import math

import torch

from pkcompiler.ir.maps import Batch, Constant, Literal, Merge, Product, Reindex, Scale, Source
from pkcompiler.ops.linear import scaled
from pkcompiler.ops.table import Known, Path, Ref, Stored, Use, path_op

Scalar = int | float


def signed_sum(use: Use, left: Ref | Scalar, right: Ref | Scalar, sign: int, alpha: Scalar = 1) -> Ref:
    """left + sign * alpha * right; a number is a source of that value, and 0 is left out."""
    if not isinstance(right, Scalar):
        right = right if alpha == 1 else scaled(use, right, alpha)
    elif alpha != 1:
        right = right * alpha
    terms = [(1, left), (sign, right)]
    terms = [(s, t) for s, t in terms if not (isinstance(t, Scalar) and t == 0)]
    paths = [use.emit(Source(Literal(float(t))), shape=()) if isinstance(t, Scalar) else use.path(t) for _, t in terms]
    if len(paths) == 1 and terms[0][0] == 1:
        return paths[0]
    return use.emit(Merge(tuple(s for s, _ in terms)), *paths)


@path_op("aten.add.Tensor", "aten.add.Scalar")
def add(use: Use) -> Ref:
    return signed_sum(use, use["self"], use["other"], 1, use["alpha"])


@path_op("aten.sub.Tensor", "aten.sub.Scalar")
def sub(use: Use) -> Ref:
    return signed_sum(use, use["self"], use["other"], -1, use["alpha"])


@path_op("aten.rsub.Scalar", "aten.rsub.Tensor")
def rsub(use: Use) -> Ref:
    return signed_sum(use, use["other"], use["self"] if use["alpha"] == 1 else scaled(use, use["self"], use["alpha"]), -1)


@path_op("aten.neg.default")
def neg(use: Use) -> Ref:
    return scaled(use, use["self"], -1)


@path_op("aten.div.Tensor", "aten.div.Scalar")
def div(use: Use) -> Ref:
    other = use["other"]
    if isinstance(other, Known) and other.tensor.numel() == 1:
        other = float(other.tensor.item())
    if not isinstance(other, Scalar):
        raise use.unsupported("its divisor is no number")
    return scaled(use, use["self"], 1 / other)


@path_op("aten.mul.Tensor", "aten.mul.Scalar")
def mul(use: Use) -> Ref:
    left, right = use["self"], use["other"]
    if isinstance(right, Scalar):
        return scaled(use, left, right)
    return times(use, left, right)


def times(use: Use, left: Ref, right: Ref) -> Ref:
    """An elementwise product of two tensors, by what each of them is."""
    if isinstance(left, Known | Stored) and not isinstance(right, Known | Stored):
        left, right = right, left
    if isinstance(right, Known):
        return by_constant(use, left, right)
    if isinstance(right, Stored) and isinstance(left, Path) and fits_into(right.shape, left.shape, use.shape):
        return use.emit(Scale(use.weight(right), None, trailing(right.shape)), left)
    return use.emit(Product("mul"), use.factor(left), use.factor(right))


def by_constant(use: Use, x: Ref, factor: Known) -> Ref:
    """x times a known tensor; x is spread first where the result has another shape."""
    path = use.path(x)
    fixed = use.fixed(factor)
    if not isinstance(fixed, Literal) and not fits_into(factor.shape, path.shape, use.shape):
        path = use.emit(Reindex("expand", (("shape", use.shape),)), path)
    return use.emit(Constant(fixed), path)


def fits_into(small: tuple, big: tuple, result: tuple) -> bool:
    """Whether ``small`` broadcasts into ``big`` without changing its shape."""
    return tuple(big) == tuple(result) and len(small) <= len(big)


def trailing(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without its leading ones."""
    first = next((i for i, n in enumerate(shape) if n != 1), len(shape))
    return shape[first:]


@path_op("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(use: Use) -> Ref:
    value = use["value"]
    return choose(use, use["mask"], value, use["self"])


@path_op("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther")
def where(use: Use) -> Ref:
    return choose(use, use["condition"], use["self"], use["other"])


def choose(use: Use, condition: Ref, yes: Ref | Scalar, no: Ref | Scalar) -> Ref:
    """``where`` by a known condition: both sides times a 0/1 constant. Infinite fillings make sense under a softmax only."""
    if not isinstance(condition, Known):
        raise use.unsupported("its condition depends on the data")
    kept = condition.tensor.to(torch.float32)
    sides = [(yes, kept, condition.shape), (no, 1 - kept, condition.shape)]
    terms = [t for t in (part(use, *side) for side in sides) if t is not None]
    return terms[0] if len(terms) == 1 else use.emit(Merge((1,) * len(terms)), *terms)


def part(use: Use, side: Ref | Scalar, kept: torch.Tensor, shape: tuple) -> Path | None:
    """``side`` times ``kept`` [shape], of 0 and 1; None for the number 0. Refuses infinity."""
    if isinstance(side, Known) and side.tensor.numel() == 1:
        side = float(side.tensor)
    if isinstance(side, Scalar):
        if not math.isfinite(side):
            raise use.unsupported("it fills with infinity outside of a softmax")
        return use.path(Known(kept * side, shape)) if side else None
    path = use.path(side)
    if not fits_into(shape, path.shape, use.shape):
        path = use.emit(Reindex("expand", (("shape", use.shape),)), path)
    return use.emit(Constant(use.fixed(Known(kept, shape))), path)


@path_op("aten.tril.default", "aten.triu.default")
def triangle(use: Use) -> Ref:
    x = use.path(use["self"])
    rows, columns = x.shape[-2:]
    if isinstance(rows, Batch) or isinstance(columns, Batch):
        raise use.unsupported("a triangle of the batch")
    keep = torch.ones(rows, columns)
    diagonal = use["diagonal"]
    keep = keep.tril(diagonal) if use.name.startswith("aten.tril") else keep.triu(diagonal)
    return use.emit(Constant(use.constant(keep)), x)
