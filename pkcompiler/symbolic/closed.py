"""``closed_forms``: the path count, E[R_2] and E[Tr Pi] in symbolic channel widths and variances (docs/theory.md, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
from torch import Tensor, nn

from pkcompiler.arguments import checked, methods_checked
from pkcompiler.diagnostics import fail, first_few
from pkcompiler.frontend.capture import captured_for_caller
from pkcompiler.ir.graphs import centres, crossed_twice, has_approximate_gains
from pkcompiler.ir.types import PathGraph
from pkcompiler.measured import Measured, Status
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.functional import static_batch
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.sources import check_finite, check_tensors
from pkcompiler.symbolic.axes import atoms
from pkcompiler.symbolic.monomial import Monomial, Terms
from pkcompiler.symbolic.program import Program
from pkcompiler.symbolic.to_program import SLOT, Lowering
from pkcompiler.symbolic.variances import Moments, moments
from pkcompiler.symbolic.widths import Groups

MOST_TERMS = 2000
"""A polynomial of more terms is not written out; its program is (docstring of :mod:`pkcompiler.symbolic.program`)."""

Number = int | float | Fraction


@dataclass(frozen=True, slots=True)
class Width:
    """A group of coupled channels: its symbol, its number in this model, and the dimensions of parameters that it is.

    ``hidden``: neither a dimension of an input (or the rows of its table) nor of the output.
    """

    symbol: str
    value: int
    of: tuple[str, ...]
    hidden: bool


@dataclass(frozen=True, slots=True, eq=False)
class Symbols:
    """Everything that a closed form may contain: widths, standard deviations with their slots, and defined symbols."""

    widths: tuple[Width, ...]
    deviations: Mapping[str, tuple[str, ...]]
    factors: Mapping[str, tuple[Fraction, str]]
    fans: Mapping[str, tuple[tuple[int, Monomial], ...]]

    def sympy(self, name: str) -> Any:
        """The sympy symbol of a name; a fan-in written out."""
        if name in self.fans:
            return 2 / sum(n * self.monomial(m) for n, m in self.fans[name])
        return sympy.Symbol(name, positive=True, integer=True) if name[0] == "n" else sympy.Symbol(name, positive=True)

    def monomial(self, monomial: Monomial) -> Any:
        """A monomial in sympy."""
        return sympy_number(monomial.coefficient) * sympy.Mul(*(self.sympy(s) ** e for s, e in monomial.powers))

    def bindings(self, given: Mapping[str, Number]) -> dict[str, Monomial]:
        """Numbers for every symbol: what is given, the model's own widths, the defined factors."""
        found = {w.symbol: Monomial.number(w.value) for w in self.widths}
        found |= {s: Monomial(value) for s, (value, _) in self.factors.items()}
        found |= {s: Monomial(Fraction(v)) for s, v in given.items()}
        for symbol, terms in self.fans.items():
            total = sum((n * m.substituted(found).coefficient for n, m in terms), Fraction(0))
            found[symbol] = Monomial(2 / total)
        return found


