"""A block ``schedule NAME { ... }`` to a checked Schedule."""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.diagnostics import Span
from pkcompiler.lang import words
from pkcompiler.lang.ast import At, Block, Labelled, Name, Pass, Schedule, Stage, Text
from pkcompiler.lang.check.settings import SEEDS
from pkcompiler.lang.check.stage import ON_A_MODEL, StageChecker, density_of
from pkcompiler.lang.syntax.format import print_expr
from pkcompiler.lang.syntax.print_schedule import at_expr, number_of, schedule_block


class ScheduleChecker(StageChecker):
    """Checks schedules; ``names`` finds the passes that they name."""

    def declare(self, block: Block) -> Schedule | None:
        """The schedule, or None after errors that are reported."""
        before = self.findings.errors()
        settings = self.settings(block, "schedule")
        seed_word, data_word = words.find("seed", "setting", "schedule"), words.find("data", "setting", "schedule")
        assert seed_word is not None and data_word is not None
        seed = self.reader.count(settings["seed"], seed_word, SEEDS[0], SEEDS[-1]) if "seed" in settings else None
        data = self.reader.data(settings["data"], data_word) if "data" in settings else None
        blocks = [i for i in block.items if isinstance(i, Block) and i.name.value == "prune"]
        used: dict[str, Pass] = {}
        stages = [self.stage(b, used) for b in blocks]
        self._tightening(blocks)
        self._in_time([(b, s) for b, s in zip(blocks, stages, strict=True) if s is not None])
        lower = self._lower([i for i in block.items if isinstance(i, Block) and i.name.value == "lower"])
        if not blocks and not block.damaged:
            name = block.label.value if block.label else ""
            note = "add a stage: prune synflow { sparsity = 90% }"
            self.findings.error("PKC108", f"schedule '{name}' prunes nothing", block.name.span, "no 'prune' in it", note)
        if "data" not in settings and not block.damaged:
            self._reads_data(blocks, stages, used)
        whole = tuple(s for s in stages if s is not None)
        if self.findings.errors() > before or block.damaged or len(whole) < len(stages):
            return None
        assert isinstance(block.label, Name)
        found = Schedule(block.label.value, seed, data, whole, "", tuple(used.items()), lower, block.span)
        return replace(found, text=schedule_block(found))

    def _reads_data(self, blocks: list[Block], stages: list[Stage | None], used: dict[str, Pass]) -> None:
        """A warning only: the data may still come from the command line or from the caller."""
        for block, stage in zip(blocks, stages, strict=True):
            label = block.label.value if block.label else ""
            scores = label in used and used[label].needs_data
            if scores or (stage is not None and stage.regrow is not None and stage.regrow.needs_data):
                what = f"pass '{label}'" if scores else f"what '{label}' regrows by"
                span = block.label.span if block.label else None
                message = f"{what} reads data, and the schedule names none"
                self.findings.warning("PKC121", message, span, "reads data", "add a line: data = digits(per_class = 10)")
                return

    def _tightening(self, blocks: list[Block]) -> None:
        """Each stage starts from the mask that the last one left, so its target may not be looser than one that is comparable."""
        reached: dict[str, tuple[Block, tuple[str, float]]] = {}
        for block in blocks:
            target = self.targets[id(block)]
            if target is None:
                continue
            quantity = target[0] if target[0] in ON_A_MODEL else "density"
            before = reached.get(quantity)
            if before is not None and _left(target) > _left(before[1]) * (1 + 1e-12):
                self._looser(block, target, *before)
                continue
            reached[quantity] = block, target

    def _in_time(self, stages: list[tuple[Block, Stage]]) -> None:
        """Stages run in order: none before training after one in it, and visits of one kind in order."""
        before: tuple[Block, At] | None = None
        for block, stage in stages:
            at = stage.at or At("start")
            if before is not None and _too_early(before[1], at):
                name = before[0].label.value if before[0].label else "an earlier stage"
                span = next((i.span for i in block.items if i.name.value == "at"), block.name.span)
                shown = f"at = {print_expr(at_expr(at))}"
                message = f"{shown} comes after the stage '{name}' at = {print_expr(at_expr(before[1]))}"
                note = "stages run in the order of the text: reorder them, or run this one later"
                self.findings.error("PKC421", message, span, "earlier in training", note)
            before = block, at

    def _lower(self, blocks: list[Block]) -> tuple[tuple[str, str], ...]:
        """The structures that ``lower`` demands of the masks that its globs name."""
        found: dict[str, str] = {}
        for block in blocks:
            self.settings(block, "lower")
            if block.label is not None or block is not blocks[0]:
                span = block.label.span if block.label else block.name.span
                message = "'lower' has no name" if block.label else "'lower' is given twice"
                note = "write lower { ... }" if block.label else "put all of it into one"
                self.findings.error("PKC118" if block.label else "PKC107", message, span, "one is enough", note)
            for item in block.items:
                if isinstance(item, Labelled) and item.name.value == "structure":
                    self._demand(item, found)
        return tuple(found.items())

    def _demand(self, item: Labelled, found: dict[str, str]) -> None:
        structure = self.stage_reader.structure(item)
        glob = item.label.value
        if not isinstance(item.label, Text):
            note = f'write structure "{glob}" = 2:4'
            self.findings.error("PKC118", "the glob of a structure stands in double quotes", item.label.span, "not a text", note)
        elif glob in found:
            message = f"structure {print_expr(item.label)} is given twice"
            self.findings.error("PKC107", message, item.label.span, "given before", "delete one of them")
        elif structure in ("channel", "unstructured"):
            note = f'write structure "{glob}" = 2:4, or block(16, 16)'
            self.findings.error(
                "PKC105", f"structure = {structure} in lower", item.values[0].span, "demands nothing of a mask", note
            )
        elif structure is not None:
            found[glob] = structure

    def _looser(self, block: Block, target: tuple[str, float], before: Block, reached: tuple[str, float]) -> None:
        word = target[0]
        span: Span | None = next((i.span for i in block.items if i.name.value == word), block.span)
        stage = before.label.value if before.label else "an earlier stage"
        message = f"{show_target(target)} is looser than {show_target(reached)}, which '{stage}' has reached"
        label = f"{_amount(target)} after {_amount(reached)}"
        note = f"write {show_target(_as(word, _left(reached)))} or a tighter target, or reorder the stages"
        self.findings.error("PKC114", message, span, label, note)


def show_target(target: tuple[str, float]) -> str:
    """``sparsity = 98%``, ``compression = 50x``."""
    return f"{target[0]} = {print_expr(number_of(target))}"


def _left(target: tuple[str, float]) -> float:
    """What is left at a target, of the quantity that it names."""
    return target[1] if target[0] in ON_A_MODEL else density_of(target)


def _amount(target: tuple[str, float]) -> str:
    return show_target(target) if target[0] in ON_A_MODEL else f"density {density_of(target):.6g}"


def _as(word: str, left: float) -> tuple[str, float]:
    return word, {"compression": 1 / left, "sparsity": round(1 - left, 15)}.get(word, left)


_ORDER = {"start": 0, "epochs": 1, "steps": 1, "end": 2}


def _too_early(before: At, at: At) -> bool:
    if before.kind == at.kind:
        return bool(at.visits) and at.first <= before.last
    return _ORDER[at.kind] < _ORDER[before.kind]
