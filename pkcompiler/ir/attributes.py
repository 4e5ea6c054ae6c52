"""What must hold of the attributes of a single path map, whatever surrounds it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from typing import assert_never

from pkcompiler.ir import maps
from pkcompiler.ir.infer_reindex import ill_kinded
from pkcompiler.ir.maps import REINDEX, InvSqrt, Literal, PathMap
from pkcompiler.ir.spelling import conforms, describe, fields_of

Fault = tuple[str, str]
"""The attribute (empty: the operation as a whole), and what is wrong with it."""


def faults(map: PathMap) -> tuple[Fault, ...]:
    """Everything that is wrong with the attributes of ``map``; wrong kinds hide wrong values."""
    if isinstance(map, maps.Reindex):
        return tuple(_reindex(map))
    wrong = tuple(
        (f.name, f"{f.name} must be {describe(f.hint)}")
        for f in fields_of(type(map))
        if not conforms(getattr(map, f.name), f.hint) and not _integral_float(getattr(map, f.name), f.hint)
    )
    return wrong or tuple(_values(map))


def _integral_float(value: object, hint: object) -> bool:
    return hint is float and type(value) is int


def _reindex(map: maps.Reindex) -> Iterator[Fault]:
    if map.fn not in REINDEX:
        close = difflib.get_close_matches(map.fn, REINDEX, 1)
        yield "", f"unknown reindexing '{map.fn}'" + (f", did you mean '{close[0]}'?" if close else "")
        return
    names = tuple(name for name, _ in map.args)
    if names != REINDEX[map.fn]:
        yield "", f"{map.fn} takes {_list(REINDEX[map.fn])} in this order, not {_list(names)}"
        return
    for name, expected in ill_kinded(map):
        yield name, f"{name} of {map.fn} must be {expected}"


def _values(map: PathMap) -> Iterator[Fault]:
    match map:
        case maps.Dense() | maps.Gate() | maps.Frozen() | maps.Softmax():
            return
        case maps.Conv():
            yield from _conv(map)
        case maps.Scale():
            yield from _scale(map)
        case maps.Embed(padding_idx=index):
            if index is not None and index < 0:
                yield "padding_idx", "padding_idx must not be negative"
        case maps.Source(value) | maps.Constant(value):
            yield from _factor("factor" if isinstance(map, maps.Constant) else "value", value)
        case maps.Resample():
            yield from _resample(map)
        case maps.Window():
            yield from _lengths(("stride", map.stride), ("padding", map.padding), ("dilation", map.dilation), rank=len(map.kernel))
            yield from _positive(("kernel", map.kernel), ("stride", map.stride), ("dilation", map.dilation))
            if map.kernel and (map.dims or map.keepdim):
                yield "dims", "a maximum is over a window or over whole dimensions, not both"
        case maps.Normalise():
            yield from _normalise(map)
        case maps.Product():
            yield from _product(map)
        case maps.Merge(signs):
            if any(sign not in (1, -1) for sign in signs):
                yield "signs", "signs must be 1 or -1"
        case maps.Reindex():
            return
        case _ as unreachable:
            assert_never(unreachable)


def _conv(map: maps.Conv) -> Iterator[Fault]:
    given = (("padding", map.padding), ("dilation", map.dilation))
    yield from _lengths(*given, rank=len(map.stride), empty=False)
    yield from _lengths(("output_padding", map.output_padding), rank=len(map.stride))
    yield from _positive(("stride", map.stride), ("dilation", map.dilation))
    if not map.stride:
        yield "stride", "stride has one entry per spatial dimension, at least one"
    if map.groups < 1:
        yield "groups", "groups must be at least 1"
    if any(p < 0 for p in (*map.padding, *map.output_padding)):
        yield "padding", "padding must not be negative"
    if map.output_padding and not map.transposed:
        yield "output_padding", "output_padding belongs to a transposed convolution"


def _scale(map: maps.Scale) -> Iterator[Fault]:
    if map.weight is None and map.bias is None:
        yield "", "a scale has a weight or a bias; a fixed factor alone is a constant"
    if any(size < 1 for size in map.shape):
        yield "shape", "shape must be positive"
    for part, value in (("factor", map.factor), ("center", map.center)):
        yield from _factor(part, value)


def _factor(part: str, value: object) -> Iterator[Fault]:
    if isinstance(value, InvSqrt) and not (math.isfinite(value.eps) and value.eps >= 0):
        yield part, f"eps must be finite and not negative, not {value.eps!r}"
    if isinstance(value, Literal) and math.isnan(value.value):
        yield part, "a factor must be a number, not nan"


def _resample(map: maps.Resample) -> Iterator[Fault]:
    rank = len(map.kernel) if map.kind == "average" else len(map.size)
    if rank == 0:
        needed = "kernel" if map.kind == "average" else "size"
        yield needed, f"{map.kind} needs {needed}"
    yield from _lengths(("stride", map.stride), ("padding", map.padding), ("scale", map.scale), rank=rank)
    yield from _positive(("kernel", map.kernel), ("stride", map.stride), ("size", map.size))
    if map.kind != "average" and (map.kernel or map.stride or map.padding):
        yield "kernel", f"{map.kind} has a size, no kernel, stride or padding"


def _normalise(map: maps.Normalise) -> Iterator[Fault]:
    if not (math.isfinite(map.eps) and map.eps >= 0):
        yield "eps", f"eps must be finite and not negative, not {map.eps!r}"
    if map.groups < 1 or (map.kind != "group" and map.groups != 1):
        yield "groups", "groups must be at least 1, and 1 unless kind is group"
    if map.kind == "centre" and (map.weight or map.bias or map.eps):
        yield "kind", "a centring has no weight, no bias and no eps"
    if not map.shape or (map.kind == "group" and len(map.shape) != 1):
        yield "shape", "shape names what is normalised: trailing dimensions, or [channels] for groups"


def _product(map: maps.Product) -> Iterator[Fault]:
    if (map.kind == "conv") != (map.conv is not None):
        yield "conv", "conv is given exactly when kind is conv"
    if map.norm and map.kind != "mul":
        yield "norm", "a normalisation multiplies by a norm: norm belongs to kind mul"
    if map.conv is None:
        return
    if map.conv.weight or map.conv.bias is not None:
        yield "conv", "a convolution by a computed kernel names no weight and no bias"
    for _, message in _conv(map.conv):
        yield "conv", message


def _lengths(*given: tuple[str, tuple[float, ...]], rank: int, empty: bool = True) -> Iterator[Fault]:
    for name, value in given:
        if len(value) != rank and (value or not empty):
            yield name, f"{name} has {len(value)} entries for {rank} dimensions"


def _positive(*given: tuple[str, tuple[int, ...]]) -> Iterator[Fault]:
    for name, value in given:
        if any(v < 1 for v in value):
            yield name, f"{name} must be positive"


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nothing"
