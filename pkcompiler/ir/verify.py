"""The invariants of a path graph, each said once. All violations of a graph are reported together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pkcompiler.diagnostics import Diagnostic, PkcError, Span
from pkcompiler.ir.attributes import faults
from pkcompiler.ir.computed import FormulaError, read_formula
from pkcompiler.ir.dims import ShapeError
from pkcompiler.ir.infer import infer_dtype, infer_shape
from pkcompiler.ir.maps import Batch, Dim, Merge, Reindex
from pkcompiler.ir.text import print_graph, print_type
from pkcompiler.ir.to_graph import Subject, read_graph
from pkcompiler.ir.types import Op, PathGraph, Slot, TensorType
from pkcompiler.ir.uses import Use, arity, slots_read, uses

DTYPES = frozenset({"f64", "f32", "f16", "bf16", "c64", "c128", "i64", "i32", "i16", "i8", "u8", "bool"})

_HELP = {
    "PKC301": "rename one of the two",
    "PKC302": "name a value that is defined above, or move its definition up",
    "PKC303": "declare it at the top: parameter @name: f32[...]",
    "PKC304": "name another slot, or correct its declaration",
    "PKC305": "write the type that the operation gives",
    "PKC306": "correct the attribute",
    "PKC307": "correct the inputs",
    "PKC308": "return values that are defined",
    "PKC309": "remove the line, or return what depends on it",
    "PKC310": "remove the declaration, or use it",
    "PKC311": "write a type such as f32[B, 64]",
    "PKC312": "correct the shapes of the inputs, the slots or the attributes",
    "PKC314": "lift the model again: pkc ir MODEL",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant and the part of the graph that breaks it."""

    subject: Subject
    code: str
    message: str
    label: str = ""


def verify(graph: PathGraph) -> list[Diagnostic]:
    """Every violated invariant, pointing into the printed graph; empty when the graph is sound.

    PKC301 duplicate name, PKC302 value not defined before its use, PKC303 unknown slot, PKC304 role or element type of a slot,
    PKC305 result type, PKC306 attributes, PKC307 number of inputs, PKC308 outputs, PKC309 operation without effect, PKC310 unused
    slot, PKC311 malformed type, PKC312 shapes that do not fit, PKC314 what a computed slot is made of.
    """
    found = list(violations(graph))
    if not found:
        return []
    try:
        spans = read_graph(print_graph(graph), f"<graph {graph.name}>").spans
    except PkcError:
        spans = {}
    return [diagnose(v, spans) for v in found]


def diagnose(violation: Violation, spans: Mapping[Subject, Span]) -> Diagnostic:
    """A violation with its place: that of the part, or of what holds the part."""
    subject = violation.subject
    while subject and subject not in spans:
        subject = subject[:-1]
    return Diagnostic(violation.code, violation.message, spans.get(subject), violation.label, (_HELP[violation.code],))


def violations(graph: PathGraph) -> Iterator[Violation]:
    """The broken invariants of a graph in the order of its text."""
    slots = {slot.name: slot for slot in graph.slots}
    yield from _declarations(graph)
    yield from _operations(graph, slots)
    yield from _outputs(graph)
    yield from _dead(graph)
    yield from _unused(graph)


def _declarations(graph: PathGraph) -> Iterator[Violation]:
    seen: set[str] = set()
    for i, slot in enumerate(graph.slots):
        if slot.name in seen:
            yield Violation(("slot", i), "PKC301", f"slot @{slot.name} is declared twice")
        seen.add(slot.name)
        yield from _well_formed(slot.type, ("slot", i), f"slot @{slot.name}")
        if any(isinstance(dim, Batch) for dim in slot.type.shape):
            yield Violation(("slot", i), "PKC311", f"slot @{slot.name} has a batch dimension, but what is stored has none")
        if slot.role not in ("parameter", "buffer", "constant", "computed"):
            yield Violation(("slot", i), "PKC304", f"slot @{slot.name} has the unknown role '{slot.role}'")
        elif slot.prunable and slot.role != "parameter":
            yield Violation(
                ("slot", i), "PKC304", f"slot @{slot.name} is prunable, but a {slot.role}", "only parameters are prunable"
            )
    yield from _computed(graph)
    for i, value in enumerate(graph.inputs):
        yield from _well_formed(value.type, ("input", i), f"input %{value.name}")


def _computed(graph: PathGraph) -> Iterator[Violation]:
    """A computed slot is made of stored slots by a formula over the closed list of operators; no other slot has any."""
    roles = {slot.name: slot.role for slot in graph.slots}
    for i, slot in enumerate(graph.slots):
        if slot.role != "computed":
            if slot.of or slot.formula:
                yield Violation(("slot", i), "PKC314", f"slot @{slot.name} has a formula, but is a {slot.role}")
            continue
        for part in slot.of:
            if roles.get(part, "computed") == "computed":
                yield Violation(("slot", i), "PKC314", f"slot @{slot.name} is made of @{part}, which is no stored slot")
        if not any(roles.get(part) == "parameter" for part in slot.of):
            yield Violation(("slot", i), "PKC314", f"slot @{slot.name} is made of no parameter")
        try:
            read_formula(slot.formula, len(slot.of))
        except FormulaError as error:
            yield Violation(("slot", i), "PKC314", f"the formula of slot @{slot.name} is refused: {error}")


def _well_formed(type: TensorType, subject: Subject, what: str) -> Iterator[Violation]:
    if type.dtype not in DTYPES:
        yield Violation(
            subject, "PKC311", f"{what} has the unknown element type '{type.dtype}'", f"expected one of {', '.join(sorted(DTYPES))}"
        )
    if not all(_is_size(dim) for dim in type.shape):
        yield Violation(subject, "PKC311", f"{what} has a negative dimension in {print_type(type)}")


