"""A block ``pass NAME { ... }`` to a checked Pass."""

from __future__ import annotations

from pkcompiler.lang import words
from pkcompiler.lang.ast import Block, Expr, Labelled, Name, Pass, Setting, Text
from pkcompiler.lang.declare import Declarations, bare
from pkcompiler.lang.facts import PARAM, Facts, Scope, show_axes
from pkcompiler.lang.format import print_expr, print_item
from pkcompiler.lang.kinds import KindChecker
from pkcompiler.lang.report import Findings


class PassChecker(Declarations):
    """Checks passes; ``library``: they must name their source."""

    def __init__(self, findings: Findings, library: bool) -> None:
        super().__init__(findings)
        self.library = library

    def declare(self, block: Block) -> Pass | None:
        before = self.findings.errors()
        settings = self.settings(block, "pass")
        scope = Scope(damaged=block.damaged)
        kinds = KindChecker(scope, self.findings)
        lets = self._lets(block, scope, kinds)
        score, facts = self._score(block, settings.get("score"), kinds)
        source = self._source(block, settings)
        doc = self.text(settings, "doc", "pass")
        order = self.word(settings, "order", "pass")
        mode = self.word(settings, "mode", "pass")
        among = self.word(settings, "among", "pass")
        common = self.common(settings, "pass")
        if self.findings.errors() == before:
            self._unused(block, scope)
        if self.findings.errors() > before or block.damaged or score is None:
            return None
        assert isinstance(block.label, Name)
        return Pass(
            name=block.label.value,
            source=source or "",
            doc=doc or "",
            lets=tuple(lets),
            score=score,
            text=print_item(bare(block)),
            order=order or words.default("order", "pass"),
            rounds=common.rounds or int(words.default("rounds", "pass")),
            curve=common.curve or words.default("curve", "pass"),
            mode=mode or words.default("mode", "pass"),
            among=among or words.default("among", "pass"),
            scope=common.scope or words.default("scope", "pass"),
            needs_data=facts.data,
            given=frozenset(settings),
            span=block.span,
        )

    def _lets(self, block: Block, scope: Scope, kinds: KindChecker) -> list[tuple[str, Expr]]:
        lets: list[tuple[str, Expr]] = []
        for item in block.items:
            if not isinstance(item, Labelled) or item.name.value != "let":
                continue
            value = self.reader.one(item)
            name = item.label.value
            facts = kinds.facts(value) if value is not None else Facts(None)
            if not self._good_name(item, scope):
                continue
            scope.lets[name] = value if value is not None else Text("")
            scope.facts[name] = facts
            lets.append((name, scope.lets[name]))
        return lets

    def _good_name(self, item: Labelled, scope: Scope) -> bool:
        name = item.label.value
        span = item.label.span
        if isinstance(item.label, Text):
            self.findings.error("PKC118", "the name of a let has no quotes", span, "a text", f"write let {words.plain(name)} = ...")
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

    def _unused(self, block: Block, scope: Scope) -> None:
        for item in block.items:
            if isinstance(item, Labelled) and item.label.value not in scope.used and not scope.damaged:
                name = item.label.value
                note = f"delete let {name} = ..."
                self.findings.warning("PKC116", f"'{name}' is never used", item.label.span, "computed for nothing", note)

    def _score(self, block: Block, item: Setting | None, kinds: KindChecker) -> tuple[Expr | None, Facts]:
        if item is None:
            self.missing(block, "score", "pass")
            return None, Facts(None)
        score = self.reader.one(item)
        if score is None:
            return None, Facts(None)
        facts = kinds.facts(score)
        if facts.axes is not None and facts.axes != PARAM:
            shown = print_expr(score)
            note = (
                f"write score = abs(theta * grad({shown}, theta))"
                if not facts.axes and facts.theta | bool(facts.edges)
                else "write score = abs(theta)"
            )
            self.findings.error(
                "PKC111", f"the score is {show_axes(facts.axes)}", score.span, "must have one value per parameter: [param]", note
            )
        return score, facts

    def _source(self, block: Block, settings: dict[str, Setting]) -> str | None:
        if "source" in settings:
            return self.text(settings, "source", "pass")
        if block.damaged:
            return None
        message = f"pass '{block.label.value if block.label else ''}' names no source"
        note = 'add a line: source = "where the criterion was published"'
        report = self.findings.error if self.library else self.findings.warning
        report("PKC115", message, block.name.span, "'source' is missing", note)
        return None
