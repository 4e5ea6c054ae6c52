"""``require effective_paths = N``: how many paths masks leave, and whether that is enough."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pkcompiler.diagnostics import Diagnostic
from pkcompiler.ir.types import PathGraph
from pkcompiler.lang.ast import Stage
from pkcompiler.paths.count import count_paths
from pkcompiler.paths.functional import open_functional, static_batch
from pkcompiler.paths.semiring import settings

COUNTING = settings(edge="1", pools="sum", products="pairs", constants="on")
"""What a path is: as in the report of an artifact."""

SLACK = 1e-6
"""Of a count of so many digits that it is not exact."""


def effective_paths(graph: PathGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> int | float:
    """The number of paths under masks: exact, or (a float) to SLACK where counting takes too many sweeps."""
    exact = count_paths(graph, tensors, COUNTING, masks, static_batch(graph))
    if exact is not None:
        return exact
    mass = open_functional(graph, tensors, COUNTING, masks=masks, gradients=False)
    return float("inf") if mass.log10 > 300 else mass.value * (1 - SLACK)


def required_paths(stage: Stage) -> int:
    """How many paths a stage must leave; 0 where it asks for none."""
    return max((int(least) for what, least in stage.requires if what == "effective_paths"), default=0)


def shortfall(stage: Stage, have: int | float) -> Diagnostic:
    """A requirement that not even the masks before a stage meet."""
    least = required_paths(stage)
    missing = f"{least - have:,}" if isinstance(have, int) else f"about {least - have:.3g}"
    return Diagnostic(
        "PKC423",
        f"the stage '{stage.pass_name}' requires effective_paths = {least:,}, but before it there are {have:,}: {missing} too few",
        notes=(f"require at most {have:,}, or leave it out" if have else "leave the requirement out",),
    )
