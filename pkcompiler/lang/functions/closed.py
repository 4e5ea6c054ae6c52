"""Closed forms of scores: products of powers of theta and one derivative.

By docs/theory.md, section 2, a path functional R with edge t has, for an entry i, t(theta_i) dR/dt(theta_i) = M_i, the sum over the
paths p through i of n_ip t(v_p). So dR/dtheta_i = M_i t'(theta_i)/t(theta_i), which is M_i / theta_i for abs(theta) and theta, and
2 M_i / theta_i for theta^2. A score that is a product of powers of theta and one derivative thus has the form
c * sign * |theta_i|^e * M_i.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pkcompiler.lang.ast import Typed


@dataclass(frozen=True, slots=True)
class Mass:
    """What the derivative contributes: its text, whether it is surely not negative, and the functional behind it.

    ``legend``: what the text means, where it is the whole formula.
    """

    text: str
    positive: bool = False
    call: Typed | None = None
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Product:
    """``factor * sgn(theta_i)^odd * |theta_i|^power * mass``, in bars where ``bars``."""

    factor: float = 1.0
    odd: bool = False
    power: float = 0.0
    mass: Mass | None = None
    bars: bool = False

    def __str__(self) -> str:
        parts = [f"{self.factor:g}"] if self.factor != 1 else []
        bars = self.bars and self.mass is not None
        odd, power = self.odd, self.power
        if power == int(power) and int(power) % 2 == int(odd):
            base = "theta_i"
        else:
            base = "|theta_i|"
            parts += ["sgn(theta_i)"] if odd else []
        if power:
            exponent = f"{power:g}" if power > 0 else f"({power:g})"
            parts.append(base if power == 1 else f"{base}^{exponent}")
        if self.mass is not None:
            parts.append(f"({self.mass.text})" if parts and self.mass.call else self.mass.text)
        text = " * ".join(parts) or "1"
        return f"|{text}|" if bars else text


def absolute(term: Product | None) -> Product | None:
    """``|term|``."""
    if term is None or term.mass is None or term.mass.positive:
        return term and replace(term, odd=False)
    return replace(term, bars=True)


def times(left: Product | None, right: Product | None) -> Product | None:
    """The product of both; None where both hold a derivative."""
    if left is None or right is None or (left.mass and right.mass) or left.bars or right.bars:
        return None
    return Product(left.factor * right.factor, left.odd != right.odd, left.power + right.power, left.mass or right.mass)


def raised(term: Product | None, power: float) -> Product | None:
    """``term ^ power``, of a term without a derivative."""
    if term is None or term.mass is not None or term.bars or (term.odd and power != int(power)) or not abs(power) < 64:
        return None
    odd = term.odd and int(power) % 2 == 1
    return Product(term.factor**power, odd, term.power * power)
