"""Expressions of an analysis, evaluated: those of a pass, and figures of operators, each with what it says it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pkcompiler.analyses.collapse import collapse
from pkcompiler.analyses.operators import Operator
from pkcompiler.analyses.source import Source
from pkcompiler.analyses.values import Distribution
from pkcompiler.kernel.path_kernel import kernel_of
from pkcompiler.lang import words
from pkcompiler.lang.ast import Analysis, Binary, Call, Expr, Name, Number, Text, Unary
from pkcompiler.lang.check.facts import edge_of, resolve
from pkcompiler.lang.functions.kernels import largest
from pkcompiler.lang.functions.paths import DEFAULTS
from pkcompiler.lang.syntax.format import print_expr
from pkcompiler.measured import Measured, Status
from pkcompiler.paths.functional import is_approximate
from pkcompiler.paths.semiring import settings
from pkcompiler.predict.mean_trace import Prediction, nothing, predict_trace
from pkcompiler.scoring.evaluate import Evaluator
from pkcompiler.scoring.terms import NUMBER, Term
from pkcompiler.tangent.dynamics import architecture_curve, dynamics
from pkcompiler.tangent.ntk import NTK, ntk

RANK, STEP = frozenset({"rank"}), frozenset({"step"})
OPERATORS = ("gram", "ntk", "frozen")
NUMBERS = ("trace", "frobenius", "effective_rank", "stable_rank", "condition", "alignment", "stable_step", "bound")
FIGURES = (*NUMBERS, "diagonal", "eigenvalues", "distance", "dynamics", "expected_dynamics", "predicted_trace")
UNTIL = float(words.default("until", "collapse").removesuffix("x"))
VALUES = ("edge", "input", "output", "lr")
"""The named arguments that are expressions; all others are words or numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """What a figure says it is. ``leaf``: the tensor of an estimated number, through which its ``error`` is carried on."""

    status: Status
    note: str = ""
    leaf: Tensor | None = None
    error: float | None = None


