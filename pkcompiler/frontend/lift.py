"""The exported program to a path graph. The lift never guesses: what it cannot place is reported, all of it at once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

import pkcompiler.ops.entries  # noqa: F401  (fills the table)
from pkcompiler.diagnostics import Diagnostic, PkcError
from pkcompiler.frontend.classify import Classes, classify, op_name
from pkcompiler.frontend.export import PREFIX, Program
from pkcompiler.frontend.gate import describe_gate
from pkcompiler.frontend.names import Names, origin_of
from pkcompiler.frontend.trace import DTYPES, Trace, trace
from pkcompiler.ir.maps import (
    Batch,
    Conv,
    Dense,
    Dim,
    Embed,
    Fixed,
    Frozen,
    Gate,
    Literal,
    Named,
    PathMap,
    Product,
    Reindex,
    Softmax,
    Source,
)
from pkcompiler.ir.types import Op, Origin, PathGraph, Slot, TensorType, Value
from pkcompiler.ops.gates import PASS_THROUGH
from pkcompiler.ops.table import TABLE, Index, Known, Observed, Path, Ref, Stored


@dataclass(frozen=True, slots=True)
class Record:
    """What to observe for one operation of the path graph: ``node`` and its input ``source`` are nodes of the program."""

    kind: str  # gate | window | normalise | softmax | frozen | product
    node: str
    source: str = ""
    slope: float = 0.0  # of a gate: phi'(0)


@dataclass(frozen=True, slots=True)
class Lifted:
    """A path graph, the tensors of its constants, what to record for each operation, and the parameters that are only observed."""

    graph: PathGraph
    constants: Mapping[str, Tensor]
    records: Mapping[str, Record]
    observed_only: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...]  # (input of the graph, placeholder of the program)


def lift_program(program: Program, flat: Sequence[Any], gates: frozenset[str] = frozenset(), name: str = "model") -> Lifted:
    """Lift an exported program; raises PkcError with one ``PKC201`` per operator that has no meaning.

    ``gates``: operators (``aten.erf.default``, or ``erf``) to take as gates although the table does not know them as such.
    """
    classes = classify(program)
    keep = frozenset(n.name for n, k in classes.kinds.items() if k in ("known", "number"))
    return _Lifter(program, classes, trace(program, flat, keep), gates).run(name)


class _Lifter:
    def __init__(self, program: Program, classes: Classes, seen: Trace, gates: frozenset[str]) -> None:
        self.program, self.classes, self.seen, self.gates = program, classes, seen, gates
        self.names = Names()
        self.refs: dict[fx.Node, Any] = {}
        self.ops: list[Op] = []
        self.slots: dict[str, Slot] = {}
        self.constants: dict[str, Tensor] = {}
        self.records: dict[str, Record] = {}
        self.errors: dict[str, Diagnostic] = {}
        self.sources: dict[str, Path] = {}
        self.inputs: list[Value] = []
        self.placeholders: dict[str, str] = {}
        self.read: set[tuple[str, fx.Node]] = set()

    # the walk -----------------------------------------------------------------------------------------------------

    def run(self, name: str) -> Lifted:
        graph = self.program.module.graph
        wanted = self.demanded(graph)
        output = graph.output_node().args[0][0]  # type: ignore[index]
        for node in graph.nodes:
            if node.op != "output" and (node in wanted or node.op == "placeholder"):
                self.refs[node] = self.reference(node)
        result = _Use(self, output).path(self.refs[output])
        return self.finish(name, result)

    def finish(self, name: str, result: Path) -> Lifted:
        ops = _live(self.ops, result.name)
        self.refuse_unplaced(result, ops)
        used = {s for op in ops for s in slots_of(op.map)} | {v for op in ops for v in op.inputs}
        slots = tuple(s for s in self.slots.values() if s.name in used)
        inputs = tuple(v for v in self.inputs if v.name in used or v.name == result.name)
        graph = PathGraph(name, inputs, _with_prunable(slots, ops), tuple(ops), (result.name,))
        self.account({op.name for op in ops})
        reached = {s.name for s in slots}
        observed = tuple(sorted({p for p in self.program.parameters.values() if p not in reached and self.is_observed(p)}))
        records = {op.name: self.records[op.name] for op in ops if op.name in self.records}
        constants = {s.name: self.constants[s.name] for s in slots if s.role == "constant"}
        return Lifted(graph, constants, records, observed, tuple((v.name, self.placeholders[v.name]) for v in inputs))

    def refuse_unplaced(self, result: Path, ops: Sequence[Op]) -> None:
        """Every operator without a meaning whose result a path needs, in the program's order."""
        needed = {result.name} | {name for op in ops for name in op.inputs}
        errors = tuple(error for name, error in self.errors.items() if name in needed)
        if errors:
            raise PkcError(*errors)

    def demanded(self, graph: fx.Graph) -> set[fx.Node]:
        """The nodes that a path to the output reads, seen through gates (which read their root alone)."""
        wanted: set[fx.Node] = set()
        stack = [graph.output_node().args[0][0]]  # type: ignore[index]
        while stack:
            node = stack.pop()
            if node in wanted or not isinstance(node, fx.Node):
                continue
            wanted.add(node)
            stack.extend(self.operands(node))
        return wanted

    def operands(self, node: fx.Node) -> Iterable[fx.Node]:
        if self.classes.kinds[node] in ("observed", "known", "number"):
            return ()
        region = self.classes.regions.get(node)
        return (region.root,) if region and region.bent else node.all_input_nodes

    def reference(self, node: fx.Node) -> Any:
        shape = self.seen.shapes.get(node.name)
        kind = self.classes.kinds[node]
        if node.op == "placeholder":
            return self.placeholder(node, shape)
        if kind == "number":
            return shape
        if kind == "known":
            return self.known(node, shape)
        if kind == "observed":
            return Observed(node.name, self.classes.observed[node], op_name(node), shape)
        return self.translate(node)

    def placeholder(self, node: fx.Node, shape: Any) -> Any:
        name = node.name
        if name in self.program.parameters:
            return Stored(self.program.parameters[name], tuple(self.program.tensors[self.program.parameters[name]].shape))
        if name in self.program.buffers:
            slot = self.program.buffers[name]
            return Known(self.program.tensors[slot], tuple(self.program.tensors[slot].shape), slot)
        if name in self.program.lifted:
            return Known(self.program.lifted[name], tuple(self.program.lifted[name].shape))
        if name not in self.seen.dtypes:
            return shape
        label = self.names.fresh(
            "x" if len(self.program.inputs) == 1 else name.removeprefix("flat_") and f"x{name.removeprefix('flat_')}"
        )
        self.placeholders[label] = name
        self.inputs.append(Value(label, TensorType(self.seen.dtypes[name], shape)))
        return Path(label, shape) if self.classes.kinds[node] == "path" else Index(label, shape)

    def known(self, node: fx.Node, shape: Any) -> Any:
        tensor = self.seen.known.get(node.name)
        if tensor is None:
            return Observed(node.name, "factor", op_name(node), shape)
        return Known(tensor, shape)

    def translate(self, node: fx.Node) -> Any:
        name = op_name(node)
        region = self.classes.regions.get(node)
        use = _Use(self, node)
        try:
            if region and region.bent:
                return self.gate(node, region.root, use)
            if name in PASS_THROUGH:
                return self.refs[node.args[0]]
            if node.target is operator.getitem:
                return self.refs[node.args[0]][node.args[1]]
            if name in TABLE:
                return TABLE[name](use)
            if self.declared_gate(name):
                return self.gate(node, node.args[0], use)
            raise use.unsupported("it is not in the operator table")
        except _Unsupported as error:
            return self.unplaced(node, error.diagnostic)

    def unplaced(self, node: fx.Node, error: Diagnostic) -> Any:
        """A stand-in for what an operator without a meaning returns: an error if a path needs it."""
        name = self.names.fresh("?" + node.name)
        self.errors[name] = error
        shape = self.seen.shapes.get(node.name) or ()
        return [Path(name, s) for s in shape] if isinstance(shape, list) else Path(name, shape)

    def declared_gate(self, name: str) -> bool:
        return bool({name, name.removeprefix("aten."), name.removeprefix("aten.").rsplit(".", 1)[0]} & self.gates)

    def gate(self, node: fx.Node, root: fx.Node, use: _Use) -> Path:
        described = describe_gate(node, root, self.seen.known)
        if described is None:
            raise use.unsupported("it is not finite at 0, so it has no slope there")
        result = use.emit(described[0], use.operand(root))
        self.records[result.name] = Record("gate", node.name, root.name, described[1])
        return result

    # parameters -----------------------------------------------------------------------------------------------------

    def is_observed(self, parameter: str) -> bool:
        placeholders = [p for p, slot in self.program.parameters.items() if slot == parameter]
        nodes = [n for n in self.program.module.graph.find_nodes(op="placeholder") if n.name in placeholders]
        return any(n.users for n in nodes)

    def account(self, live: set[str]) -> None:
        """Every use of every parameter is a path map's, or lies in something observed; the first that is neither is an error."""
        lost = []
        for node in self.program.module.graph.find_nodes(op="placeholder"):
            slot = self.program.parameters.get(node.name)
            for user in node.users if slot else ():
                if (slot, user) not in self.read and not self.leads_to_observed(user):
                    lost.append((slot, user))
        if lost:
            raise PkcError(*(_lost_use(str(slot), user) for slot, user in lost))

    def leads_to_observed(self, node: fx.Node) -> bool:
        seen: set[fx.Node] = set()
        stack = [node]
        while stack:
            here = stack.pop()
            if here in seen:
                continue
            seen.add(here)
            if self.classes.kinds.get(here) == "observed":
                return True
            stack.extend(here.users)
        return False

    # slots ----------------------------------------------------------------------------------------------------------

    def slot(self, name: str, tensor: Tensor, role: Any) -> str:
        if name not in self.slots:
            self.slots[name] = Slot(name, TensorType(DTYPES[tensor.dtype], tuple(tensor.shape)), role)
        return name

    def constant(self, tensor: Tensor) -> Named:
        for name, other in self.constants.items():
            if other.shape == tensor.shape and other.dtype == tensor.dtype and torch.equal(other, tensor):
                return Named(name)
        name = f"constant.{len(self.constants)}"
        self.constants[name] = tensor.detach().clone().contiguous()
        return Named(self.slot(name, tensor, "constant"))


