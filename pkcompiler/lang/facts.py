"""What is known of an expression without a model: its axes, the edges that grad would see, what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number

Axes = frozenset[str]
NUMBER: Axes = frozenset()
PARAM: Axes = frozenset({"param"})
EDGES = ("abs(theta)", "theta^2", "theta", "1")
OVER = {"sample": "sample", "output": "output", "param": "param", "layer": "param"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an expression. ``axes`` is None after an error inside it, so that nothing is reported twice."""

    axes: Axes | None
    edges: frozenset[str] = frozenset()  # the edges of the path functionals in it that grad would see
    theta: bool = False  # reads theta, mask, loss or output outside of an edge, where grad would see it
    data: bool = False  # reads data, loss or output
    second: bool = False  # holds a grad that is not detached

    def join(self, other: Facts, axes: Axes | None) -> Facts:
        """Both together, with these axes."""
        return Facts(
            axes, self.edges | other.edges, self.theta or other.theta, self.data or other.data, self.second or other.second
        )


UNKNOWN = Facts(None)


@dataclass(slots=True)
class Scope:
    """The ``let`` names so far, and what was read of them."""

    lets: dict[str, Expr] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    damaged: bool = False  # an unreadable line may have held a let: unknown names are not reported


def show_axes(axes: Axes) -> str:
    """``[sample, output]``, or ``a number``."""
    order = [a for a in ("sample", "output", "input", "param") if a in axes]
    return f"[{', '.join(order)}]" if order else "a number"


def edge_of(expr: Expr, lets: Mapping[str, Expr]) -> str:
    """One of EDGES when the expression is, after substitution of ``let``, exactly that; else ''."""
    expr = resolve(expr, lets)
    match expr:
        case Name("theta"):
            return "theta"
        case Number(1, ""):
            return "1"
        case Call("abs", (inner,), ()) if resolve(inner, lets) == Name("theta"):
            return "abs(theta)"
        case Binary("^", base, power) if resolve(base, lets) == Name("theta") and resolve(power, lets) == Number(2):
            return "theta^2"
    return ""


def resolve(expr: Expr, lets: Mapping[str, Expr]) -> Expr:
    """The expression that a ``let`` name stands for, through further names."""
    while isinstance(expr, Name) and expr.value in lets:
        expr = lets[expr.value]
    return expr
