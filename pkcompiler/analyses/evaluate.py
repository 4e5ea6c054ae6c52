"""Expressions of an analysis, evaluated: those of a pass, and figures of operators, each with what it says it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pkcompiler.analyses.functions.figure import Figure, Mark
from pkcompiler.analyses.functions.operators import Operator
from pkcompiler.analyses.functions.table import VALUES
from pkcompiler.analyses.source import Source
from pkcompiler.lang.ast import Analysis, Binary, Call, Expr, Name, Pass, Unary
from pkcompiler.lang.check.facts import resolve
from pkcompiler.lang.functions.table import FUNCTIONS
from pkcompiler.predict.mean_trace import Prediction, nothing, predict_trace
from pkcompiler.scoring.evaluate import Evaluator
from pkcompiler.scoring.terms import Term


@dataclass(slots=True, kw_only=True)
class AnalysisEvaluator(Evaluator):
    """Evaluates the expressions of one analysis. A figure or an operator is computed once, however often it is written."""

    analysis: Analysis
    source: Source
    _figures: dict[Call, Figure] = field(default_factory=dict)
    _marks: dict[Call, Mark] = field(default_factory=dict)
    _trained: dict[Expr, Tensor] = field(default_factory=dict)
    _prediction: Prediction | None = None

    def marks(self, expr: Expr) -> list[Mark]:
        """The marks of every figure in an expression, its ``let`` names included, each once."""
        calls = dict.fromkeys(_calls(expr, dict(self.lets), set()))
        return [self._marks[call] for call in calls if call in self._marks]

    def mark(self, call: Call, mark: Mark) -> None:
        """Say what the value of a call is."""
        self._marks[call] = mark

    def call(self, call: Call) -> Term:
        if call.function not in VALUES:
            return Evaluator.call(self, call)
        value = self.figure(call)
        assert isinstance(value, Term), call.function
        return value

    def figure(self, expr: Expr) -> Figure:
        """The value of a function of this table."""
        call = resolve(expr, self.lets)
        assert isinstance(call, Call)
        if not FUNCTIONS[call.function].analysis:
            return VALUES[call.function](self, call)
        if call not in self._figures:
            self._figures[call] = VALUES[call.function](self, call)
        return self._figures[call]

    def operator(self, expr: Expr) -> Operator:
        """The operator that an expression is."""
        found = self.figure(expr)
        assert isinstance(found, Operator)
        return found

    def pass_named(self, name: str) -> Pass:
        """The pass that the analysis names."""
        return dict(self.analysis.passes)[name]

    def trained(self, expr: Expr) -> Tensor | None:
        """The losses [steps + 1] of training itself beside ``dynamics(...)``; None where it was not asked for."""
        return self._trained.get(resolve(expr, self.lets))

    def keep_trained(self, call: Call, losses: Tensor) -> None:
        """Keep the losses of training itself beside a predicted curve."""
        self._trained[call] = losses

    def prediction(self) -> Prediction:
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
        case Call():
            yield expr
            for inner in FUNCTIONS[expr.function].read(expr):
                yield from _calls(inner, lets, seen)
