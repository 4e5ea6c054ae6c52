"""Bytes on disk: hashes, and files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from pkcompiler.diagnostics import PkcError, fail

UNFINISHED = ".unfinished"


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes in hexadecimal, read in pieces of 1 MiB."""
    digest = sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_whole(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Write beside ``path`` and rename, so that a reader never sees half of it. ``durable``: also survive a power failure."""
    beside = path.with_name(path.name + UNFINISHED)
    with beside.open("wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    os.replace(beside, path)


def json_text(data: object) -> str:
    """Indented JSON with a last newline; refuses NaN and infinities."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None where there is none, or something else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def unwritable(path: Path, error: OSError) -> PkcError:
    """``PKC620``: the system's own words, and another place to write to."""
    reason = error.strerror or str(error)
    return fail("PKC620", f"cannot write '{path}': {reason}", "give a folder that can be written: -o DIR")
