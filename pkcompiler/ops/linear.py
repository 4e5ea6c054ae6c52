"""Linear maps by parameters: dense, convolution, matrix products, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pkcompiler.ir.maps import Constant, Conv, Dense, Dim, Embed, Literal, Merge, Product, Reindex
from pkcompiler.ops.table import Index, Known, Path, Ref, Stored, Use, path_op


@path_op("aten.linear.default")
def linear(use: Use) -> Ref:
    weight, bias = use["weight"], use["bias"]
    if isinstance(weight, Stored) and (bias is None or isinstance(bias, Stored)):
        return use.emit(Dense(use.weight(weight), use.weight(bias)), use["input"])
    rows, columns = weight.shape
    turned = use.emit(Reindex("permute", (("dims", (1, 0)),)), use.factor(weight), shape=(columns, rows))
    return plus(use, use.emit(Product("matmul"), use["input"], turned), bias)


def plus(use: Use, x: Path, bias: Ref | None) -> Path:
    """x plus a bias that is no stored vector of a map."""
    return x if bias is None else use.emit(Merge((1, 1)), x, use.path(bias), shape=x.shape)


@path_op("aten.addmm.default")
def addmm(use: Use) -> Ref:
    x, weight, bias = use["mat1"], use["mat2"], use["self"]
    if isinstance(weight, Stored) and isinstance(bias, Stored) and (use["alpha"], use["beta"]) == (1, 1):
        return use.emit(Dense(use.weight(weight), use.weight(bias), transposed=True), x)
    return weighted_sum(use, multiply(use, x, weight), bias)


def weighted_sum(use: Use, product: Path, bias: Ref) -> Path:
    """alpha times a product plus beta times a bias."""
    return plus(use, scaled(use, product, use["alpha"]), scaled(use, bias, use["beta"]))


def scaled(use: Use, x: Ref, factor: float) -> Path:
    """x times a number (x itself when the number is 1)."""
    path = use.path(x)
    return path if factor == 1 else use.emit(Constant(Literal(float(factor))), path, shape=path.shape)


@path_op("aten.baddbmm.default")
def baddbmm(use: Use) -> Ref:
    return weighted_sum(use, multiply(use, use["batch1"], use["batch2"]), use["self"])


@path_op("aten.matmul.default")
def matmul(use: Use) -> Ref:
    return multiply(use, use["self"], use["other"])


@path_op("aten.mm.default", "aten.bmm.default")
def bmm(use: Use) -> Ref:
    return multiply(use, use["self"], use["mat2"])


def multiply(use: Use, left: Ref, right: Ref) -> Path:
    """A matrix product: by a stored matrix it is dense; else both factors carry paths (or one is fixed, or frozen)."""
    if isinstance(right, Stored) and len(right.shape) == 2 and len(left.shape) >= 1:
        return use.emit(Dense(use.weight(right), None, transposed=True), left)
    map = Product("matmul")
    rank, other = len(left.shape), len(right.shape)
    if min(rank, other) >= 2:
        return use.emit(map, use.factor(left), use.factor(right))
    row = with_shape(use, use.factor(left), (1, *left.shape) if rank == 1 else left.shape)
    column = with_shape(use, use.factor(right), (*right.shape, 1) if other == 1 else right.shape)
    matrix = (1, 1) if rank == other == 1 else (*use.shape, 1) if other == 1 else (*use.shape[:-1], 1, use.shape[-1])
    return with_shape(use, use.emit(map, row, column, shape=matrix), use.shape)


def with_shape(use: Use, x: Path, shape: Sequence[Dim]) -> Path:
    """x under another shape (x itself when it has it)."""
    return x if tuple(x.shape) == tuple(shape) else use.emit(Reindex("reshape", (("shape", tuple(shape)),)), x, shape=shape)


def conv_entry(rank: int, transposed: bool) -> Any:
    """The entry of an aten convolution with ``rank`` spatial dimensions."""

    def entry(use: Use) -> Ref:
        padding = use["padding"]
        strides = tuple_of(use["stride"], rank)
        dilation = tuple_of(use["dilation"], rank)
        x, weight = use["input"], use["weight"]
        if isinstance(padding, str):
            x, padding = same_padding(use, x, weight, padding, dilation)
        shape = Conv(
            "", None, strides, tuple_of(padding, rank), dilation, use["groups"], transposed,
            tuple_of(use["output_padding"], rank) if transposed else (),
        )  # fmt: skip
        return convolve(use, x, weight, use["bias"], shape)

    return entry


def convolve(use: Use, x: Ref, weight: Ref, bias: Ref | None, shape: Conv) -> Ref:
    """A convolution by stored parameters; else a product of two values, and the bias [channels] added to every channel."""
    if isinstance(weight, Stored) and (bias is None or isinstance(bias, Stored)):
        return use.emit(replace(shape, weight=use.weight(weight), bias=use.weight(bias)), x)
    out = use.emit(Product("conv", shape), x, use.factor(weight))
    if bias is None:
        return out
    column = (*bias.shape, *([1] * (len(out.shape) - 2)))
    return plus(use, out, use.emit(Reindex("reshape", (("shape", column),)), use.path(bias), shape=column))


def same_padding(use: Use, x: Path, weight: Ref, mode: str, dilation: Sequence[int]) -> tuple[Path, tuple[int, ...]]:
    """Padding 'same' (the extra zero goes to the end, as in torch) or 'valid', as numbers."""
    kernel = [int(k) for k in weight.shape[2:]]
    if mode == "valid":
        return x, (0,) * len(kernel)
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(t % 2 == 0 for t in total):
        return x, tuple(t // 2 for t in total)
    pads = [p for t in reversed(total) for p in (t // 2, t - t // 2)]
    dims = [d + t for d, t in zip(x.shape[2:], total, strict=True)]
    padded = use.emit(Reindex("pad", (("pad", tuple(pads)), ("mode", "constant"))), x, shape=(*x.shape[:2], *dims))
    return padded, (0,) * len(kernel)


def tuple_of(value: Any, rank: int) -> tuple[int, ...]:
    """A number, or a list of 1 or ``rank`` of them, as ``rank`` numbers."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(values) * rank if len(values) == 1 else tuple(values)