class _Unsupported(Exception):
    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(diagnostic.message)


class _Use:
    """One call of an operator (see :class:`pkcompiler.ops.table.Use`)."""

    def __init__(self, lifter: _Lifter, node: fx.Node) -> None:
        self.lifter, self.node = lifter, node
        self.shape: tuple[Dim, ...] = lifter.seen.shapes.get(node.name) or ()
        self.origin: Origin = origin_of(node, PREFIX)
        self.name = op_name(node)
        self.bound = _bind(node)

    def __getitem__(self, argument: str) -> Any:
        return self._resolve(self.bound[argument])

    def __contains__(self, argument: str) -> bool:
        return argument in self.bound

    def operand(self, node: fx.Node) -> Any:
        """What an operand of this operator was translated to; a parameter counts as read by it."""
        ref = self.lifter.refs[node]
        if isinstance(ref, Stored):
            self.lifter.read.add((ref.slot, self.node))
        return ref

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.operand(value)
        if isinstance(value, tuple | list):
            return [self._resolve(v) for v in value]
        return value

    def weight(self, ref: Ref | None) -> str | None:
        """The slot of a parameter used as stored, declared; None for anything else."""
        if not isinstance(ref, Stored):
            return None
        return self.lifter.slot(ref.slot, self.lifter.program.tensors[ref.slot], "parameter")

    def path(self, ref: Ref) -> Path:
        if isinstance(ref, Path):
            return ref
        if isinstance(ref, Stored):
            return self._source(Named(str(self.weight(ref))), ref.shape, ref.slot)
        if isinstance(ref, Known):
            return self._source(self.fixed(ref), ref.shape, "")
        if isinstance(ref, Observed):
            return self.observe(ref, as_source=True)
        raise self.unsupported("an integer input enters as a value")

    def factor(self, ref: Ref) -> Path:
        """``ref`` as a multiplying operand: constants and observed tensors stay when constant sources are off."""
        if isinstance(ref, Known):
            value = self.fixed(ref)
            return self.emit(Source(value, factor=True), shape=ref.shape)
        if isinstance(ref, Observed):
            return self.observe(ref, as_source=False)
        return self.path(ref)

    def observe(self, ref: Observed, as_source: bool) -> Path:
        kind = "norm" if ref.kind == "norm" else "factor"
        result = self.emit(Frozen(kind, ref.what.removeprefix("aten.").rsplit(".", 1)[0], as_source), shape=ref.shape)
        self.lifter.records[result.name] = Record("frozen", ref.node)
        return result

    def _source(self, value: Fixed, shape: Sequence[Dim], key: str) -> Path:
        if key and key in self.lifter.sources:
            return self.lifter.sources[key]
        result = self.emit(Source(value), shape=shape, name=key)
        if key:
            self.lifter.sources[key] = result
        return result

    def fixed(self, ref: Ref) -> Fixed:
        if not isinstance(ref, Known):
            raise self.unsupported("a factor depends on the data or on a parameter")
        if ref.slot is not None:
            self.lifter.slot(ref.slot, ref.tensor, "buffer")
            return Named(ref.slot)
        if ref.tensor.numel() == 1:
            return Literal(float(ref.tensor.item()))
        return self.constant(ref.tensor)

    def constant(self, tensor: Tensor) -> Fixed:
        return self.lifter.constant(tensor)

    def emit(self, map: PathMap, *inputs: Ref, shape: Sequence[Dim] | None = None, name: str = "") -> Path:
        dims = tuple(self.shape if shape is None else shape)
        label = self.lifter.names.fresh(name or self.origin.module or self.node.name)
        dtype = self.lifter.seen.dtypes.get(self.node.name, "f32")
        value = Value(label, TensorType(dtype, dims))
        self.lifter.ops.append(Op(map, tuple(self._name(i) for i in inputs), value, self.origin))
        return Path(label, dims)

    def _name(self, ref: Ref) -> str:
        return ref.name if isinstance(ref, Index) else self.path(ref).name

    def boolean(self, tensor: Tensor) -> Named:
        return self.lifter.constant(tensor)

    def record(self, kind: str, result: Path, argument: int = 0) -> Path:
        first = self.node.args[argument]
        node = first.name if isinstance(first, fx.Node) else ""
        if kind == "product":
            self.lifter.records[result.name] = Record(kind, node)
            return result
        self.lifter.records[result.name] = Record(kind, self.node.name, node)
        return result

    def step_back(self, argument: str) -> _Use | None:
        node = self.bound[argument]
        return _Use(self.lifter, node) if isinstance(node, fx.Node) and node.op == "call_function" else None

    def modulates(self, ref: Ref) -> bool:
        made = self.map_of(ref)
        return isinstance(made, Softmax) or (isinstance(made, Gate) and made.kind in ("sigmoid", "hardsigmoid", "tanh"))

    def map_of(self, ref: Ref) -> PathMap | None:
        """The map that made a path value (through reindexings)."""
        name = ref.name if isinstance(ref, Path) else ""
        for op in reversed(self.lifter.ops):
            if op.name != name:
                continue
            if isinstance(op.map, Reindex) and len(op.inputs) == 1:
                name = op.inputs[0]
                continue
            return op.map
        return None

    def unsupported(self, why: str) -> Exception:
        name = op_name(self.node)
        short = name.removeprefix("aten.").rsplit(".", 1)[0]
        where = " ".join(
            filter(None, (self.origin.module and f"in {self.origin.module}", self.origin.source and f"at {self.origin.source}"))
        )
        line = self.node.format_node(include_tensor_metadata=False) if hasattr(self.node, "format_node") else str(self.node)
        return _Unsupported(
            Diagnostic(
                "PKC201",
                f"operator '{name}' {where} has no meaning for paths: {why}".replace("  ", " "),
                notes=(
                    f"in the graph: {line}",
                    f"if it acts on each entry alone, declare it a gate: --gate {short}",
                    f'else give it a meaning with @path_op("{name}") in a file of yours: --plugin my_ops.py',
                ),
            )
        )


