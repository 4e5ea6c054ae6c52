"""What a sweep gives is a number: NaN and overflow are refused, and named by the operation at which they begin."""

from __future__ import annotations

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.ir.types import Op


def beyond_numbers(op: Op | None) -> PkcError:
    """The ``PKC510`` of a run whose result is not finite. ``op``: the first operation that makes it so; None: the inputs do."""
    place = "at its inputs" if op is None else f"at %{op.name}" + (f" ({op.origin.source})" if op.origin.source else "")
    return fail(
        "PKC510",
        f"the sum over paths is not finite: it leaves the numbers that sweeps compute with {place}",
        "a fixed factor, constant or recorded value there is infinite, NaN, or too large for the power it gets; masks that forbid "
        "by such numbers are understood in front of a softmax only",
    )
