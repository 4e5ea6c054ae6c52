"""What a sweep gives is a number: NaN and overflow are refused, and named by the operation at which they begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.ir.graphs import makers
from pkcompiler.ir.types import Op
from pkcompiler.ir.walk import values

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
    made = makers(sweep.graph)
    walked = values(sweep.graph, sweep.entering(sources), lambda op, inputs: sweep.step(op, inputs, edges))
    wrong = (made[name] for name, value in walked if name in made and not bool(value.tensor.isfinite().all()))
    return next(wrong, None)