@methods_checked
@dataclass(frozen=True, slots=True, eq=False)
class ClosedForm:
    """One quantity: its program, and with it its polynomial. ``status``: exact, approximate, bound (why: ``note``)."""

    name: str
    program: Program
    symbols: Symbols
    status: Status = "exact"
    note: str = ""

    @property
    def terms(self) -> Terms | None:
        """The polynomial as a mapping from powers to rational coefficients; None above ``MOST_TERMS`` terms."""
        return self.program.run(limit=MOST_TERMS)

    @property
    def expression(self) -> Any:
        """The polynomial as a sympy expression, written out. Raises ``PKC536`` above ``MOST_TERMS`` terms."""
        terms = self.terms
        if terms is None:
            raise fail(
                "PKC536",
                f"{self.name} has more than {MOST_TERMS} terms when it is written out",
                "take its .program, .subs(...) with numbers, or .partial(symbols); or variances='roles' or 'he'",
            )
        return self._sympy(terms)

    def partial(self, *keep: str, **given: Number) -> Any:
        """A sympy expression in the symbols ``keep`` alone; the rest are numbers (given, or the model's own)."""
        bindings = self._bindings(given, frozenset(keep))
        terms = self.program.run({s: m for s, m in bindings.items() if s not in keep}, limit=MOST_TERMS)
        if terms is None:
            raise fail("PKC536", f"{self.name} has more than {MOST_TERMS} terms in {', '.join(keep)}", "keep fewer symbols")
        return self._sympy(terms)

    def subs(self, given: Mapping[Any, Number] | None = None, **more: Number) -> Fraction:
        """The exact number. Widths that are not given are the model's; every other symbol needs a number (``PKC538``)."""
        terms = self.program.run(self._bindings({**_named(given), **more}))
        assert terms is not None
        return Fraction(terms.get((), 0))

    def value(self, given: Mapping[Any, Number] | None = None, **more: Number) -> Measured:
        """As :meth:`subs`, in float64 where that suffices."""
        bindings = self._bindings({**_named(given), **more})
        try:
            with np.errstate(over="raise", under="raise"):
                terms = self.program.run(bindings, exact=False) or {}
        except ArithmeticError:
            return measured(self.subs(given, **more), self.status, self.note)
        return Measured(float(terms.get((), 0.0)), 0, None, self.status, self.note)

    def __str__(self) -> str:
        from pkcompiler.symbolic.text import program_text

        return program_text(self.program)

    def free(self) -> frozenset[str]:
        """The symbols of the program."""
        return frozenset(s for st in self.program.statements for t in st.terms for s, _ in t.coefficient.powers)

    def _bindings(self, given: Mapping[str, Number], keep: frozenset[str] = frozenset()) -> dict[str, Monomial]:
        free = self.free()
        known = {*(w.symbol for w in self.symbols.widths), *self.symbols.deviations, *self.symbols.factors}
        for name in (*given, *keep):
            if name not in known:
                raise fail("PKC538", f"there is no symbol '{name}' in {self.name}", f"expected one of {', '.join(sorted(known))}")
        missing = sorted((free & set(self.symbols.deviations)) - set(given) - keep)
        if missing:
            raise fail(
                "PKC538", f"{self.name} needs numbers for {', '.join(missing)}", f"give them: .value({missing[0]}=0.02, ...)"
            )
        return self.symbols.bindings(given)

    def _sympy(self, terms: Terms) -> Any:
        return sympy.Add(*(self.symbols.monomial(Monomial(Fraction(c), powers)) for powers, c in terms.items()))


def _named(given: Mapping[Any, Number] | None) -> dict[str, Number]:
    return {str(key): value for key, value in (given or {}).items()}


@methods_checked
@dataclass(frozen=True, slots=True, eq=False)
class ClosedForms:
    """``count`` of paths, ``r2`` = E[R_2] and ``trace`` = E[Tr Pi] of a dense model in symbolic widths and variances.

    ``moments``: E[theta^2] of every parameter as a monomial. ``programs``: of the count and of squared paths, before any binding.

    ``str()`` is a table, ``.latex()`` an align block for each, ``.to_json()`` plain data; ``.growth(...)`` how they scale.
    """

    name: str
    count: ClosedForm
    r2: ClosedForm
    trace: ClosedForm
    symbols: Symbols
    scheme: str
    moments: Mapping[str, Monomial]
    graph: PathGraph
    programs: tuple[Program, Program]
    notes: tuple[str, ...] = ()

    @property
    def widths(self) -> tuple[Width, ...]:
        """The symbolic widths, in the order in which a path meets them."""
        return self.symbols.widths

    @property
    def forms(self) -> tuple[ClosedForm, ClosedForm, ClosedForm]:
        """``count``, ``r2`` and ``trace``."""
        return self.count, self.r2, self.trace

    def __str__(self) -> str:
        from pkcompiler.symbolic.text import closed_text

        return closed_text(self)

    def latex(self) -> str:
        """The three forms in LaTeX (``amsmath``)."""
        from pkcompiler.symbolic.latex import closed_latex

        return closed_latex(self)

    def to_json(self) -> dict[str, Any]:
        """Plain data: symbols, expressions (None where only the program is written), programs, status, growth."""
        from pkcompiler.symbolic.text import closed_json

        return closed_json(self)

    def growth(self, by: str = "widths") -> Any:
        """How the three grow with a width, all hidden ``widths`` together, or the ``depth`` (the longest repeated block)."""
        if by == "depth":
            from pkcompiler.symbolic.depth import deepening

            return deepening(self)
        from pkcompiler.symbolic.growth import growth

        return growth(self, by)


