"""``uniform()``: random scores."""

from __future__ import annotations

from pkcompiler.lang.check.facts import PARAM, Facts
from pkcompiler.lang.functions.closed import Mass, Product
from pkcompiler.lang.functions.record import Function

_DRAWN = Mass("u_i", True, legend="u_i is drawn uniformly from [0, 1), seeded per parameter name")

FUNCTIONS = (
    Function(
        name="uniform",
        doc="a number from [0, 1) for every parameter entry, seeded per parameter name",
        example="uniform()",
        facts=lambda checker, call: Facts(PARAM, varies=True),
        count=0,
        product=lambda writer, call: Product(mass=_DRAWN),
    ),
)
