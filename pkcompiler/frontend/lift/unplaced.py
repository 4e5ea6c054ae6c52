"""The errors of a lift: operators without a meaning (``PKC201``) and uses of parameters that are lost (``PKC202``)."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from pathlib import Path as File

from torch import fx

from pkcompiler.diagnostics import Diagnostic, Span, typed_or_called
from pkcompiler.frontend.export import PREFIX, Program
from pkcompiler.frontend.lift.builder import Builder
from pkcompiler.frontend.lift.classify import is_complex, op_name, short, tensor_operands
from pkcompiler.frontend.lift.computed import overload
from pkcompiler.frontend.lift.entrywise import may_be_gate
from pkcompiler.frontend.lift.names import origin_of, user_frame
from pkcompiler.ir.computed import OPERATORS
from pkcompiler.ir.text import print_op
from pkcompiler.ir.types import Origin
from pkcompiler.ops.gates import is_random
from pkcompiler.ops.normalise import BATCH_STATISTICS
from pkcompiler.ops.own import INSTEAD, idle_entry
from pkcompiler.ops.table import TABLE, Path, Ref, Stored
from pkcompiler.usercode import nearest

BATCH_SIZE = "it computes with the number of samples (x.shape[0]), and a sample's output must be its own"
NO_SLOPE = "it is not finite at 0, so it has no slope there"
NO_DERIVATIVE = "it cannot be differentiated"
LEAVE_OUT = "leave x.shape[0] out of what forward computes; sums and means over the samples belong into the loss"


def unplaced(builder: Builder, node: fx.Node, origin: Origin, why: str) -> Diagnostic:
    """The ``PKC201`` of one operator: the printed graph around it, the user's line, and the option that continues."""
    name = op_name(node)
    remedies = _advice(node, why) or _remedies(builder, node)
    return _called(builder, node, f"operator '{name}'{_where(origin)} has no meaning for paths: {why}", remedies)


def unweighable(builder: Builder, node: fx.Node) -> Diagnostic:
    """The ``PKC201`` of one operator that a weight is computed by, and that a formula has no words for."""
    written = overload(node) in OPERATORS
    why = (
        "its arguments name a complex number, or a dtype that is on no list"
        if written
        else "it is not on the list of operators that weights may be computed by"
    )
    remedies = [
        "the list is OPERATORS in pkcompiler/ir/computed.py; an entry (@path_op) is for activations, and is not asked for weights",
        "compute the weight by operators of the list, or once, before the analysis, and store the result as the parameter",
    ]
    return _called(
        builder, node, f"a weight is computed by operator '{op_name(node)}'{_where(origin_of(node, PREFIX))}: {why}", remedies
    )


def _called(builder: Builder, node: fx.Node, message: str, remedies: Sequence[str]) -> Diagnostic:
    """A ``PKC201`` at the line that calls an operator, with the printed graph around it."""
    label = f"'{short(op_name(node))}' is called here"
    return Diagnostic(
        "PKC201", message, user_span(node), label, (*(f"in the graph: {line}" for line in around(builder, node)), *remedies)
    )


def _advice(node: fx.Node, why: str) -> list[str]:
    """What continues where no entry and no gate can: random draws, complex numbers, the number of samples, their mean."""
    if is_random(node.target, node.args):
        return ["draw random numbers in training only: put it behind `if self.training:`"]
    if why == BATCH_SIZE:
        return [LEAVE_OUT]
    if why == NO_SLOPE or why.startswith(NO_DERIVATIVE):
        return [INSTEAD]
    if why == BATCH_STATISTICS:
        return ["give it statistics of its own: track_running_stats=True, and a few batches in training mode"]
    if is_complex(node) or any(is_complex(n) for n in tensor_operands(node)):
        return ["write it with real tensors, e.g. a rotation as (a * cos - b * sin, a * sin + b * cos)"]
    return []


def _remedies(builder: Builder, node: fx.Node) -> list[str]:
    name = op_name(node)
    gate = typed_or_called(f"or, as it acts on each entry alone, read it as a gate: --gate {short(name)}", "")
    return [f"give it a meaning {_entry(name)}", *([gate] if gate and may_be_gate(builder, node) else [])]


