"""``paths(...)`` in an analysis: the value of a pass, marked where a step of it is approximate."""

from __future__ import annotations

from pkcompiler.analyses.functions.figure import Binding, Figures, Mark
from pkcompiler.lang.ast import Typed
from pkcompiler.lang.functions.paths import path_edge
from pkcompiler.paths.functional import is_approximate
from pkcompiler.paths.semiring import settings
from pkcompiler.scoring.functions import paths
from pkcompiler.scoring.terms import Term


def _paths(figures: Figures, node: Typed) -> Term:
    if is_approximate(figures.source.graph, settings(edge=path_edge(node))):
        note = "the centring of norms is dropped, or gains of gates are approximate"
        figures.mark(node, Mark("approximate", note))
    return paths.VALUES["paths"](figures, node)


VALUES: dict[str, Binding] = {"paths": _paths}
