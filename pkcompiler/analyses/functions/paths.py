"""``paths(...)`` in an analysis: the value of a pass, marked where a step of it is approximate."""

from __future__ import annotations

from pkcompiler.analyses.functions.figure import Binding, Figures, Mark
from pkcompiler.lang.ast import Call
from pkcompiler.lang.functions.paths import edge_given
from pkcompiler.paths.functional import is_approximate
from pkcompiler.paths.semiring import settings
from pkcompiler.scoring.functions import paths
from pkcompiler.scoring.terms import Term


def _paths(figures: Figures, call: Call) -> Term:
    edge = edge_given(dict(call.kwargs), figures.lets)
    if is_approximate(figures.source.graph, settings(edge=edge)):
        note = "the centring of norms is dropped, or gains of gates are approximate"
        figures.mark(call, Mark("approximate", note))
    return paths.VALUES["paths"](figures, call)


VALUES: dict[str, Binding] = {"paths": _paths}
