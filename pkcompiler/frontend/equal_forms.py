"""Equal forms: softmax, centring, RMSNorm and frozen BatchNorms that are written out stand in the program as what they are.

A functional depends on the function, not on how it is written (docs/theory.md, section 1). The rewritten program computes the same,
to rounding; the certificates compare it with the module itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from pkcompiler.frontend.classify import meta, op_name
from pkcompiler.frontend.export import Program
from pkcompiler.frontend.trace import behind
from pkcompiler.ops.gates import NORMS, PASS_THROUGH
from pkcompiler.ops.normalise import CENTRE

aten = torch.ops.aten

MUL, ADD, SUB = "aten.mul.Tensor", "aten.add.Tensor", "aten.sub.Tensor"
INPUT = "pkc_input"
"""Marks the placeholders of inputs in their ``meta``."""
VALUE = "pkc_value"
"""The tensor of a buffer or constant, in the ``meta`` of its placeholder."""
SCALINGS = ("aten.mul.Tensor", "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar")
SOFTMAXES = ("aten.softmax.int", "aten._softmax.default", "aten._safe_softmax.default")
FILLS = ("aten.masked_fill.Scalar", "aten.masked_fill.Tensor", "aten.where.self", "aten.where.ScalarOther")
VIEWS = frozenset({"aten.view.default", "aten.reshape.default", "aten.unsqueeze.default"})


def make_equal(program: Program) -> None:
    """Rewrite the program in place, in order."""
    graph = program.module.graph
    for node in graph.find_nodes(op="placeholder"):
        node.meta[INPUT] = node.name in program.inputs
        node.meta[VALUE] = program.lifted.get(node.name, program.tensors.get(program.buffers.get(node.name, "")))
    for node in list(graph.nodes):
        for form in FORMS.get(op_name(node), ()):
            form(node)
    graph.eliminate_dead_code()
    program.module.recompile()


# reading ----------------------------------------------------------------------------------------------------------------


def seen_through(value: Any) -> Any:
    """A node behind what hands its tensor on."""
    while isinstance(value, fx.Node) and op_name(value) in PASS_THROUGH:
        value = value.args[0]
    return value


def same(a: Any, b: Any) -> bool:
    """Whether two arguments are one expression, written once or twice."""
    a, b = seen_through(a), seen_through(b)
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
        return type(a) is type(b) and (all(map(same, a, b)) and len(a) == len(b) if isinstance(a, tuple | list) else a == b)
    if a is b:
        return True
    alike = a.op == b.op == "call_function" and a.target is b.target and len(a.args) == len(b.args)
    return alike and dict(a.kwargs) == dict(b.kwargs) and all(map(same, a.args, b.args))


def called(value: Any, *names: str) -> bool:
    """Whether ``value`` is a call of one of these operators."""
    return isinstance(value, fx.Node) and value.op == "call_function" and op_name(value) in names


def rank(node: fx.Node) -> int:
    value: Tensor = meta(node)
    return value.dim()


def both_ways(node: fx.Node) -> Iterator[tuple[Any, Any]]:
    """The operands of a product or sum, in both orders."""
    left, right = node.args[:2]
    yield seen_through(left), seen_through(right)
    yield seen_through(right), seen_through(left)


def reduced(value: Any, name: str) -> tuple[Any, tuple[int, ...]] | None:
    """What ``value`` reduces by a sum or mean, and over which dimensions, where these stay with size 1."""
    value = seen_through(value)
    if name == "aten.mean.dim" and called(value, *SCALINGS) and isinstance(value.args[1], int | float):
        return averaged(value)
    if called(value, "aten.unsqueeze.default"):
        inner, place = seen_through(value.args[0]), value.args[1]
        if not called(inner, name) or True in inner.args[2:3] or len(inner.args) < 2 or len(inner.args[1]) != 1:
            return None
        dims = (inner.args[1][0] % rank(inner.args[0]),)
        return (seen_through(inner.args[0]), dims) if place % rank(value) == dims[0] else None
    if not called(value, name) or not (len(value.args) > 2 and value.args[2] is True):
        return None
    x = seen_through(value.args[0])
    return x, tuple(sorted(d % rank(x) for d in value.args[1]))


def averaged(value: Any) -> tuple[Any, tuple[int, ...]] | None:
    """A mean that is a sum over the number of what is summed."""
    total = reduced(value.args[0], "aten.sum.dim_IntList")
    size = math.prod(meta(total[0]).shape[d] for d in total[1]) if total else 0
    share = value.args[1] if op_name(value).startswith("aten.mul") else 1 / value.args[1]
    return total if isinstance(size, int) and size and math.isclose(share * size, 1, rel_tol=1e-12) else None


def put(node: fx.Node, target: Any, args: tuple[Any, ...], value: Any = None) -> fx.Node:
    """A new node before ``node``, of the same origin (and type, unless ``value`` says another)."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, args)
    made.meta = {**node.meta, **({} if value is None else {"val": value})}
    return made