def _bind(node: fx.Node) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(i): a for i, a in enumerate(node.args)} | dict(node.kwargs)
    bound: dict[str, Any] = {}
    for i, argument in enumerate(node.target._schema.arguments):
        if i < len(node.args):
            bound[argument.name] = node.args[i]
        else:
            bound[argument.name] = node.kwargs.get(argument.name, argument.default_value if argument.has_default_value() else None)
    return bound


def _lost_use(slot: str, user: fx.Node) -> Diagnostic:
    origin = origin_of(user, PREFIX)
    return Diagnostic(
        "PKC202",
        f"parameter '{slot}' is used by '{op_name(user)}' {origin.module and f'in {origin.module} '}{origin.source and f'at {origin.source} '}"
        "in a way that the lift did not account for",
        notes=("every use of a parameter must lie on a path", f"give '{op_name(user)}' a meaning: --plugin my_ops.py"),
    )


def slots_of(map: PathMap) -> tuple[str, ...]:
    """The names of all slots that a map reads."""
    found: list[str] = []
    for field in map.__dataclass_fields__:
        value = getattr(map, field)
        if field in ("weight", "bias") and isinstance(value, str):
            found.append(value)
        elif isinstance(value, Conv):
            found.extend(s for s in (value.weight, value.bias) if s)
        else:
            found.extend(_named(value))
    return tuple(found)


