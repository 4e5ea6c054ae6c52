"""What the value of a function is computed from: its call, and the evaluation in which it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from pkcompiler.diagnostics import fail
from pkcompiler.lang.ast import Typed
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.scoring.terms import Term
from pkcompiler.scoring.workspace import Leaf, Workspace

T = TypeVar("T")


class Evaluation(Protocol):
    """What the bindings of functions need of an evaluator."""

    work: Workspace
    seed: int

    @property
    def draws(self) -> Draw:
        """Where random numbers come from."""

    @property
    def constant(self) -> bool:
        """Whether nothing is derived through what is evaluated."""

    def evaluate(self, node: Typed) -> Term:
        """The value of an expression."""

    def detached(self, node: Typed) -> Term:
        """The value of an expression, a constant for grad."""

    def grad(self, functional: Typed, by: Typed) -> Term:
        """The derivative [param] of a number."""

    def on_leaf(self, made: tuple[Term, Leaf]) -> Term:
        """A value that was computed from the tensors of a leaf, through which grad goes."""

    def number_of(self, node: Typed) -> int:
        """Which of the draws that are written a call is, from 0 in the order of evaluation."""

    def once(self, node: Typed, compute: Callable[[Typed], T]) -> T:
        """What is computed of an expression once."""

    def elsewhere(self, work: Workspace) -> Evaluation:
        """The evaluation with another workspace."""


Binding = Callable[[Evaluation, Typed], Term]


def bound(values: Mapping[str, T], node: Typed) -> T:
    """What a table binds to the function of a call. Raises ``PKC103`` for one that is recorded and not bound."""
    name = node.call.function
    if name not in values:
        raise fail(
            "PKC103",
            f"'{name}' has no value",
            "add it to VALUES in the file that has the name of its record's",
            span=node.expr.span,
        )
    return values[name]
