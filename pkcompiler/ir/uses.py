"""Which slots a path map reads, and in which role each must stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from pkcompiler.ir import maps
from pkcompiler.ir.maps import Fixed, InvSqrt, Literal, Named, PathMap
from pkcompiler.ir.types import Op, Role

ANY: frozenset[Role] = frozenset({"parameter", "buffer", "constant", "computed"})
PARAMETER: frozenset[Role] = frozenset({"parameter", "computed"})
FIXED: frozenset[Role] = frozenset({"buffer", "constant"})
INTEGERS = frozenset({"i64", "i32", "i16", "i8", "u8"})
BOOL = frozenset({"bool"})


@dataclass(frozen=True, slots=True)
class Use:
    """The read of ``slot`` as ``part`` of a map; the roles that it may have, and the element types (empty: any)."""

    part: str
    slot: str
    roles: frozenset[Role] = ANY
    dtypes: frozenset[str] = frozenset()


def uses(map: PathMap) -> tuple[Use, ...]:
    """Every slot that ``map`` reads. The weight and bias of a :class:`Scale` are parameters, or computed from them; into fixed
    factors none enters."""
    match map:
        case maps.Dense(weight, bias) | maps.Conv(weight, bias) | maps.Normalise(weight=weight, bias=bias):
            return _stored(weight, bias, ANY)
        case maps.Scale(weight, bias):
            return _stored(weight, bias, PARAMETER) + _fixed("factor", map.factor) + _fixed("center", map.center)
        case maps.Embed(weight):
            return _stored(weight, None, ANY)
        case maps.Source(Named(slot)):
            return (Use("value", slot),)
        case maps.Source(value):
            return _fixed("value", value)
        case maps.Constant(factor):
            return _fixed("factor", factor)
        case maps.Reindex():
            named = ((key, value) for key, value in map.args if isinstance(value, Named))
            return tuple(Use(key, value.slot, FIXED, INTEGERS) for key, value in named)
        case maps.Softmax(allowed=Named(slot)):
            return (Use("allowed", slot, FIXED, BOOL),)
        case maps.Softmax() | maps.Resample() | maps.Gate() | maps.Window() | maps.Product() | maps.Merge() | maps.Frozen():
            return ()
        case _ as unreachable:
            assert_never(unreachable)


def slots_read(ops: Iterable[Op]) -> frozenset[str]:
    """Every slot that one of the operations reads."""
    return frozenset(use.slot for op in ops for use in uses(op.map))


def _stored(weight: str | None, bias: str | None, roles: frozenset[Role]) -> tuple[Use, ...]:
    return tuple(Use(part, slot, roles) for part, slot in (("weight", weight), ("bias", bias)) if slot is not None)


def _fixed(part: str, value: Fixed | None) -> tuple[Use, ...]:
    match value:
        case Named(slot) | InvSqrt(slot):
            return (Use(part, slot, FIXED),)
        case Literal() | None:
            return ()


def arity(map: PathMap) -> tuple[int, int | None]:
    """The least and the largest number of inputs (None: any)."""
    match map:
        case maps.Source():
            return 0, 0
        case maps.Product():
            return 2, 2
        case maps.Merge():
            return 1, None
        case maps.Reindex():
            return 1, None if map.fn == "cat" else 1
        case maps.Frozen():
            return 0, None
        case (
            maps.Dense()
            | maps.Conv()
            | maps.Scale()
            | maps.Embed()
            | maps.Constant()
            | maps.Resample()
            | maps.Gate()
            | maps.Window()
            | maps.Normalise()
            | maps.Softmax()
        ):
            return 1, 1
        case _ as unreachable:
            assert_never(unreachable)