def _named(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [s for v in value for s in _named(v)]
    slot = getattr(value, "slot", None)
    return [slot] if isinstance(slot, str) else []


def _live(ops: Sequence[Op], result: str) -> list[Op]:
    needed = {result}
    kept = []
    for op in reversed(ops):
        if op.name in needed:
            kept.append(op)
            needed.update(op.inputs)
    return kept[::-1]


def _with_prunable(slots: Sequence[Slot], ops: Sequence[Op]) -> tuple[Slot, ...]:
    """Prunable: weights of linear maps, convolutions and projections (two or more dimensions), never a table of embeddings."""
    weights = {op.map.weight for op in ops if isinstance(op.map, Dense | Conv)}
    weights |= _projected(ops)
    tables = {op.map.weight for op in ops if isinstance(op.map, Embed)}
    chosen = weights - tables
    return tuple(replace(s, prunable=s.role == "parameter" and len(s.type.shape) >= 2 and s.name in chosen) for s in slots)


def _projected(ops: Sequence[Op]) -> set[str]:
    """Parameters that reach a matrix product or a convolution through reindexings alone (slices of a packed projection)."""
    made: dict[str, str] = {}
    found: set[str] = set()
    for op in ops:
        if isinstance(op.map, Source) and isinstance(op.map.value, Named):
            made[op.name] = op.map.value.slot
        elif isinstance(op.map, Reindex) and len(op.inputs) == 1 and op.inputs[0] in made:
            made[op.name] = made[op.inputs[0]]
        elif isinstance(op.map, Product) and op.map.kind != "mul":
            found |= {made[i] for i in op.inputs if i in made}
    return found


Gates = Callable[[str], bool]
__all__ = ["Batch", "Gate", "Lifted", "Record", "lift_program", "slots_of"]
