"""What is known of an expression without a model: its axes, the edges that grad would see, what it reads.

Besides axes, a kind may hold a mark: ``operator`` (its other axes are those that it acts on), ``distribution`` (a spectral
density), or ``layer`` alone (one value per parameter tensor). What has a mark is read by functions or reported, not computed with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pkcompiler.diagnostics import Span
from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Pass

Axes = frozenset[str]
NUMBER: Axes = frozenset()
PARAM: Axes = frozenset({"param"})
EDGES = ("abs(theta)", "theta^2", "theta", "1")
OVER = {"sample": "sample", "output": "output", "param": "param", "layer": "param", "rank": "rank", "step": "step"}
MARKS = frozenset({"operator", "distribution", "layer"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an expression. ``axes`` is None after an error inside it, so that nothing is reported twice."""

    axes: Axes | None
    edges: frozenset[str] = frozenset()  # the edges of the path functionals in it that grad would see
    theta: bool = False  # reads theta, mask, loss or output outside of an edge, where grad would see it
    data: bool = False  # reads data, loss or output
    second: bool = False  # holds a grad that is not detached
    model: bool = False  # needs the model itself: no graph with its tensors is enough
    figure: bool = False  # holds a figure of an analysis, which has no derivative here
    varies: bool = False  # of [param]: entries of one tensor may differ
    deep: bool = False  # holds a derivative of a derivative that is not detached: grad goes no further

    def join(self, other: Facts, axes: Axes | None) -> Facts:
        """Both together, with these axes."""
        return Facts(
            axes,
            self.edges | other.edges,
            self.theta or other.theta,
            self.data or other.data,
            self.second or other.second,
            self.model or other.model,
            self.figure or other.figure,
            self.varies or other.varies,
            self.deep or other.deep,
        )


UNKNOWN = Facts(None)


@dataclass(slots=True)
class Scope:
    """The ``let`` names so far, and what was read of them."""

    lets: dict[str, Expr] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    damaged: bool = False  # an unreadable line may have held a let: unknown names are not reported
    analysis: bool = False  # an analysis: operators and what reads them may stand here
    find_pass: Callable[[str, Span | None], Pass | None] = lambda label, span: None  # reports what it does not find

    def use(self, expr: Expr) -> None:
        """A name that is read without being computed with."""
        if isinstance(expr, Name) and expr.value in self.facts:
            self.used.add(expr.value)


def show_axes(axes: Axes) -> str:
    """``[sample, output]``, ``a number``, or ``an operator on [param]``."""
    order = [a for a in ("sample", "output", "input", "param", "rank", "step", "layer") if a in axes]
    if "distribution" in axes:
        return "a distribution"
    shown = f"[{', '.join(order)}]" if order else "a number"
    return f"an operator on {shown}" if "operator" in axes else shown


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
    """The expression that a ``let`` name stands for, through further names; a name that stands for itself stays one."""
    seen: set[str] = set()
    while isinstance(expr, Name) and expr.value in lets and expr.value not in seen:
        seen.add(expr.value)
        expr = lets[expr.value]
    return expr
