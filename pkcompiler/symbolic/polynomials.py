"""``polynomials``: the path polynomial, R_1, R_2, Pi and G of a small graph in sympy (docs/theory.md, sections 1 to 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import sympy
from torch import Tensor, nn

from pkcompiler.arguments import checked, methods_checked
from pkcompiler.diagnostics import fail
from pkcompiler.ir.graphs import centres, has_approximate_gains
from pkcompiler.ir.types import PathGraph
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.count import count_paths
from pkcompiler.paths.reindex import concrete
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.sources import require_stored
from pkcompiler.symbolic.closed import given_graph
from pkcompiler.symbolic.enumerate import Walk, indexed, listed
from pkcompiler.symbolic.latex import escaped
from pkcompiler.symbolic.path_sums import Number, Path

MOST_PATHS = 2000
MOST_ENTRIES = 10_000
"""Of a matrix that is written out (100 paths, or 100 parameters)."""


@methods_checked
@dataclass(frozen=True, slots=True, eq=False)
class Polynomials:
    """Every path of a graph, and what follows from them as sympy expressions in the parameters ``slot[i,j]``.

    ``outputs``: the paths of each output entry. ``parameters``: symbols in the order of ``graph.parameters``, flattened.
    ``status``: exact, or approximate where a normalisation's centring is dropped and its deviation is 1, and where
    the gain of a gate is.
    """

    outputs: tuple[tuple[Path, ...], ...]
    parameters: tuple[Any, ...]
    latex_names: Mapping[Any, str]
    status: str = "exact"

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of all output entries, one entry after another."""
        return tuple(p for paths in self.outputs for p in paths)

    @property
    def values(self) -> tuple[Any, ...]:
        """v_p of every path."""
        return tuple(self._value(p) for p in self.paths)

    @property
    def f(self) -> tuple[Any, ...]:
        """f_k = sum over paths of v_p * (gates) * (sources), one expression for each output entry."""
        return tuple(sympy.Add(*(self._whole(p) for p in paths)) for paths in self.outputs)

    @property
    def r1(self) -> Any:
        """R_1 = sum over paths of |v_p|."""
        return sympy.Add(*(self._power(p, lambda s: sympy.Abs(s), 1) for p in self.paths))

    @property
    def r2(self) -> Any:
        """R_2 = sum over paths of v_p^2."""
        return sympy.Add(*(self._power(p, lambda s: s**2, 2) for p in self.paths))

    @property
    def jacobian(self) -> Any:
        """J[p, i] = n_ip v_p / theta_i, a sparse sympy matrix [paths, parameters]."""
        cells: dict[tuple[int, int], Any] = {}
        for row, path in enumerate(self.paths):
            for i, times in Counter(path.parameters).items():
                rest = list(path.parameters)
                rest.remove(i)
                cells[row, i] = times * self._value(path._replace(parameters=tuple(rest)))
        return sympy.SparseMatrix(len(self.paths), len(self.parameters), cells)

    @property
    def kernel(self) -> Any:
        """Pi = J J^T [paths, paths]. Raises ``PKC535`` above ``MOST_ENTRIES`` entries."""
        self._fits("Pi", len(self.paths))
        jacobian = self.jacobian
        return jacobian * jacobian.T

    @property
    def gram(self) -> Any:
        """G = J^T J [parameters, parameters]. Raises ``PKC535`` above ``MOST_ENTRIES`` entries."""
        self._fits("G", len(self.parameters))
        jacobian = self.jacobian
        return jacobian.T * jacobian

    @property
    def trace(self) -> Any:
        """Tr Pi = the sum of the squares of J."""
        return sympy.Add(*(cell**2 for cell in self.jacobian.todok().values()))

    def latex(self, what: str = "f") -> str:
        """``f``, ``r1``, ``r2``, ``kernel``, ``gram``, ``jacobian`` or ``trace`` in LaTeX."""
        names = {
            **self.latex_names,
            **{s: _latex_name(s) for e in self._expressions(what) for s in e.free_symbols - {*self.latex_names}},
        }
        shown = [sympy.latex(e, symbol_names=names) for e in self._expressions(what)]
        if what == "f":
            return "\n".join(["\\begin{align*}", " \\\\\n".join(f"f_{{{k}}} &= {e}" for k, e in enumerate(shown)), "\\end{align*}"])
        return shown[0]

    def _expressions(self, what: str) -> tuple[Any, ...]:
        if what not in _SHOWN:
            raise fail("PKC535", f"polynomials have no '{what}'", f"expected one of {', '.join(_SHOWN)}")
        found = getattr(self, what)
        return found if isinstance(found, tuple) else (found,)

    def __str__(self) -> str:
        lines = [f"{len(self.paths)} paths over {len(self.parameters)} parameters ({self.status})"]
        lines += [f"f_{k} = {e}" for k, e in enumerate(self.f)]
        return "\n".join([*lines, f"R_1 = {self.r1}", f"R_2 = {self.r2}", f"Tr Pi = {self.trace}"])

    def _value(self, path: Path) -> Any:
        return _number(path.coefficient) * self._power(path._replace(coefficient=1), lambda s: s, 1)

    def _whole(self, path: Path) -> Any:
        return self._value(path) * sympy.Mul(*(_free(name) for name in (*path.gates, *path.sources)))

    def _power(self, path: Path, of: Any, power: int) -> Any:
        return sympy.Abs(_number(path.coefficient)) ** power * sympy.Mul(*(of(self.parameters[i]) for i in path.parameters))

    def _fits(self, what: str, size: int) -> None:
        if size**2 > MOST_ENTRIES:
            raise fail(
                "PKC535",
                f"{what} would have {size} x {size} = {size**2:,} entries; {MOST_ENTRIES:,} are written out",
                "take .jacobian (sparse) or .trace, or the numeric path_kernel",
            )


