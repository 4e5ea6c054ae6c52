"""A block ``prune PASS { ... }`` to a Stage."""

from __future__ import annotations

import math

from pkcompiler.lang import words
from pkcompiler.lang.ast import At, Block, Labelled, Name, Pass, Setting, Stage
from pkcompiler.lang.check.declare import Declarations
from pkcompiler.lang.check.facts import PARAM, Scope, show_axes
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.check.kinds import KindChecker
from pkcompiler.lang.check.pass_names import PassNames
from pkcompiler.lang.check.stage_values import StageReader
from pkcompiler.lang.check.typed import Typer
from pkcompiler.lang.rows import suggest
from pkcompiler.lang.syntax.format import print_expr

TARGETS = ("density", "sparsity", "compression", "flops", "size")
ON_A_MODEL = ("flops", "size")
"""Targets that mean a density only on a model."""


class StageChecker(Declarations):
    """Checks stages; ``names`` finds the passes that they name."""

    def __init__(self, findings: Findings, names: PassNames) -> None:
        super().__init__(findings)
        self.names = names
        self.stage_reader = StageReader(findings, self.reader)
        self.targets: dict[int, tuple[str, float] | None] = {}  # by the identity of the block

    def stage(self, block: Block, used: dict[str, Pass]) -> Stage | None:
        """The stage, or None after errors that are reported; its pass goes into ``used``, under the name as written."""
        before = self.findings.errors()
        settings = self.settings(block, "prune")
        self._stage_pass(block, used)
        target = self._target(block, settings)
        self.targets[id(block)] = target
        common = self.common(settings, "prune")
        select = self.word(settings, "select", "prune")
        include = self._globs(settings, "include")
        exclude = self._globs(settings, "except")
        floors = self._floors(block)
        reader = self.stage_reader
        structure = reader.structure(settings["structure"]) if "structure" in settings else None
        at = reader.at(settings["at"]) if "at" in settings else None
        rewind = reader.rewind(settings["rewind"]) if "rewind" in settings else None
        regrow = self._regrow(settings["regrow"], block) if "regrow" in settings else None
        swap_word = words.find("swap", "setting", "prune")
        swap = self.reader.fraction(settings["swap"], swap_word, zero=False) if "swap" in settings and swap_word else None
        requires = self._requires(block)
        if self.findings.errors() > before or target is None or block.label is None:
            return None
        found = Stage(
            pass_name=block.label.value,
            density=density_of(target),
            target=target,
            rounds=common.rounds,
            curve=common.curve,
            scope=common.scope,
            select=select,
            include=include,
            exclude=exclude,
            floors=floors,
            span=block.span,
            structure=structure or "unstructured",
            at=at,
            regrow=regrow,
            swap=swap,
            rewind=rewind,
            requires=requires,
        )
        return found if self._together(found, settings) else None

    def _stage_pass(self, block: Block, used: dict[str, Pass]) -> None:
        if block.label is None:
            known = "write prune synflow { ... }; 'pkc passes' lists the passes"
            self.findings.error("PKC118", "this prune names no pass", block.name.span, "expected the name of a pass", known)
            return
        self.names.find(block.label.value, block.label.span, used)

    def _target(self, block: Block, settings: dict[str, Setting]) -> tuple[str, float] | None:
        given = [name for name in TARGETS if name in settings]
        if len(given) > 1:
            shown = " and ".join(f"'{g}'" for g in given)
            span = settings[given[-1]].name.span
            self.findings.error(
                "PKC113", f"a stage has one target, not {len(given)}: {shown}", span, "a second target", "keep one of them"
            )
        if not given and not block.damaged:
            label = f" {block.label.value}" if block.label else ""
            note = "add a line: sparsity = 90%, density = 10% or compression = 10x"
            self.findings.error("PKC113", f"prune{label} has no target", block.name.span, "how far?", note)
        read = [(name, self._amount(settings[name], name)) for name in given]
        if len(read) != 1 or read[0][1] is None:
            return None
        return read[0][0], read[0][1]

    def _amount(self, item: Setting, name: str) -> float | None:
        word = words.find(name, "setting", "prune")
        assert word is not None
        if name == "compression":
            return self.reader.factor(item, word)
        if name == "size":
            return self.stage_reader.bytes(item)
        value = self.reader.fraction(item, word, zero=name == "sparsity")
        if value == 1 and name == "sparsity":
            note = "write sparsity = 99%"
            self.findings.error(
                "PKC106", "sparsity = 100% would leave no weight", item.values[0].span, "must be less than 100%", note
            )
            return None
        return value

    def _globs(self, settings: dict[str, Setting], name: str) -> tuple[str, ...]:
        word = words.find(name, "setting", "prune")
        return self.reader.globs(settings[name], word) if name in settings and word else ()

    def _floors(self, block: Block) -> tuple[tuple[str, float], ...]:
        word = words.find("floor", "labelled", "prune")
        assert word is not None
        found: dict[str, float] = {}
        for item in block.items:
            if not isinstance(item, Labelled) or item.name.value != "floor":
                continue
            glob = item.label.value
            if isinstance(item.label, Name):
                note = f'write floor "{glob}" = 20%'
                self.findings.error("PKC118", "the glob of a floor stands in double quotes", item.label.span, "not a text", note)
            elif glob in found:
                self.findings.error(
                    "PKC107",
                    f"floor {print_expr(item.label)} is given twice",
                    item.label.span,
                    "given before",
                    "delete one of them",
                )
            value = self.reader.fraction(item, word, zero=True)
            found[glob] = value or 0.0
        return tuple(found.items())

    def _requires(self, block: Block) -> tuple[tuple[str, float], ...]:
        """``require effective_paths = 1000``: what must not fall below a number."""
        known = [w.name for w in words.rows("value", "require")]
        word = words.find("require", "labelled", "prune")
        assert word is not None
        found: dict[str, float] = {}
        for item in block.items:
            if not isinstance(item, Labelled) or item.name.value != "require":
                continue
            name = item.label.value
            if isinstance(item.label, Name) and name in known and name not in found:
                value = self.reader.count(item, word, 1, MAX_REQUIRED)
                found[name] = float(value or 0)
            elif name in found:
                message = f"require {print_expr(item.label)} is given twice"
                self.findings.error("PKC107", message, item.label.span, "given before", "delete one of them")
            else:
                close = suggest(name, known)
                note = f"did you mean '{close}'?" if close else "write require effective_paths = 1000"
                message = f"require {print_expr(item.label)}"
                self.findings.error("PKC105", message, item.label.span, f"must be {' | '.join(known)}", note)
        return tuple(found.items())

    def _regrow(self, item: Setting, block: Block) -> Pass | None:
        """A score, an expression with the axis [param], as a pass."""
        value, scope, before = self.reader.one(item), Scope(), self.findings.errors()
        if value is None:
            return None
        facts = KindChecker(scope, self.findings).facts(value)
        if facts.axes is not None and facts.axes != PARAM:
            message = f"regrow is {show_axes(facts.axes)}"
            note = "write regrow = abs(grad(loss, theta))"
            self.findings.error("PKC111", message, value.span, "must have one value per parameter: [param]", note)
        if self.findings.errors() > before:
            return None
        name = block.label.value if block.label else ""
        return Pass(f"{name}-regrow", "", "", (), value, Typer(scope).typed(value), "", needs_data=facts.data)

    def _together(self, stage: Stage, settings: dict[str, Setting]) -> bool:
        """Whether the settings of a stage go together; the first that does not is reported (``PKC421``)."""
        for word, message, label, note in conflicts(stage):
            span = settings[word].name.span if word in settings else stage.span
            self.findings.error("PKC421", message, span, label, note)
            return False
        return True


