"""The checkpoint of a training run: one file, written whole or not at all, read without running anything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.files import make_folder, special, unwritable, write_whole
from pkcompiler.training.tree import PLAIN, from_bytes, to_bytes

MOST = 6
"""How many differences are told."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``recipe``: what a run must have in common with the one that wrote the file, word by word."""

    path: Path
    recipe: Mapping[str, Any]

    def write(self, tree: Mapping[str, Any]) -> None:
        """Replace the file. Raises ``PKC620`` where it cannot be written, ``PKC457`` for a state that is no plain value."""
        try:
            make_folder(self.path.parent)
            write_whole(self.path, to_bytes({"recipe": self.recipe, **tree}))
        except OSError as error:
            raise unwritable(self.path, error, "file") from None

    def read(self, resume: bool) -> dict[str, Any] | None:
        """What was written last; None where there is nothing yet.

        Raises ``PKC455`` where there is something and ``resume`` is False, ``PKC456`` for a damaged file, ``PKC454`` for the
        checkpoint of another run.
        """
        if not os.path.lexists(self.path):
            return None
        if not resume:
            remedy = f"resume=True goes on with it; to start anew: rm '{self.path}'"
            raise fail("PKC455", f"the checkpoint '{self.path}' exists", remedy)
        if (kind := special(self.path)) is not None:
            raise self.damaged(f"it is {kind}")
        try:
            tree = from_bytes(self.path.read_bytes())
        except (OSError, ValueError) as error:
            raise self.damaged(str(error)) from None
        before = tree.get("recipe")
        if not isinstance(before, dict) or not _is_plain(before):
            raise self.damaged("it holds no recipe")
        self._same(before)
        return tree

    def _same(self, before: Mapping[str, Any]) -> None:
        keys = [k for k in {**self.recipe, **before} if self.recipe.get(k) != before.get(k)]
        if not keys:
            return
        lines = [_difference(key, before.get(key), self.recipe.get(key)) for key in _telling(keys)]
        if len(lines) > MOST:
            lines[MOST - 1 :] = [f"and {len(lines) - MOST + 1} more"]
        remedy = f"make it as it was to go on, give another checkpoint, or start anew: rm '{self.path}'"
        raise fail("PKC454", f"the checkpoint '{self.path}' is of another run: {lines[0]}", *lines[1:], remedy)

    def damaged(self, reason: str) -> PkcError:
        """``PKC456``: what is wrong with the file, in a line."""
        first = next(iter(reason.splitlines()), "")
        remedy = "give a checkpoint that cycles(..., checkpoint=PATH) has written, or another path to start anew"
        return fail("PKC456", f"'{self.path}' is no checkpoint of training: {first[:200]}", remedy)


def _is_plain(value: object) -> bool:
    """Whether a value is plain, or lists and mappings by name of such."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return all(map(_is_plain, value)) if isinstance(value, list) else isinstance(value, PLAIN)


def _telling(keys: Sequence[str]) -> list[str]:
    """Without the settings of what is of another class, and with lists of names only where nothing else tells."""
    found = [k for k in keys if not any(k != other and k.startswith((f"{other}.", f"len({other}.")) for other in keys)]
    return [k for k in found if k != "others"] or found


def _difference(key: str, before: object, now: object) -> str:
    """``epochs was 5, and is 6``; of texts and mappings the first line in which they differ."""
    if before is None or now is None:
        return f"{key} was {_told(before)}, and is {_told(now)}"
    was, is_ = (_lines(value) for value in (before, now))
    place = next((i for i, (a, b) in enumerate(zip(was, is_, strict=False)) if a != b), min(len(was), len(is_)))
    old, new = (_short(lines[place]) if place < len(lines) else "at its end" for lines in (was, is_))
    if len(was) == len(is_) == 1:
        return f"{key} was {old}, and is {new}"
    return f"{key} differs: it was {old}, and is {new}"


def _told(value: object) -> str:
    return "not known" if value is None else _short(str(value))


def _lines(value: object) -> list[str]:
    if isinstance(value, dict):
        return [f"{name} {part}" for name, part in value.items()] or [""]
    return str(value).splitlines() or [""]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
