"""Factors with an entry for each channel, taken out of a product of functions of one tensor, which is one gate then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import fx

from pkcompiler.frontend.equal.products import Regrouped, leaves
from pkcompiler.frontend.equal.reading import constant_of, is_free, seen_through
from pkcompiler.ir.walk import reached
from pkcompiler.ops.gates import is_pointwise


def behind_gate(node: fx.Node) -> None:
    """(v * z) * sigmoid(z): (z * sigmoid(z)) * v, v free of data and no number."""
    found = leaves(node) if node.users else []
    apart = [f for f in found if is_free(f) and not is_number(f)]
    if not apart or len(set(apart)) < len(apart) or not all(map(is_data, node.args[:2])) or have_one_root(node.args[:2]):
        return
    if not have_one_root([f for f in found if is_data(f)]):
        return
    regrouped = Regrouped(node, dict.fromkeys(apart, 1))
    value = regrouped.of(node)
    for factor in apart:
        value = regrouped.times(value, factor)
    node.replace_all_uses_with(value)


def is_data(value: Any) -> bool:
    """Whether a value is computed from data."""
    return isinstance(value, fx.Node) and not is_free(value)


def is_number(value: Any) -> bool:
    """Whether a value is one number that no parameter enters: part of a gate."""
    return not isinstance(value, fx.Node) or ((known := constant_of(value)) is not None and known.numel() == 1)


def have_one_root(values: Sequence[Any]) -> bool:
    """Whether all are pointwise functions of one tensor, with numbers alone beside it."""
    return any(all(is_function(v, root) for v in values) for root in pointwise(values[0]))


def is_function(value: Any, root: fx.Node) -> bool:
    """Whether a value is a pointwise function of ``root``, with numbers alone beside it."""
    return all(n is root or is_number(n) or opens(n) for n in pointwise(value, root))


def pointwise(value: Any, root: fx.Node | None = None) -> Iterator[fx.Node]:
    """A value and what it is computed from by pointwise operators, as far as ``root``."""

    def further(node: fx.Node) -> Iterable[fx.Node]:
        return map(seen_through, node.all_input_nodes) if node is not root and opens(node) else ()

    return reached([seen_through(value)], further)


def opens(node: fx.Node) -> bool:
    """Whether a value with data in it is a pointwise function of others."""
    return node.op == "call_function" and is_pointwise(node.target) and not is_free(node)
