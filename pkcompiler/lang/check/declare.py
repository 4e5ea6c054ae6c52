"""What all declarations share: which words may stand in a block, in which shape, and their common settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pkcompiler.lang import words
from pkcompiler.lang.ast import Block, Item, Labelled, Setting
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.check.settings import MAX_ROUNDS, SettingReader
from pkcompiler.lang.rows import Word


@dataclass(frozen=True, slots=True)
class Common:
    """The settings that a pass and a stage share; None where not given."""

    rounds: int | None
    curve: str | None
    scope: str | None


class Declarations:
    """Reads the words of one block; everything wrong goes to ``findings``."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.reader = SettingReader(findings)

    def block_word(self, block: Block, of: str) -> Word | None:
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
            places = " or ".join(article(p) for p in elsewhere.of)
            label = f"belongs in {places}"
            self.findings.error(
                "PKC118", f"'{name}' cannot stand here", block.name.span, label, f"write it in {places}: {elsewhere.line}"
            )
            return None
        if any(words.find(name, role, of) for role in ("setting", "labelled")):
            self._wrong_shape(block, of)
            return None
        known = [w.name for w in words.rows("block", of)]
        known += [w.name for w in words.rows("setting", of)] if of != "file" else []
        self.findings.unknown("PKC101", "declaration", name, block.name.span, known)
        return None

    def _wrong_shape(self, item: Item, of: str) -> None:
        name = item.name.value
        word = words.find(name, "setting", of) or words.find(name, "labelled", of) or words.find(name, "block", of)
        assert word is not None
        shape = {"setting": "setting = value", "labelled": "keyword LABEL = value", "block": "kind NAME { ... }"}[word.role]
        self.findings.error("PKC118", f"'{name}' has another shape: {shape}", item.name.span, "wrong shape", f"write {word.line}")

    def settings(self, block: Block, of: str) -> dict[str, Setting]:
        """The settings of a block by name, unknown words, wrong shapes and repetitions reported."""
        found: dict[str, Setting] = {}
        for item in block.items:
            name = item.name.value
            if isinstance(item, Block):
                self.block_word(item, of)
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
            places = " or ".join(article(p) for w in elsewhere for p in w.of)
            note = f"move it into {places}, or delete it"
            message = f"'{name}' is no setting of {article(of)}"
            self.findings.error("PKC102", message, item.name.span, f"belongs in {places}", note)
            return
        self.findings.unknown("PKC102", "setting", name, item.name.span, known, where=f" of {article(of)}")

    def missing(self, block: Block, name: str, of: str) -> None:
        """Report a required setting that is not there."""
        if block.damaged or any(i.name.value == name for i in block.items):
            return
        word = words.find(name, "setting", of)
        example = f"add a line: {word.line}" if word else ""
        label = block.label.value if block.label else ""
        self.findings.error("PKC108", f"{of} '{label}' has no {name}", block.name.span, f"'{name}' is missing", example)

    def text(self, settings: dict[str, Setting], name: str, of: str) -> str | None:
        """The text of a setting, where given."""
        word = words.find(name, "setting", of)
        return self.reader.text(settings[name], word) if name in settings and word else None

    def word(self, settings: dict[str, Setting], name: str, of: str) -> str | None:
        """The word of a setting, where given."""
        word = words.find(name, "setting", of)
        return self.reader.word(settings[name], word) if name in settings and word else None

    def common(self, settings: dict[str, Setting], of: str) -> Common:
        """Rounds, curve and scope, where given."""
        rounds, curve = words.find("rounds", "setting", of), words.find("curve", "setting", of)
        assert rounds is not None and curve is not None
        return Common(
            self.reader.count(settings["rounds"], rounds, 1, MAX_ROUNDS) if "rounds" in settings else None,
            self.reader.curve(settings["curve"], curve) if "curve" in settings else None,
            self.word(settings, "scope", of),
        )


def article(place: str) -> str:
    """``a pass``, ``an analysis``."""
    return f"{'an' if place[0] in 'aeiou' else 'a'} {place}"


def bare(item: Block) -> Block:
    """The block without spans, so that it prints without comments and empty lines."""
    inner = tuple(bare(i) if isinstance(i, Block) else replace(i, span=None) for i in item.items)
    return replace(item, items=inner, span=None)
