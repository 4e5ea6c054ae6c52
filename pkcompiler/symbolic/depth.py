"""How the closed forms grow with depth: what one more copy of a repeated block multiplies them by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pkcompiler.diagnostics import fail
from pkcompiler.ir.maps import Conv, Dense
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.uses import uses
from pkcompiler.measured import Measured, scaled_float
from pkcompiler.symbolic.closed import ClosedForm, ClosedForms
from pkcompiler.symbolic.program import Program, Statement, Term, read
from pkcompiler.symbolic.to_program import SLOT

FAR = 32
"""Blocks after which the ratio is taken as that of a very deep network."""


@dataclass(frozen=True, slots=True)
class Deepening:
    """One more copy of a block multiplies ``form`` by ``next`` (exact up to rounding), and a copy after ``FAR`` more by ``far``.

    ``block``: the first and the last operation of the copied block; ``repeats``: how often it stands in the model already. The
    copy has weights of its own with the same variances. ``far`` approaches the leading eigenvalue of the block's map of positions;
    it is None where the block multiplies its input by itself, so no ratio settles.
    """

    form: str
    block: tuple[str, str]
    repeats: int
    next: float
    far: float | None

    def __str__(self) -> str:
        settled = "no ratio settles (products of activations)" if self.far is None else f"x {self.far:.4g} far deeper"
        return f"{self.form} x {self.next:.4g} for one more block {self.block[0]} .. {self.block[1]}, {settled}"


@dataclass(frozen=True, slots=True)
class Run:
    """``repeats`` alike segments of ``length`` operations one after the other; ``last``: where the last begins."""

    last: int
    length: int
    repeats: int


def deepening(forms: ClosedForms) -> tuple[Deepening, ...]:
    """The ratios of the three forms for the longest run of alike blocks. Raises ``PKC538`` where there is none."""
    run = repeated(forms.graph)
    if run is None:
        raise fail(
            "PKC538", f"{forms.name} has no two alike blocks in a row, so its depth is no single number", "take growth('widths')"
        )
    ops = forms.graph.ops
    block = ops[run.last].name, ops[run.last + run.length - 1].name
    return tuple(Deepening(form.name, block, run.repeats, *_ratios(forms, form, run)) for form in forms.forms)


def _ratios(forms: ClosedForms, form: ClosedForm, run: Run) -> tuple[float, float | None]:
    compounds = _compounds(forms.programs[0], forms.graph, run)
    deeper = [replace(form, program=_program(forms, form, run, copies)) for copies in ((1,) if compounds else (1, FAR, FAR + 1))]
    here, one, *far = (f.value() for f in (form, *deeper))
    return _over(one, here), None if compounds else _over(far[1], far[0])


def _compounds(program: Program, graph: PathGraph, run: Run) -> bool:
    """Whether the block multiplies two values that both come from its input: each block then multiplies the number of digits."""
    start = _start(program, graph, run)
    moving = {program.statements[start - 1].target}
    live = {s.target for s in read(program.statements)}
    for s in program.statements[start : start + run.length]:
        if s.target in live and any(len(t.operands) == 2 and moving.issuperset(t.operands) for t in s.terms):
            return True
        if any(moving.intersection(t.operands) for t in s.terms):
            moving.add(s.target)
    return False


def _over(after: Measured, before: Measured) -> float:
    ratio = after.mantissa / before.mantissa if before.mantissa else float("nan")
    return scaled_float(ratio, after.exponent - before.exponent)


def _program(forms: ClosedForms, form: ClosedForm, run: Run, copies: int) -> Program:
    counted, squared = forms.programs
    if form is forms.count:
        return lengthened(counted, forms.graph, run, copies).bound({})
    moments = {SLOT + slot: m for slot, m in forms.moments.items()}
    longer = lengthened(squared, forms.graph, run, copies)
    return (longer if form is forms.r2 else longer.differentiated(moments)).bound(moments)


def lengthened(program: Program, graph: PathGraph, run: Run, copies: int) -> Program:
    """The program with copies of the last block before it."""
    start = _start(program, graph, run)
    block = program.statements[start : start + run.length]
    entry, exit = program.statements[start - 1].target, block[-1].target
    added: list[Statement] = []
    source = entry
    for copy in range(copies):
        names = {s.target: f"{s.target}+{copy + 1}" for s in block}
        added += [_renamed(s, {**names, entry: source}) for s in block]
        source = names[exit]
    last = [_renamed(s, {entry: source}) for s in block]
    return Program((*program.statements[:start], *added, *last, *program.statements[start + run.length :]))


def _start(program: Program, graph: PathGraph, run: Run) -> int:
    """Where the last block begins; there is one statement for each operation, in order."""
    return [s.target for s in program.statements].index(graph.ops[run.last].name)


def _renamed(statement: Statement, names: Mapping[str, str]) -> Statement:
    def term(t: Term) -> Term:
        return replace(t, operands=tuple(names.get(n, n) for n in t.operands))

    return replace(statement, target=names.get(statement.target, statement.target), terms=tuple(map(term, statement.terms)))


def repeated(graph: PathGraph) -> Run | None:
    """The longest run of alike segments that hold a weight and are joined by one value each; None where nothing repeats."""
    place = {v.name: i - len(graph.inputs) for i, v in enumerate(graph.inputs)} | {op.name: i for i, op in enumerate(graph.ops)}
    keys = [_key(op, i, place, graph) for i, op in enumerate(graph.ops)]
    return max(_runs(graph, keys, place), key=lambda r: (r.repeats * r.length, -r.length), default=None)


def _runs(graph: PathGraph, keys: list[object], place: Mapping[str, int]) -> Iterator[Run]:
    for length in range(1, len(keys) // 2 + 1):
        first = 0
        while first + 2 * length <= len(keys):
            end = first + length
            while end < len(keys) and keys[end] == keys[end - length]:
                end += 1
            repeats = (end - first) // length
            run = Run(first + (repeats - 1) * length, length, repeats)
            if repeats > 1 and _joined(graph, run, place):
                yield run
                first = end - length
            first += 1


def _joined(graph: PathGraph, run: Run, place: Mapping[str, int]) -> bool:
    """Whether the last block reads only the value before it, and what follows only its last value."""
    end = run.last + run.length
    inside = graph.ops[run.last : end]
    if not any(isinstance(op.map, Dense | Conv) for op in inside) or graph.outputs[0] in {op.name for op in inside[:-1]}:
        return False
    read = [place[name] for op in inside for name in op.inputs]
    after = [place[name] for op in graph.ops[end:] for name in op.inputs]
    return all(i >= run.last - 1 for i in read) and not any(run.last - 1 <= i < end - 1 for i in after)


def _key(op: Op, index: int, place: Mapping[str, int], graph: PathGraph) -> object:
    """What an operation does and to what, whatever its slots are called."""
    text = repr(op.map)
    for use in uses(op.map):
        text = text.replace(repr(use.slot), repr(graph.slot(use.slot).type))
    return text, op.result.type, tuple(index - place[name] for name in op.inputs)
