"""Arithmetic of shapes whose dimensions are integers or multiples of the batch size. What has no exact answer is None."""

from __future__ import annotations

from pkcompiler.ir.maps import Batch, Dim

Shape = tuple[Dim, ...]


class ShapeError(ValueError):
    """Shapes that no execution can have (the message says why)."""


def axis(dim: int, rank: int) -> int:
    """``dim`` counted from the front.

    :raises ShapeError: out of range
    """
    if not -max(rank, 1) <= dim < max(rank, 1):
        raise ShapeError(f"dimension {dim} of a tensor of {rank} dimensions")
    return dim % max(rank, 1)


def times(dim: Dim, factor: int) -> Dim:
    """``factor`` copies of a dimension."""
    return Batch(dim.factor * factor) if isinstance(dim, Batch) else dim * factor


def add(dims: tuple[Dim, ...]) -> Dim | None:
    """The sum of dimensions; None for ``B + 1``."""
    batches = [d.factor for d in dims if isinstance(d, Batch)]
    rest = sum(d for d in dims if not isinstance(d, Batch))
    if not batches:
        return rest
    return None if rest else Batch(sum(batches))


def count(shape: Shape) -> tuple[int, int]:
    """The number of elements ``k * B^n`` as the pair (k, n)."""
    number = 1
    for dim in shape:
        number *= dim.factor if isinstance(dim, Batch) else dim
    return number, sum(isinstance(dim, Batch) for dim in shape)


def broadcast(*shapes: Shape) -> Shape:
    """The broadcast shape, as torch does it.

    :raises ShapeError: two dimensions differ and neither is 1
    """
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(_common(dims, shapes) for dims in zip(*padded, strict=True))


def _common(dims: tuple[Dim, ...], shapes: tuple[Shape, ...]) -> Dim:
    wide = {dim for dim in dims if dim != 1}
    if len(wide) > 1:
        raise ShapeError(f"{' and '.join(show(s) for s in shapes)} do not broadcast")
    return wide.pop() if wide else 1


def reshape(shape: Shape, target: tuple[Dim, ...]) -> Shape:
    """``target`` with its one -1 resolved.

    :raises ShapeError: the numbers of elements differ
    """
    free = [i for i, dim in enumerate(target) if dim == -1]
    if len(free) > 1:
        raise ShapeError("two dimensions are -1")
    number, power = count(shape)
    if not free:
        if count(target) != (number, power) and number * count(target)[0] != 0:
            raise ShapeError(f"{show(shape)} has not the elements of {show(target)}")
        return target
    known, batches = count(tuple(dim for dim in target if dim != -1))
    if known == 0 or number % known or power - batches not in (0, 1):
        raise ShapeError(f"{show(shape)} does not reshape to {show(target)}")
    missing: Dim = Batch(number // known) if power > batches else number // known
    return (*target[: free[0]], missing, *target[free[0] + 1 :])


def window(length: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil_mode: bool = False) -> int:
    """How many windows fit (torch's rule: with ``ceil_mode`` the last may hang over, unless it starts in the right padding).

    :raises ShapeError: none fits
    """
    room = length + 2 * padding - dilation * (kernel - 1) - 1
    found = (room + stride - 1 if ceil_mode else room) // stride + 1
    found -= ceil_mode and (found - 1) * stride >= length + padding
    if found < 1:
        raise ShapeError(f"a window of {dilation * (kernel - 1) + 1} does not fit into {length} with padding {padding}")
    return found


def sizes(shape: Shape) -> tuple[int, ...] | None:
    """The shape where it has no batch dimension, else None."""
    found = tuple(dim for dim in shape if isinstance(dim, int))
    return found if len(found) == len(shape) else None


def show(shape: Shape) -> str:
    """``[B, 4]``"""
    return "[" + ", ".join(("B" if d.factor == 1 else f"{d.factor}*B") if isinstance(d, Batch) else str(d) for d in shape) + "]"
