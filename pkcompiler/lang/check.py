"""A document to checked passes and schedules: every error of a file at once, no model, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pkcompiler.diagnostics import Diagnostic, PkcError, Span
from pkcompiler.lang import words
from pkcompiler.lang.ast import Block, Document, Expr, Item, Labelled, Name, Pass, Schedule, Setting, Stage, Text
from pkcompiler.lang.format import print_expr, print_item
from pkcompiler.lang.kinds import PARAM, Facts, KindChecker, Scope, show_axes
from pkcompiler.lang.printing import number_of, schedule_block
from pkcompiler.lang.report import Findings
from pkcompiler.lang.settings import MAX_ROUNDS, MAX_SEED, SettingReader
from pkcompiler.lang.words import Word

Resolve = Callable[[str], Pass]
_TARGETS = ("density", "sparsity", "compression")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a document declares. A declaration with an error is left out."""

    passes: tuple[Pass, ...]
    schedules: tuple[Schedule, ...]
    diagnostics: tuple[Diagnostic, ...]


def check(document: Document, resolve: Resolve, *, library: bool = False) -> Checked:
    """Check every declaration. ``resolve`` finds a pass that the file does not declare; ``library``: a pass must name its source."""
    checker = _Checker(document, resolve, library)
    return checker.run()


