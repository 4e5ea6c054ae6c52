"""What a sweep gives is a number: NaN and overflow are refused, and named by the operation at which they begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.ir.types import Op
from pkcompiler.paths.scaled import Scaled

if TYPE_CHECKING:
    from pkcompiler.paths.sweep import Sweep


def not_finite(sweep: Sweep, edges: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> PkcError:
    """The ``PKC510`` of a run whose result is not finite."""
    op = first_not_finite(sweep, edges, sources)
    place = "at its inputs" if op is None else f"at %{op.name}" + (f" ({op.origin.source})" if op.origin.source else "")
    return fail(
        "PKC510",
        f"the sum over paths is not finite: it leaves the numbers that sweeps compute with {place}",
        "a fixed factor, constant or recorded value there is infinite, NaN, or too large for the power it gets; masks that forbid "
        "by such numbers are understood in front of a softmax only",
    )


def first_not_finite(sweep: Sweep, edges: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> Op | None:
    """The first operation of the walk that makes anything else than finite numbers."""
    edges = sweep.with_computed(edges)
    values = {name: Scaled(tensor) for name, tensor in sources.items()}
    for op in sweep.graph.ops:
        values[op.name] = sweep.arithmetic.settle(sweep.apply(op, [values[name] for name in op.inputs], edges))
        if not bool(values[op.name].tensor.isfinite().all()):
            return op
    return None
