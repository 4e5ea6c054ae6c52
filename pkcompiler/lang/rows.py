"""Rows of the table of words, and what is done with their names. The table itself is ``lang/words.py``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Word:
    """One row."""

    name: str
    role: str  # block | setting | labelled | function | argument | name | value
    of: tuple[str, ...]
    doc: str
    kind: str = ""
    default: str = ""
    example: str = ""
    due: bool = True
    required: bool = False

    @property
    def line(self) -> str:
        """The example as one whole line."""
        return self.example + " ... }" if self.role == "block" else self.example


def merged(rows: Iterable[Word]) -> tuple[Word, ...]:
    """Rows that say the same of one name become one, which stands where the first did, in all their places."""
    found: dict[Word, tuple[str, ...]] = {}
    for row in rows:
        bare = replace(row, of=())
        found[bare] = tuple(dict.fromkeys((*found.get(bare, ()), *row.of)))
    return tuple(replace(bare, of=of) for bare, of in found.items())


def suggest(name: str, known: list[str], cutoff: float = 0.6) -> str:
    """The known word that ``name`` was probably meant to be, or ''. ``cutoff``: how alike they are, at most 1."""
    from difflib import get_close_matches

    close = get_close_matches(name[:60].lower().replace("_", "-"), [k.replace("_", "-") for k in known], 1, cutoff)
    return next((k for k in known if close and k.replace("_", "-") == close[0]), "")


def plain(text: str) -> str:
    """``text`` as a name of the language: letters, digits and hyphens."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text)
    parts = [p for p in kept.split("-") if p]
    name = "-".join(parts)
    return name if name[:1].isalpha() else f"my-{name}".rstrip("-")
