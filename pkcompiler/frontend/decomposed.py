"""An exported program with its operators decomposed: traced once where nothing in it writes, by torch's own way elsewhere.

torch's way runs the program twice and makes it functional on the way, for writes that nearly no program has.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._export.utils import _special_op_to_preserve_cia
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram, exported_program
from torch.export.graph_signature import ExportGraphSignature
from torch.fx import traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import _disable_current_modes

from pkcompiler.frontend.plain import mutates
from pkcompiler.ops.decompose import REWRITES, decompositions
from pkcompiler.ops.table import TABLE

Table = dict[Any, Callable[..., Any]]


def decompose(exported: ExportedProgram) -> tuple[fx.GraphModule, ExportGraphSignature]:
    """The program's graph in the operators that :func:`~pkcompiler.ops.decompose.decompositions` leaves, and what its ends are."""
    module = exported.graph_module
    if _only_reads(module) and _only_reads(made := _traced_again(module)):
        return made, exported.graph_signature
    exported = exported.run_decompositions(decompositions())
    return exported.graph_module, exported.graph_signature


def _only_reads(module: fx.GraphModule) -> bool:
    """Whether all it takes are tensors and numbers, and all it calls are ATen operators with results that write nowhere."""
    return all(_reads(node) for node in module.graph.nodes)


def _reads(node: fx.Node) -> bool:
    if node.op == "placeholder":
        return isinstance(node.meta.get("val"), Tensor | int | float | bool | None)
    if node.op != "call_function":
        return node.op == "output"
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(operator, getattr(target, "__name__", ""), None) is target
    return target.namespace == "aten" and bool(target._schema.returns) and not mutates(node)


def _traced_again(module: fx.GraphModule) -> fx.GraphModule:
    """The graph of one run on the fake values of the first trace, whose places and placeholders keep their names."""
    before = module.graph.find_nodes(op="placeholder")
    values = [node.meta["val"] for node in before]
    mode = detect_fake_mode(values)
    assert mode is not None
    whole, rest = _tables(frozenset(TABLE))

    def run(*inputs: Any) -> Any:
        with traceback.preserve_node_meta():
            return fx.Interpreter(module).run(*inputs, enable_io_processing=False)

    override = exported_program._override_composite_implicit_decomp(whole)
    with _disable_current_modes(), mode, torch.no_grad(), override, enable_python_dispatcher(), traceback.preserve_node_meta():
        made = make_fx(run, decomposition_table=rest, _allow_non_fake_inputs=True)(*values)
    made.graph.eliminate_dead_code()
    for old, new in zip(before, made.graph.find_nodes(op="placeholder"), strict=True):
        new.name = new.target = old.name
        new.meta = dict(old.meta)
    made.recompile()
    return made


@cache
def _tables(entries: frozenset[str]) -> tuple[Table, ...]:
    """Two tables, while these operators have entries: of the operators that torch composes of others, those that are read whole or
    rewritten here (it composes the rest as ever); and the decompositions of all others."""
    whole, rest = exported_program._split_decomp_table_to_cia_and_python_decomp(dict(decompositions()))
    own = {op: how for op, how in whole.items() if op in REWRITES or how is _special_op_to_preserve_cia}
    return own, rest
