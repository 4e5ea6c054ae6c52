"""Values of a stage's own settings: when it runs, in which structure, by which amounts. Printed in ``printing.py``."""

from __future__ import annotations

from dataclasses import dataclass

from pkcompiler.lang import words
from pkcompiler.lang.ast import At, Call, Expr, Labelled, Name, Number, Range, Ratio, Setting
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.check.settings import MAX_ROUNDS, SettingReader
from pkcompiler.lang.rows import suggest
from pkcompiler.lang.syntax.format import print_expr

MAX_STEP = 10**12
MAX_GROUP = 1 << 16
"""The longest group of N:M, and the longest side of a block."""

BYTES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
MAX_BYTES = 10**15

AT = "write at = start, end, epochs(2..20) or steps(1000..20000, every = 100)"
STRUCTURE = "write structure = 2:4, block(16, 16), channel or unstructured"
REWIND = "write rewind = epoch(4), or rewind = step(500)"


@dataclass(frozen=True, slots=True)
class StageReader:
    """Reads the values of a stage's settings; every method returns None after an error that it has reported."""

    findings: Findings
    reader: SettingReader

    def bytes(self, item: Setting) -> float | None:
        """``4MB``, ``500KB``, ``1GB``, or plain bytes: whole bytes, at least 1."""
        value = self.reader.one(item)
        if value is None:
            return None
        if isinstance(value, Number) and value.unit in BYTES:
            amount = float(f"{value.value * BYTES[value.unit]:.15g}")
            if amount == int(amount) and 1 <= amount <= MAX_BYTES:
                return amount
        message = f"{item.name.value} = {print_expr(value)}"
        self.findings.error("PKC106", message, value.span, "must be an amount of bytes: B, KB, MB or GB", "write size = 4MB")
        return None

    def structure(self, item: Setting | Labelled) -> str | None:
        """The canonical text of a structure."""
        value = self.reader.one(item)
        match value:
            case None:
                return None
            case Ratio(kept, of) if 1 <= kept < of <= MAX_GROUP:
                return f"{kept}:{of}"
            case Ratio(kept, of):
                label = f"must keep at least 1 and fewer than all of each {max(of, 2)}"
                self.findings.error("PKC106", f"{item.name.value} = {kept}:{of}", value.span, label, "write structure = 2:4")
                return None
            case Call("block", (Number() as height, Number() as width), ()) if _size(height) and _size(width):
                return f"block({int(height.value)}, {int(width.value)})"
            case Call("block"):
                label = f"needs two whole numbers from 1 to {MAX_GROUP}: outputs, inputs"
                self.findings.error("PKC106", print_expr(value), value.span, label, _square(value))
                return None
            case Name(name) if words.find(name, "value", "structure") is not None and name != "block":
                return name
        self._unknown(item, value, "structure", "must be 2:4, block(16, 16), channel or unstructured", STRUCTURE)
        return None

    def at(self, item: Setting) -> At | None:
        """When a stage runs."""
        value = self.reader.one(item)
        match value:
            case None:
                return None
            case Name("start" | "end" as kind):
                return At(kind)
            case Call("epochs" | "steps" as kind, (when,), kwargs):
                return self._visits(kind, when, kwargs, value)
        self._unknown(item, value, "at", "must be start, end, epochs(...) or steps(...)", AT)
        return None

    def _visits(self, kind: str, when: Expr, kwargs: tuple[tuple[str, Expr], ...], value: Call) -> At | None:
        first, last = (when.start, when.end) if isinstance(when, Range) else (when, when)
        every = dict(kwargs).get("every", Number(1))
        numbers = [_whole(n) for n in (first, last, every)]
        unknown = [key for key, _ in kwargs if key != "every"]
        if unknown or len(kwargs) > 1:
            key = (unknown or ["every"])[0]
            known = ["every"]
            if unknown:
                self.findings.unknown("PKC110", "argument", key, value.span, known, where=f" of {kind}()")
            else:
                self.findings.error("PKC107", "'every' is given twice", value.span, "given before", "delete one of them")
            return None
        start, end, step = numbers
        if start is None or end is None or step is None:
            label = f"needs whole numbers from 1 to {MAX_STEP}, the first not after the last"
            self.findings.error("PKC106", f"at = {print_expr(value)}", value.span, label, AT)
            return None
        if start > end:
            message = f"at = {print_expr(value)} ends before it begins"
            self.findings.error("PKC106", message, value.span, "no visit", f"write at = {kind}({end}..{start})")
            return None
        found = At(kind, start, start + (end - start) // step * step, step)
        visits = (found.last - found.first) // step + 1
        if visits > MAX_ROUNDS:
            message = f"at = {print_expr(value)} is {visits:,} visits"
            self.findings.error("PKC106", message, value.span, f"at most {MAX_ROUNDS:,}", "write a larger 'every'")
            return None
        return found

    def rewind(self, item: Setting) -> tuple[str, int] | None:
        """``epoch(4)`` or ``step(500)``; 0 is the initialisation."""
        value = self.reader.one(item)
        if value is None:
            return None
        if isinstance(value, Call) and value.function in ("epoch", "step") and len(value.args) == 1 and not value.kwargs:
            when = _whole(value.args[0], least=0)
            if when is not None:
                return value.function, when
            label = f"needs one whole number from 0 to {MAX_STEP}"
            self.findings.error("PKC106", f"rewind = {print_expr(value)}", value.span, label, REWIND)
            return None
        self._unknown(item, value, "rewind", "must be epoch(...) or step(...)", REWIND)
        return None

    def _unknown(self, item: Setting | Labelled, value: Expr, setting: str, label: str, note: str) -> None:
        name = value.function if isinstance(value, Call) else print_expr(value)
        close = suggest(name, [w.name for w in words.rows("value", setting)])
        note = f"did you mean '{close}'?" if close and close != name else note
        self.findings.error("PKC105", f"{item.name.value} = {print_expr(value)}", value.span, label, note)


def _whole(value: Expr, least: int = 1) -> int | None:
    """A whole number from ``least`` to ``MAX_STEP``."""
    if isinstance(value, Number) and value.unit == "" and value.value == int(value.value) and least <= value.value <= MAX_STEP:
        return int(value.value)
    return None


def _size(value: Number) -> bool:
    whole = _whole(value)
    return whole is not None and whole <= MAX_GROUP


def _square(block: Call) -> str:
    """What to write in place of a block that is none: of one number its square."""
    match block.args:
        case (Number() as side,) if not block.kwargs and _size(side):
            return f"write structure = block({int(side.value)}, {int(side.value)})"
    return "write structure = block(16, 16)"