def _is_size(dim: Dim) -> bool:
    return dim.factor >= 1 if isinstance(dim, Batch) else dim >= 0


def _operations(graph: PathGraph, slots: Mapping[str, Slot]) -> Iterator[Violation]:
    types: dict[str, TensorType] = {}
    later = {op.name for op in graph.ops}
    for i, value in enumerate(graph.inputs):
        yield from _duplicate(value.name, types, ("input", i))
        types[value.name] = value.type
    for i, op in enumerate(graph.ops):
        yield from _operation(i, op, types, later, slots)
        yield from _duplicate(op.name, types, ("op", i, "result"))
        types[op.name] = op.result.type


def _duplicate(name: str, types: Mapping[str, TensorType], subject: Subject) -> Iterator[Violation]:
    if name in types:
        yield Violation(subject, "PKC301", f"value %{name} is defined twice")


def _operation(i: int, op: Op, types: Mapping[str, TensorType], later: set[str], slots: Mapping[str, Slot]) -> Iterator[Violation]:
    found = [*_inputs(i, op, types, later), *_slots(i, op, slots), *_attributes(i, op)]
    found += _well_formed(op.result.type, ("op", i, "result"), f"value %{op.name}")
    yield from found or _result(i, op, tuple(types[x] for x in op.inputs), slots)


def _inputs(i: int, op: Op, types: Mapping[str, TensorType], later: set[str]) -> Iterator[Violation]:
    for k, x in enumerate(op.inputs):
        if x not in types:
            why = "defined only below" if x in later else "defined nowhere"
            yield Violation(("op", i, "input", k), "PKC302", f"value %{x} is used before its definition", why)
    least, most = arity(op.map)
    if len(op.inputs) < least or (most is not None and len(op.inputs) > most):
        expected = str(least) if least == most else f"at least {least}"
        yield Violation(("op", i, "word"), "PKC307", f"%{op.name} has {len(op.inputs)} inputs, expected {expected}")
    if isinstance(op.map, Merge) and len(op.map.signs) != len(op.inputs):
        yield Violation(("op", i, "signs"), "PKC307", f"%{op.name} has {len(op.inputs)} inputs and {len(op.map.signs)} signs")


def _slots(i: int, op: Op, slots: Mapping[str, Slot]) -> Iterator[Violation]:
    for use in uses(op.map):
        subject: Subject = ("op", i, _KEYS.get((type(op.map).__name__, use.part), use.part))
        slot = slots.get(use.slot)
        if slot is None:
            yield Violation(subject, "PKC303", f"slot @{use.slot} is not declared")
        else:
            yield from _role(subject, op, use, slot)


_KEYS = {("Scale", "weight"): "by", ("Scale", "factor"): "by", ("Scale", "bias"): "shift"}


def _role(subject: Subject, op: Op, use: Use, slot: Slot) -> Iterator[Violation]:
    where = f"the {use.part} of %{op.name}"
    if slot.role not in use.roles:
        expected = " or ".join(sorted(use.roles))
        yield Violation(subject, "PKC304", f"{where} is the {slot.role} @{slot.name}, expected a {expected}", f"a {slot.role}")
    if use.dtypes and slot.type.dtype not in use.dtypes:
        expected = " or ".join(sorted(use.dtypes))
        yield Violation(subject, "PKC304", f"{where} has elements of {slot.type.dtype}, expected {expected}", slot.type.dtype)


def _attributes(i: int, op: Op) -> Iterator[Violation]:
    for key, message in faults(op.map):
        part = _KEYS.get((type(op.map).__name__, key), key) or "word"
        yield Violation(("op", i, part), "PKC306", f"{message} (in %{op.name})")


def _result(i: int, op: Op, inputs: tuple[TensorType, ...], slots: Mapping[str, Slot]) -> Iterator[Violation]:
    if isinstance(op.map, Reindex) and op.map.fn == "cat" and not inputs:
        return
    try:
        shape = infer_shape(op.map, tuple(t.shape for t in inputs), slots)
    except ShapeError as error:
        yield Violation(("op", i), "PKC312", f"the shapes of %{op.name} do not fit: {error}")
        return
    declared = op.result.type
    dtype = infer_dtype(op.map, inputs, slots) or declared.dtype
    expected = TensorType(dtype, declared.shape if shape is None else shape)
    if expected != declared:
        message = f"%{op.name} is declared {print_type(declared)}, but its operation gives {print_type(expected)}"
        yield Violation(("op", i, "result"), "PKC305", message, f"expected {print_type(expected)}")


def _outputs(graph: PathGraph) -> Iterator[Violation]:
    defined = {value.name for value in graph.values}
    if not graph.outputs:
        yield Violation(("graph",), "PKC308", f"graph @{graph.name} returns nothing")
    for i, name in enumerate(graph.outputs):
        if name not in defined:
            yield Violation(("output", i), "PKC308", f"the output %{name} is not defined")


def _dead(graph: PathGraph) -> Iterator[Violation]:
    live = set(graph.outputs)
    dead = []
    for i, op in reversed(list(enumerate(graph.ops))):
        if op.name in live:
            live.update(op.inputs)
        else:
            dead.append(Violation(("op", i, "result"), "PKC309", f"nothing that is returned depends on %{op.name}"))
    yield from reversed(dead)


def _unused(graph: PathGraph) -> Iterator[Violation]:
    used = slots_read(graph.ops)
    used |= {part for slot in graph.computed if slot.name in used for part in slot.of}
    for i, slot in enumerate(graph.slots):
        if slot.name not in used:
            yield Violation(("slot", i), "PKC310", f"no operation uses the {slot.role} @{slot.name}")
