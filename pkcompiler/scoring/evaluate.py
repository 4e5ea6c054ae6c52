"""Expressions of the language, evaluated: path functionals by sweeps, the loss by the model, derivatives by reverse mode.

A derivative is always taken by the leaves that an expression stands on (the edges t(theta) * mask of its path functionals, or the
effective weights theta * mask of the loss) and carried over to what the expression asked for by the chain rule, so that it exists
where the mask is 0 too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from pkcompiler.diagnostics import fail
from pkcompiler.lang.ast import Binary, Call, Name, Number, Typed, Unary
from pkcompiler.lang.syntax.format import print_expr
from pkcompiler.scoring import terms
from pkcompiler.scoring.functions import gradient
from pkcompiler.scoring.functions.evaluation import bound
from pkcompiler.scoring.functions.table import VALUES
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.scoring.terms import PARAM, Term
from pkcompiler.scoring.workspace import Leaf, Workspace

T = TypeVar("T")


@dataclass(slots=True)
class Evaluator:
    """Evaluates typed expressions at one mask. ``work``: what they are evaluated with."""

    work: Workspace
    seed: int
    _values: dict[tuple[Hashable, int], tuple[Term, list[Leaf]]] = field(default_factory=dict)
    _leaves: list[Leaf] = field(default_factory=list)
    _constant: bool = False  # inside detach(...): nothing is derived through what is evaluated
    _again: bool = False  # inside grad(...): derivatives keep their graph, and theta is a leaf
    draw: Draw | None = None  # of noise() and after(); None: those of the seed
    _numbers: dict[Typed, int] = field(default_factory=dict)  # of the draws met so far, in order
    _once: dict[Typed, Any] = field(default_factory=dict)

    @property
    def draws(self) -> Draw:
        """Where random numbers come from."""
        return self.draw or Draw(self.seed)

    @property
    def constant(self) -> bool:
        """Whether nothing is derived through what is evaluated."""
        return self._constant

    def number_of(self, node: Typed) -> int:
        """Which of the draws that are written a call is, from 0 in the order of evaluation."""
        return self._numbers.setdefault(node, len(self._numbers))

    def once(self, node: Typed, compute: Callable[[Typed], T]) -> T:
        """What is computed of an expression once."""
        if node not in self._once:
            self._once[node] = compute(node)
        found: T = self._once[node]
        return found

    def elsewhere(self, work: Workspace) -> Evaluator:
        """The evaluation with another workspace."""
        return Evaluator(work, self.seed)

    def evaluate(self, node: Typed) -> Term:
        """The value of an expression. Raises ``PKC110`` for what is no value (a text, a range)."""
        if node.let:
            return self._let(node)
        match node.expr:
            case Number(value):
                return terms.number(value, self.work.dtype)
            case Name(name):
                return self._name(name)
            case Unary():
                return -self.evaluate(node.args[0])
            case Binary(op):
                own = None if self._again or op != "*" else gradient.own_derivative(*node.args)
                if own is not None:
                    return self.grad(own.args[0], own.args[1], times_itself=True)
                return terms.OPERATORS[op](*(self.evaluate(arg) for arg in node.args))
            case Call():
                return self.call(node)
        raise fail("PKC110", f"'{print_expr(node.expr)}' is no value", span=node.expr.span)

    def _name(self, name: str) -> Term:
        match name:
            case "theta":
                return self._stored() if self._again else Term(PARAM, self.work.theta)
            case "mask":
                return Term(PARAM, self.work.mask)
            case "prunable":
                return Term(PARAM, self.work.may_be_pruned)
            case "data":
                return Term(frozenset({"sample", "input"}), self.work.data)
            case "loss" | "losses" | "output":
                return self._run(name)
            case "samples":
                return terms.number(self.work.count, self.work.dtype)
        raise fail("PKC103", f"'{name}' has no value here")

    def _let(self, node: Typed) -> Term:
        """A name's value, computed once; using it again stands on the same leaves."""
        kind = 0 if self._constant else 2 if self._again and node.differs else 1
        key = (node, next((k for k in range(kind, 3) if (node, k) in self._values), kind))
        if key not in self._values:
            outer, self._leaves = self._leaves, []
            value = self.evaluate(node.args[0])
            self._values[key] = (replace(value, owned=False), self._leaves)
            self._leaves = outer
        return self._known(key)

    def _known(self, key: tuple[Hashable, int]) -> Term:
        value, leaves = self._values[key]
        self._leaves = self._leaves + [leaf for leaf in leaves if leaf not in self._leaves]
        return value

    def _run(self, name: str) -> Term:
        """What the model's own run gives, computed once."""
        key = (name, int(self.work.twice))
        if key not in self._values:
            runs = {"loss": self.work.loss, "losses": self.work.losses, "output": self.work.output}
            value, leaf = runs[name]()
            self._values[key] = (value, [leaf])
        return self._known(key)

    def _stored(self) -> Term:
        if ("theta", 2) not in self._values:
            value, leaf = gradient.stored(self.work)
            self._values["theta", 2] = (value, [leaf])
        return self._known(("theta", 2))

    def call(self, node: Typed) -> Term:
        """The value of a function."""
        return bound(VALUES, node)(self, node)

    def on_leaf(self, made: tuple[Term, Leaf]) -> Term:
        """A value that was computed from the tensors of a leaf, through which grad goes."""
        if made[1] not in self._leaves:
            self._leaves.append(made[1])
        return made[0]

    def detached(self, node: Typed) -> Term:
        """An expression's value, which grad takes as a constant: no leaf of it is kept."""
        before = list(self._leaves), self._constant, self._again
        self._constant, self._again = True, False
        value = terms.detach(self.evaluate(node))
        self._leaves, self._constant, self._again = before
        return value

    # derivatives ------------------------------------------------------------------------------------------------------

    def grad(self, functional: Typed, by: Typed, times_itself: bool = False) -> Term:
        """The derivative [param] of a number; ``times_itself``: multiplied by what it is taken by."""
        known = ((functional, by), 2)
        if known in self._values and not times_itself:
            return self._known(known) if self._again else terms.detach(self._values[known][0])
        outer, constant, again = self._leaves, self._constant, self._again
        self._leaves, self._constant, self._again = [], False, True
        self.work.twice = self.work.twice or functional.derived
        value = self.evaluate(functional)
        leaves, self._leaves, self._constant, self._again = self._leaves, outer, constant, again
        wanted = "mask" if by.stands_for("mask") else by.edge
        if again:
            total, below = gradient.derivative(self.work, value, leaves, wanted)
            self._values[known] = (total, below)
            return self._known(known)
        with gradient.refusing():
            parts = [self.work.derivative(value, leaf, wanted, times_itself) for leaf in leaves if gradient.depends(leaf, wanted)]
        if not parts:
            return Term(PARAM, {n: torch.zeros_like(t) for n, t in self.work.theta.items()})
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total
