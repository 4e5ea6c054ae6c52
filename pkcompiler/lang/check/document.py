"""A document to checked passes, analyses, schedules and studies: every error of a file at once, no model, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from pkcompiler.diagnostics import Diagnostic, fail
from pkcompiler.lang import words
from pkcompiler.lang.ast import Analysis, Block, Document, Labelled, Name, Pass, Schedule, Setting, Study
from pkcompiler.lang.check.analysis import AnalysisChecker
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.check.pass_ import PassChecker
from pkcompiler.lang.check.pass_names import PassNames, Resolve
from pkcompiler.lang.check.schedule import ScheduleChecker
from pkcompiler.lang.check.study import Found, ResolveOther, StudyChecker
from pkcompiler.lang.rows import plain


@dataclass(frozen=True, slots=True)
class Checked:
    """What a document declares. A declaration with an error is left out."""

    passes: tuple[Pass, ...]
    schedules: tuple[Schedule, ...]
    analyses: tuple[Analysis, ...]
    diagnostics: tuple[Diagnostic, ...]
    studies: tuple[Study, ...] = ()


def nothing_else(kind: str, name: str) -> Found:
    """Finds no analysis and no schedule besides those of the file."""
    raise fail("PKC117", f"there is no {kind} '{name}' in this file", f"declare it: {kind} {plain(name)} {{ ... }}")


def check(document: Document, resolve: Resolve, others: ResolveOther = nothing_else, *, library: bool = False) -> Checked:
    """Check every declaration.

    ``resolve`` finds a pass that the file does not declare, ``others`` an analysis or a schedule; ``library``: a missing source is
    an error, not a warning.
    """
    return _Checker(document, library).run(resolve, others)


class _Checker:
    def __init__(self, document: Document, library: bool) -> None:
        self.document = document
        self.findings = Findings()
        self.library = library
        self.pass_checker = PassChecker(self.findings, library)
        self.declared: set[str] = set()

    def run(self, resolve: Resolve, others: ResolveOther) -> Checked:
        blocks = self._blocks()
        passes = {b.label.value: self.pass_checker.declare(b) for b in blocks if b.name.value == "pass" and b.label}
        names = PassNames(self.findings, passes, resolve)
        schedules, analyses = ScheduleChecker(self.findings, names), AnalysisChecker(self.findings, self.library, names)
        found = {b.label.value: schedules.declare(b) for b in blocks if b.name.value == "schedule" and b.label}
        measured = {b.label.value: analyses.declare(b) for b in blocks if b.name.value == "analysis" and b.label}
        own: dict[tuple[str, str], Found | None] = {("schedule", name): s for name, s in found.items()}
        own |= {("analysis", name): a for name, a in measured.items()}
        studies = StudyChecker(self.findings, names, own, others)
        compared = [studies.declare(b) for b in blocks if b.name.value == "study"]
        ordered = sorted(self.findings.items, key=lambda d: d.span.start if d.span else 0)
        return Checked(
            tuple(p for p in passes.values() if p),
            tuple(s for s in found.values() if s),
            tuple(a for a in measured.values() if a),
            tuple(ordered),
            tuple(s for s in compared if s),
        )

    def _blocks(self) -> list[Block]:
        """The declarations of this version, each name once."""
        blocks: list[Block] = []
        for item in self.document.items:
            if not isinstance(item, Block):
                self._stray(item)
                continue
            word = self.pass_checker.block_word(item, "file")
            if word is not None and self._has_name(item) and self._is_new(item):
                blocks.append(item)
        return blocks

    def _stray(self, item: Setting | Labelled) -> None:
        name = item.name.value
        note = "put it inside a declaration: pass my-pass { ... }"
        if words.find(name, "block"):
            note = f"a declaration has braces: {name} my-{name} {{ ... }}"
        self.findings.error(
            "PKC118", f"'{name}' stands outside of every declaration", item.name.span, "no declaration is open here", note
        )

    def _has_name(self, block: Block) -> bool:
        if isinstance(block.label, Name):
            return True
        example = words.find(block.name.value, "block", "file")
        note = f"write {example.line}" if example else ""
        message = (
            f"this {block.name.value} has no name" if block.label is None else f"the name of a {block.name.value} has no quotes"
        )
        span = block.label.span if block.label else block.name.span
        self.findings.error("PKC118", message, span, "expected a name", note)
        return False

    def _is_new(self, block: Block) -> bool:
        key = f"{block.name.value} {block.label.value if block.label else ''}"
        if key in self.declared:
            span = block.label.span if block.label else None
            self.findings.error("PKC107", f"{key} is declared twice", span, "declared before", "rename or delete one of them")
            return False
        self.declared.add(key)
        return True
