"""Reading a program: what a node is, behind what only hands its tensor on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from pkcompiler.frontend.lift.classify import meta, op_name
from pkcompiler.ops.gates import PASS_THROUGH, is_pointwise

aten = torch.ops.aten

MUL, ADD, SUB, NEG = "aten.mul.Tensor", "aten.add.Tensor", "aten.sub.Tensor", "aten.neg.default"
DATA = "pkc_data"
"""Whether an input of the program enters a node, in its ``meta``."""
VALUE = "pkc_value"
"""The tensor of a buffer or constant, in the ``meta`` of its placeholder."""
SCALINGS = ("aten.mul.Tensor", "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar")
VIEWS = frozenset({"aten.view.default", "aten.reshape.default", "aten.unsqueeze.default"})


def seen_through(value: Any) -> Any:
    """A node behind what hands its tensor on: views of all of it, and casts between floating types."""
    while isinstance(value, fx.Node) and (op_name(value) in PASS_THROUGH or is_whole_slice(value)):
        here, before = meta(value).dtype, meta(value.args[0]).dtype  # type: ignore[arg-type]
        if here != before and not (here.is_floating_point and before.is_floating_point):
            return value
        value = value.args[0]
    return value


def is_whole_slice(node: fx.Node) -> bool:
    """``x[:]``"""
    return op_name(node) == "aten.slice.Tensor" and tuple(meta(node).shape) == tuple(meta(node.args[0]).shape)  # type: ignore[arg-type]


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


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments of a node, of any type."""
    return node.args


def rank(node: fx.Node) -> int:
    """The number of dimensions of what a node gives."""
    value: Tensor = meta(node)
    return value.dim()


def both_ways(node: fx.Node) -> Iterator[tuple[Any, Any]]:
    """The operands of a product or sum, in both orders."""
    left, right = node.args[:2]
    yield seen_through(left), seen_through(right)
    yield seen_through(right), seen_through(left)


def reduced(value: Any, name: str) -> tuple[Any, tuple[int, ...]] | None:
    """What ``value`` reduces by a sum or mean, and over which dimensions, where these stay with size 1 (or come back by a view)."""
    value = seen_through(value)
    if name == "aten.mean.dim" and called(value, *SCALINGS) and isinstance(value.args[1], int | float):
        return averaged(value)
    inner = behind_views(value)
    if not called(inner, name) or len(inner.args) < 2 or not inner.args[1]:
        return None
    x = seen_through(inner.args[0])
    dims = tuple(sorted(d % rank(x) for d in inner.args[1]))
    shape = tuple(1 if d in dims else n for d, n in enumerate(meta(x).shape))
    return (x, dims) if tuple(meta(value).shape) == shape else None


def behind_views(value: Any) -> Any:
    """A value behind its reshapings."""
    value = seen_through(value)
    while called(value, *VIEWS):
        value = seen_through(value.args[0])
    return value


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
    made.meta = {**node.meta, **({} if value is None else {"val": value}), DATA: any(n.meta[DATA] for n in made.all_input_nodes)}
    return made


def is_free(node: Any) -> bool:
    """Whether no input of the program enters: parameters and constants alone."""
    return isinstance(node, fx.Node) and not node.meta[DATA]


def is_boolean(value: Any) -> bool:
    """Whether a tensor holds truth values, or numbers that these were converted to."""
    return (
        isinstance(value, fx.Node)
        and isinstance(meta(seen_through(value)), Tensor)
        and meta(seen_through(value)).dtype == torch.bool
    )


def is_zero(value: Any) -> bool:
    """Whether a value is 0 in every entry, without data and parameters."""
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


def is_constant_along(value: Any, dim: int) -> bool:
    """Whether a number or tensor has one entry along a dimension (counted from the end), or repeats one."""
    if not isinstance(value, fx.Node):
        return True
    shape = meta(value).shape
    if len(shape) < -dim or (isinstance(shape[dim], int) and shape[dim] == 1):
        return True
    named = op_name(value) in PASS_THROUGH | {"aten.expand.default"}
    repeats = value.op == "call_function" and (named or is_pointwise(value.target))
    return repeats and all(is_constant_along(n, dim) for n in value.all_input_nodes if isinstance(meta(n), Tensor))
