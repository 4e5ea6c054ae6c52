"""The exported program to a path graph. The lift never guesses: what it cannot place is reported, all of it at once."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import fx

from pkcompiler.diagnostics import Diagnostic, raise_all
from pkcompiler.frontend.export import PREFIX, Program
from pkcompiler.frontend.lift.account import account, live, observed_only, with_prunable
from pkcompiler.frontend.lift.builder import Builder
from pkcompiler.frontend.lift.classify import Classes, classify, is_complex, op_name, short
from pkcompiler.frontend.lift.computed import Formula, label
from pkcompiler.frontend.lift.entrywise import NoGate, declared_gate
from pkcompiler.frontend.lift.gate import Described, describe_gate, region_nodes
from pkcompiler.frontend.lift.lifted import OBSERVED, Lifted, Record
from pkcompiler.frontend.lift.names import origin_of
from pkcompiler.frontend.lift.unplaced import (
    BATCH_SIZE,
    NO_DERIVATIVE,
    NO_SLOPE,
    frozen_end,
    idle_entries,
    idle_gate,
    unplaced,
    unweighable,
)
from pkcompiler.frontend.lift.use import OperatorUse, Unsupported
from pkcompiler.frontend.load_weights import not_finite
from pkcompiler.frontend.observed import behind, trace
from pkcompiler.frontend.sizes import reads_size, sized_numbers
from pkcompiler.ir.computed import print_formula
from pkcompiler.ir.maps import Constant, Frozen, Gate, Merge, Product, Reindex, Resample
from pkcompiler.ir.types import Op, PathGraph, TensorType, Value
from pkcompiler.ir.uses import slots_read
from pkcompiler.ir.walk import reached
from pkcompiler.ops.entries import entry_of
from pkcompiler.ops.gates import PASS_THROUGH, is_random
from pkcompiler.ops.table import Index, Known, Observed, Path, Stored


def lift_program(program: Program, flat: Sequence[Any], gates: frozenset[str] = frozenset(), name: str = "model") -> Lifted:
    """Lift an exported program; raises PkcError with one ``PKC201`` per operator that has no meaning.

    ``gates``: operators (``aten.erf.default``, or ``erf``) to take as gates although the table does not know them as such.
    """
    classes = classify(program)
    keep = frozenset(n.name for n, k in classes.kinds.items() if k in ("known", "number"))
    return _Lifter(Builder(program, trace(program, flat, keep), classes.regions), classes, gates).run(name)


class _Lifter:
    """The walk over the program's nodes."""

    def __init__(self, builder: Builder, classes: Classes, gates: frozenset[str]) -> None:
        self.builder, self.classes, self.gates = builder, classes, gates
        self.program, self.seen = builder.program, builder.seen
        self.sized = sized_numbers(self.program.module.graph)
        self.errors: dict[str, Diagnostic] = {}
        self.behind: dict[str, list[str]] = {}
        self.read_as_gates: set[str] = set()
        self.described: dict[str, Described] = {}
        self.inputs: list[Value] = []
        self.placeholders: dict[str, str] = {}

    def run(self, name: str) -> Lifted:
        graph = self.program.module.graph
        output = output_of(graph)
        wanted = self.demanded(output)
        raise_all(idle_entries(self.program))
        raise_all(self.random_draws())
        for node in graph.nodes:
            if node.op == "placeholder" or node in wanted:
                self.builder.refs[node] = self.reference(node)
        return self.finish(name, OperatorUse(self.builder, output).path(self.builder.refs[output]))

    def random_draws(self) -> list[Diagnostic]:
        nodes = [n for n in self.program.module.graph.nodes if n.op == "call_function" and is_random(n.target, n.args)]
        return [unplaced(self.builder, n, origin_of(n, PREFIX), "it is random, in evaluation mode too") for n in nodes]

    def finish(self, name: str, result: Path) -> Lifted:
        builder = self.builder
        ops = live(builder.ops, result.name)
        needed = {result.name} | {value for op in ops for value in op.inputs}
        raise_all(self.unplaced_behind(result.name))
        raise_all(idle_gate(self.program, gate) for gate in sorted(self.gates - self.read_as_gates))
        account(builder, self.classes)
        raise_all(self.unreached(ops, needed))
        read = slots_read(ops)
        read |= {part for s in builder.slots.values() if s.name in read for part in s.of}
        slots = tuple(s for s in builder.slots.values() if s.name in read)
        inputs = tuple(v for v in self.inputs if v.name in needed)
        graph = PathGraph(name, inputs, with_prunable(slots, ops), ops, (result.name,))
        constants = {s.name: builder.constants[s.name] for s in slots if s.role == "constant"}
        records = {op.name: builder.records[op.name] for op in ops if op.name in builder.records} | self.factors(ops)
        placeholders = tuple((v.name, self.placeholders[v.name]) for v in inputs)
        names = needed | {s.name for s in slots}
        hidden = observed_only(builder, {s.name for s in slots})
        return Lifted(graph, constants, records, hidden, placeholders, self.watched(records, frozenset(names)))

    def factors(self, ops: Sequence[Op]) -> dict[str, Record]:
        """The factors of the products of ``ops`` and what they are made of without parameters, each recorded at the node that
        computes it."""
        made, nodes = {op.name: op for op in ops}, dict[str, str]()
        for node, ref in self.builder.refs.items():
            if isinstance(ref, Path):
                nodes.setdefault(ref.name, node.name)

        def made_of(name: str) -> tuple[str, ...]:
            op = made.get(name)
            return op.inputs if op and isinstance(op.map, Constant | Reindex | Resample | Merge | Product) else ()

        factors = [name for op in ops if isinstance(op.map, Product) for name in op.inputs]
        return {OBSERVED + name: Record("factor", nodes[name]) for name in reached(factors, made_of) if name in nodes}

    def watched(self, records: Mapping[str, Record], names: frozenset[str]) -> frozenset[str]:
        """Which of ``names`` (values and parameters) what is frozen is computed from, directly or through what is on no path."""
        nodes = {n.name: n for n in self.program.module.graph.nodes}
        starts = [nodes[r.node] for r in records.values() if r.kind == "frozen"]
        masked = [nodes[r.source] for r in records.values() if r.kind == "softmax" and r.source]
        starts += [n for node in masked for n in node.all_input_nodes if self.classes.kinds[n] == "observed"]

        def name(node: fx.Node) -> str:
            ref = self.builder.refs.get(node)
            return ref.name if isinstance(ref, Path) else ref.slot if isinstance(ref, Stored) else ""

        def further(node: fx.Node) -> Iterable[fx.Node]:
            ends = self.classes.kinds[node] in ("known", "number") or name(node) in names
            return () if ends else node.all_input_nodes

        return frozenset(map(name, reached(starts, further))) & names

    def unreached(self, ops: Sequence[Op], needed: set[str]) -> list[Diagnostic]:
        """``PKC208``, where frozen factors alone lead from the inputs to the output."""
        if any(v.name in needed for v in self.inputs):
            return []
        nodes = {n.name: n for n in self.program.module.graph.nodes}
        frozen = [nodes[self.builder.records[op.name].node] for op in ops if isinstance(op.map, Frozen)]
        ends = (end for node in frozen if (end := self.last_path(node)))
        return [frozen_end(end) for end in list(dict.fromkeys(ends))[:1]]

    def last_path(self, node: fx.Node) -> fx.Node | None:
        """The observed operator behind ``node`` that reads a path; None where only constants and indices are observed."""
        kinds = self.classes.kinds
        on_path = (n for n in self.observed_behind(node) if any(kinds[i] in ("path", "several") for i in n.all_input_nodes))
        return next(on_path, None)

    def demanded(self, output: fx.Node) -> set[fx.Node]:
        """The nodes that a path to the output reads, seen through gates (which read their root alone)."""
        return set(reached([output], self.operands))

    def operands(self, node: fx.Node) -> Iterable[fx.Node]:
        if self.classes.kinds[node] in ("observed", "known", "number") or node in self.classes.computed:
            return ()
        region = self.classes.regions.get(node)
        return (region.root,) if region and region.bent else node.all_input_nodes

    def reference(self, node: fx.Node) -> Any:
        """What a node is to the entries of the table: a number, a constant, something observed, or a value of the graph."""
        if node.op == "placeholder":
            return self.placeholder(node)
        shape = self.seen.shapes.get(node.name)
        match self.classes.kinds[node]:
            case "number":
                return shape
            case "known":
                return self.known(node, shape)
            case "observed":
                if at := next((n for n in self.observed_behind(node) if reads_size(n, self.sized)), None):
                    return self.counts(at)
                return Observed(node.name, self.classes.observed[node], op_name(node), tuple(shape or ()))
        if node in self.classes.computed:
            return self.computed(node)
        return self.translate(node)

    def counts(self, node: fx.Node) -> Any:
        """What computes with the number of samples stands for an error."""
        return self.stand_in(node, unplaced(self.builder, node, origin_of(node, PREFIX), BATCH_SIZE))

    def observed_behind(self, node: fx.Node) -> Iterator[fx.Node]:
        """An observed node, and those that it is computed from."""
        kinds = self.classes.kinds
        met = reached([node], lambda n: n.all_input_nodes if kinds[n] == "observed" else ())
        return (n for n in met if kinds[n] == "observed")

    def computed(self, node: fx.Node) -> Any:
        """A computed weight: a slot of its own, and the slots that it is made of. Every use inside of it counts as read."""
        found = Formula(self.program, node)
        if found.unknown:
            first, *more = [self.stand_in(node, unweighable(self.builder, n)) for n in found.unknown]
            self.behind[first.name] += [stand_in.name for stand_in in more]
            return first
        of = tuple(self.stored(n) for n in found.operands)
        self.builder.read |= {
            (self.program.parameters[n.name], user) for n, user in found.inner if n.name in self.program.parameters
        }
        shape: Any = self.builder.shape(node)
        type = TensorType(self.seen.dtypes[node.name], shape)
        name = label(origin_of(node, PREFIX).module, node)
        return Stored(self.builder.computed(name, type, of, print_formula(tuple(found.steps))), shape)

    def stored(self, node: fx.Node) -> str:
        """The slot of what a computed weight begins at: a parameter, a buffer, or a constant."""
        name, program, slot = node.name, self.program, self.builder.slot
        if name in program.parameters:
            return slot(program.parameters[name], program.tensors[program.parameters[name]], "parameter")
        if name in program.buffers:
            return slot(program.buffers[name], program.tensors[program.buffers[name]], "buffer")
        known = program.lifted[name] if name in program.lifted else self.seen.known[name]
        assert known is not None
        return self.builder.constant(known).slot

    def placeholder(self, node: fx.Node) -> Any:
        name, program = node.name, self.program
        if self.classes.kinds[node] == "stored":
            slot = program.parameters[name]
            return Stored(slot, tuple(program.tensors[slot].shape))
        if slot := program.parameters.get(name) or program.buffers.get(name, ""):
            return Known(program.tensors[slot].cpu(), tuple(program.tensors[slot].shape), slot)
        if name in program.lifted:
            return Known(program.lifted[name].cpu(), tuple(program.lifted[name].shape))
        return self.input(node) if name in self.seen.dtypes else self.seen.shapes.get(name)

    def input(self, node: fx.Node) -> Path | Index:
        """An input of the model: ``x``, or ``x0``, ``x1`` where there are several."""
        shape = self.builder.shape(node)
        position = "" if len(self.program.inputs) == 1 else str(self.program.inputs.index(node.name))
        label = self.builder.names.fresh(f"x{position}")
        self.placeholders[label] = node.name
        self.inputs.append(Value(label, TensorType(self.seen.dtypes[node.name], shape)))
        self.builder.types[label] = self.inputs[-1].type
        return Path(label, shape) if self.classes.kinds[node] == "path" else Index(label, shape)

    def known(self, node: fx.Node, shape: Any) -> Any:
        tensor = self.seen.known.get(node.name)
        if node.name in self.seen.counting:
            return self.counts(node)
        return Observed(node.name, "factor", op_name(node), shape) if tensor is None else Known(tensor, shape)

    def unplaced_behind(self, result: str) -> list[Diagnostic]:
        """The errors of every operator that the result depends on, in the program's order, one behind another too."""
        made: dict[str, Sequence[str]] = {**{op.name: op.inputs for op in self.builder.ops}, **self.behind}
        seen = set(reached([result], lambda name: made.get(name, ())))
        return [error for value, error in self.errors.items() if value in seen]

    def translate(self, node: fx.Node) -> Any:
        """A node on a path: a gate, plumbing, or an operator with an entry. What is none of them is noted as an error."""
        use = OperatorUse(self.builder, node)
        try:
            return self.meaning(node, use)
        except Unsupported as error:
            return self.stand_in(node, error.diagnostic)

    def meaning(self, node: fx.Node, use: OperatorUse) -> Any:
        name, region = op_name(node), self.classes.regions.get(node)
        if complex_operand := next((n for n in (*self.operands(node), node) if is_complex(n)), None):
            return self.complex(complex_operand, use)
        inside = region_nodes(node, region.root) if region and region.bent else [node]
        if any(reads_size(n, self.sized) for n in inside):
            raise use.unsupported(BATCH_SIZE)
        if region and region.bent:
            return self.gate(node, region.root, use)
        if name in PASS_THROUGH:
            return use.operand(node.all_input_nodes[0])
        if node.target is operator.getitem:
            return use["0"][node.args[1]]
        if entry := entry_of(name):
            return entry(use)
        if named := self.gates & {name, name.removeprefix("aten."), short(name)}:
            self.read_as_gates |= named
            return self.declared(node, use)
        raise use.unsupported("it is not in the operator table")

    def complex(self, node: fx.Node, use: OperatorUse) -> Any:
        """An operator on complex numbers: an error, or the error of the operator that made its operand."""
        made = self.builder.refs.get(node)
        if isinstance(made, Path) and made.name in self.errors:
            return Path(made.name, self.builder.shape(use.node))
        raise use.unsupported("it computes with complex numbers, and paths carry real ones")

    def stand_in(self, node: fx.Node, error: Diagnostic) -> Any:
        """What takes the place of an operator without a meaning: an error if a path needs it."""
        name = self.builder.names.fresh("?" + node.name)
        self.errors[name] = error
        refs = [self.builder.refs.get(operand) for operand in self.operands(node)]
        self.behind[name] = [ref.name for ref in refs if isinstance(ref, Path)]
        shape: Any = self.builder.shape(node)
        return [Path(name, s) for s in shape] if isinstance(shape, list) else Path(name, shape)

    def declared(self, node: fx.Node, use: OperatorUse) -> Path:
        """An operator that the user reads as a gate, once it has been seen to be one."""
        try:
            return self.emit_gate(node, use, *declared_gate(self.builder, node))
        except NoGate as error:
            raise use.unsupported(f"it is declared a gate, but {error}") from error

    def gate(self, node: fx.Node, root: fx.Node, use: OperatorUse) -> Path:
        try:
            described = describe_gate(node, root, self.seen.known, self.described)
        except (RuntimeError, NotImplementedError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise use.unsupported(f"{NO_DERIVATIVE}: {first}") from error
        if described is None:
            if odd := self.odd_buffer(region_nodes(node, root)):
                raise Unsupported(not_finite(odd, "buffer"))
            raise use.unsupported(NO_SLOPE)
        return self.emit_gate(node, use, root, *described)

    def odd_buffer(self, nodes: Iterable[fx.Node]) -> str | None:
        """The first buffer that these operators read, directly or changed, and that holds NaN or an infinity."""
        known = (n for node in nodes for n in node.all_input_nodes if self.classes.kinds[n] == "known")
        names = (self.program.buffers[n.name] for k in known for n in sorted(behind(k)) if n.name in self.program.buffers)
        return next((name for name in names if not bool(self.program.tensors[name].isfinite().all())), None)

    def emit_gate(self, node: fx.Node, use: OperatorUse, root: fx.Node, gate: Gate, slope: float) -> Path:
        result = use.emit(gate, use.operand(root))
        self.builder.records[result.name] = Record("gate", node.name, root.name, slope)
        return result


def output_of(graph: fx.Graph) -> fx.Node:
    """The node whose value the program returns."""
    (results,) = graph.output_node().args
    assert isinstance(results, tuple | list) and isinstance(results[0], fx.Node)
    return results[0]
