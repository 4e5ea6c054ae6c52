"""The exported programs of both modes, for models that a symbolic trace cannot follow."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._export.verifier import SpecViolationError

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.frontend.export import quiet_tracing
from pkcompiler.lowering.batch import free_batch, without_one
from pkcompiler.lowering.buffers import Buffers, store_buffers, stored_by_export
from pkcompiler.lowering.call import Shapes, check_shapes
from pkcompiler.lowering.mutations import refuse_changes, state_of
from pkcompiler.lowering.trace import Trace, scratch_copy


def export_modes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Trace, Trace, int | None]:
    """Evaluation and training program over the tensors of ``model``, and the batch size when it is the only one they take.

    Dimension 0 is the batch, of any size; where that fails, the programs are for the example's batch size only, with a warning.

    :raises PkcError: PKC273 when export fails.
    """
    for dynamic in (True, False):
        example = without_one(args, kwargs) if dynamic else (args, dict(kwargs))
        try:
            evaluation, training = (_export(scratch_copy(model).train(mode), *example, dynamic) for mode in (False, True))
        except PkcError:
            raise
        except Exception as error:
            failure = _failure(model, error)
            continue
        shapes = tuple(_common(a, b) for a, b in zip(_shapes(evaluation), _shapes(training), strict=True))
        batch = next((shape[0] for shape in shapes if shape and isinstance(shape[0], int)), None)
        if batch is not None and dynamic:
            continue
        if batch is not None:
            warnings.warn(f"{type(model).__name__} could only be recorded for a batch of {batch}", stacklevel=3)
        traces = [Trace(program.graph, program, _bare(program, shapes)) for program in (evaluation, training)]
        return traces[0], traces[1], batch
    raise failure


def _failure(model: nn.Module, error: Exception) -> PkcError:
    keep = "keep its class and mask it in place: pkcompiler.apply_masks(model, masks)"
    if isinstance(error, SpecViolationError) and "copy__default" in str(error):
        message = "the forward assigns a buffer or an input to a buffer as it is, of which torch.export records no graph"
        return fail("PKC279", message, "assign a copy, with .clone()", keep)
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    if "a fake tensor in the exported program" in reason:
        message = "the forward writes to the .data of a tensor, of which torch.export records no graph"
        return fail("PKC279", message, "write without .data, x.add_(...)", keep)
    return fail("PKC273", f"{type(model).__name__} can be neither traced nor exported: {reason}", keep)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: bool) -> fx.GraphModule:
    specification = free_batch(model, args, kwargs) if dynamic else None
    state = state_of(model)
    with quiet_tracing(), torch.random.fork_rng(devices=[]):
        before = random.getstate()
        program = torch.export.export(model, args, kwargs, dynamic_shapes=specification, strict=False)
    refuse_changes(model, state)
    if random.getstate() != before:
        raise ValueError("its forward draws from Python's random module, which no graph records")
    return program.module(check_guards=False)


def _shapes(program: fx.GraphModule) -> Shapes:
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"]
    return tuple(tuple(map(_size, value.shape)) if isinstance(value, Tensor) else None for value in values)


def _size(size: int | torch.SymInt) -> int | str:
    """A number, or the symbol of a size that may vary; export also gives symbols that it found to be one number."""
    symbol = size if isinstance(size, int) else size.node.expr
    return int(symbol) if isinstance(symbol, int) or symbol.is_number else str(symbol)


def _common(a: tuple[int | str, ...] | None, b: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
    """Sizes that either program fixed stay fixed."""
    return a if a is None or b is None else tuple(x if isinstance(x, int) else y for x, y in zip(a, b, strict=True))


def _bare(program: fx.GraphModule, shapes: Shapes) -> Buffers:
    """Make the graph one that a lowered network runs, checking the shapes of its inputs, not types and devices, which recording
    checks and ``.to()`` changes.
    """
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    for node in graph.nodes:
        node.meta.clear()
    buffers = store_buffers(graph, program, stored_by_export(graph))
    placeholders = graph.find_nodes(op="placeholder")
    with graph.inserting_after(placeholders[-1]):
        graph.call_function(check_shapes, (shapes, tuple(placeholders)))
    return buffers