def _entry(name: str) -> str:
    """Where an entry of an operator's own is written."""
    entry = f'with @path_op("{name}")'
    return typed_or_called(f"{entry} in a file of yours, and pass that file: --plugin my_ops.py", f"{entry} (docs/own-operator.md)")


def frozen_end(node: fx.Node) -> Diagnostic:
    """The ``PKC208`` of a graph that no input reaches, since every path ends in an operator that is recorded as a constant."""
    name = op_name(node)
    return Diagnostic(
        "PKC208",
        f"no path leads from an input to the output: every one ends in '{name}'{_where(origin_of(node, PREFIX))}, "
        "which is recorded as a constant",
        user_span(node),
        "paths end here",
        (
            "log, square root, 1/x and norms have no slope at 0: they are factors of paths, and none crosses them",
            "analyse the part before it: let forward return that "
            + typed_or_called("too, and choose it with --output, e.g. --output 1", "first"),
        ),
    )


def idle_entries(program: Program) -> list[Diagnostic]:
    """``PKC215`` of the user's own operators that were defined after their entries were registered."""
    names = {op_name(n) for n in program.module.graph.nodes if n.op == "call_function"} & TABLE.keys()
    own = sorted(name for name in names if not name.startswith(("aten.", "pkcompiler.")))
    return [found for name in own if (found := idle_entry(name))]


def idle_gate(program: Program, gate: str) -> Diagnostic:
    """The ``PKC210`` of an operator that is declared a gate and read as none: a misspelling, or one that has a meaning already."""
    calls = {op_name(n) for n in program.module.graph.nodes if n.op == "call_function"}
    words = {w for name in calls for w in (name, name.removeprefix("aten."), short(name))}
    why = "the table says already what it does to paths" if gate in words else "the model calls no such operator"
    close = "" if gate in words else nearest(gate, sorted(words))
    hints = (
        *([close] if close else []),
        typed_or_called(f"leave out --gate {gate}; 'pkc ir MODEL' prints what is read as a gate", f"leave out {gate!r}"),
    )
    return Diagnostic("PKC210", f"'{gate}' is declared a gate, and {why}", notes=hints)


def lost_use(slot: str, user: fx.Node) -> Diagnostic:
    """The ``PKC202`` of a parameter's use that no path map accounts for."""
    name = op_name(user)
    return Diagnostic(
        "PKC202",
        f"parameter '{slot}' is used by '{name}'{_where(origin_of(user, PREFIX))} in a way that the lift did not account for",
        user_span(user),
        "every use of a parameter must lie on a path",
        (f"give the operator a meaning {_entry(name)}",),
    )


def _where(origin: Origin) -> str:
    module = f" in {origin.module}" if origin.module else ""
    return module + (f" at {origin.source}" if origin.source else "")


def around(builder: Builder, node: fx.Node) -> list[str]:
    """The printed operations that make the operator's operands, and the operator itself with them."""
    refs = [builder.refs.get(n) for n in tensor_operands(node)]
    makers = (builder.maker(ref.name) for ref in refs if isinstance(ref, Path))
    operands = [_operand(ref, n) for ref, n in zip(refs, tensor_operands(node), strict=True)]
    return [*(print_op(op) for op in makers if op is not None), f"%{node.name} = {op_name(node)}({', '.join(operands)})"]


def _operand(ref: Ref | None, node: fx.Node) -> str:
    return f"%{ref.name}" if isinstance(ref, Path) else f"@{ref.slot}" if isinstance(ref, Stored) else f"%{node.name}"


def user_span(node: fx.Node) -> Span | None:
    """The line of the user's own file on which the operator was called; None where the file cannot be read."""
    frame = user_frame(node)
    if frame is None:
        return None
    file, number = frame
    lines = linecache.getlines(file)
    if not 0 < number <= len(lines):
        return None
    line = lines[number - 1]
    start = sum(map(len, lines[: number - 1])) + len(line) - len(line.lstrip())
    return Span(_shown(file), "".join(lines), start, start + max(len(line.strip()), 1))


def _shown(file: str) -> str:
    """The path as the user would type it."""
    path = File(file)
    return str(path.relative_to(File.cwd())) if path.is_relative_to(File.cwd()) else file