_SHOWN = ("f", "r1", "r2", "kernel", "gram", "jacobian", "trace")


@checked
@in_own_modes
def polynomials(
    model: nn.Module | PathGraph,
    example_inputs: Any = None,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    gates: str = "open",
    constants: str = "on",
    products: str = "pairs",
    limit: int = MOST_PATHS,
) -> Polynomials:
    """Every path of a small graph as a sympy expression (pools = sum; ``products`` as in ``paths(...)``).

    ``model``: a module with ``example_inputs``, or a path graph with the ``tensors`` of its buffers and constants. ``gates``:
    ``open`` (at their gains) or ``symbols`` (a symbol for each entry of a gate and of a max-pool's windows, in ``f`` alone;
    softmax, norms stay open). Raises ``PKC535`` above ``limit`` paths with their number, ``PKC537`` for maps without such a form,
    ``PKC509`` where a weight is computed.
    """
    if gates not in ("open", "symbols"):
        raise fail("PKC538", f"polynomials have no gates = {gates!r}", "expected 'open' or 'symbols'")
    graph, slots, batch = given_graph(model, example_inputs, tensors)
    require_stored(graph, "polynomials are")
    chosen = settings(edge="1", pools="sum", products=products, constants=constants)
    _bounded(graph, slots, chosen, batch, limit)
    walk = Walk(graph, slots, batch, gates=gates == "symbols", constants=constants == "on", products=products)
    names = {}
    for slot in graph.parameters:
        shape = concrete(slot.type.shape, batch)
        for at in np.ndindex(*shape):
            index = ",".join(map(str, at))
            names[sympy.Symbol(indexed(slot.name, at, (0, *shape)), real=True)] = rf"\mathrm{{{escaped(slot.name)}}}_{{{index}}}"
    approximate = centres(graph) or (gates == "open" and has_approximate_gains(graph))
    found = tuple(listed(walk.run()))
    return Polynomials(found, tuple(names), names, "approximate" if approximate else "exact")


def _bounded(graph: PathGraph, tensors: Mapping[str, Tensor], chosen: Any, batch: int, limit: int) -> None:
    filled = {**tensors}
    for slot in graph.parameters:
        filled.setdefault(slot.name, _blank(slot.type.shape))
    count = count_paths(graph, filled, chosen, None, batch)
    entries = sum(prod(concrete(s.type.shape, 1)) for s in graph.parameters)
    if count is None or count > limit:
        shown = "too many paths to count" if count is None else f"{count:,} paths"
        raise fail(
            "PKC535",
            f"the graph has {shown} over {entries:,} parameters; polynomials list at most {limit:,}",
            "take closed_forms(...) for symbolic widths, or path_functional for numbers",
        )


def _blank(shape: Any) -> Tensor:
    import torch

    return torch.ones(tuple(shape))


def _number(value: Number) -> Any:
    return sympy.Rational(value.numerator, value.denominator) if isinstance(value, Fraction) else sympy.sympify(value)


def _free(name: str) -> Any:
    return sympy.Symbol(name, real=True)


def _latex_name(symbol: Any) -> str:
    name, _, index = symbol.name.rstrip("]").partition("[")
    return rf"\mathrm{{{escaped(name)}}}_{{{index}}}"
