"""Expressions of an analysis, evaluated: those of a pass, and figures of operators, each with what it says it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pkcompiler.analyses.functions.figure import Figure, Mark
from pkcompiler.analyses.functions.operators import Operator
from pkcompiler.analyses.functions.table import VALUES
from pkcompiler.analyses.source import Source
from pkcompiler.lang.ast import Analysis, Pass, Typed
from pkcompiler.lang.functions.table import FUNCTIONS
from pkcompiler.predict.mean_trace import Prediction, nothing, predict_trace
from pkcompiler.scoring.evaluate import Evaluator
from pkcompiler.scoring.functions.evaluation import bound
from pkcompiler.scoring.terms import Term


@dataclass(slots=True, kw_only=True)
class AnalysisEvaluator(Evaluator):
    """Evaluates the expressions of one analysis. A figure or an operator is computed once, however often it is written."""

    analysis: Analysis
    source: Source
    _figures: dict[Typed, Figure] = field(default_factory=dict)
    _marks: dict[Typed, Mark] = field(default_factory=dict)
    _trained: dict[Typed, Tensor] = field(default_factory=dict)
    _prediction: Prediction | None = None

    def marks(self, node: Typed) -> list[Mark]:
        """The marks of every figure in an expression, its ``let`` names included, each once."""
        return [self._marks[part] for part in node.walk() if part in self._marks]

    def mark(self, node: Typed, mark: Mark) -> None:
        """Say what the value of a call is."""
        self._marks[node] = mark

    def call(self, node: Typed) -> Term:
        """The value of a function of passes, or of an analysis where that is a term."""
        if node.call.function not in VALUES:
            return Evaluator.call(self, node)
        value = self.figure(node)
        assert isinstance(value, Term), node.call.function
        return value

    def figure(self, node: Typed) -> Figure:
        """The value of a function of an analysis."""
        node = node.value
        if not FUNCTIONS[node.call.function].analysis:
            return bound(VALUES, node)(self, node)
        if node not in self._figures:
            self._figures[node] = bound(VALUES, node)(self, node)
        return self._figures[node]

    def operator(self, node: Typed) -> Operator:
        """The operator that an expression is."""
        found = self.figure(node)
        assert isinstance(found, Operator)
        return found

    def pass_named(self, name: str) -> Pass:
        """The pass that the analysis names."""
        return dict(self.analysis.passes)[name]

    def trained(self, node: Typed) -> Tensor | None:
        """The losses [steps + 1] of training itself beside ``dynamics(...)``; None where it was not asked for."""
        return self._trained.get(node.value)

    def keep_trained(self, node: Typed, losses: Tensor) -> None:
        """Keep the losses of training itself beside a predicted curve."""
        self._trained[node] = losses

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
