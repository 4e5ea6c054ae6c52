"""An upper bound of the trace of the frozen-gate kernel, from two sums over paths (docs/theory.md, section 3).

    Tr <= sum over n, k of g_k(x_n) h_k, g_k = sum over p to k of a_p(x)^2 x_s^2, h_k = sum over p to k, i of (d v_p / d theta_i)^2

by Cauchy and Schwarz, output by output, over the paths as they are at data: there a softmax and a frozen factor are recorded
constants, and a normalisation centres. Where a graph has neither softmax nor centring, h_k is the part of Tr Pi that reaches k.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pkcompiler.frontend.capture import Capture
from pkcompiler.ir.graphs import maps_of
from pkcompiler.ir.maps import Constant, Frozen, Literal, Merge, Normalise, Reindex, Softmax
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.kernel.path_kernel import kernel_of
from pkcompiler.measured import Measured, not_predicted
from pkcompiler.paths.functional import masked
from pkcompiler.paths.record import observe
from pkcompiler.paths.scaled import Scaled, aligned
from pkcompiler.paths.semiring import Settings, settings
from pkcompiler.paths.sources import data_inputs, input_sources
from pkcompiler.paths.sweep import Sweep
from pkcompiler.tangent.frozen import is_piecewise, one_by_one


def trace_bound(captured: Capture, data: Any, masks: Mapping[str, Tensor], wanted: Collection[str], dtype: torch.dtype) -> Measured:
    """sum over n, k of g_k(x_n) h_k for the parameters ``wanted``. The note says of which trace it is a bound.

    The sum over n of g weighs the outputs of one Path Kernel, whose trace is the bound. "not predicted" behind a group
    normalisation that centres: its paths at data are not written out.
    """
    if any(map.kind == "group" for map in maps_of(captured.graph, Normalise).values()):
        return not_predicted("the paths through a group normalisation, which centres groups of channels, are not written out")
    graph = at_data(captured.graph)
    counting = settings(edge="1", gates="data^2", pools="data", norms="data", products="pairs", constants="on", dtype=dtype)
    g = _weights(captured, graph, data, masks, counting)
    squares = settings(edge="theta^2", pools="sum", products="pairs", constants="on", dtype=dtype)
    trace = kernel_of(graph, captured.tensors, squares, masks, output=g.tensor, wanted=sorted(wanted)).trace()
    note = "of Tr Theta" if is_piecewise(captured) else "of the trace of the frozen-gate kernel; the NTK's own trace may exceed it"
    return Measured(trace.mantissa, trace.exponent + g.exponent, trace.error, "bound", f"from above, {note}")


def _weights(captured: Capture, graph: PathGraph, data: Any, masks: Mapping[str, Tensor], counting: Settings) -> Scaled:
    """The sum over the samples of g, with the shape of one unit's output."""
    given = {**captured.program.tensors, **masked(captured, masks)}
    size, parts = captured.static_batch, []
    for piece in one_by_one(captured, data_inputs(captured, data)):
        observed, _ = observe(captured.program, captured.lifted, piece, given, counting)
        sweep = Sweep(graph, captured.tensors, counting, observed=observed, batch=size)
        sources = input_sources(captured, piece, "data^2", size, counting.dtype)
        with torch.no_grad():
            parts.append(sweep.run(sweep.edges(masks), sources))
    tensors, exponent = aligned(parts)
    return Scaled(torch.stack(tensors).sum(0), exponent)


def at_data(graph: PathGraph) -> PathGraph:
    """The graph whose paths without data are those at data: a softmax is a factor, and what a layer normalisation centres by is
    written out as paths (x and -1/d times every entry of its group)."""
    return replace(graph, ops=tuple(new for op in graph.ops for new in _rewritten(op)))


def _rewritten(op: Op) -> Iterator[Op]:
    match op.map:
        case Softmax():
            yield replace(op, map=Frozen("factor", "softmax"), inputs=())
        case Normalise(kind="layer" | "centre" as kind, shape=shape):
            value = op.result
            total = replace(value, name=f"{op.name}.sum")
            mean, centred = replace(value, name=f"{op.name}.mean"), replace(value, name=f"{op.name}.centred")
            dims = tuple(range(-len(shape), 0))
            yield Op(Reindex("sum", (("dims", dims), ("keepdim", True))), op.inputs, total)
            yield Op(Constant(Literal(1 / math.prod(shape))), (total.name,), mean)
            yield Op(Merge((1, -1)), (*op.inputs, mean.name), op.result if kind == "centre" else centred)
            if kind == "layer":
                yield replace(op, map=replace(op.map, kind="rms"), inputs=(centred.name,))
        case _:
            yield op
