"""Printed IR to a sound graph."""

from __future__ import annotations

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import Diagnostic, raise_all
from pkcompiler.ir.text import print_type
from pkcompiler.ir.to_graph import Located, read_graph
from pkcompiler.ir.types import PathGraph
from pkcompiler.ir.verify import diagnose, violations


@checked
def parse_graph(text: str, file: str = "<graph>") -> PathGraph:
    """The graph that ``text`` prints; ``parse_graph(print_graph(g)) == g``.

    :param file: the name under which errors quote the text
    :raises PkcError: what :func:`pkcompiler.ir.to_graph.read_graph` raises, else every violation that
        :func:`pkcompiler.ir.verify.verify` names, with PKC313 where the header's result types are not those of the outputs
    """
    located = read_graph(text, file)
    raise_all([*(diagnose(v, located.spans) for v in violations(located.graph)), *_header(located)])
    return located.graph


def _header(located: Located) -> list[Diagnostic]:
    graph, declared = located.graph, located.result_types
    types = {value.name: value.type for value in graph.values}
    returned = tuple(types.get(name) for name in graph.outputs)
    if declared == returned:
        return []
    expected = ", ".join(print_type(t) for t in returned if t) or "nothing"
    span = located.spans.get(("result", 0), located.spans.get(("graph",)))
    note = f"write -> {expected}" if len(returned) == 1 else f"write -> ({expected})"
    return [Diagnostic("PKC313", "the header does not name the types of what is returned", span, f"expected {expected}", (note,))]