# softmax ----------------------------------------------------------------------------------------------------------------


def softmax(node: fx.Node) -> None:
    """e / sum of e over one dimension, e = exp(s) or a softmax of s, times a mask or not."""
    for above, below in both_ways(node):
        total = reduced(below.args[0], "aten.sum.dim_IntList") if called(below, "aten.reciprocal.default") else None
        if total and len(total[1]) == 1 and same(above, total[0]) and (scores := exponent(node, above, total[1][0])):
            node.replace_all_uses_with(put(node, aten.softmax.int, (unshifted(scores, total[1][0]), total[1][0])))
            return


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
    if not isinstance(weight, fx.Node) or not (is_boolean(weight) or (known is not None and bool((known >= 0).all()))):
        return None
    if is_boolean(weight) or bool(((known == 0) | (known == 1)).all()):
        return masked(place, inner, weight, dim)
    scores = exponent(place, inner, dim)
    precise = scores and put(place, aten.to.dtype, (weight, meta(scores).dtype), meta(weight).to(meta(scores).dtype))
    return scores and put(place, aten.add.Tensor, (scores, put(place, aten.log.default, (precise,), meta(precise))), meta(product))


def masked(place: fx.Node, inner: Any, mask: fx.Node, dim: int) -> fx.Node | None:
    """The exponent of an exponential times a mask of 0 and 1."""
    scores = exponent(place, inner, dim)
    forbidden = scores and put(place, aten.eq.Scalar, (mask, 0), meta(mask) == 0)
    return scores and put(place, aten.masked_fill.Scalar, (scores, forbidden, -math.inf), meta(scores))


def is_boolean(value: Any) -> bool:
    """Whether a tensor holds truth values, or numbers that these were converted to."""
    return (
        isinstance(value, fx.Node)
        and isinstance(meta(seen_through(value)), Tensor)
        and meta(seen_through(value)).dtype == torch.bool
    )


def is_zero(value: Any) -> bool:
    known = constant_of(value)
    return known is not None and not bool(known.any())


def constant_of(value: Any) -> Tensor | None:
    """A number, or a tensor that buffers and constants alone are made into; None for anything else."""
    if isinstance(value, int | float):
        return torch.tensor(value)
    if not isinstance(value, fx.Node) or value.op not in ("placeholder", "call_function"):
        return None
    if value.op == "placeholder":
        return value.meta.get(VALUE)
    made = [constant_of(n) for n in value.all_input_nodes]
    if any(t is None for t in made) or not isinstance(value.target, torch._ops.OpOverload) or not isinstance(meta(value), Tensor):
        return None
    given = dict(zip(value.all_input_nodes, made, strict=True))
    result: Tensor = value.target(*fx.map_arg(value.args, given.get), **fx.map_arg(dict(value.kwargs), given.get))
    return result


def shifted(node: fx.Node) -> None:
    """softmax(s - c), c constant along a row: softmax(s)."""
    node.update_arg(0, unshifted(node.args[0], node.args[1] % rank(node)))


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
        if not is_constant_along(right, dim - rank(scores)) or rank(left) != rank(scores):
            return scores
        scores = left
    return scores


def is_constant_along(value: Any, dim: int) -> bool:
    """Whether a number or tensor has one entry along a dimension (counted from the end)."""
    if not isinstance(value, fx.Node):
        return True
    shape = meta(value).shape
    return len(shape) < -dim or (isinstance(shape[dim], int) and shape[dim] == 1)


# centring ---------------------------------------------------------------------------------------------------------------


def normalised(node: fx.Node) -> None:
    """(x - mean(x)) times a norm of x: what is centred is normalised, so it is one centring, and no path through the mean."""
    for factor, other in both_ways(node):
        if not isinstance(factor, fx.Node):
            continue
        parts = behind(factor)
        if not any(op_name(n) in NORMS or is_root(n) for n in parts if n.op == "call_function"):
            continue
        for centred, x, dims in centrings(other):
            if x in parts and all(is_constant_along(factor, d - rank(x)) for d in dims) and 0 not in dims:
                centred.replace_all_uses_with(put(centred, CENTRE, (x, list(dims))))
                return


