"""What a figure of an analysis is computed from, and what it says it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pkcompiler.analyses.functions.operators import Operator
from pkcompiler.analyses.source import Source
from pkcompiler.analyses.values import Distribution
from pkcompiler.lang.ast import Pass, Typed
from pkcompiler.measured import Measured, Status
from pkcompiler.predict.mean_trace import Prediction
from pkcompiler.scoring.functions.evaluation import Evaluation
from pkcompiler.scoring.terms import NUMBER, Term


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """What a figure says it is. ``leaf``: the tensor of an estimated number, through which its ``error`` is carried on."""

    status: Status
    note: str = ""
    leaf: Tensor | None = None
    error: float | None = None


Figure = Term | Operator | Distribution | Mapping[str, Measured]


class Figures(Evaluation, Protocol):
    """What the bindings of functions of an analysis need of its evaluator."""

    source: Source

    def pass_named(self, name: str) -> Pass:
        """The pass that an analysis names."""

    def mark(self, node: Typed, mark: Mark) -> None:
        """Say what the value of a call is."""

    def operator(self, node: Typed) -> Operator:
        """The operator that an expression is."""

    def prediction(self) -> Prediction:
        """E[Tr Theta] per sample, at Gaussian inputs with the moments of the data where there are any."""

    def keep_trained(self, node: Typed, losses: Tensor) -> None:
        """Keep the losses of training itself beside a predicted curve."""


Binding = Callable[[Figures, Typed], Figure]


def as_number(figures: Figures, node: Typed, found: Measured) -> Term:
    """A measured number as a value, marked as what it is."""
    estimated = found.error is not None
    value = torch.tensor(found.mantissa, dtype=torch.float64, requires_grad=estimated)
    figures.mark(node, Mark(found.status, found.note, value if estimated else None, found.error))
    return Term(NUMBER, value, found.exponent)
