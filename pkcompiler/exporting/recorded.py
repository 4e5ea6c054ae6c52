"""The evaluation program of a model: what ``torch.export`` records of it, with its batch free where that is possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_flatten_with_path

from pkcompiler.diagnostics import fail
from pkcompiler.exporting.content import as_target
from pkcompiler.frontend.export import evaluating, quiet_tracing
from pkcompiler.lowering.batch import batch_of, free_batch, without_one
from pkcompiler.lowering.modules import ModePair


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """``program``, the names of its inputs and outputs (tensors alone), and its batch: None where it may be of any size."""

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int | None


def record(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Recording:
    """The program of ``model`` in evaluation mode. Raises ``PKC650`` for what ``torch.export`` cannot record.

    Dimension 0 of all inputs that have as many rows as the first is the batch; where it cannot be free, the batch is the example's.
    """
    entry = model.programs[0] if isinstance(model, ModePair) else model
    batch = batch_of((args, kwargs))
    for free in (True, False):
        try:
            with evaluating(entry), quiet_tracing(), torch.no_grad():
                program = _exported(entry, *(without_one(args, kwargs) if free else (args, dict(kwargs))), free)
        except Exception as error:
            failure = error
            continue
        if not free or _is_free(program):
            return Recording(program, _inputs(program), _outputs(program), None if free else batch)
    reason = next(iter(str(failure).strip().splitlines()), "") or type(failure).__name__
    raise fail(
        "PKC650",
        f"torch.export cannot record {type(model).__name__}: {reason}",
        "compute with torch's own operators throughout, and branch on no values of tensors",
        f"the weights alone need no recording: {as_target('safetensors', 'torch-prune')}",
    )


def _exported(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], free: bool) -> ExportedProgram:
    given = free_batch(model, args, kwargs) if free else None
    with torch.random.fork_rng(devices=[]):
        return torch.export.export(model, args, kwargs, dynamic_shapes=given, strict=False)


def _is_free(program: ExportedProgram) -> bool:
    """Whether the first dimension of the first input may be of any size."""
    values = [value for value in _values(program) if value.dim()]
    symbol = values[0].shape[0] if values else 0
    return isinstance(symbol, torch.SymInt) and symbol.node.expr in {
        s for s, interval in program.range_constraints.items() if interval.lower != interval.upper
    }


def _values(program: ExportedProgram) -> list[Tensor]:
    given = set(_inputs(program))
    return [n.meta["val"] for n in program.graph.find_nodes(op="placeholder") if n.name in given]


def _inputs(program: ExportedProgram) -> tuple[str, ...]:
    """The names of the inputs that are tensors, as in ``forward``."""
    users = {str(name) for name in program.graph_signature.user_inputs}
    nodes = [n for n in program.graph.find_nodes(op="placeholder") if n.name in users]
    return tuple(n.name for n in nodes if isinstance(n.meta.get("val"), Tensor))


def _outputs(program: ExportedProgram) -> tuple[str, ...]:
    """``output``, ``output_0``, or the keys by which the outputs are found."""
    flat = torch.utils._pytree.tree_unflatten(list(range(program.call_spec.out_spec.num_leaves)), program.call_spec.out_spec)
    steps, _ = tree_flatten_with_path(flat)
    taken, found = set(_inputs(program)), []
    for path, _ in steps:
        name = "_".join(str(next(v for k in ("key", "idx", "name") if (v := getattr(s, k, None)) is not None)) for s in path)
        name = name if name and not name[0].isdigit() else f"output_{name}".rstrip("_")
        while name in taken:
            name += "_output"
        taken.add(name)
        found.append(name)
    return tuple(found)
