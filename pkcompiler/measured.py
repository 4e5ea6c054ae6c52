"""Numbers that say what they are: of any size, exact or not, with their error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any, Literal, get_args

Status = Literal["exact", "estimated", "approximate", "bound", "not predicted"]
"""``exact`` up to rounding; ``estimated`` with a standard error; ``approximate`` (a step of the method does not hold exactly: the
note says which); ``bound`` (the note says on which side); ``not predicted``: there is no number, and the note says why."""

LOG2 = math.log10(2)


def worst(*statuses: Status) -> Status:
    """What a number is that was made from several: as its worst part, in the order of ``Status``."""
    return max(statuses, key=get_args(Status).index, default="exact")


@dataclass(frozen=True, slots=True)
class Measured:
    """``mantissa * 2**exponent``, with ``error`` (a standard error, at the same exponent) where it is estimated.

    ``mantissa`` is NaN where nothing is predicted. ``float()`` gives the value (inf where it does not fit).
    """

    mantissa: float
    exponent: int = 0
    error: float | None = None
    status: Status = "exact"
    note: str = ""

    def __float__(self) -> float:
        return scaled_float(self.mantissa, self.exponent)

    @property
    def value(self) -> float:
        """The value as a float (inf, -inf or 0 where it does not fit)."""
        return float(self)

    @property
    def standard_error(self) -> float | None:
        """The error as a float; None where there is none."""
        return None if self.error is None else scaled_float(self.error, self.exponent)

    @property
    def log10(self) -> float:
        """log10 of the absolute value (-inf for 0, NaN where nothing is predicted)."""
        return math.log10(abs(self.mantissa)) + self.exponent * LOG2 if self.mantissa else -math.inf

    def __str__(self) -> str:
        if self.status == "not predicted":
            return "not predicted" + (f" ({self.note})" if self.note else "")
        shown = shown_float(self.mantissa, self.exponent)
        if self.error is not None:
            shown += f" +- {shown_float(self.error, self.exponent)}"
        return shown

    def to_json(self) -> dict[str, Any]:
        """``value`` is None where a double cannot hold it or nothing is predicted; ``log10`` also where the value is 0."""
        value, log10 = self.value, self.log10
        fits = math.isfinite(value) and (value != 0 or self.mantissa == 0)
        error = self.standard_error
        return {
            "value": value if fits else None,
            "log10": log10 if math.isfinite(log10) else None,
            "standard_error": error if error is not None and math.isfinite(error) else None,
            "status": self.status,
            "note": self.note,
        }


def not_predicted(why: str) -> Measured:
    """No number, and why."""
    return Measured(math.nan, status="not predicted", note=why)


def scaled_float(mantissa: float, exponent: int) -> float:
    """``mantissa * 2**exponent`` as a float (inf where it does not fit)."""
    try:
        return math.ldexp(mantissa, exponent)
    except OverflowError:
        return math.copysign(math.inf, mantissa)


def shown_float(mantissa: float, exponent: int) -> str:
    """Four digits; in powers of ten where a float cannot hold it."""
    value = scaled_float(mantissa, exponent)
    if (math.isfinite(value) and value != 0) or not math.isfinite(mantissa) or mantissa == 0:
        return f"{value:.4g}"
    leading, power = in_tens(abs(mantissa), exponent)
    return f"{'-' if mantissa < 0 else ''}{leading:.3f}e{power:+d}"


def in_tens(mantissa: float, exponent: int) -> tuple[float, int]:
    """``mantissa * 2**exponent`` (finite and above 0) as a number from 1 to 10 and a power of ten, for an exponent of any size."""
    with localcontext(prec=len(str(exponent)) + 20):
        log10 = Decimal(mantissa).log10() + exponent * Decimal(2).log10()
        power = math.floor(log10)
        leading = float(10 ** (log10 - power))
    return (leading, power) if leading < 9.9995 else (1.0, power + 1)


def digits(number: int) -> str:
    """A whole number of any size in decimal (``str`` refuses more than 4,300 digits)."""
    if number < 10**4000:
        return str(number)
    half = int(number.bit_length() * math.log10(2)) // 2
    high, low = divmod(number, 10**half)
    return digits(high) + digits(low).zfill(half)
