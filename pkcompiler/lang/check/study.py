"""A block ``study NAME { ... }`` to a checked Study."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pkcompiler.diagnostics import PkcError, Span
from pkcompiler.lang import words
from pkcompiler.lang.ast import Analysis, Block, Expr, Name, Number, Pass, Range, Schedule, Setting, Study, Text
from pkcompiler.lang.check.declare import Declarations, bare
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.check.pass_names import PassNames
from pkcompiler.lang.check.settings import MAX_COMPRESSION, MAX_ROUNDS, SEEDS, whole
from pkcompiler.lang.check.stage import density_of
from pkcompiler.lang.rows import plain, suggest
from pkcompiler.lang.syntax.format import print_expr, print_item

TARGETS = ("compression", "density", "sparsity")
MAX_SEEDS = 10_000

Found = Analysis | Schedule
ResolveOther = Callable[[str, str], Found]
"""``("analysis" | "schedule", name)`` to the declaration of the library or of another file. Raises PkcError."""


class StudyChecker(Declarations):
    """Checks studies. ``own``: the analyses and schedules of the file by (kind, name), None for one with an error."""

    def __init__(
        self, findings: Findings, names: PassNames, own: dict[tuple[str, str], Found | None], others: ResolveOther
    ) -> None:
        super().__init__(findings)
        self.names, self.own, self.others = names, own, others

    def declare(self, block: Block) -> Study | None:
        """The study, or None after errors that are reported."""
        before = self.findings.errors()
        settings = self.settings(block, "study")
        for name in ("model", "seeds", "train"):
            self.missing(block, name, "study")
        doc = self.text(settings, "doc", "study")
        models = self._texts(settings, "model")
        train = self._train(settings)
        passes = self._passes(settings)
        schedules = self._declared(settings, "schedules", "schedule")
        analyses = self._declared(settings, "analyses", "analysis")
        targets = self._targets(block, settings)
        seeds = self._seeds(settings)
        data_word, rounds_word = words.find("data", "setting", "study"), words.find("rounds", "setting", "study")
        assert data_word is not None and rounds_word is not None
        data = self.reader.data(settings["data"], data_word) if "data" in settings else None
        rounds = self.reader.count(settings["rounds"], rounds_word, 1, MAX_ROUNDS) if "rounds" in settings else None
        self._something(block, settings)
        if "data" not in settings and not block.damaged:
            self._reads_data(block, passes, schedules, analyses)
        if self.findings.errors() > before or block.damaged:
            return None
        assert isinstance(block.label, Name)
        return Study(
            name=block.label.value,
            doc=doc or "",
            models=models,
            passes=tuple(passes.items()),
            schedules=tuple((n, s) for n, s in schedules.items() if isinstance(s, Schedule)),
            targets=targets,
            seeds=seeds,
            data=data,
            train=train or "",
            rounds=rounds,
            analyses=tuple((n, a) for n, a in analyses.items() if isinstance(a, Analysis)),
            text=print_item(bare(block)),
            span=block.span,
        )

    def _texts(self, settings: dict[str, Setting], name: str) -> tuple[str, ...]:
        """The texts of a setting, each once."""
        word = words.find(name, "setting", "study")
        assert word is not None
        found: list[str] = []
        for value in settings[name].values if name in settings else ():
            if not isinstance(value, Text) or not value.value.strip():
                label = "not a text in double quotes" if not isinstance(value, Text) else "empty"
                self.findings.error("PKC105", f"{name} = {print_expr(value)}", value.span, label, f"write {word.line}")
            elif self._new(value.value, found, name, value.span):
                found.append(value.value)
        return tuple(found)

    def _train(self, settings: dict[str, Setting]) -> str | None:
        train = self.text(settings, "train", "study")
        if train is None:
            return None
        place, colon, function = train.rpartition(":")
        if colon and place and function.isidentifier():
            return train
        value = settings["train"].values[0]
        note = f'write train = "{train.removesuffix(":")}:train"'
        self.findings.error("PKC105", f"train = {print_expr(value)}", value.span, "names no function of the file", note)
        return None

    def _labels(self, settings: dict[str, Setting], name: str) -> list[tuple[str, Span | None]]:
        """Names, or texts where a name is a file's, each once."""
        word = words.find(name, "setting", "study")
        assert word is not None
        found: list[tuple[str, Span | None]] = []
        for value in settings[name].values if name in settings else ():
            if not isinstance(value, Name | Text) or not value.value.strip():
                label = "must be a name, or a file in double quotes"
                self.findings.error("PKC105", f"{name} = {print_expr(value)}", value.span, label, f"write {word.line}")
            elif self._new(value.value, [n for n, _ in found], name, value.span):
                found.append((value.value, value.span))
        return found

    def _new(self, given: str, before: list[str], name: str, span: Span | None) -> bool:
        if given not in before:
            return True
        self.findings.error("PKC107", f"'{given}' stands twice in {name}", span, "given before", "delete one of them")
        return False

    def _passes(self, settings: dict[str, Setting]) -> dict[str, Pass]:
        used: dict[str, Pass] = {}
        for label, span in self._labels(settings, "passes"):
            self.names.find(label, span, used)
        return used

    def _declared(self, settings: dict[str, Setting], name: str, kind: str) -> dict[str, Found]:
        """Analyses or schedules: of this file, else of the library or of another file."""
        used: dict[str, Found] = {}
        for label, span in self._labels(settings, name):
            found = self.own[kind, label] if (kind, label) in self.own else self._elsewhere(kind, label, span)
            if found is not None:
                used[label] = found
        return used

    def _elsewhere(self, kind: str, label: str, span: Span | None) -> Found | None:
        try:
            return self.others(kind, label)
        except PkcError as error:
            first = error.diagnostics[0]
            note = first.notes[-1] if first.notes else f"write a declaration: {kind} {plain(label)} {{ ... }}"
            close = suggest(label, [name for k, name in self.own if k == kind])
            note = f"did you mean '{close}'?" if close else note
            if first.span is not None:
                self.findings.error("PKC117", f"'{label}' has an error: {first.message}", span, "not usable", f"pkc check {label}")
                return None
            self.findings.error(first.code, first.message, span, "not usable", note)
            return None

    def _something(self, block: Block, settings: dict[str, Setting]) -> None:
        """A study compares passes at targets, or schedules, or both."""
        name = block.label.value if block.label else ""
        if block.damaged or any(i.name.value in ("passes", "schedules") for i in block.items):
            return
        note = "add a line: passes = synflow, snip"
        self.findings.error("PKC108", f"study '{name}' compares nothing", block.name.span, "no 'passes' and no 'schedules'", note)

    def _targets(self, block: Block, settings: dict[str, Setting]) -> tuple[tuple[str, float], ...]:
        """(word, value) of the one list of targets, in order."""
        given = [name for name in TARGETS if name in settings]
        if len(given) > 1:
            shown = " and ".join(f"'{g}'" for g in given)
            message = f"a study has one list of targets, not {len(given)}: {shown}"
            self.findings.error("PKC113", message, settings[given[-1]].name.span, "a second list", "keep one of them")
        if not given and "passes" in settings and not block.damaged:
            label = block.label.value if block.label else ""
            note = "add a line: compression = 1, 10, 100"
            self.findings.error("PKC113", f"study '{label}' has no targets", block.name.span, "how far?", note)
        if not given:
            return ()
        name = given[0]
        found: dict[float, tuple[str, float]] = {}
        for value in settings[name].values:
            amount = self._amount(name, value, settings[name].values)
            if amount is None:
                continue
            density = density_of((name, amount))
            if density in found:
                self.findings.error(
                    "PKC107", f"{print_expr(value)} stands twice in {name}", value.span, "given before", "delete it"
                )
                continue
            found[density] = name, amount
        return tuple(found.values())

    def _amount(self, name: str, value: Expr, values: Sequence[Expr]) -> float | None:
        unit = value.unit if isinstance(value, Number) else "?"
        number = value.value if isinstance(value, Number) else 0.0
        if name == "compression":
            if unit in ("", "x") and 1 <= number <= MAX_COMPRESSION:
                return float(number)
            wanted, note = "must be a factor of 1x or more", "write compression = 1, 10, 100"
        else:
            part = number / 100 if unit == "%" else float(number)
            low = part >= 0 if name == "sparsity" else part > 0
            high = part < 1 if name == "sparsity" else part <= 1
            if unit in ("", "%") and low and high:
                return part
            ends = "at least 0% and less than 100%" if name == "sparsity" else "more than 0% and at most 100%"
            wanted, note = f"must be a part, {ends}", f"write {name} = {'90%, 99%' if name == 'sparsity' else '10%, 1%'}"
            if unit == "" and 1 < number <= 100:
                meant = [print_expr(v) + ("%" if _lacks_percent(v) else "") for v in values]
                wanted, note = "a part needs '%', or is at most 1", f"write {name} = {', '.join(meant)}"
        self.findings.error("PKC106", f"{name} = {print_expr(value)}", value.span, wanted, note)
        return None

    def _seeds(self, settings: dict[str, Setting]) -> tuple[int, ...]:
        found: dict[int, None] = {}
        for value in settings["seeds"].values if "seeds" in settings else ():
            ends = (value.start, value.end) if isinstance(value, Range) else (value, value)
            first, last = (_seed(end) for end in ends)
            if first is None or last is None or last < first or last - first >= MAX_SEEDS:
                label = f"must be whole numbers of 64 bits, or a range of at most {MAX_SEEDS} such as 0..2"
                self.findings.error("PKC106", f"seeds = {print_expr(value)}", value.span, label, "write seeds = 0..2")
                continue
            again = next((s for s in range(first, last + 1) if s in found), None)
            if again is not None:
                message = f"'{again}' stands twice in seeds"
                self.findings.error("PKC107", message, value.span, "given before", "delete one of them")
            found |= dict.fromkeys(range(first, last + 1))
        return tuple(found)

    def _reads_data(self, block: Block, passes: dict[str, Pass], schedules: dict[str, Found], analyses: dict[str, Found]) -> None:
        """An error, not a warning: nothing but the study itself can name its data."""
        readers = [name for name, p in passes.items() if p.needs_data]
        readers += [n for n, a in analyses.items() if isinstance(a, Analysis) and a.needs_data]
        for name, schedule in schedules.items():
            if isinstance(schedule, Schedule) and schedule.data is None and any(p.needs_data for _, p in schedule.passes):
                readers.append(name)
        if readers:
            others = f", and so do {len(readers) - 1} more" if len(readers) > 1 else ""
            message = f"'{readers[0]}' reads data, and the study names none{others}"
            self.findings.error("PKC475", message, block.name.span, "no 'data'", "add a line: data = digits(per_class = 10)")


def _lacks_percent(value: Expr) -> bool:
    return isinstance(value, Number) and value.unit == "" and value.value > 1


def _seed(value: Expr) -> int | None:
    found = whole(value)
    return found if found is not None and found in SEEDS else None  # a range looks for None one by one
