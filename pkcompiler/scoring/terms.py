"""Values of expressions: a tensor (or one per parameter) with named axes and a carried exponent."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from pkcompiler.diagnostics import Span, fail
from pkcompiler.paths.scaled import times_power

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """``value * 2**exponent``. With the axis ``param``, ``value`` maps parameter names to tensors; else it is one tensor.

    Tensors with several axes have them in the order sample, input | output. ``owned``: nothing else holds these tensors and
    nothing will be derived through them, so that the next operation may write over them.
    """

    axes: frozenset[str]
    value: Tensor | Tensors
    exponent: int = 0
    owned: bool = False

    @property
    def tensor(self) -> Tensor:
        """The value of a term without the axis ``param``, without its exponent."""
        assert isinstance(self.value, Tensor)
        return self.value

    @property
    def tensors(self) -> Tensors:
        """The values by parameter name of a term with the axis ``param``, without their exponent."""
        assert not isinstance(self.value, Tensor)
        return self.value

    def plain(self) -> Term:
        """The same with exponent 0 (entries that do not fit become inf or 0)."""
        return self if self.exponent == 0 else Term(self.axes, each(self, lambda t: times_power(t, self.exponent)))

    def __add__(self, other: Term) -> Term:
        return _sum(torch.add, self, other)

    def __sub__(self, other: Term) -> Term:
        return _sum(torch.sub, self, other)

    def __mul__(self, other: Term) -> Term:
        return combine(self, other, torch.mul, self.exponent + other.exponent)

    def __truediv__(self, other: Term) -> Term:
        return combine(self, other, torch.div, self.exponent - other.exponent)

    def __pow__(self, other: Term) -> Term:
        return _power(self, other)

    def __neg__(self) -> Term:
        return Term(self.axes, each(self, torch.neg), self.exponent)

    def __abs__(self) -> Term:
        """An owned term is written over."""
        return Term(self.axes, each(self, Tensor.abs_ if self.owned else torch.abs), self.exponent, self.owned)


OPERATORS: Mapping[str, Callable[[Term, Term], Term]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
}
"""The operators of the language. Exponents are carried."""


NUMBER: frozenset[str] = frozenset()
PARAM = frozenset({"param"})


def each(term: Term, function: Callable[[Tensor], Tensor]) -> Tensor | dict[str, Tensor]:
    """``function`` of every tensor of a term."""
    return function(term.value) if isinstance(term.value, Tensor) else {n: function(t) for n, t in term.value.items()}


def number(value: float, dtype: torch.dtype) -> Term:
    """A constant as a term without axes, of exponent 0."""
    return Term(NUMBER, torch.tensor(value, dtype=dtype))


def combine(left: Term, right: Term, function: Callable[..., Tensor], exponent: int) -> Term:
    """An operation on two terms of equal axes, or one of them a number. ``function`` takes ``out``: what is owned is reused."""
    axes = left.axes | right.axes
    if isinstance(left.value, Tensor) and isinstance(right.value, Tensor):
        return Term(axes, function(left.value, right.value), exponent)
    names = left.tensors if not isinstance(left.value, Tensor) else right.tensors
    a = dict.fromkeys(names, left.value) if isinstance(left.value, Tensor) else left.value
    b = dict.fromkeys(names, right.value) if isinstance(right.value, Tensor) else right.value
    if left.owned and left.axes == axes and not any(t.requires_grad for t in b.values()):
        return Term(axes, {n: function(a[n], b[n], out=a[n]) for n in names}, exponent, True)
    return Term(axes, {n: function(a[n], b[n]) for n in names}, exponent)


def _sum(function: Callable[..., Tensor], left: Term, right: Term) -> Term:
    """The sum or difference, with the larger exponent of both; that of a term which is 0 everywhere says nothing."""
    if left.exponent == right.exponent:
        return combine(left, right, function, left.exponent)
    exponent = max([t.exponent for t in (left, right) if not _is_zero(t)], default=0)
    a, b = (Term(t.axes, each(t, lambda x, t=t: times_power(x, min(0, t.exponent - exponent)))) for t in (left, right))  # type: ignore[misc]
    return combine(a, b, function, exponent)


def _is_zero(term: Term) -> bool:
    """Whether every entry is 0: then the exponent says nothing."""
    return not any(bool(t.any()) for t in ([term.value] if isinstance(term.value, Tensor) else term.value.values()))


def _power(base: Term, exponent: Term) -> Term:
    """base ^ exponent: the carried exponent is multiplied where that stays whole, its fraction goes into the tensor."""
    if exponent.axes or base.exponent == 0:
        return combine(base.plain(), exponent.plain(), torch.pow, 0)
    p = float(exponent.plain().tensor)
    shift = base.exponent * Fraction(p)
    whole = math.floor(shift)
    rest = 2.0 ** float(shift - whole)
    return Term(base.axes, each(base, lambda t: t**p * rest), whole)


def sqrt(term: Term) -> Term:
    """sqrt(t * 2**e) as sqrt(t * 2**(e mod 2)) * 2**floor(e / 2)."""
    odd = term.exponent % 2
    return Term(term.axes, each(term, lambda t: (t * 2.0**odd).sqrt()), (term.exponent - odd) // 2)


def log(term: Term) -> Term:
    """The natural logarithm: ln t + e ln 2, of exponent 0."""
    shift = term.exponent * math.log(2)
    return Term(term.axes, each(term, lambda t: t.log() + shift))


def sign(term: Term) -> Term:
    """-1, 0 or 1 for every entry, of exponent 0."""
    return Term(term.axes, each(term, torch.sign))


def exp(term: Term) -> Term:
    """e^t of the plain value, of exponent 0."""
    plain = term.plain()
    return Term(plain.axes, each(plain, torch.exp))


def detach(term: Term) -> Term:
    """The same numbers, a constant for derivatives."""
    return Term(term.axes, each(term, Tensor.detach), term.exponent)


def reduce(function: Callable[..., Tensor], term: Term, over: str, span: Span | None = None) -> Term:
    """``function``, of a tensor or along some of its dimensions, over one axis; ``layer`` reduces each tensor and spreads it back.

    The carried exponent stays as it is.
    Raises ``PKC110`` where the term has no such axis.
    """
    if over == "layer":
        return Term(term.axes, each(term, lambda t: function(t).expand_as(t)), term.exponent)
    if over == "param":
        return Term(NUMBER, function(torch.cat([t.flatten() for t in term.tensors.values()])), term.exponent)
    if over not in term.axes:
        raise fail("PKC110", f"there is no axis '{over}' to reduce", span=span)
    dims = _dims(term, over)
    return Term(term.axes - {over}, function(term.tensor, dims) if dims else function(term.tensor), term.exponent)


def quantile(term: Term, part: float, over: str) -> Term:
    """The value below which ``part`` of the entries lie, interpolated between neighbours in order (``part`` 0: the smallest)."""
    if over == "layer":
        return Term(term.axes, each(term, lambda t: _quantile(t.flatten(), part).expand_as(t)), term.exponent)
    if over == "param":
        return Term(NUMBER, _quantile(torch.cat([t.flatten() for t in term.tensors.values()]), part), term.exponent)
    tensor = term.tensor if over == "sample" else term.tensor.flatten(1 if "sample" in term.axes else 0).movedim(-1, 0)
    return Term(term.axes - {over}, _quantile(tensor, part), term.exponent)


def _quantile(tensor: Tensor, part: float) -> Tensor:
    """Along dimension 0, of any length (``torch.quantile`` refuses more than 16 million entries)."""
    ordered = tensor.sort(0).values
    place = part * (ordered.shape[0] - 1)
    low = math.floor(place)
    return torch.lerp(ordered[low], ordered[min(low + 1, ordered.shape[0] - 1)], place - low)


def _dims(term: Term, over: str) -> list[int]:
    """The dimensions of an axis: the samples are dimension 0, all others belong to the other axis."""
    rank = term.tensor.dim()
    if over == "sample":
        return [0]
    return list(range(1 if "sample" in term.axes else 0, rank))


def dot(left: Term, right: Term) -> Term:
    """The inner product over everything: a number."""
    product = left * right
    if isinstance(product.value, Tensor):
        return Term(NUMBER, product.value.sum(), product.exponent)
    return Term(NUMBER, torch.stack([t.sum() for t in product.value.values()]).sum(), product.exponent)