for _rank in (1, 2, 3):
    path_op(f"aten.conv{_rank}d.default", f"aten.conv{_rank}d.padding")(conv_entry(_rank, False))
    path_op("aten.conv_transpose1d.default" if _rank == 1 else f"aten.conv_transpose{_rank}d.input")(conv_entry(_rank, True))


@path_op("aten.convolution.default")
def convolution(use: Use) -> Ref:
    rank = len(use["stride"])
    shape = Conv(
        "", None, tuple(use["stride"]), tuple(use["padding"]), tuple(use["dilation"]), use["groups"], use["transposed"],
        tuple(use["output_padding"]) if use["transposed"] else (),
    )  # fmt: skip
    if len(use["input"].shape) != rank + 2:
        raise use.unsupported("an input without a batch dimension")
    return convolve(use, use["input"], use["weight"], use["bias"], shape)


@path_op("aten.embedding.default")
def embedding(use: Use) -> Ref:
    weight, rows = use["weight"], use["indices"]
    if isinstance(rows, Index) and isinstance(weight, Stored):
        padding = use["padding_idx"]
        return use.emit(Embed(use.weight(weight), padding if padding >= 0 else None), rows)
    if not isinstance(rows, Known):
        raise use.unsupported("its indices are computed from the data")
    return take(use, use.path(weight), 0, rows)


def take(use: Use, x: Path, dim: int, rows: Known) -> Path:
    """Rows of one dimension chosen by a constant integer tensor of any shape."""
    flat = rows.tensor.reshape(-1).to(torch.int64)
    flat = torch.where(flat < 0, flat + int(x.shape[dim]), flat)
    shape = (*x.shape[:dim], flat.numel(), *x.shape[dim + 1 :])
    chosen = use.emit(Reindex("index", (("dim", dim), ("index", use.constant(flat)))), x, shape=shape)
    single = (*x.shape[:dim], *rows.tensor.shape, *x.shape[dim + 1 :])
    one = chosen if single == shape else use.emit(Reindex("reshape", (("shape", single),)), chosen, shape=single)
    final = (*x.shape[:dim], *rows.shape, *x.shape[dim + 1 :])
    return one if final == single else use.emit(Reindex("expand", (("shape", final),)), one, shape=final)
