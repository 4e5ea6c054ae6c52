"""Whether an operator that a user declares a gate is one: it is run, and each entry of its result must depend on its entry alone.

The probes are random and as large as the tensor that the operator met; nothing is computed with a gate that fails one of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pkcompiler.frontend.lift.builder import Builder
from pkcompiler.frontend.lift.classify import is_floating, tensor_operands
from pkcompiler.frontend.lift.gate import describe_gate, region_function
from pkcompiler.ir.maps import Batch, Gate
from pkcompiler.ops.table import Known, Path, Stored

SIZES = (0.1, 1.0, 30.0)
"""Standard deviations of the probes: what mixes beyond a threshold only must be met beyond it."""
SUBSETS = 8
"""Random halves of the entries that are changed, at each size: two entries that are mixed are told apart by every other one."""
SAME = 1e-12
"""Relative difference up to which two evaluations of one function of one number are the same."""


class NoGate(Exception):
    """Why an operator is no gate: the rest of a sentence that begins with its name."""


def declared_gate(builder: Builder, node: fx.Node) -> tuple[fx.Node, Gate, float]:
    """The operand, the gate and its slope at 0 of an operator that is read as one; raises :class:`NoGate` where it is none."""
    root = _operand(builder, node)
    try:
        _check(builder, node, root)
        described = describe_gate(node, root, builder.seen.known, {})
    except NoGate:
        raise
    except Exception as error:  # whatever an operator raises at other tensors than it met
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise NoGate(f"it cannot be run or differentiated on numbers of its own: {first}") from error
    if described is None:
        raise NoGate("it is not finite at 0, so it has no slope there")
    return root, *described


def _operand(builder: Builder, node: fx.Node) -> fx.Node:
    """The one tensor that the operator is to be a function of."""
    roots = [n for n in tensor_operands(node) if not isinstance(builder.refs.get(n), Known)]
    if len(roots) != 1:
        raise NoGate(f"it reads {len(roots)} tensors that depend on data or parameters, and a gate reads one")
    if not isinstance(builder.refs.get(roots[0]), Path | Stored) or not is_floating(roots[0]):
        raise NoGate("no path leads to it")
    if not is_floating(node) or builder.shape(node) != builder.shape(roots[0]):
        raise NoGate("its result has another shape or type than its input")
    return roots[0]


def _check(builder: Builder, node: fx.Node, root: fx.Node) -> None:
    """Raises :class:`NoGate` where an entry of the result depends on another entry, on its place, or on anything but its number."""
    shape = tuple(2 * d.factor if isinstance(d, Batch) else int(d) for d in builder.shape(root))
    phi = region_function(node, root, builder.seen.known)
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        z = torch.randn(shape, generator=generator, dtype=torch.float64) * size
        result = _run(builder, node, root, z)
        if not _same(result, _run(builder, node, root, z)):
            raise NoGate("it gives two results for one input")
        for _ in range(SUBSETS):
            kept = torch.rand(shape, generator=generator) < 0.5
            other = torch.randn(shape, generator=generator, dtype=torch.float64) * size
            if not _same(_run(builder, node, root, torch.where(kept, z, other))[kept], result[kept]):
                raise NoGate("an entry of its result depends on other entries of its input")
        flat = z.flatten()
        if not (_same(phi(flat).reshape(shape), result) and _same(phi(flat[:1]), result.flatten()[:1])):
            raise NoGate("it is not the same function for every entry")


def _run(builder: Builder, node: fx.Node, root: fx.Node, z: Tensor) -> Tensor:
    """The operator as it was called, at other numbers."""

    def value(n: fx.Node) -> Any:
        if n is root:
            return z.clone()
        known = builder.seen.known.get(n.name)
        if isinstance(known, Tensor):
            return known.double() if known.is_floating_point() else known
        number = builder.seen.shapes.get(n.name)
        if not isinstance(number, int | float):
            raise NoGate("one of its arguments depends on the batch")
        return number

    target: Any = node.target
    with torch.no_grad():
        result: Tensor = target(*fx.map_arg(node.args, value), **fx.map_arg(dict(node.kwargs), value))
    return result


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=SAME, atol=0.0, equal_nan=True)


def may_be_gate(builder: Builder, node: fx.Node) -> bool:
    """Whether ``--gate`` would read the operator as a gate."""
    try:
        declared_gate(builder, node)
    except NoGate:
        return False
    return True
