"""The files of cells: written whole or not at all, read back where they are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pkcompiler.diagnostics import fail
from pkcompiler.pruning.files import UNFINISHED, read_object, write_whole

CELLS = "cells"
LOCK = "lock"
STATUSES = ("done", "collapsed", "failed")
Record = dict[str, Any]
"""What a file of a cell holds: docs/studies.md lists the entries."""


def write_cell(folder: Path, file: str, record: Record) -> None:
    """Write a cell's file into ``folder``."""
    write_whole(folder / file, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", durable=False)


def read_cell(folder: Path, file: str, key: str) -> Record | None:
    """The record of a cell; None where there is no file, or one that is damaged or another cell's."""
    found = read_object(folder / file)
    if found is None or found.get("key") != key or found.get("status") not in STATUSES:
        return None
    return found


def prepare(out: Path) -> Path:
    """The folder of cells, made where it is not there, without what an ended process left half-written. Raises ``PKC481``."""
    strange = "" if not out.exists() or out.is_dir() else str(out)
    if out.is_dir() and any(out.iterdir()) and not (out / CELLS).is_dir():
        strange = next(str(p) for p in out.iterdir())
    if strange:
        raise fail("PKC481", f"'{out}' is no folder of a study: there is '{strange}'", "give another folder: -o DIR")
    cells = out / CELLS
    cells.mkdir(parents=True, exist_ok=True)
    for left in cells.glob("*" + UNFINISHED):
        left.unlink(missing_ok=True)
    return cells
