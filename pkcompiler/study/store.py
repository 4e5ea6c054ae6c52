"""The files of cells: written whole or not at all, read back where they are whole."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from pkcompiler.diagnostics import fail
from pkcompiler.pruning.files import UNFINISHED, read_object, sha256_of, write_whole

CELLS = "cells"
LOCK = "lock"
STATUSES = ("done", "collapsed", "failed")
Record = dict[str, Any]
"""What a file of a cell holds: docs/studies.md lists the entries."""


def write_cell(folder: Path, file: str, record: Record) -> None:
    """Write a cell's file into ``folder``."""
    write_whole(folder / file, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", durable=False)


def read_cell(folder: Path, file: str, key: str) -> Record | None:
    """The record of a cell; None where there is no file, or one that is damaged, another cell's, or of code that has changed."""
    found = read_object(folder / file)
    if found is None or found.get("key") != key or found.get("status") not in STATUSES:
        return None
    imported = found.get("imported", {})
    if not isinstance(imported, dict) or any(_changed(folder / name, digest) for name, digest in imported.items()):
        return None
    return found


def _changed(file: Path, digest: str) -> bool:
    """Whether a file that code imported is another one now; one that is gone, as on another machine, cannot be compared."""
    try:
        facts = file.stat()
    except OSError:
        return False
    return _digest(file, facts.st_mtime_ns, facts.st_size) != digest


@lru_cache(maxsize=1024)
def _digest(file: Path, modified: int, size: int) -> str:
    """The sha256 of a file, read once for all cells while it stays as it is."""
    return sha256_of(file)


def prepare(out: Path) -> Path:
    """The folder of cells, made where it is not there. Raises ``PKC481``."""
    strange = "" if not os.path.exists(out) or os.path.isdir(out) else str(out)
    if os.path.isdir(out) and any(out.iterdir()) and not os.path.isdir(out / CELLS):
        strange = next(str(p) for p in out.iterdir())
    if strange:
        raise fail("PKC481", f"'{out}' is no folder of a study: there is '{strange}'", "give another folder: -o DIR")
    cells = out / CELLS
    cells.mkdir(parents=True, exist_ok=True)
    return cells


def clean(cells: Path) -> None:
    """Remove what an ended process left half-written: only for who holds the lock, for others may be at work."""
    for left in cells.glob("*" + UNFINISHED):
        left.unlink(missing_ok=True)
