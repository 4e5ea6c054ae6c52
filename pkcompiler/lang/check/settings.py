"""Values of settings: each kind of value of the word table, its range, and how it is said when it is wrong."""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.diagnostics import Span
from pkcompiler.lang import words
from pkcompiler.lang.ast import Call, DataSpec, Expr, Labelled, Name, Number, Setting, Text, Unary
from pkcompiler.lang.check.curve_proof import check_curve
from pkcompiler.lang.check.curves import VARIABLES
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.rows import Word, suggest
from pkcompiler.lang.syntax.format import print_expr

MAX_ROUNDS = 1_000_000
SEEDS = range(-(2**63), 2**64)
"""What torch takes for a seed, and so --seed and seed= of Python."""
MAX_COMPRESSION = 1e12


class SettingReader:
    """Reads the values of settings; every method returns None after an error that it has reported."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def one(self, item: Setting | Labelled) -> Expr | None:
        """The only value of a setting that takes one."""
        if len(item.values) == 1:
            return item.values[0]
        name = item.name.value
        span = _between(item.values)
        self.findings.error(
            "PKC106", f"'{name}' takes one value, not {len(item.values)}", span, "too many values", "keep one of them"
        )
        return None

    def text(self, item: Setting, word: Word) -> str | None:
        """A text that is not empty and has one line."""
        value = self.one(item)
        if value is None:
            return None
        if isinstance(value, Text) and value.value.strip():
            return value.value
        message = f"'{word.name}' needs a text"
        self.findings.error(
            "PKC105", message, value.span, "not a text in double quotes" if not isinstance(value, Text) else "empty", _write(word)
        )
        return None

    def count(self, item: Setting | Labelled, word: Word, least: int, most: int) -> int | None:
        """A whole number within a range."""
        value = self.one(item)
        if value is None:
            return None
        number = whole(value)
        if number is not None and least <= number <= most:
            return number
        message = f"{word.name} = {print_expr(value)}"
        self.findings.error("PKC106", message, value.span, f"must be a whole number from {least} to {most}", _write(word))
        return None

    def word(self, item: Setting, word: Word) -> str | None:
        """One of the words that the table lists for this setting; ``-`` and ``_`` are the same in them."""
        value = self.one(item)
        if value is None:
            return None
        rows = words.rows("value", word.name)
        row = next((r for r in rows if isinstance(value, Name) and r.name == value.value.replace("-", "_")), None)
        if row is not None and row.due:
            return row.name
        if row is not None:
            self.findings.later(row, value.span)
            return None
        known = [r.name for r in rows if r.due]
        close = suggest(print_expr(value), known)
        note = f"did you mean '{close}'?" if close else _write(word)
        if isinstance(value, Text) and value.value in known:
            note = f"write it without quotes: {word.name} = {value.value}"
        self.findings.error("PKC105", f"{word.name} = {print_expr(value)}", value.span, f"must be {' | '.join(known)}", note)
        return None

    def curve(self, item: Setting, word: Word) -> str | None:
        """A named curve, or the canonical text of an expression in k, n and rho."""
        if len(item.values) == 1 and (not isinstance(item.values[0], Name | Text) or item.values[0].value in VARIABLES):
            return check_curve(item.values[0], self.findings)
        return self.word(item, word)

    def fraction(self, item: Setting | Labelled, word: Word, *, zero: bool) -> float | None:
        """``98%`` or ``0.98``; 1 is allowed, 0 only where ``zero`` says so."""
        value = self.one(item)
        if value is None:
            return None
        name = word.name if isinstance(item, Setting) else f"{word.name} {print_expr(item.label)}"
        if not isinstance(value, Number) or value.unit not in ("", "%"):
            self.findings.error(
                "PKC106", f"{name} = {print_expr(value)}", value.span, "must be a part, such as 98% or 0.98", _write(word)
            )
            return None
        part = value.value / 100 if value.unit == "%" else float(value.value)
        if value.unit == "" and 1 < value.value <= 100:
            shown = print_expr(value)
            note = f"write {name} = {shown}%, or {name} = {value.value / 100!r}"
            self.findings.error(
                "PKC106", f"{name} = {shown} is more than all", value.span, "a part needs '%', or is at most 1", note
            )
            return None
        if part > 1 or (part == 0 and not zero):
            wanted = "from 0% to 100%" if zero else "more than 0% and at most 100%"
            self.findings.error("PKC106", f"{name} = {print_expr(value)}", value.span, f"must be {wanted}", _write(word))
            return None
        return part

    def factor(self, item: Setting, word: Word) -> float | None:
        """``50x`` or ``50``: at least 1."""
        value = self.one(item)
        if value is None:
            return None
        if isinstance(value, Number) and value.unit in ("", "x") and 1 <= value.value <= MAX_COMPRESSION:
            return float(value.value)
        message = f"{word.name} = {print_expr(value)}"
        self.findings.error("PKC106", message, value.span, "must be a factor of 1x or more", _write(word))
        return None

    def globs(self, item: Setting, word: Word) -> tuple[str, ...]:
        """Texts are globs; the words of the table come out as ``@word``."""
        found: list[str] = []
        known = [r.name for r in words.rows("value", word.name)]
        for value in item.values:
            shown = print_expr(value)
            if isinstance(value, Text) and value.value.strip() and not value.value.startswith("@"):
                found.append(value.value)
            elif isinstance(value, Name) and value.value in known:
                found.append("@" + value.value)
            else:
                close = suggest(shown, known)
                glob = shown.strip('"')
                glob = f"*.{glob}" if glob in ("weight", "bias") else f"{glob}.*" if isinstance(value, Name) else glob
                quoted = f'write a glob in double quotes: {word.name} = "{glob}"' if glob.strip("@ ") else _write(word)
                note = f"did you mean '{close}'?" if close else quoted
                wanted = f"must be a glob in double quotes, or {', '.join(known)}"
                self.findings.error("PKC105", f"{word.name} = {shown}", value.span, wanted, note)
        return tuple(found)

    def data(self, item: Setting, word: Word) -> DataSpec | None:
        """``digits(per_class = 10, batch = 128)``, ``"file.npz"``, ``"module:factory"``, ``dataset("file.npz", batch = 64)``."""
        value = self.one(item)
        if value is None:
            return None
        known = [r.name for r in words.rows("value", "data")]
        match value:
            case Text():
                return self._file(value, (), value.span)
            case Name(name) if name in known and name != "dataset":
                return DataSpec(name, (), value.span)
            case Call("dataset", (Text() as where,), kwargs):
                options = self._options(kwargs)
                return None if options is None else self._file(where, options, value.span)
            case Call(name, (), kwargs) if name in known and name != "dataset":
                options = self._options(kwargs)
                return None if options is None else DataSpec(name, options, value.span)
        name = value.function if isinstance(value, Call) else print_expr(value)
        close = suggest(name, known)
        note = f"did you mean '{close}'?" if close and close != name else _write(word)
        message = f"{word.name} = {print_expr(value)}"
        wanted = 'must be digits, mnist5k, "file.npz" or "module:factory"'
        self.findings.error(
            "PKC105", message, value.span, wanted, 'write data = dataset("file.npz")' if name == "dataset" else note
        )
        return None

    def _file(self, where: Text, options: tuple[tuple[str, float | int | str], ...], span: Span | None) -> DataSpec | None:
        if where.value.endswith(".npz") or ":" in where.value.strip(":"):
            return DataSpec(where.value, options, span)
        bare = where.value in [r.name for r in words.rows("value", "data")]
        note = f"write it without quotes: data = {where.value}" if bare else 'write data = "file.npz", or data = "module:factory"'
        self.findings.error("PKC105", f"data = {print_expr(where)}", where.span, "neither an .npz file nor a module:factory", note)
        return None

    def _options(self, kwargs: tuple[tuple[str, Expr], ...]) -> tuple[tuple[str, float | int | str], ...] | None:
        known = [r.name for r in words.rows("value", "data-option")]
        found: dict[str, float | int | str] = {}
        good = True
        for key, value in kwargs:
            span = value.span
            if key not in known:
                self.findings.unknown("PKC110", "option", key, span, known, label="value of an unknown option", where=" of data")
            elif key in found:
                self.findings.error("PKC107", f"'{key}' is given twice", span, "given before", "delete one of them")
            elif (
                isinstance(value, Number)
                and value.unit == ""
                and value.value == int(value.value)
                and 1 <= value.value <= MAX_ROUNDS
            ):
                found[key] = int(value.value)
                continue
            else:
                label = f"must be a whole number from 1 to {MAX_ROUNDS}"
                self.findings.error("PKC106", f"{key} = {print_expr(value)}", span, label, f"write {key} = 10")
            good = False
        if "per_class" in found and "count" in found:
            good = False
            span = next(v.span for k, v in kwargs if k == "count")
            self.findings.error("PKC110", "data takes per_class or count, not both", span, "a second amount", "keep one of them")
        return tuple(found.items()) if good else None


def whole(value: Expr) -> int | None:
    """The whole number that is written, with its sign; None for anything else."""
    match value:
        case Number(number, "") if number == int(number):
            return int(number)
        case Unary("-", Number(number, "")) if number == int(number):
            return -int(number)
    return None


def _write(word: Word) -> str:
    return f"write {word.line}"


def _between(values: tuple[Expr, ...]) -> Span | None:
    first, last = values[0].span, values[-1].span
    return replace(first, end=last.end) if first and last else None