@checked
@in_own_modes
def closed_forms(
    model: nn.Module | PathGraph,
    example_inputs: Any = None,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    variances: str | Mapping[str, float] = "weights",
    products: str = "pairs",
    constants: str = "on",
) -> ClosedForms:
    """The number of paths, E[R_2] and E[Tr Pi] over independent weights, with the channel widths as symbols.

    ``model``: a module with ``example_inputs``, or a path graph with the ``tensors`` of its buffers and constants. Widths are ``n1,
    n2, ...``, one for each group of coupled channels (residual adds, products, shared weights, depthwise convolutions);
    positions, heads, kernel sizes and literals are numbers, and so are channels that a reshape or an index takes apart (``notes``
    say which). ``variances``: ``weights`` (a standard deviation ``sigma_<layer>`` per weight; norm gains 1, biases 0), ``slots``
    (one for every parameter), ``roles`` (one for each kind of layer), ``he`` (2 / fan-in), or numbers E[theta^2] by name or glob.

    A path crosses each independent weight once, so E[v_p^2] is the product of the second moments, and E[R_2] the squared sweep
    at w = E[theta^2] (pools = sum); E[Tr Pi] is the sum of its derivatives. Where a path may cross a random weight more than once
    (tied weights in series, both factors of a product) higher moments enter: the number is then a lower bound and says so.

    Raises ``PKC537`` for maps without a closed form, ``PKC538`` for variances that do not fit.
    """
    chosen = settings(edge="theta^2", pools="sum", products=products, constants=constants)
    graph, slots, batch = given_graph(model, example_inputs, tensors)
    groups = Groups(graph, slots, batch)
    widths = _widths(groups)
    names = {id(atom): w.symbol for atom, w in zip(groups.widths(), widths, strict=True)}
    counting = Lowering(groups, names, 0, settings(edge="1", pools="sum", products=products, constants=constants))
    squaring = Lowering(groups, names, 2, chosen)
    squared = squaring.program()
    counted = counting.program()
    found = moments(squaring, variances)
    symbols = Symbols(widths, found.symbols, squaring.factors, found.fans)
    traced = squared.differentiated(SLOT + s.name for s in graph.parameters)
    scheme = variances if isinstance(variances, str) else "given"
    replaced = bool(squaring.statistics)
    return ClosedForms(
        graph.name,
        ClosedForm("paths", counted.bound({}), symbols, *_count_status(counting)),
        ClosedForm("E[R_2]", squared.bound(found.bindings), symbols, *_status(graph, chosen, found, False, replaced)),
        ClosedForm("E[Tr Pi]", traced.bound(found.bindings), symbols, *_status(graph, chosen, found, True, replaced)),
        symbols,
        scheme,
        {slot.removeprefix(SLOT): m for slot, m in found.bindings.items()},
        graph,
        (counted, squared),
        tuple(_notes(groups, squaring)),
    )


