"""Products in which a norm stands beside what it is the norm of: ``(a * x) * r`` is ``a * (x * r)``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from torch import fx

from pkcompiler.frontend.equal.norms import centring, is_norm, size_of, squared
from pkcompiler.frontend.equal.products import Regrouped, leaves, operands
from pkcompiler.frontend.equal.reading import (
    SUB,
    aten,
    both_ways,
    called,
    is_free,
    put,
    same,
    seen_through,
)
from pkcompiler.frontend.lift.classify import meta
from pkcompiler.ir.walk import reached
from pkcompiler.ops.gates import is_pointwise
from pkcompiler.ops.normalise import NORMALISED


def paired(node: fx.Node) -> None:
    """A product with ``x * r`` for each norm r in it: x is what r is the norm of, or else the only factor that has data in it."""
    value = node
    for norm in dict.fromkeys(f for f in leaves(node) if is_norm(f)):
        x = partner(value, norm)
        if x is not None and not is_direct(value, x, norm):
            value = Regrouped(node, {x: beside(node, x, norm), norm: 1}).of(value)
    if value is not node:
        node.replace_all_uses_with(value)


def sized(node: fx.Node) -> None:
    """x * r, r a norm of size k: k * (x * (r / k)), k a fixed factor; and where r is a norm of x the product says so.

    ``x / ||x||`` of d entries is 1/sqrt(d) times the RMS normalisation, and counts as that (docs/theory.md, section 1).
    """
    for factor, x in both_ways(node):
        size = size_of(factor) if isinstance(factor, fx.Node) and not is_free(factor) else None
        if size is None or not isinstance(x, fx.Node) or is_free(x) or size_of(x) is not None:
            continue
        whole = math.isclose(size, 1, rel_tol=1e-12)
        own = is_in(x, factor) or is_centred_in(x, factor)
        if own or not whole:
            unit = factor if whole else put(node, aten.mul.Tensor, (factor, 1 / size), meta(factor))
            value = put(node, NORMALISED if own else aten.mul.Tensor, (x, unit))
            node.replace_all_uses_with(value if whole else put(node, aten.mul.Tensor, (value, size)))
        return


def partner(product: Any, norm: fx.Node) -> fx.Node | None:
    """The factor that goes with a norm; None where there is none, or it is part of a gate."""
    found = [f for f in leaves(product) if isinstance(f, fx.Node) and not is_free(f) and not is_norm(f)]
    whole, inner = [f for f in found if is_in(f, norm)], [f for f in found if is_centred_in(f, norm)]
    centred = any(called(n, SUB, "aten.var.correction", "aten.std.correction") for n in inside(norm))
    order = [*inner, *whole] if centred else [*whole, *inner]
    x = order[0] if order else found[0] if len(found) == 1 else None
    return None if x is None or is_gated(product, x, norm) else x


def is_in(x: fx.Node, norm: fx.Node) -> bool:
    """Whether x is something that the norm squares."""
    return any(same(x, squares) for squares in subjects(norm))


def is_centred_in(x: fx.Node, norm: fx.Node) -> bool:
    """Whether x is z less its mean, and the norm that of z or of what is centred."""
    found = centring(x)
    return found is not None and any(
        same(found.x, s) or ((other := centring(s)) is not None and same(found.x, other.x)) for s in subjects(norm)
    )


def subjects(norm: fx.Node) -> Iterator[fx.Node]:
    """What a norm squares."""
    for node in inside(norm):
        if called(node, *READERS):
            yield seen_through(node.args[0])
        elif (value := squared(node)) is not None and not is_norm(value):
            yield value


def inside(norm: fx.Node) -> Iterator[fx.Node]:
    """The nodes of a norm, from its end to what it squares."""

    def further(node: fx.Node) -> Iterable[fx.Node]:
        ends = is_free(node) or called(node, *READERS) or ((value := squared(node)) is not None and not is_norm(value))
        return () if ends else node.all_input_nodes

    return (node for node in reached([norm], further) if not is_free(node))


READERS = ("aten.var.correction", "aten.std.correction", "aten.linalg_vector_norm.default")
"""Operators that square what they read."""


def is_gated(product: Any, x: fx.Node, norm: fx.Node) -> bool:
    """Whether x stands beside a function of itself in a part of the product without the norm: ``(x * sigmoid(x)) * r``."""
    value = seen_through(product)
    here = leaves(value)
    if norm in here:
        return any(is_gated(operand, x, norm) for operand in operands(value))
    return sum(is_function_of(f, x) for f in here) > 1 and x in here


def is_function_of(value: Any, x: fx.Node) -> bool:
    """Whether x enters a value by pointwise operators."""
    stack, seen = [value], set()
    while stack:
        node = seen_through(stack.pop())
        if node is x:
            return True
        if isinstance(node, fx.Node) and node not in seen and node.op == "call_function" and is_pointwise(node.target):
            seen.add(node)
            stack.extend(node.all_input_nodes)
    return False


def is_direct(product: Any, x: fx.Node, norm: fx.Node) -> bool:
    """Whether ``x * r`` is a part of the product, x no centring of the other sign."""
    value = seen_through(product)
    here = [seen_through(operand) for operand in operands(value)]
    found = centring(x)
    return (here in ([x, norm], [norm, x]) and (found is None or found.sign == 1)) or any(is_direct(n, x, norm) for n in here)


def beside(place: fx.Node, x: fx.Node, norm: fx.Node) -> fx.Node:
    """``x * r``; with ``m - z`` for x: ``-((z - m) * r)``."""
    found = centring(x)
    if found is None or found.sign == 1:
        return put(place, aten.mul.Tensor, (x, norm), meta(x) * meta(norm))
    centred = put(place, aten.sub.Tensor, (found.x, found.mean), meta(x))
    value = put(place, aten.mul.Tensor, (centred, norm), meta(x) * meta(norm))
    return put(place, aten.neg.default, (value,), meta(value))
