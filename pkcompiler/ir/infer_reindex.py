"""The shape that a reindexing leaves, and the kinds of its attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from pkcompiler.ir.dims import Shape, ShapeError, add, axis, broadcast, reshape, show, times
from pkcompiler.ir.maps import Attr, Batch, Dim, Named, Reindex
from pkcompiler.ir.spelling import is_dim
from pkcompiler.ir.types import Slot

Slots = Mapping[str, Slot]


def reindexed(map: Reindex, shapes: tuple[Shape, ...], slots: Slots) -> Shape | None:
    """The shape of a reindexing whose attributes are well formed (:func:`ill_kinded` is empty); None where it is not determined.

    :raises ShapeError: no execution can have these shapes
    """
    if map.fn == "cat":
        return _cat(shapes, cast(int, map.args[0][1]))
    return _RULES[map.fn](shapes[0], *(_sized(map.fn, name, value, slots) for name, value in map.args))


def _sized(fn: str, name: str, value: Attr, slots: Slots) -> Attr:
    """An index slot stands for its length."""
    if not isinstance(value, Named):
        return value
    shape = slots[value.slot].type.shape
    if len(shape) != 1 or isinstance(shape[0], Batch):
        raise ShapeError(f"the {name} of {fn} must have one dimension, not {show(shape)}")
    return shape[0]


def _cat(shapes: tuple[Shape, ...], dim: int) -> Shape | None:
    at = axis(dim, len(shapes[0]))
    _at(shapes[0], dim)
    rests = {shape[:at] + shape[at + 1 :] for shape in shapes}
    if len(rests) > 1 or len({len(shape) for shape in shapes}) > 1:
        raise ShapeError(f"{' and '.join(show(s) for s in shapes)} differ besides dimension {at}")
    total = add(tuple(shape[at] for shape in shapes))
    return None if total is None else (*shapes[0][:at], total, *shapes[0][at + 1 :])


def _permute(x: Shape, dims: tuple[int, ...]) -> Shape:
    order = [axis(d, len(x)) for d in dims]
    if sorted(order) != list(range(len(x))):
        raise ShapeError(f"{list(dims)} does not permute the dimensions of {show(x)}")
    return tuple(x[d] for d in order)


def _expand(x: Shape, shape: tuple[Dim, ...]) -> Shape:
    fresh = len(shape) - len(x)
    if fresh < 0 or -1 in shape[:fresh]:
        raise ShapeError(f"{show(x)} does not expand to {show(shape)}")
    target = tuple(x[i - fresh] if dim == -1 else dim for i, dim in enumerate(shape))
    if broadcast(x, target) != target:
        raise ShapeError(f"{show(x)} does not expand to {show(shape)}")
    return target


def _replace(x: Shape, dim: int, size: Dim) -> Shape:
    _at(x, dim)
    at = axis(dim, len(x))
    return (*x[:at], size, *x[at + 1 :])


def _slice(x: Shape, dim: int, start: int | None, end: int | None, step: int) -> Shape | None:
    if step < 1:
        raise ShapeError(f"a slice with step {step}")
    size = _at(x, dim)
    if isinstance(size, int):
        first, last, _ = slice(start, end, step).indices(max(size, 0))
        return _replace(x, dim, max(0, (last - first + step - 1) // step))
    whole = not start and step == 1 and (end is None or end >= 2**31)
    return x if whole else None


def _at(x: Shape, dim: int) -> Dim:
    at = axis(dim, len(x))
    if not x:
        raise ShapeError("the tensor has no dimensions")
    return x[at]


def _select(x: Shape, dim: int, index: int) -> Shape:
    size = _at(x, dim)
    if isinstance(size, int) and not -size <= index < size:
        raise ShapeError(f"index {index} of a dimension of {size}")
    at = axis(dim, len(x))
    return x[:at] + x[at + 1 :]


def _pad(x: Shape, pad: tuple[int, ...], mode: str) -> Shape | None:
    if len(pad) % 2 or len(pad) > 2 * len(x):
        raise ShapeError(f"padding {list(pad)} of {show(x)}")
    found = list(x)
    for i in range(len(pad) // 2):
        extra, dim = pad[2 * i] + pad[2 * i + 1], x[len(x) - 1 - i]
        if isinstance(dim, Batch):
            if pad[2 * i] or pad[2 * i + 1]:
                return None
            continue
        if dim + extra < 0:
            raise ShapeError(f"padding {list(pad)} of {show(x)}")
        found[len(x) - 1 - i] = dim + extra
    return tuple(found)


def _roll(x: Shape, shifts: tuple[int, ...], dims: tuple[int, ...]) -> Shape:
    for dim in dims:
        axis(dim, len(x))
    if len(dims) != len(shifts) and not (len(shifts) == 1 and not dims):
        raise ShapeError(f"{len(shifts)} shifts for {len(dims)} dimensions")
    return x


def _flip(x: Shape, dims: tuple[int, ...]) -> Shape:
    for dim in dims:
        axis(dim, len(x))
    return x


def _index(x: Shape, dim: int, length: int) -> Shape:
    return _replace(x, dim, length)


def _sum(x: Shape, dims: tuple[int, ...] | None, keepdim: bool) -> Shape:
    summed = {axis(d, len(x)) for d in dims or ()} or set(range(len(x)))
    return tuple(1 if i in summed else d for i, d in enumerate(x) if keepdim or i not in summed)


def _repeat(x: Shape, repeats: tuple[int, ...]) -> Shape:
    if len(repeats) < len(x):
        raise ShapeError(f"{len(repeats)} repeats of {show(x)}")
    padded = (1,) * (len(repeats) - len(x)) + x
    return tuple(times(d, r) for d, r in zip(padded, repeats, strict=True))


def _unfold(x: Shape, dim: int, size: int, step: int) -> Shape | None:
    length = _at(x, dim)
    if isinstance(length, Batch):
        return None
    if step < 1 or not 0 <= size <= length:
        raise ShapeError(f"slices of {size} every {step} of a dimension of {length}")
    return (*_replace(x, dim, (length - size) // step + 1), size)


def _diagonal(x: Shape, offset: int, dim1: int, dim2: int) -> Shape | None:
    first, second = axis(dim1, len(x)), axis(dim2, len(x))
    if first == second or not x:
        raise ShapeError("a diagonal of one dimension")
    rows, columns = x[first], x[second]
    rest = tuple(d for i, d in enumerate(x) if i not in (first, second))
    if isinstance(rows, Batch) or isinstance(columns, Batch):
        return (*rest, rows) if rows == columns and offset == 0 else None
    return (*rest, max(0, min(rows + min(offset, 0), columns - max(offset, 0))))


def _cumsum(x: Shape, dim: int) -> Shape:
    axis(dim, len(x))
    return x


_RULES: dict[str, Callable[..., Shape | None]] = {
    "reshape": reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    "pad": _pad,
    "roll": _roll,
    "flip": _flip,
    "index": _index,
    "sum": _sum,
    "repeat": _repeat,
    "unfold": _unfold,
    "diagonal": _diagonal,
    "cumsum": _cumsum,
}


def _ints(value: object) -> bool:
    return isinstance(value, tuple) and all(type(v) is int for v in value)


def _dims(value: object) -> bool:
    return isinstance(value, tuple) and all(is_dim(v) for v in value)


def _int(value: object) -> bool:
    return type(value) is int


_MODES = ("constant", "reflect", "replicate", "circular")
_INTEGER = (_int, "an integer")
_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "shape": (_dims, "a list of dimensions"),
    "dims": (_ints, "a list of integers"),
    "pad": (_ints, "a list of integers"),
    "shifts": (_ints, "a list of integers"),
    "repeats": (_ints, "a list of integers"),
    "start": (lambda v: v is None or _int(v), "an integer or none"),
    "end": (lambda v: v is None or _int(v), "an integer or none"),
    "mode": (lambda v: v in _MODES, "constant, reflect, replicate or circular"),
    "keepdim": (lambda v: isinstance(v, bool), "true or false"),
    "index": (lambda v: isinstance(v, Named), "a slot"),
    "select.index": _INTEGER,
    "sum.dims": (lambda v: v is None or _ints(v), "a list of integers or none"),
}
"""What an attribute takes, by ``function.attribute`` or by attribute; an integer where nothing is said."""


def ill_kinded(map: Reindex) -> list[tuple[str, str]]:
    """The attributes of the wrong kind, each with what was expected. The names must be those of ``REINDEX``."""
    found = []
    for name, value in map.args:
        accepts, expected = _KINDS.get(f"{map.fn}.{name}") or _KINDS.get(name) or _INTEGER
        if not accepts(value):
            found.append((name, expected))
    return found