def is_root(node: fx.Node) -> bool:
    """A power with a fractional exponent."""
    exponent = node.args[1] if len(node.args) > 1 else None
    return op_name(node) == "aten.pow.Tensor_Scalar" and isinstance(exponent, float) and not exponent.is_integer()


def centrings(value: Any) -> Iterator[tuple[fx.Node, fx.Node, tuple[int, ...]]]:
    """``x - mean(x)`` among the factors of a product, with x and the dimensions of the mean."""
    value = seen_through(value)
    if called(value, MUL):
        yield from (found for operand in value.args[:2] for found in centrings(operand))
    for x, less in differences(value):
        mean = reduced(less, "aten.mean.dim")
        if isinstance(x, fx.Node) and mean and same(x, mean[0]):
            yield value, x, mean[1]


def differences(value: Any) -> Iterator[tuple[Any, Any]]:
    """a and b of a - b, in its writings."""
    if called(value, SUB) and not value.kwargs:
        yield seen_through(value.args[0]), seen_through(value.args[1])
    if called(value, ADD) and not value.kwargs:
        yield from ((x, seen_through(other.args[0])) for other, x in both_ways(value) if called(other, "aten.neg.default"))
    if called(value, "aten.neg.default"):
        yield from ((x, less) for less, x in differences(seen_through(value.args[0])))


# root mean squares ------------------------------------------------------------------------------------------------------


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


# BatchNorm --------------------------------------------------------------------------------------------------------------


def frozen_batch_norm(node: fx.Node) -> None:
    """x * s + (b - m * s), s and b free of data: (x - m) * s + b, so that the mean is the constant source that it is."""
    for scaled, shift in both_ways(node):
        views, inner = unviewed(shift)
        plain = called(scaled, MUL) and called(inner, SUB) and is_free(shift) and not (node.kwargs or inner.kwargs)
        found = [(x, s, m) for x, s in both_ways(scaled) for m in mean_behind(inner, x, s)] if plain else []
        for x, scale, mean in found[:1]:
            centred = put(node, aten.sub.Tensor, (x, views(mean, node, shift)), meta(x))
            product = put(node, aten.mul.Tensor, (centred, scale), meta(scaled))
            node.replace_all_uses_with(put(node, aten.add.Tensor, (product, views(inner.args[0], node, shift))))
            return


def mean_behind(shift: fx.Node, x: Any, scale: Any) -> Iterator[fx.Node]:
    """m of ``shift`` = b - m * scale, where all of them have one shape, and x alone depends on data."""
    bias, moved = shift.args[:2]
    if (
        not (isinstance(bias, fx.Node) and isinstance(moved, fx.Node) and isinstance(x, fx.Node))
        or is_free(x)
        or not is_free(scale)
    ):
        return
    rest = factors(moved)
    for factor in factors(unviewed(scale)[1]):
        place = next((i for i, other in enumerate(rest) if same(factor, other)), None)
        if place is None:
            return
        del rest[place]
    if (
        len(rest) == 1
        and isinstance(rest[0], fx.Node)
        and {tuple(meta(n).shape) for n in (rest[0], bias)} == {tuple(meta(shift).shape)}
    ):
        yield rest[0]


def factors(value: Any) -> list[Any]:
    """What a product multiplies."""
    value = seen_through(value)
    return [f for operand in value.args[:2] for f in factors(operand)] if called(value, MUL) else [value]


def unviewed(value: Any) -> tuple[Callable[[fx.Node, fx.Node, fx.Node], fx.Node], Any]:
    """A value behind its reshapings, and how another of its shape takes theirs."""
    inner = seen_through(value)
    while called(inner, *VIEWS):
        inner = seen_through(inner.args[0])

    def view(other: fx.Node, place: fx.Node, like: fx.Node) -> fx.Node:
        shape = [int(n) for n in meta(like).shape]
        return other if list(meta(other).shape) == shape else put(place, aten.view.default, (other, shape), meta(like))

    return view, inner


def is_free(node: Any) -> bool:
    """Whether no input of the program enters: parameters and constants alone."""
    return isinstance(node, fx.Node) and not any(n.meta.get(INPUT) for n in behind(node))


FORMS: dict[str, tuple[Callable[[fx.Node], None], ...]] = {
    MUL: (softmax, normalised, root_mean_square),
    "aten.exp.default": (exp_of_log_softmax,),
    **dict.fromkeys(SOFTMAXES, (shifted,)),
    ADD: (frozen_batch_norm,),
}
