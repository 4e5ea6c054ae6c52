"""Equal forms: softmax, centring, norms and frozen BatchNorms that are written out stand in the program as what they are.

A functional depends on the function, not on how it is written (docs/theory.md, section 1). The rewritten program computes the same,
to rounding; the certificates compare it with the module itself.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from pkcompiler.frontend.classify import op_name
from pkcompiler.frontend.equal.distributed import factored
from pkcompiler.frontend.equal.norms import normalised, one_by_one, root_mean_square, sized
from pkcompiler.frontend.equal.reading import ADD, DATA, MUL, SUB, VALUE
from pkcompiler.frontend.equal.softmax import SOFTMAXES, exp_of_log_softmax, shifted, softmax
from pkcompiler.frontend.export import Program

Form = Callable[[fx.Node], None]


def make_equal(program: Program) -> None:
    """Rewrite the program in place, in order."""
    graph = program.module.graph
    for node in graph.nodes:
        node.meta[DATA] = node.name in program.inputs or any(n.meta[DATA] for n in node.all_input_nodes)
        node.meta[VALUE] = program.lifted.get(node.name, program.tensors.get(program.buffers.get(node.name, "")))
    for forms in (FIRST, THEN):
        for node in list(graph.nodes):
            for form in forms.get(op_name(node), ()):
                form(node)
        graph.eliminate_dead_code()
    program.module.recompile()


FIRST: dict[str, tuple[Form, ...]] = {
    MUL: (softmax, one_by_one),
    ADD: (factored,),
    SUB: (factored,),
    "aten.exp.default": (exp_of_log_softmax,),
    **dict.fromkeys(SOFTMAXES, (shifted,)),
}
"""What is put together, or apart, so that one operation stands for one thing."""

THEN: dict[str, tuple[Form, ...]] = {MUL: (normalised, root_mean_square, sized)}
"""Norms, each of which is a factor of its own by now."""
