"""Path polynomials of small graphs and closed forms of dense models, with sympy."""

from pkcompiler.symbolic.closed import ClosedForm, ClosedForms, Width, closed_forms

__all__ = ["ClosedForm", "ClosedForms", "Width", "closed_forms"]
