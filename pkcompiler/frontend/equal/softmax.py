"""Softmax written out: exponentials over their sum, masked or not, and what a softmax does not see."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from pkcompiler.frontend.equal.products import Regrouped, leaves, parts
from pkcompiler.frontend.equal.reading import (
    ADD,
    MUL,
    SUB,
    arguments,
    aten,
    both_ways,
    called,
    constant_of,
    is_boolean,
    is_constant_along,
    is_zero,
    put,
    rank,
    reduced,
    same,
    seen_through,
)
from pkcompiler.frontend.lift.classify import meta, op_name

SOFTMAXES = ("aten.softmax.int", "aten._softmax.default", "aten._safe_softmax.default")
FILLS = ("aten.masked_fill.Scalar", "aten.masked_fill.Tensor", "aten.where.self", "aten.where.ScalarOther")


MATMULS = ("aten.matmul.default", "aten.bmm.default", "aten.mm.default")


def softmax(node: fx.Node) -> None:
    """e / sum of e over one dimension, e = exp(s) or a softmax of s, times a mask or not; also behind ``e @ v`` and ``e * v``."""
    for below in leaves(node):
        total = summed(below.args[0]) if called(below, "aten.reciprocal.default") else None
        for above in parts(node) if total else ():
            made = shared(node, above, *total) if isinstance(above, fx.Node) and total else None
            if made is not None:
                node.replace_all_uses_with(Regrouped(node, {above: made, below: 1}).of(node))
                return


def summed(value: Any) -> tuple[fx.Node, int] | None:
    """What a value sums over one dimension, or does where nothing is negative, and that dimension."""
    value = seen_through(value)
    if called(value, "aten.linalg_vector_norm.default") and value.args[1:2] == (1,) and value.args[3:4] == (True,):
        return summed(put(value, aten.sum.dim_IntList, (value.args[0], value.args[2], True)))
    total = reduced(value, "aten.sum.dim_IntList")
    return (total[0], total[1][0]) if total and isinstance(total[0], fx.Node) and len(total[1]) == 1 else None


def shared(place: fx.Node, above: fx.Node, weights: fx.Node, dim: int) -> fx.Node | None:
    """The softmax that weights over their sum are, or its matrix product where that of the weights stands above."""
    product = called(above, *MATMULS) and dim == rank(weights) - 1 > 0
    if not same(above.args[0] if product else above, weights) or (scores := exponent(place, weights, dim)) is None:
        return None
    made = put(place, aten.softmax.int, (unshifted(scores, dim), dim), meta(weights))
    return put(place, above.target, (made, above.args[1]), meta(above)) if product else made


def exponent(place: fx.Node, value: Any, dim: int) -> fx.Node | None:
    """s of exp(s), up to what is constant along a row; -inf where the exponential is made 0."""
    value = seen_through(value)
    if called(value, "aten.exp.default"):
        return unshifted(value.args[0], dim)
    if called(value, *SOFTMAXES) and value.args[1] % rank(value) == dim:
        return seen_through(value.args[0])
    if called(value, MUL):
        return next((s for inner, mask in both_ways(value) if (s := weighed(place, inner, mask, dim, value))), None)
    if called(value, *FILLS) and is_zero(value.args[2]):
        inner, mask = (value.args[1], value.args[0]) if "where" in op_name(value) else value.args[:2]
        return masked(place, inner, mask if "where" in op_name(value) else put(place, aten.eq.Scalar, (mask, 0), meta(mask)), dim)
    if called(value, "aten.tril.default", "aten.triu.default"):
        ones = put(place, aten.ones_like.default, (value,), meta(value))
        return masked(place, value.args[0], put(place, value.target, (ones, *value.args[1:]), meta(value)), dim)
    return None


def weighed(place: fx.Node, inner: Any, weight: Any, dim: int, product: fx.Node) -> fx.Node | None:
    """The exponent of an exponential times a weight that is not negative, a mask of 0 and 1 for one."""
    known = constant_of(weight)
    if not isinstance(weight, fx.Node) or (known is None and not is_boolean(weight)):
        return None
    if known is None or bool(((known == 0) | (known == 1)).all()):
        return masked(place, inner, weight, dim)
    scores = exponent(place, inner, dim) if bool((known >= 0).all()) else None
    if scores is None:
        return None
    precise = put(place, aten.to.dtype, (weight, meta(scores).dtype), meta(weight).to(meta(scores).dtype))
    return put(place, aten.add.Tensor, (scores, put(place, aten.log.default, (precise,), meta(precise))), meta(product))


def masked(place: fx.Node, inner: Any, mask: fx.Node, dim: int) -> fx.Node | None:
    """The exponent of an exponential times a mask of 0 and 1."""
    scores = exponent(place, inner, dim)
    if scores is None:
        return None
    forbidden = put(place, aten.eq.Scalar, (mask, 0), meta(mask) == 0)
    return put(place, aten.masked_fill.Scalar, (scores, forbidden, -math.inf), meta(scores))


def shifted(node: fx.Node) -> None:
    """softmax(s - c), c constant along a row: softmax(s)."""
    scores, dim, *_ = arguments(node)
    node.update_arg(0, unshifted(scores, dim % rank(node)))


def exp_of_log_softmax(node: fx.Node) -> None:
    """exp(s - logsumexp(s))"""
    shifted = seen_through(node.args[0])
    if not called(shifted, SUB):
        return
    scores, size = seen_through(shifted.args[0]), seen_through(shifted.args[1])
    if called(size, "aten.logsumexp.default") and size.args[2:3] == (True,) and len(size.args[1]) == 1:
        dim = size.args[1][0] % rank(scores)
        if same(unshifted(scores, dim), unshifted(size.args[0], dim)):
            node.replace_all_uses_with(put(node, aten.softmax.int, (unshifted(scores, dim), dim)))


def unshifted(scores: Any, dim: int) -> Any:
    """The scores without what is subtracted from all of a row alike, which a softmax over it does not see."""
    scores = seen_through(scores)
    while called(scores, SUB, ADD) and not scores.kwargs and not is_constant_along(scores, dim - rank(scores)):
        left, right = seen_through(scores.args[0]), seen_through(scores.args[1])
        if not (
            is_constant_along(right, dim - rank(scores)) and isinstance(left, fx.Node) and meta(left).shape == meta(scores).shape
        ):
            return scores
        scores = left
    return scores