class _Checker:
    def __init__(self, document: Document, resolve: Resolve, library: bool) -> None:
        self.document, self.resolve, self.library = document, resolve, library
        self.findings = Findings()
        self.reader = SettingReader(self.findings)
        self.passes: dict[str, Pass] = {}
        self.declared: set[str] = set()

    def run(self) -> Checked:
        blocks = self._blocks()
        for block in blocks:
            if block.name.value == "pass":
                self._keep(self._pass(block))
        schedules = tuple(s for b in blocks if b.name.value == "schedule" and (s := self._schedule(b)) is not None)
        ordered = sorted(self.findings.items, key=lambda d: d.span.start if d.span else 0)
        return Checked(tuple(self.passes.values()), schedules, tuple(ordered))

    def _keep(self, found: Pass | None) -> None:
        if found is not None:
            self.passes.setdefault(found.name, found)

    def _blocks(self) -> list[Block]:
        """The declarations of this version, each name once."""
        blocks: list[Block] = []
        for item in self.document.items:
            if not isinstance(item, Block):
                self._stray(item)
                continue
            word = self._block_word(item, "file")
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

    def _block_word(self, block: Block, of: str) -> Word | None:
        """The row of a block's kind, if it may stand here in this version."""
        name = block.name.value
        if name == "?":
            return None
        word = words.find(name, "block", of)
        if word is not None and word.due:
            return word
        if word is not None:
            self.findings.later(word, block.name.span)
            return None
        elsewhere = next((w for w in words.WORDS if w.name == name and w.role == "block"), None)
        if elsewhere is not None:
            places = " or ".join("a file" if p == "file" else f"a {p}" for p in elsewhere.of)
            label = f"belongs in {places}"
            self.findings.error(
                "PKC118", f"'{name}' cannot stand here", block.name.span, label, f"write it in {places}: {elsewhere.example}"
            )
            return None
        if any(words.find(name, role, of) for role in ("setting", "labelled")):
            self._wrong_shape(block, of)
            return None
        known = [w.name for w in words.rows("block", of)] + ([w.name for w in words.rows("setting", of)] if of != "file" else [])
        self.findings.unknown("PKC101", "declaration", name, block.name.span, known)
        return None

    def _wrong_shape(self, item: Item, of: str) -> None:
        name = item.name.value
        word = words.find(name, "setting", of) or words.find(name, "labelled", of) or words.find(name, "block", of)
        assert word is not None
        shape = {"setting": "setting = value", "labelled": "keyword LABEL = value", "block": "kind NAME { ... }"}[word.role]
        self.findings.error(
            "PKC118", f"'{name}' has another shape: {shape}", item.name.span, "wrong shape", f"write {word.example}"
        )

    def _has_name(self, block: Block) -> bool:
        if isinstance(block.label, Name):
            return True
        example = words.find(block.name.value, "block", "file")
        note = f"write {example.example}" if example else ""
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

    # Passes

    def _pass(self, block: Block) -> Pass | None:
        before = len(self._errors())
        settings = self._settings(block, "pass")
        scope = Scope(damaged=block.damaged)
        kinds = KindChecker(scope, self.findings)
        lets = self._lets(block, scope, kinds)
        score, facts = self._score(block, settings.get("score"), kinds)
        source = self._source(block, settings)
        doc = self._text(settings, "doc", "pass")
        order = self._word(settings, "order", "pass")
        mode = self._word(settings, "mode", "pass")
        among = self._word(settings, "among", "pass")
        common = self._common(settings, "pass")
        self._unused(scope, lets)
        if len(self._errors()) > before or block.damaged or score is None:
            return None
        assert isinstance(block.label, Name)
        return Pass(
            name=block.label.value,
            source=source or "",
            doc=doc or "",
            lets=tuple(lets),
            score=score,
            text=print_item(_bare(block)),
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

    def _errors(self) -> list[Diagnostic]:
        return [d for d in self.findings.items if d.severity == "error"]

    def _settings(self, block: Block, of: str) -> dict[str, Setting]:
        """The settings of a block by name, unknown words, wrong shapes and repetitions reported."""
        found: dict[str, Setting] = {}
        for item in block.items:
            name = item.name.value
            if isinstance(item, Block):
                self._inner_block(item, of)
                continue
            role = "setting" if isinstance(item, Setting) else "labelled"
            word = words.find(name, role, of)
            if word is None:
                self._unknown_setting(item, of, role)
            elif not word.due:
                self.findings.later(word, item.name.span)
            elif isinstance(item, Setting) and name in found:
                note = "delete one of them"
                self.findings.error("PKC107", f"'{name}' is given twice", item.name.span, "given before", note)
            elif isinstance(item, Setting):
                found[name] = item
        return found

    def _inner_block(self, block: Block, of: str) -> None:
        """Blocks inside a block are read by their owner; here only those that may not stand there are reported."""
        self._block_word(block, of)

    def _unknown_setting(self, item: Setting | Labelled, of: str, role: str) -> None:
        name = item.name.value
        if any(words.find(name, r, of) for r in ("setting", "labelled", "block")):
            other = next(w for r in ("setting", "labelled", "block") if (w := words.find(name, r, of)))
            if not other.due:
                self.findings.later(other, item.name.span)
                return
            self._wrong_shape(item, of)
            return
        elsewhere = [w for w in words.WORDS if w.name == name and w.role in ("setting", "labelled")]
        known = [w.name for r in ("setting", "labelled", "block") for w in words.rows(r, of)]
        if elsewhere:
            places = " or ".join(f"a {p}" for w in elsewhere for p in w.of)
            note = f"move it into {places}, or delete it"
            message = f"'{name}' is no setting of a {of}"
            self.findings.error("PKC102", message, item.name.span, f"belongs in {places}", note)
            return
        self.findings.unknown("PKC102", "setting", name, item.name.span, known, where=f" of a {of}")

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

    def _unused(self, scope: Scope, lets: list[tuple[str, Expr]]) -> None:
        for name, expr in lets:
            if name not in scope.used and not scope.damaged:
                self.findings.warning(
                    "PKC116", f"'{name}' is never used", expr.span, "computed for nothing", f"delete let {name} = ..."
                )

    def _score(self, block: Block, item: Setting | None, kinds: KindChecker) -> tuple[Expr | None, Facts]:
        if item is None:
            self._missing(block, "score", "pass")
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
                "PKC111", f"a score of kind {show_axes(facts.axes)}", score.span, "must have one value per parameter: [param]", note
            )
        return score, facts

    def _missing(self, block: Block, name: str, of: str) -> None:
        if block.damaged or any(i.name.value == name for i in block.items):
            return
        word = words.find(name, "setting", of)
        example = f"add a line: {word.example}" if word else ""
        label = block.label.value if block.label else ""
        self.findings.error("PKC108", f"{of} '{label}' has no {name}", block.name.span, f"'{name}' is missing", example)

    def _source(self, block: Block, settings: dict[str, Setting]) -> str | None:
        if "source" in settings:
            return self._text(settings, "source", "pass")
        if block.damaged:
            return None
        message = f"pass '{block.label.value if block.label else ''}' names no source"
        note = 'add a line: source = "where the criterion was published"'
        report = self.findings.error if self.library else self.findings.warning
        report("PKC115", message, block.name.span, "'source' is missing", note)
        return None

    # Settings

    def _text(self, settings: dict[str, Setting], name: str, of: str) -> str | None:
        word = words.find(name, "setting", of)
        return self.reader.text(settings[name], word) if name in settings and word else None

    def _word(self, settings: dict[str, Setting], name: str, of: str) -> str | None:
        word = words.find(name, "setting", of)
        return self.reader.word(settings[name], word) if name in settings and word else None

    def _common(self, settings: dict[str, Setting], of: str) -> _Common:
        rounds, curve = words.find("rounds", "setting", of), words.find("curve", "setting", of)
        assert rounds is not None and curve is not None
        return _Common(
            self.reader.count(settings["rounds"], rounds, 1, MAX_ROUNDS) if "rounds" in settings else None,
            self.reader.curve(settings["curve"], curve) if "curve" in settings else None,
            self._word(settings, "scope", of),
        )

    # Schedules

    def _schedule(self, block: Block) -> Schedule | None:
        before = len(self._errors())
        settings = self._settings(block, "schedule")
        seed_word, data_word = words.find("seed", "setting", "schedule"), words.find("data", "setting", "schedule")
        assert seed_word is not None and data_word is not None
        seed = self.reader.count(settings["seed"], seed_word, 0, MAX_SEED) if "seed" in settings else None
        data = self.reader.data(settings["data"], data_word) if "data" in settings else None
        blocks = [i for i in block.items if isinstance(i, Block) and i.name.value == "prune"]
        used: dict[str, Pass] = {}
        stages = [self._stage(b, used) for b in blocks]
        self._tightening(blocks, stages)
        if not blocks and not block.damaged:
            name = block.label.value if block.label else ""
            note = "add a stage: prune synflow { sparsity = 90% }"
            self.findings.error("PKC108", f"schedule '{name}' prunes nothing", block.name.span, "no 'prune' in it", note)
        if "data" not in settings and not block.damaged:
            self._reads_data(blocks, used)
        whole = tuple(s for s in stages if s is not None)
        if len(self._errors()) > before or block.damaged or len(whole) < len(stages):
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
        before = len(self._errors())
        settings = self._settings(block, "prune")
        self._stage_pass(block, used)
        target = self._target(block, settings)
        common = self._common(settings, "prune")
        select = self._word(settings, "select", "prune")
        include = self._globs(settings, "include")
        exclude = self._globs(settings, "except")
        floors = self._floors(block)
        if len(self._errors()) > before or target is None or block.label is None:
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
        label = block.label.value
        if label in used:
            return
        if f"pass {label}" in self.declared:
            if label in self.passes:
                used[label] = self.passes[label]
            return
        try:
            used[label] = self.resolve(label)
        except PkcError as error:
            first = error.diagnostics[0]
            note = first.notes[-1] if first.notes else "'pkc passes' lists the passes"
            close = words.suggest(label, list(self.passes))
            note = f"did you mean '{close}'?" if close else note
            message = first.message if first.span is None else f"pass file '{label}' has an error: {first.message}"
            note = note if first.span is None else f"'pkc check {label}' shows it"
            self.findings.error(first.code if first.span is None else "PKC117", message, block.label.span, "not usable", note)

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

    def _tightening(self, blocks: list[Block], stages: list[Stage | None]) -> None:
        """Each stage starts from the mask that the last one left, so its target may not be looser."""
        reached: Stage | None = None
        for block, stage in zip(blocks, stages, strict=True):
            if stage is None:
                continue
            if reached is not None and stage.density > reached.density * (1 + 1e-12):
                self._looser(block, stage, reached)
                continue
            reached = stage

    def _looser(self, block: Block, stage: Stage, reached: Stage) -> None:
        word = stage.target[0]
        span: Span | None = next((i.span for i in block.items if i.name.value == word), block.span)
        message = (
            f"{show_target(stage.target)} is looser than {show_target(reached.target)}, which '{reached.pass_name}' has reached"
        )
        label = f"density {stage.density:.6g} after density {reached.density:.6g}"
        note = f"write {show_target(_as(word, reached.density))} or a tighter target, or reorder the stages"
        self.findings.error("PKC114", message, span, label, note)


@dataclass(frozen=True, slots=True)
class _Common:
    rounds: int | None
    curve: str | None
    scope: str | None


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


def _bare(item: Block) -> Block:
    """The block without spans, so that it prints without comments and empty lines."""
    inner = tuple(_bare(i) if isinstance(i, Block) else replace(i, span=None) for i in item.items)
    return replace(item, items=inner, span=None)