@dataclass(slots=True, kw_only=True)
class AnalysisEvaluator(Evaluator):
    """Evaluates the expressions of one analysis. Figures and operators are computed once, under their text."""

    analysis: Analysis
    source: Source
    _operators: dict[str, Operator] = field(default_factory=dict)
    _figures: dict[str, Term] = field(default_factory=dict)
    _marks: dict[str, Mark] = field(default_factory=dict)
    _trained: dict[str, Tensor] = field(default_factory=dict)
    _prediction: Prediction | None = None

    def marks(self, expr: Expr) -> list[Mark]:
        """The marks of every figure in an expression, its ``let`` names included, each once."""
        texts = dict.fromkeys(print_expr(call) for call in _calls(expr, dict(self.lets), set()))
        return [self._marks[text] for text in texts if text in self._marks]

    def table(self, expr: Expr) -> dict[str, Measured]:
        """The value of ``collapse(...)``."""
        call = resolve(expr, self.lets)
        assert isinstance(call, Call) and isinstance(call.args[0], Name | Text)
        until = largest(None, dict(call.kwargs).get("until", Number(UNTIL)))
        found, ended = collapse(self.source, dict(self.analysis.passes)[call.args[0].value], until)
        self._marks[print_expr(call)] = Mark("bound", ended)
        return found

    def distribution(self, expr: Expr) -> Distribution:
        """The value of ``density(...)``."""
        call = resolve(expr, self.lets)
        assert isinstance(call, Call)
        return self._operator(call.args[0]).density(self.seed)

    def _call(self, call: Call) -> Term:
        if call.function == "paths":
            self._mark_paths(call)
        if call.function not in FIGURES:
            return Evaluator._call(self, call)
        text = print_expr(call)
        if text not in self._figures:
            self._figures[text] = self._figure(call, text)
        return self._figures[text]

    def _mark_paths(self, call: Call) -> None:
        given = dict(call.kwargs)
        edge = edge_of(given["edge"], self.lets) if "edge" in given else DEFAULTS["edge"]
        if is_approximate(self.source.graph, settings(edge=edge)):
            self._marks[print_expr(call)] = Mark(
                "approximate", "the centring of norms is dropped, or gains of gates are approximate"
            )

    # figures ----------------------------------------------------------------------------------------------------------

    def _figure(self, call: Call, text: str) -> Term:
        match call.function:
            case "predicted_trace":
                return self._number(self._predicted(), text)
            case "distance":
                return self._number(self._distance(call), text)
            case "dynamics":
                return self._dynamics(call, text)
            case "expected_dynamics":
                return self._expected_dynamics(call, text)
        operator = self._operator(call.args[0])
        if call.function in NUMBERS:
            return self._number(operator.figure(call.function), text)
        self._marks[text] = Mark(operator.status)
        if call.function == "diagonal":
            return operator.diagonal()
        count = call.args[1]
        assert isinstance(count, Number)
        return Term(RANK, operator.eigenvalues(int(count.value)), operator.exponent)

    def _number(self, found: Measured, text: str) -> Term:
        estimated = found.error is not None
        value = torch.tensor(found.mantissa, dtype=torch.float64, requires_grad=estimated)
        self._marks[text] = Mark(found.status, found.note, value if estimated else None, found.error)
        return Term(NUMBER, value, found.exponent)

    def _predicted(self) -> Measured:
        found = self._prediction_of()
        notes = [note for note in (found.method, found.trace.note or found.reason) if note]
        return Measured(found.trace.mantissa, found.trace.exponent, found.trace.error, found.trace.status, ": ".join(notes))

    def _prediction_of(self) -> Prediction:
        """E[Tr Theta] per sample, at Gaussian inputs with the moments of the data where there are any."""
        if self._prediction is None and self.source.several:
            self._prediction = nothing("the data are several inputs, and Gaussian inputs have the moments of one")
        if self._prediction is None:
            model, inputs = self.source.model()
            moments: dict[str, Any] = self.source.moments()
            self._prediction = predict_trace(
                model, inputs, seed=self.seed, masks=self.source.masks, initialise=self.source.initialise, **moments
            )
        return self._prediction

    def _distance(self, call: Call) -> Measured:
        first, second = (self._operator(arg).kernel for arg in call.args)
        if isinstance(first, NTK) and second is first.frozen():
            return first.difference()
        norm = torch.linalg.matrix_norm(first.kernel)
        return Measured(float(torch.linalg.matrix_norm(first.kernel - second.kernel) / norm))

    def _dynamics(self, call: Call, text: str) -> Term:
        given = dict(call.kwargs)
        rate, steps = self._steps(given)
        flow = given.get("time") == Name("flow")
        if not math.isfinite(rate):
            return self._no_curve(rate, steps, text)
        kernel = self._operator(call.args[0]).kernel
        model, _ = self.source.model()
        verify = self.source.verify and not flow
        found = dynamics(model, self.source.data, lr=rate, steps=steps, kernel=kernel, verify=verify)
        if found.trained is not None:
            self._trained[text] = found.trained
        curve = found.predicted_flow if flow else found.predicted_steps
        self._marks[text] = Mark(found.status if curve is not None else "not predicted", found.note)
        return Term(STEP, torch.full_like(found.predicted_steps, torch.nan) if curve is None else curve)

    def trained(self, expr: Expr) -> Tensor | None:
        """The losses [steps + 1] of training itself beside ``dynamics(...)``; None where it was not asked for."""
        return self._trained.get(print_expr(resolve(expr, self.lets)))

    def _expected_dynamics(self, call: Call, text: str) -> Term:
        rate, steps = self._steps(dict(call.kwargs))
        if not math.isfinite(rate):
            return self._no_curve(rate, steps, text)
        found = self._prediction_of()
        curve = architecture_curve(found.trace, self.source.outputs, rate, range(steps + 1))
        self._marks[text] = Mark(curve.status, curve.note)
        return Term(STEP, curve.lower)

    def _no_curve(self, rate: float, steps: int, text: str) -> Term:
        self._marks[text] = Mark("not predicted", f"the learning rate is {rate:g}")
        return Term(STEP, torch.full((steps + 1,), torch.nan, dtype=torch.float64))

    def _steps(self, given: Mapping[str, Expr]) -> tuple[float, int]:
        """The values of ``lr`` and ``steps``."""
        count = given["steps"]
        assert isinstance(count, Number)
        return float(self.evaluate(given["lr"]).plain().tensor.detach()), int(count.value)

    # operators --------------------------------------------------------------------------------------------------------

    def _operator(self, expr: Expr) -> Operator:
        call = resolve(expr, self.lets)
        text = print_expr(call)
        assert isinstance(call, Call) and call.function in OPERATORS, text
        if text not in self._operators:
            self._operators[text] = self._made(call)
        return self._operators[text]

    def _made(self, call: Call) -> Operator:
        source = self.source
        match call.function:
            case "frozen":
                whole = self._operator(call.args[0])
                return whole if whole.beside is not None else Operator(whole.kernel.frozen(), whole.kernel)
            case "ntk":
                model, inputs = source.model()
                return Operator(ntk(model, source.data, source.masks, example_inputs=inputs, dtype=source.dtype))
        functional = resolve(call.args[0], self.lets)
        assert isinstance(functional, Call)
        chosen = {key: print_expr(value) for key, value in functional.kwargs if key in ("pools", "products", "constants")}
        squared = settings(edge="theta^2", **chosen, dtype=source.dtype)
        return Operator(kernel_of(source.graph, source.tensors, squared, source.masks))


def _calls(expr: Expr, lets: dict[str, Expr], seen: set[str]) -> Iterator[Call]:
    """Every call in an expression, through ``let`` names, each of them once. Words that stand as values are no names."""
    match expr:
        case Name(value) if value in lets and value not in seen:
            seen.add(value)
            yield from _calls(lets[value], lets, seen)
        case Unary(_, operand):
            yield from _calls(operand, lets, seen)
        case Binary(_, left, right):
            yield from _calls(left, lets, seen)
            yield from _calls(right, lets, seen)
        case Call("collapse", _, _):
            yield expr
        case Call(_, args, kwargs):
            yield expr
            named = [value for key, value in kwargs if key in VALUES and value not in (Name("ones"), Name("each"))]
            for inner in (*args, *named):
                yield from _calls(inner, lets, seen)
