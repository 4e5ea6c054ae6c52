"""Norms written out: centring, root mean squares, and the size of what is divided by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from pkcompiler.frontend.equal.reading import (
    ADD,
    MUL,
    NEG,
    SCALINGS,
    SUB,
    VIEWS,
    arguments,
    aten,
    both_ways,
    called,
    is_constant_along,
    is_free,
    put,
    rank,
    reduced,
    same,
    seen_through,
)
from pkcompiler.frontend.lift.classify import meta, op_name
from pkcompiler.frontend.observed import behind
from pkcompiler.ops.gates import NORMS, PASS_THROUGH
from pkcompiler.ops.normalise import CENTRE


def is_norm(value: Any) -> bool:
    """Whether a value is computed from roots and sums of squares alone, what these are of left aside."""
    return isinstance(value, fx.Node) and not is_free(value) and size_of(value) is not None


def normalised(node: fx.Node) -> None:
    """(x - mean(x)) times a norm of x: what is centred is normalised, so it is one centring, and no path through the mean."""
    for factor, other in both_ways(node):
        found = centring(other)
        if isinstance(factor, fx.Node) and found is not None and found.sign == 1 and is_norm_of(factor, found):
            own = {node, *behind(factor)}
            centred = put(other, CENTRE, (found.x, list(found.dims)))
            for user in [n for n in other.users if n in own or op_name(n) in PASS_THROUGH]:
                user.replace_input_with(other, centred)
            return


def is_norm_of(factor: fx.Node, centred: Centring) -> bool:
    """Whether a factor has a norm in it, x goes into it, and it is the same along the dimensions of the mean."""
    parts, dims = behind(factor), centred.dims
    norms = any(op_name(n) in NORMS or is_root(n) for n in parts if n.op == "call_function")
    return norms and centred.x in parts and 0 not in dims and all(is_constant_along(factor, d - rank(centred.x)) for d in dims)


def is_root(node: fx.Node) -> bool:
    """A power with a fractional exponent."""
    exponent = node.args[1] if len(node.args) > 1 else None
    return op_name(node) == "aten.pow.Tensor_Scalar" and isinstance(exponent, float) and not exponent.is_integer()


@dataclass(frozen=True, slots=True)
class Centring:
    """``sign`` times x minus its mean over ``dims``."""

    x: fx.Node
    mean: Any
    dims: tuple[int, ...]
    sign: int


def centring(value: Any, sign: int = 1) -> Centring | None:
    """What a value is, if it is ``x - mean(x)`` or ``mean(x) - x``, in their writings."""
    value = seen_through(value)
    if called(value, str(CENTRE)):
        return Centring(value.args[0], None, tuple(value.args[1]), sign)
    if called(value, NEG):
        return centring(value.args[0], -sign)
    for x, less, turned in differences(value):
        mean = reduced(less, "aten.mean.dim")
        if isinstance(x, fx.Node) and mean and same(x, mean[0]):
            return Centring(x, less, mean[1], sign * turned)
    return None


def differences(value: Any) -> Iterator[tuple[Any, Any, int]]:
    """a, b and 1 of a - b, and b, a and -1, in its writings."""
    if called(value, SUB) and not value.kwargs:
        left, right = map(seen_through, value.args[:2])
        yield from ((left, right, 1), (right, left, -1))
    if called(value, ADD) and not value.kwargs:
        for other, x in both_ways(value):
            if called(other, NEG):
                less = seen_through(other.args[0])
                yield from ((x, less, 1), (less, x, -1))


def root_mean_square(node: fx.Node) -> None:
    """x / sqrt(mean(x^2) + eps), so that the graph tells which entries of x the deviation reads."""
    for factor, x in both_ways(node):
        found = mean_square_below(factor)
        if found is None or not isinstance(x, fx.Node) or not same(found[0], x) or 0 in found[1]:
            continue
        order = [*(d for d in range(rank(x)) if d not in found[1]), *found[1]]
        turned = permuted(node, x, order)
        shape = list(meta(turned).shape[-len(found[1]) :])
        if all(isinstance(n, int) for n in shape):
            made = put(node, aten.rms_norm.default, (turned, shape, None, found[2]), meta(turned))
            node.replace_all_uses_with(permuted(node, made, [order.index(d) for d in range(rank(x))]))
            return


def permuted(place: fx.Node, x: fx.Node, order: list[int]) -> fx.Node:
    """x with its dimensions in ``order``, put before ``place``; x itself where that is their order."""
    return x if order == sorted(order) else put(place, aten.permute.default, (x, order), meta(x).permute(order))


def mean_square_below(factor: Any) -> tuple[Any, tuple[int, ...], float] | None:
    """x, the dimensions and eps of 1 / sqrt(mean(x^2) + eps)."""
    inside = under_root(factor)
    plus = called(inside, ADD) and isinstance(inside.args[1], int | float) and not inside.kwargs
    mean = reduced(inside.args[0] if plus else inside, "aten.mean.dim")
    x = None if mean is None else squared(mean[0])
    return None if mean is None or x is None else (x, mean[1], float(inside.args[1]) if plus else 0.0)


def under_root(factor: Any) -> Any:
    """V of V^(-1/2), in one of its writings."""
    if called(factor, "aten.rsqrt.default"):
        return seen_through(factor.args[0])
    if called(factor, "aten.reciprocal.default") and called(root := seen_through(factor.args[0]), "aten.sqrt.default"):
        return seen_through(root.args[0])
    return seen_through(factor.args[0]) if called(factor, "aten.pow.Tensor_Scalar") and factor.args[1] == -0.5 else None


def squared(value: Any) -> Any:
    """x of x^2, in one of its writings; None for anything else."""
    value = seen_through(value)
    by_power = called(value, "aten.pow.Tensor_Scalar") and value.args[1] == 2
    by_product = called(value, MUL) and same(*value.args[:2])
    return seen_through(value.args[0]) if by_power or by_product or called(value, "aten.square.default") else None


# sizes ------------------------------------------------------------------------------------------------------------------


def size_of(value: Any) -> float | None:
    """What a norm (or one over it, or a product of such) is where each thing that is squared in it has the mean square 1.

    None for what is no norm. What is added to it, or is its least value, keeps it from 0 and is left aside.
    """
    value = seen_through(value)
    if not isinstance(value, fx.Node) or value.op != "call_function":
        return None
    name, args = op_name(value), arguments(value)
    match name:
        case "aten.rsqrt.default" | "aten.sqrt.default":
            inside = square_size_of(args[0])
            return None if inside is None else math.pow(inside, -0.5 if "rsqrt" in name else 0.5)
        case "aten.pow.Tensor_Scalar" if is_root(value):
            inside = square_size_of(args[0])
            return None if inside is None else math.pow(inside, args[1])
        case "aten.std.correction":
            return None if (inside := variance_size(value)) is None else math.sqrt(inside)
        case "aten.linalg_vector_norm.default":
            order = args[1] if len(args) > 1 else 2
            count = reduced_count(value, args[2] if len(args) > 2 else None)
            return math.sqrt(count) if count and order == 2 else None
        case "aten.reciprocal.default":
            return None if (inside := size_of(args[0])) is None else 1 / inside
    return linear_size(value, size_of)


def square_size_of(value: Any) -> float | None:
    """The same of the square of a norm: a mean or sum of squares, a variance, or a norm squared."""
    value = seen_through(value)
    if called(value, "aten.var.correction"):
        return variance_size(value)
    if called(value, "aten.mean.dim", "aten.sum.dim_IntList"):
        count = reduced_count(value, value.args[1]) if squared(value.args[0]) is not None else None
        return None if count is None else 1.0 if called(value, "aten.mean.dim") else float(count)
    norm = squared(value)
    if norm is not None and (inside := size_of(norm)) is not None:
        return inside**2
    return linear_size(value, square_size_of)


def linear_size(value: Any, size: Callable[[Any], float | None]) -> float | None:
    """The size of what is a view of a norm, a norm times a number, or kept from 0."""
    if not isinstance(value, fx.Node) or value.op != "call_function":
        return None
    name, args = op_name(value), arguments(value)
    inside = size(args[0]) if args else None
    if name in SCALINGS and len(args) > 1 and isinstance(args[1], int | float) and inside is not None:
        return abs(inside * args[1] if "mul" in name else inside / args[1]) or None
    kept = name in KEEPING or (name == ADD and (isinstance(args[1], int | float) or is_free(args[1])))
    return inside if kept else None


KEEPING = VIEWS | {
    "aten.clamp_min.default", "aten.clamp.default", "aten.maximum.default", "aten.expand.default",
    "aten.squeeze.dim", "aten.squeeze.dims", "aten.sub.Tensor",
}  # fmt: skip
"""Operators behind which a norm is still that norm."""


def reduced_count(value: fx.Node, dims: Any) -> int | None:
    """How many entries a reduction takes together."""
    shape = meta(seen_through(value.args[0])).shape
    count = math.prod(shape[d] for d in (dims or range(len(shape))))
    return count if isinstance(count, int) and count else None


def variance_size(value: fx.Node) -> float | None:
    """N / (N - correction)"""
    count = reduced_count(value, value.args[1] if len(value.args) > 1 else None)
    correction: Any = value.kwargs.get("correction", 1)
    below = None if count is None else count - (1 if correction is None else correction)
    return count / below if count and below and below > 0 else None
