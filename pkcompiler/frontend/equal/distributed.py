"""Products that are distributed over a sum: ``x * s - m * s + b`` is ``(x - m) * s + b``.

m is the mean of x (a normalisation by x's own statistics) or free of data (a BatchNorm in evaluation mode).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import fx

from pkcompiler.frontend.equal.norms import is_norm
from pkcompiler.frontend.equal.reading import (
    ADD,
    MUL,
    NEG,
    SCALINGS,
    SUB,
    VIEWS,
    aten,
    called,
    is_free,
    put,
    reduced,
    same,
    seen_through,
)
from pkcompiler.frontend.lift.classify import meta

MOST = 8
"""Terms of a sum that are looked at: what is longer is no normalisation."""


@dataclass(frozen=True, slots=True)
class View:
    """A reshaping of what has no data in it, from one shape to another: it is pushed inside, to each term and factor."""

    before: tuple[Any, ...]
    after: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A term of a sum, or a factor of a product: a node (or number) behind a view."""

    node: Any
    view: View | None = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """Of its values, without leading ones."""
        own = sides(self.node)
        shape = self.view.after if self.view and own == self.view.before else own
        return shape[next((i for i, n in enumerate(shape) if n != 1), len(shape)) :]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self.shape == other.shape and same(self.node, other.node)

    def made(self, place: fx.Node) -> Any:
        """The node that has its values, before ``place``."""
        own = sides(self.node)
        if self.view is None or own != self.view.before:
            return self.node
        shape = [int(n) for n in self.view.after]
        return put(place, aten.view.default, (self.node, shape), meta(self.node).reshape(shape))


@dataclass(frozen=True, slots=True)
class Term:
    """``number`` times the product of ``factors``; ``whole``: the same as one part, without its sign."""

    sign: int
    whole: Part
    number: float
    factors: tuple[Part, ...]


def factored(node: fx.Node) -> None:
    """c x F - c m F + rest: c (x - m) F + rest."""
    found = list(islice(terms(Part(node), 1), MOST + 1))
    if not 2 <= len(found) <= MOST:
        return
    for times, x in ((t, f) for t in found for f in t.factors if is_whole(t, f)):
        for less in found:
            mean = None if less is times else centre(times, x, less)
            if mean is not None:
                node.replace_all_uses_with(
                    put_together(node, times, x, mean, [t for t in found if t is not times and t is not less])
                )
                return


def sides(node: Any) -> tuple[Any, ...]:
    """The shape of what a node gives, () of numbers."""
    return tuple(getattr(meta(node), "shape", ())) if isinstance(node, fx.Node) else ()


def is_whole(term: Term, factor: Part) -> bool:
    """Whether a factor depends on data and has the shape of its term."""
    whole, node = term.whole.node, factor.node
    nodes = isinstance(whole, fx.Node) and isinstance(node, fx.Node) and not is_free(node)
    return nodes and sides(whole) == sides(node)


def terms(part: Part, sign: int) -> Iterator[Term]:
    """What a sum adds up."""
    value = seen_through(part.node)
    if called(value, ADD, SUB) and not value.kwargs:
        yield from terms(Part(value.args[0], part.view), sign)
        yield from terms(Part(value.args[1], part.view), sign if called(value, ADD) else -sign)
    elif called(value, NEG):
        yield from terms(Part(value.args[0], part.view), -sign)
    elif called(value, *VIEWS) and is_free(value):
        yield from terms(Part(value.args[0], pushed(value, part.view)), sign)
    else:
        number, factors = product(part)
        yield Term(sign, part, sign * number, factors)


def product(part: Part) -> tuple[float, tuple[Part, ...]]:
    """What a product multiplies: a number, and parts."""
    value = seen_through(part.node)
    if isinstance(value, int | float):
        return float(value), ()
    if called(value, MUL) and all(isinstance(a, fx.Node) for a in value.args[:2]):
        (left, some), (right, more) = (product(Part(a, part.view)) for a in value.args[:2])
        return left * right, (*some, *more)
    if called(value, *SCALINGS) and isinstance(value.args[1], int | float):
        number, factors = product(Part(value.args[0], part.view))
        return (number * value.args[1] if "mul" in str(value.target) else number / value.args[1]), factors
    if called(value, NEG):
        number, factors = product(Part(value.args[0], part.view))
        return -number, factors
    if called(value, *VIEWS) and is_free(value):
        return product(Part(value.args[0], pushed(value, part.view)))
    return 1.0, (Part(value, part.view),)


def pushed(view: fx.Node, outer: View | None) -> View:
    """``view``, and ``outer`` (None: nothing) behind it, as one reshaping."""
    before = tuple(meta(view.args[0]).shape)  # type: ignore[arg-type]
    return View(before, outer.after if outer else tuple(meta(view).shape))


def centre(times: Term, x: Part, less: Term) -> Part | None:
    """m, where ``times`` is c x F and ``less`` is -c m F, with no data in F but a norm."""
    rest, common = list(less.factors), [f for f in times.factors if f is not x]
    if not common or times.number != -less.number:
        return None
    for factor in common:
        place = next((i for i, other in enumerate(rest) if factor == other), None)
        if place is None or not (is_free(factor.node) or is_norm(factor.node)):
            return None
        del rest[place]
    if len(rest) != 1 or not isinstance(rest[0].node, fx.Node) or not fits(rest[0].shape, meta(x.node).shape):
        return None
    mean = reduced(rest[0].node, "aten.mean.dim")
    return rest[0] if is_free(rest[0].node) or (mean is not None and same(mean[0], x.node)) else None


def fits(small: tuple[Any, ...], big: tuple[Any, ...]) -> bool:
    """Whether one shape broadcasts into another one."""
    return len(small) <= len(big) and all(n in (1, m) for n, m in zip(reversed(small), reversed(big), strict=False))


def put_together(node: fx.Node, times: Term, x: Part, mean: Part, rest: list[Term]) -> fx.Node:
    """The sum, with c (x - m) F as one of its terms, norms before what is free of data."""
    value = put(node, aten.sub.Tensor, (x.node, mean.made(node)), meta(x.node))
    for factor in sorted((f for f in times.factors if f is not x), key=lambda f: bool(is_free(f.node))):
        value = put(node, aten.mul.Tensor, (value, factor.made(node)), meta(x.node))
    if times.number != 1:
        value = put(node, aten.mul.Tensor, (value, times.number), meta(x.node))
    for term in rest:
        value = put(node, aten.add.Tensor if term.sign == 1 else aten.sub.Tensor, (value, term.whole.made(node)))
    return value
