"""A block ``schedule NAME { ... }`` to a checked Schedule."""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.diagnostics import Span
from pkcompiler.lang import words
from pkcompiler.lang.ast import Block, Labelled, Name, Pass, Schedule, Setting, Stage
from pkcompiler.lang.declare import Declarations
from pkcompiler.lang.format import print_expr
from pkcompiler.lang.pass_names import PassNames
from pkcompiler.lang.printing import number_of, schedule_block
from pkcompiler.lang.report import Findings
from pkcompiler.lang.settings import MAX_SEED

_TARGETS = ("density", "sparsity", "compression")


class ScheduleChecker(Declarations):
    """Checks schedules; ``names`` finds the passes that they name."""

    def __init__(self, findings: Findings, names: PassNames) -> None:
        super().__init__(findings)
        self.names = names
        self.targets: dict[int, tuple[str, float] | None] = {}  # by the identity of the block

    def declare(self, block: Block) -> Schedule | None:
        before = self.findings.errors()
        settings = self.settings(block, "schedule")
        seed_word, data_word = words.find("seed", "setting", "schedule"), words.find("data", "setting", "schedule")
        assert seed_word is not None and data_word is not None
        seed = self.reader.count(settings["seed"], seed_word, 0, MAX_SEED) if "seed" in settings else None
        data = self.reader.data(settings["data"], data_word) if "data" in settings else None
        blocks = [i for i in block.items if isinstance(i, Block) and i.name.value == "prune"]
        used: dict[str, Pass] = {}
        stages = [self._stage(b, used) for b in blocks]
        self._tightening(blocks)
        if not blocks and not block.damaged:
            name = block.label.value if block.label else ""
            note = "add a stage: prune synflow { sparsity = 90% }"
            self.findings.error("PKC108", f"schedule '{name}' prunes nothing", block.name.span, "no 'prune' in it", note)
        if "data" not in settings and not block.damaged:
            self._reads_data(blocks, used)
        whole = tuple(s for s in stages if s is not None)
        if self.findings.errors() > before or block.damaged or len(whole) < len(stages):
            return None
        assert isinstance(block.label, Name)
        found = Schedule(block.label.value, seed, data, whole, "", tuple(used.items()), block.span)
        return replace(found, text=schedule_block(found))

    def _reads_data(self, blocks: list[Block], used: dict[str, Pass]) -> None:
        """A warning only: the data may still come from the command line or from the caller."""
        for block in blocks:
            label = block.label.value if block.label else ""
            if label in used and used[label].needs_data:
                message = f"pass '{label}' reads data, and the schedule names none"
                span = block.label.span if block.label else None
                self.findings.warning("PKC121", message, span, "reads data", "add a line: data = digits(per_class = 10)")
                return

    def _stage(self, block: Block, used: dict[str, Pass]) -> Stage | None:
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
        if self.findings.errors() > before or target is None or block.label is None:
            return None
        return Stage(
            block.label.value,
            _density(target),
            target,
            common.rounds,
            common.curve,
            common.scope,
            select,
            include,
            exclude,
            floors,
            block.span,
        )

    def _stage_pass(self, block: Block, used: dict[str, Pass]) -> None:
        if block.label is None:
            known = "write prune synflow { ... }; 'pkc passes' lists the passes"
            self.findings.error("PKC118", "this prune names no pass", block.name.span, "expected the name of a pass", known)
            return
        self.names.find(block.label.value, block.label.span, used)

    def _target(self, block: Block, settings: dict[str, Setting]) -> tuple[str, float] | None:
        given = [name for name in _TARGETS if name in settings]
        later = any(i.name.value in ("flops", "size") for i in block.items)
        if len(given) > 1:
            shown = " and ".join(f"'{g}'" for g in given)
            span = settings[given[-1]].name.span
            self.findings.error(
                "PKC113", f"a stage has one target, not {len(given)}: {shown}", span, "a second target", "keep one of them"
            )
        if not given and not block.damaged and not later:
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

    def _tightening(self, blocks: list[Block]) -> None:
        """Each stage starts from the mask that the last one left, so its target may not be looser."""
        reached: tuple[Block, tuple[str, float]] | None = None
        for block in blocks:
            target = self.targets[id(block)]
            if target is None:
                continue
            if reached is not None and _density(target) > _density(reached[1]) * (1 + 1e-12):
                self._looser(block, target, *reached)
                continue
            reached = block, target

    def _looser(self, block: Block, target: tuple[str, float], before: Block, reached: tuple[str, float]) -> None:
        word = target[0]
        span: Span | None = next((i.span for i in block.items if i.name.value == word), block.span)
        stage = before.label.value if before.label else "an earlier stage"
        message = f"{show_target(target)} is looser than {show_target(reached)}, which '{stage}' has reached"
        label = f"density {_density(target):.6g} after density {_density(reached):.6g}"
        note = f"write {show_target(_as(word, _density(reached)))} or a tighter target, or reorder the stages"
        self.findings.error("PKC114", message, span, label, note)


def show_target(target: tuple[str, float]) -> str:
    """``sparsity = 98%``, ``compression = 50x``."""
    return f"{target[0]} = {print_expr(number_of(target))}"


def _density(target: tuple[str, float]) -> float:
    """The density that a target means; 1 - 0.98 is 0.02, not 0.020000000000000018."""
    word, value = target
    if word == "compression":
        return 1 / value
    return value if word == "density" else round(1 - value, 15)


def _as(word: str, density: float) -> tuple[str, float]:
    return word, 1 / density if word == "compression" else density if word == "density" else round(1 - density, 15)
