"""The second moments of parameters: a symbol each, He's, or their values at initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction

from pkcompiler.diagnostics import fail
from pkcompiler.ir.types import PathGraph
from pkcompiler.ir.weights import kinds_of, projections
from pkcompiler.symbolic.axes import Axis
from pkcompiler.symbolic.monomial import Monomial
from pkcompiler.symbolic.to_program import SLOT, Lowering

SCHEMES: dict[str, str] = {
    "weights": "a symbol for every weight; norm gains 1, biases 0",
    "slots": "a symbol for every parameter",
    "roles": "a symbol for all weights of a kind of layer; norm gains 1, biases 0",
    "he": "2 / fan-in for linear and convolution weights; norm gains 1, biases 0",
}


@dataclass(frozen=True, slots=True)
class Moments:
    """``bindings``: E[theta^2] of every slot by its symbol ``@slot``. ``symbols``: the standard deviations, with their slots.

    ``fixed``: slots that are not random (norm gains of 1, biases of 0). ``fans``: symbols for 2 / fan-in where the
    fan-in is a sum of widths: pairs (number of entries, product of widths).
    """

    bindings: Mapping[str, Monomial]
    symbols: Mapping[str, tuple[str, ...]]
    fans: Mapping[str, tuple[tuple[int, Monomial], ...]]
    fixed: frozenset[str]


def moments(lowering: Lowering, variances: str | Mapping[str, float]) -> Moments:
    """The second moments under a scheme, or as given by slot name or glob (the rest as under ``weights``)."""
    scheme = variances if isinstance(variances, str) else "weights"
    given = {} if isinstance(variances, str) else _checked(variances, lowering.groups.graph)
    if scheme not in SCHEMES:
        raise fail("PKC538", f"there is no scheme of variances {scheme!r}", f"expected one of {', '.join(map(repr, SCHEMES))}")
    roles = kinds_of(lowering.groups.graph)
    maker = _Maker(lowering, scheme, roles)
    for slot in lowering.groups.graph.parameters:
        fixed = next((v for pattern, v in given.items() if fnmatchcase(slot.name, pattern)), None)
        maker.bindings[SLOT + slot.name] = maker.moment(slot.name) if fixed is None else Monomial.number(fixed)
    return Moments(maker.bindings, {s: tuple(names) for s, names in maker.symbols.items()}, maker.fans, frozenset(maker.fixed))


def _checked(given: Mapping[str, float], graph: PathGraph) -> Mapping[str, float]:
    for pattern, value in given.items():
        if not any(fnmatchcase(s.name, pattern) for s in graph.parameters):
            raise fail(
                "PKC538", f"a variance is given for '{pattern}', which is no parameter", "name one of the graph's parameters"
            )
        if not 0 <= value < float("inf"):
            raise fail("PKC538", f"the second moment of '{pattern}' is {value!r}", "give a number that is not negative")
    return given


class _Maker:
    def __init__(self, lowering: Lowering, scheme: str, roles: Mapping[str, str]) -> None:
        self.lowering, self.scheme, self.roles = lowering, scheme, roles
        self.bindings: dict[str, Monomial] = {}
        self.symbols: dict[str, list[str]] = {}
        self.fans: dict[str, tuple[tuple[int, Monomial], ...]] = {}
        self.fixed: set[str] = set()
        self.projections = projections(lowering.groups.graph.ops)

    def moment(self, slot: str) -> Monomial:
        role = self.roles.get(slot, "value")
        if self.scheme != "slots" and role in ("gain", "bias"):
            self.fixed.add(slot)
            return Monomial(Fraction(int(role == "gain")))
        if self.scheme == "he" and (role in ("dense", "conv") or slot in self.projections):
            return self._he(slot)
        symbol = f"sigma_{role}" if self.scheme == "roles" else self._name(slot)
        self.symbols.setdefault(symbol, []).append(slot)
        return Monomial.of(symbol, 2)

    def _name(self, slot: str) -> str:
        short = slot.removesuffix(".weight") or slot
        taken = short != slot and any(s.name == short for s in self.lowering.groups.graph.parameters)
        return "sigma_" + (slot if taken else short).replace(".", "_")

    def _he(self, slot: str) -> Monomial:
        terms = fan_in(self.lowering, slot)
        if len(terms) == 1:
            count, product = terms[0]
            return Monomial(Fraction(2, count)) * product**-1
        symbol = next((s for s, t in self.fans.items() if t == terms), f"h{len(self.fans) + 1}")
        self.fans[symbol] = terms
        return Monomial.of(symbol)


def fan_in(lowering: Lowering, slot: str) -> tuple[tuple[int, Monomial], ...]:
    """:func:`pkcompiler.ir.weights.fan_in`, the dimensions but the first, as a sum of (number, product of widths)."""
    inputs: Axis = tuple(f for axis in lowering.groups.parameters[slot][1:] for f in axis)
    return tuple((len(indices), product) for product, indices in lowering.width(inputs))
