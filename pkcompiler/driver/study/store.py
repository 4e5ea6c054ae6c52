"""The files of cells: written whole or not at all, read back where they are whole."""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, Any

from pkcompiler.diagnostics import fail
from pkcompiler.files import barred, bears, json_text, locked, make_folder, read_object, sha256_of, special, write_whole
from pkcompiler.pruning.recipe import recipe_hash
from pkcompiler.schema import problem

CELLS = "cells"
LOCK = "lock"
TOKEN = "pkc study works in this folder\n"
HASH, SCHEMA = "sha256", "driver/study/cell.schema.json"
"""The entry of a cell's file that holds the hash of all others, and what these are."""
LARGEST = 1.8e308
"""Numbers of columns are doubles."""
Record = dict[str, Any]
"""What a file of a cell holds: docs/studies.md lists the entries."""


def write_cell(folder: Path, file: str, record: Record) -> None:
    """Write a cell's file into ``folder``."""
    write_whole(folder / file, json_text({**record, HASH: recipe_hash(record)}), durable=False)


def read_cell(folder: Path, file: str, key: str) -> Record | None:
    """The record of a cell; None where there is no file, or one that is damaged, another cell's, or of code that has changed."""
    found = read_object(folder / file)
    if (
        found is None
        or found.pop(HASH, None) != recipe_hash(found)
        or problem(found, SCHEMA)
        or found["key"] != key
        or not _measured(found)
    ):
        return None
    imported = found.get("imported", {})
    if any(_changed(folder / name, digest) for name, digest in imported.items()):
        return None
    return found


def _measured(record: Record) -> bool:
    """Whether the lines of analyses that become columns hold numbers."""
    lines = [line for lines in record.get("analyses", {}).values() for line in lines.values()]
    series = [line.get("values") for line in lines if "axes" in line]
    numbers = [line.get("value", "") for line in lines if "log10" in line and "axes" not in line]
    if not all(isinstance(values, list) for values in series):
        return False
    return all(value is None or (type(value) in (int, float) and abs(value) < LARGEST) for value in [*chain(*series), *numbers])


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


def hold(out: Path) -> IO[str]:
    """The folder of a study and that of its cells, made where they are not there, and locked as long as the file is open.

    Raises ``PKC481`` for a folder that no study has made, ``PKC623`` where another process is at work there, and OSError.
    """
    if os.path.lexists(out) and (fault := barred(out / LOCK)) is not None:
        raise fail("PKC481", fault, "give another folder: -o DIR")
    if strange := _strange(out):
        raise fail("PKC481", f"'{out}' is no folder of a study: there is '{strange}'", "give another folder: -o DIR")
    make_folder(out)
    lock = locked(out / LOCK, TOKEN)
    try:
        (out / CELLS).mkdir(exist_ok=True)
    except OSError:
        lock.close()
        raise
    return lock


def _strange(out: Path) -> str:
    """What shows that a folder is not a study's; '' where it is one, or may become one."""
    if not os.path.lexists(out):
        return ""
    if bears(out / LOCK, TOKEN):
        cells = os.listdir(out / CELLS) if os.path.isdir(out / CELLS) else []
        return next((str(out / CELLS / name) for name in sorted(cells) if special(out / CELLS / name) is not None), "")
    if not out.is_dir():
        return str(out)
    names = sorted(os.listdir(out))
    begun = names == [LOCK] and (out / LOCK).is_file() and not (out / LOCK).stat().st_size
    return "" if begun or not names else str(out / next((name for name in names if name not in (LOCK, CELLS)), names[0]))
