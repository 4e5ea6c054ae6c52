"""What passes and analyses share: their ``let`` lines, and that they name a source."""

from __future__ import annotations

from pkcompiler.lang import words
from pkcompiler.lang.ast import Block, Expr, Labelled, Setting, Text
from pkcompiler.lang.check.declare import Declarations
from pkcompiler.lang.check.facts import Facts, Scope
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.check.kinds import KindChecker
from pkcompiler.lang.check.search import nesting
from pkcompiler.lang.rows import plain
from pkcompiler.lang.syntax.tokens import MAX_NESTING


class ExpressionChecker(Declarations):
    """Checks blocks that hold expressions; ``library``: they must name their source."""

    def __init__(self, findings: Findings, library: bool) -> None:
        super().__init__(findings)
        self.library = library

    def lets(self, block: Block, scope: Scope, kinds: KindChecker) -> list[tuple[str, Expr]]:
        """The ``let`` lines in order; ``scope`` knows them afterwards."""
        lets: list[tuple[str, Expr]] = []
        depths: dict[str, int] = {}
        for item in block.items:
            if not isinstance(item, Labelled) or item.name.value != "let":
                continue
            value = self.reader.one(item)
            name = item.label.value
            facts = kinds.facts(value) if value is not None else Facts(None)
            if not self._good_name(item, scope):
                continue
            if value is not None:
                depths[name] = nesting(value, depths)
                if depths[name] > MAX_NESTING:
                    self._too_deep(item)
                    value, facts, depths[name] = None, Facts(None), 1
            scope.lets[name] = value if value is not None else Text("")
            scope.facts[name] = facts
            lets.append((name, scope.lets[name]))
        return lets

    def _too_deep(self, item: Labelled) -> None:
        message = f"'{item.label.value}' stands for more than {MAX_NESTING} nested operations, its names written out"
        self.findings.error("PKC005", message, item.label.span, "nested too deep", "build it from fewer names on names")

    def _good_name(self, item: Labelled, scope: Scope) -> bool:
        name = item.label.value
        span = item.label.span
        if isinstance(item.label, Text):
            self.findings.error("PKC118", "the name of a let has no quotes", span, "a text", f"write let {plain(name)} = ...")
        elif name in words.RESERVED:
            message = f"'{name}' is a word of the language"
            self.findings.error(
                "PKC107", message, span, "cannot be given another meaning", f"choose another name: let my-{name} = ..."
            )
        elif name in scope.facts:
            self.findings.error(
                "PKC107", f"'{name}' is named twice", span, "named before", f"choose another name: let {name}2 = ..."
            )
        else:
            return True
        return False

    def unused(self, block: Block, scope: Scope) -> None:
        """A warning for every ``let`` that nothing reads."""
        for item in block.items:
            if not isinstance(item, Labelled) or item.name.value != "let":
                continue
            name = item.label.value
            if name not in scope.used and not scope.damaged:
                note = f"delete let {name} = ..."
                self.findings.warning("PKC116", f"'{name}' is never used", item.label.span, "computed for nothing", note)

    def source(self, block: Block, settings: dict[str, Setting], of: str) -> str | None:
        """The source; without one an error in the library, a warning elsewhere."""
        if "source" in settings:
            return self.text(settings, "source", of)
        if block.damaged:
            return None
        message = f"{of} '{block.label.value if block.label else ''}' names no source"
        what = "criterion" if of == "pass" else of
        note = f'add a line: source = "where the {what} was published"'
        report = self.findings.error if self.library else self.findings.warning
        report("PKC115", message, block.name.span, "'source' is missing", note)
        return None
