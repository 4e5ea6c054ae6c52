"""A block ``analysis NAME { ... }`` to a checked Analysis."""

from __future__ import annotations

from pkcompiler.diagnostics import Span
from pkcompiler.lang.ast import Analysis, Block, Expr, Labelled, Name, Pass, ReportLine
from pkcompiler.lang.check.declare import bare
from pkcompiler.lang.check.expressions import ExpressionChecker
from pkcompiler.lang.check.facts import PARAM, Facts, Scope, show_axes
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.check.kinds import KindChecker
from pkcompiler.lang.check.pass_names import PassNames
from pkcompiler.lang.check.typed import Typer
from pkcompiler.lang.syntax.format import print_expr, print_item


class AnalysisChecker(ExpressionChecker):
    """Checks analyses; ``names`` finds the passes that they name."""

    def __init__(self, findings: Findings, library: bool, names: PassNames) -> None:
        super().__init__(findings, library)
        self.names = names

    def declare(self, block: Block) -> Analysis | None:
        """The analysis, or None after errors that are reported."""
        before = self.findings.errors()
        settings = self.settings(block, "analysis")
        used: dict[str, Pass] = {}

        def find(label: str, span: Span | None) -> Pass | None:
            self.names.find(label, span, used)
            return used.get(label)

        scope = Scope(damaged=block.damaged, analysis=True, find_pass=find)
        kinds = KindChecker(scope, self.findings)
        lets = self.lets(block, scope, kinds)
        reports = self._reports(block, scope, kinds)
        source = self.source(block, settings, "analysis")
        doc = self.text(settings, "doc", "analysis")
        if not block.damaged and not any(i.name.value == "report" for i in block.items):
            name = block.label.value if block.label else ""
            note = 'add a line: report "kept weights" = sum(mask, over = param)'
            self.findings.error("PKC108", f"analysis '{name}' reports nothing", block.name.span, "no 'report' in it", note)
        if self.findings.errors() == before:
            self.unused(block, scope)
        if self.findings.errors() > before or block.damaged:
            return None
        assert isinstance(block.label, Name)
        typer = Typer(scope)
        lines = [
            ReportLine(label, expr, typer.typed(expr), facts.axes == PARAM and not facts.varies) for label, expr, facts in reports
        ]
        return Analysis(
            name=block.label.value,
            source=source or "",
            doc=doc or "",
            lets=tuple(lets),
            reports=tuple(lines),
            typed=tuple(typer.typed(value) for _, value in lets),
            text=print_item(bare(block)),
            passes=tuple(used.items()),
            needs_data=any(f.data for _, _, f in reports),
            needs_model=any(f.model or f.data for _, _, f in reports),
            span=block.span,
        )

    def _reports(self, block: Block, scope: Scope, kinds: KindChecker) -> list[tuple[str, Expr, Facts]]:
        found: list[tuple[str, Expr, Facts]] = []
        for item in block.items:
            if not isinstance(item, Labelled) or item.name.value != "report":
                continue
            value = self.reader.one(item)
            if not self._good_label(item, [label for label, _, _ in found]) or value is None:
                continue
            facts = kinds.facts(value)
            if facts.axes is not None and "operator" in facts.axes:
                note = f'write report "trace" = trace({print_expr(value)})'
                message = f"a report of {print_expr(value)}, which is {show_axes(facts.axes)}"
                self.findings.error("PKC111", message, value.span, "read a figure of it", note)
            elif facts.axes is not None and "input" in facts.axes:
                message = f"a report with {show_axes(facts.axes)}"
                self.findings.error("PKC111", message, value.span, "the axis input cannot be shown", "read a figure of it")
            found.append((item.label.value, value, facts))
        return found

    def _good_label(self, item: Labelled, before: list[str]) -> bool:
        label = item.label
        shown = print_expr(label)
        if isinstance(label, Name):
            note = f'write report "{label.value}" = ...'
            self.findings.error("PKC118", "the text of a report stands in double quotes", label.span, "not a text", note)
        elif not label.value.strip():
            self.findings.error("PKC105", "a report without a text", label.span, "empty", 'write report "path norm" = ...')
        elif label.value in before:
            self.findings.error("PKC107", f"report {shown} is given twice", label.span, "given before", "give it another text")
        else:
            return True
        return False
