"""Layer collapse: when no path is left, which layers are empty, and what else to try; and weights that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pkcompiler.diagnostics import Diagnostic, PkcError, fail, first_few
from pkcompiler.ir.types import PathGraph
from pkcompiler.ir.walk import forward
from pkcompiler.paths.topology import has_path

if TYPE_CHECKING:
    from pkcompiler.pruning.state import Round


def operations_connect(graph: PathGraph, gone: frozenset[str]) -> bool:
    """Whether an input reaches the output through operations whose weights are not all pruned (necessary, and quick)."""
    return any(forward(graph, lambda _: True, lambda op, read: getattr(op.map, "weight", None) not in gone and any(read)))


def check_connected(graph: PathGraph, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a model of which no path leads anywhere before a weight is pruned, as a side of a parameter is 0: ``PKC402``."""
    hollow = [f"'{s.name}' {tuple(tensors[s.name].shape)}" for s in graph.parameters if not tensors[s.name].numel()]
    if hollow and not has_path(graph, tensors):
        what = f"no path leads from an input to an output before a weight is pruned: {first_few(hollow)}"
        raise fail("PKC402", f"{what} hold{'s' if len(hollow) == 1 else ''} no entry", "give their layers inputs and outputs")


def count(mask: Tensor) -> int:
    """The number of kept entries (numpy's count is an order of magnitude faster than a sum of booleans)."""
    return int(np.count_nonzero(mask.numpy()))


def empty(state: Round) -> frozenset[str]:
    """The parameters of which nothing is kept."""
    return frozenset(n for n, m in state.masks.items() if not m.numpy().any())


class Collapsed(PkcError):
    """Layer collapse: no path is left.

    ``state`` is the last good one (None when the first round collapsed), ``reached`` the one without a path.
    """

    def __init__(self, diagnostic: Diagnostic, state: Round | None, reached: Round) -> None:
        super().__init__(diagnostic)
        self.state, self.reached = state, reached


CONSERVING = ("synflow", "synflow-l2")
"""Passes of the library that conserve path mass over layers."""


def collapse(state: Round, before: Round | None, good: Round | None, pass_name: str) -> Collapsed:
    """The diagnosis: which layers are empty, what still worked, what else to try. ``good``: ``before``, if it has paths."""
    gone = sorted(empty(state))
    named = (
        f"empty: {', '.join(gone[:3])}{' ...' if len(gone) > 3 else ''}" if gone else "no layer is empty, but they do not connect"
    )
    if good:
        worked = f"round {good.round} at density {good.density:.4g} was the last good one"
    else:
        worked = f"round {before.round} had lost its last path already" if before else "no round was done before it"
    others = ", ".join(name for name in CONSERVING if name != pass_name)
    remedy = f'try a higher density, more rounds, a pass that conserves path mass ({others}), or a floor "GLOB" = 1% in a schedule'
    return Collapsed(
        Diagnostic(
            "PKC410",
            f"layer collapse in round {state.round} of {state.rounds} at density {state.density:.4g}: no path is left ({named})",
            notes=(worked, remedy),
        ),
        good,
        state,
    )