def given_graph(
    model: nn.Module | PathGraph, inputs: Any, tensors: Mapping[str, Tensor] | None
) -> tuple[PathGraph, Mapping[str, Tensor], int]:
    """The graph, its tensors (on the CPU) and the batch that it carries. Raises ``PKC538`` where stored tensors are missing."""
    if not isinstance(model, PathGraph):
        captured = captured_for_caller(model, inputs)
        check_finite(captured.graph, captured.tensors)
        return captured.graph, {n: t.cpu() for n, t in captured.tensors.items()}, captured.static_batch
    missing = [s.name for s in model.slots if s.role != "parameter" and s.name not in (tensors or {})]
    if missing:
        raise fail(
            "PKC538", f"the graph reads stored tensors that are not given: {', '.join(missing)}", "pass tensors={name: tensor}"
        )
    check_tensors(model, tensors or {})
    check_finite(model, tensors or {})
    return model, {n: t.detach().cpu() for n, t in (tensors or {}).items()}, static_batch(model)


def _widths(groups: Groups) -> tuple[Width, ...]:
    of: dict[int, list[str]] = {}
    for slot, axes in groups.parameters.items():
        for dim, axis in enumerate(axes):
            for atom in atoms(axis):
                of.setdefault(id(atom), []).append(f"{slot}[{dim}]")
    ends = [*(v.name for v in groups.graph.inputs), groups.graph.outputs[0]]
    outer = {id(atom) for name in ends for axis in groups.values[name] for atom in atoms(axis)}
    named = enumerate(groups.widths(), 1)
    return tuple(Width(f"n{i}", a.size, tuple(of.get(id(a), [a.origin])), id(a) not in outer) for i, a in named)


def _count_status(counting: Lowering) -> tuple[Status, str]:
    """Approximate where only some channels of a norm have a mean other than 0, which is a source of its own."""
    if not counting.statistics:
        return "exact", ""
    return "approximate", f"means of which some are 0 are counted as 0: {first_few(sorted(counting.statistics))}"


def _status(graph: PathGraph, chosen: Any, found: Moments, derivative: bool, replaced: bool) -> tuple[Status, str]:
    """Approximate where centring is dropped or statistics are ``replaced``; a bound where moments above the second enter."""
    present = {s.removeprefix(SLOT) for s, m in found.bindings.items() if m.coefficient}
    counted = present if derivative else present - found.fixed
    twice = [name for name in crossed_twice(graph, chosen.products) if name in counted]
    why = []
    if centres(graph):
        why.append("the centring of normalisations is dropped and their deviations are 1")
    if chosen.gain_power and has_approximate_gains(graph):
        why.append("gains of gates are found to 1e-9, or over the unit interval where they have no bound")
    if replaced:
        why.append("statistics that differ between channels are replaced by mean 0 and variance 1")
    if twice:
        why.append(
            f"a lower bound: a path may cross {first_few(twice, 3)} more than once, and moments above the second are not closed"
        )
    if not why:
        return "exact", ""
    return ("bound" if len(why) == 1 and twice else "approximate"), "; ".join(why)


def _notes(groups: Groups, lowering: Lowering) -> list[str]:
    found = [f"the channels of {origin} are a number: %{op} takes them apart" for origin, op in groups.grounded.items() if origin]
    if lowering.statistics:
        shown = first_few(sorted(lowering.statistics), 3)
        found.append(f"statistics differ between channels and are taken at initialisation (mean 0, variance 1): {shown}")
    return found


def sympy_number(number: Fraction) -> Any:
    """A rational of sympy."""
    return sympy.Rational(number.numerator, number.denominator)


def measured(number: Fraction, status: Status = "exact", note: str = "") -> Measured:
    """A rational of any size as mantissa and exponent."""
    if number == 0:
        return Measured(0.0, 0, None, status, note)
    exponent = number.numerator.bit_length() - number.denominator.bit_length()
    return Measured(float(number / Fraction(2) ** exponent), exponent, None, status, note)