MAX_REQUIRED = 10**18
"""The largest number of paths that a stage may require."""


def conflicts(stage: Stage) -> list[tuple[str, str, str, str]]:
    """(setting, message, label, remedy) of every pair of settings that exclude each other."""
    at = stage.at or At("start")
    target, kind = stage.target[0], stage.structure.partition("(")[0]
    shaped = stage.structure != "unstructured"
    grouped = shaped and kind != "block"
    local = stage.scope not in (None, "global")
    published = stage.select == "kth_le"
    checks = [
        (stage.rounds is not None and bool(at.visits), "rounds", "rounds and visits in training", "the visits are the rounds",
         "leave out rounds"),
        (stage.rewind is not None and at.kind == "start", "rewind", "rewind in a stage before training",
         "there is nothing to go back to", "write at = end"),
        (stage.swap is not None and stage.regrow is None, "swap", "swap without regrow", "by which score do weights come back?",
         "write regrow = abs(grad(loss, theta))"),
        (stage.regrow is not None and grouped, "regrow", f"regrow in the structure {stage.structure}",
         "swaps single weights or blocks",
         "leave out regrow, or write structure = block(16, 16)"),
        (published and shaped, "structure", f"structure = {stage.structure} and select = kth_le",
         "the published rule knows no structures", "write select = exact"),
        (published and target in ON_A_MODEL, target, f"{target} and select = kth_le", "the published rule counts weights",
         "write select = exact"),
        (local and target in ON_A_MODEL, target, f"{target} and scope = {stage.scope}", "one budget for the whole network",
         "write scope = global"),
        (local and kind == "channel", "structure", f"structure = channel and scope = {stage.scope}",
         "coupled layers lose a unit together", "write scope = global"),
    ]  # fmt: skip
    return [(word, message, label, note) for wrong, word, message, label, note in checks if wrong]


def density_of(target: tuple[str, float]) -> float:
    """The density that a target means, nan where only a model tells; 1 - 0.98 is 0.02, not 0.020000000000000018."""
    word, value = target
    if word in ON_A_MODEL:
        return math.nan
    if word == "compression":
        return 1 / value
    return value if word == "density" else round(1 - value, 15)
