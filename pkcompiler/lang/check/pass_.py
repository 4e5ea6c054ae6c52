"""A block ``pass NAME { ... }`` to a checked Pass."""

from __future__ import annotations

from pkcompiler.lang import words
from pkcompiler.lang.ast import Block, Expr, Name, Pass, Setting
from pkcompiler.lang.check.declare import bare
from pkcompiler.lang.check.expressions import ExpressionChecker
from pkcompiler.lang.check.facts import PARAM, Facts, Scope, show_axes
from pkcompiler.lang.check.kinds import KindChecker
from pkcompiler.lang.check.repeat import MOST_REPEATS, read_init, warn_of_repeat
from pkcompiler.lang.check.typed import Typer
from pkcompiler.lang.functions.seen import BY_LAYER, calls, uncomparable
from pkcompiler.lang.syntax.format import print_expr, print_item


class PassChecker(ExpressionChecker):
    """Checks passes."""

    def declare(self, block: Block) -> Pass | None:
        """The pass, or None after errors that are reported."""
        before = self.findings.errors()
        settings = self.settings(block, "pass")
        scope = Scope(damaged=block.damaged)
        kinds = KindChecker(scope, self.findings)
        lets = self.lets(block, scope, kinds)
        score, facts = self._score(block, settings.get("score"), kinds)
        source = self.source(block, settings, "pass")
        doc = self.text(settings, "doc", "pass")
        order = self.word(settings, "order", "pass")
        mode = self.word(settings, "mode", "pass")
        among = self.word(settings, "among", "pass")
        common = self.common(settings, "pass")
        alone = score and uncomparable(calls((score,), dict(lets)))
        if score is not None and alone and (common.scope or words.default("scope", "pass")) == "global":
            self.findings.error("PKC570", f"{alone.name}() with scope = global", score.span, alone.by_layer, BY_LAYER)
        repeat, init = self._repeated(settings)
        if self.findings.errors() == before:
            self.unused(block, scope)
        if self.findings.errors() == before and repeat and repeat > 1 and score is not None:
            warn_of_repeat(self.findings, settings["repeat"], (score, *dict(lets).values()), init is not None or mode == "train")
        if self.findings.errors() > before or block.damaged or score is None:
            return None
        assert isinstance(block.label, Name)
        return Pass(
            name=block.label.value,
            source=source or "",
            doc=doc or "",
            lets=tuple(lets),
            score=score,
            typed=Typer(scope).typed(score),
            text=print_item(bare(block)),
            order=order or words.default("order", "pass"),
            rounds=common.rounds or int(words.default("rounds", "pass")),
            curve=common.curve or words.default("curve", "pass"),
            mode=mode or words.default("mode", "pass"),
            among=among or words.default("among", "pass"),
            scope=common.scope or words.default("scope", "pass"),
            repeat=repeat or int(words.default("repeat", "pass")),
            init=init,
            needs_data=facts.data,
            needs_model=facts.model or facts.data,
            given=frozenset(settings),
            span=block.span,
        )

    def _repeated(self, settings: dict[str, Setting]) -> tuple[int | None, Expr | None]:
        word = words.find("repeat", "setting", "pass")
        assert word is not None
        repeat = self.reader.count(settings["repeat"], word, 1, MOST_REPEATS) if "repeat" in settings else None
        return repeat, read_init(self.findings, settings["init"]) if "init" in settings else None

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
