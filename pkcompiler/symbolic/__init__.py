"""Path polynomials of small graphs and closed forms of dense models, with sympy."""

from pkcompiler.symbolic.closed import ClosedForm, ClosedForms, Width, closed_forms
from pkcompiler.symbolic.polynomials import Polynomials, polynomials

__all__ = ["ClosedForm", "ClosedForms", "Polynomials", "Width", "closed_forms", "polynomials"]
