"""``manifest.json`` of an artifact: what it holds, what it was made from, the hash of every other file. Written last.

Its schema is published beside this file as ``manifest.schema.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkcompiler.diagnostics import Diagnostic, PkcError, fail
from pkcompiler.files import read_object, sha256_of

MANIFEST = "manifest.json"
FORMAT = "pkcompiler artifact"
FORMAT_VERSION = 2
"""2: the gates of the printed graph carry their gain."""

MASKS, WEIGHTS, CONSTANTS = "masks.safetensors", "weights.safetensors", "constants.safetensors"
SCHEDULE, GRAPH, REPORT, README = "schedule.pkc", "graph.pkir", "report.json", "README.txt"
NEEDED = (MASKS, WEIGHTS, SCHEDULE, GRAPH, REPORT, README)
SPARSE = "sparse.safetensors"
KNOWN = (*NEEDED, CONSTANTS, SPARSE)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact, its shape checked; keys that this version does not know are left alone.

    Raises ``PKC624`` (no artifact), ``PKC625`` (written by a newer version), ``PKC627`` (a manifest that is none).
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise _no_artifact(folder)
    found = read_object(path)
    if found is None:
        raise _malformed(folder, "it is no JSON object")
    version = found.get("format_version")
    if found.get("format") != FORMAT or type(version) is not int or version < 1:
        raise _malformed(folder, f"it does not name the format '{FORMAT}' and its version")
    if version > FORMAT_VERSION:
        raise fail(
            "PKC625",
            f"'{folder}' has format version {version}, this pkcompiler reads up to {FORMAT_VERSION}",
            "use a newer one: pip install --upgrade pkcompiler",
        )
    if problem := _problem(found):
        raise _malformed(folder, problem)
    return found


def check_files(folder: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Every file that the manifest names has its hash; returns the names of files that it does not name.

    Raises ``PKC626``, one diagnostic for each file that is missing or was changed.
    """
    named: Mapping[str, str] = manifest["files"]
    found = [d for name, expected in named.items() if (d := _fault(folder, name, expected))]
    if found:
        raise PkcError(*found)
    return tuple(sorted(p.name for p in folder.iterdir() if p.name not in named and p.name != MANIFEST))


def _fault(folder: Path, name: str, expected: str) -> Diagnostic | None:
    again = "copy the folder again, or make it anew: pkc prune ... --force"
    path = folder / name
    if not path.is_file() or path.is_symlink():
        return Diagnostic("PKC626", f"'{name}' is missing from the artifact '{folder}'", notes=(again,))
    if sha256_of(path) != expected:
        return Diagnostic("PKC626", f"'{name}' of the artifact '{folder}' is damaged: its hash is another", notes=(again,))
    return None


def _problem(found: Mapping[str, Any]) -> str:
    """What is wrong with the entries that are read here; empty when nothing is."""
    files, parameters = found.get("files"), found.get("parameters")
    if not isinstance(files, dict) or not all(isinstance(h, str) for h in files.values()):
        return "'files' must map file names to hashes"
    if strange := [name for name in files if not _plain(name)]:
        return f"'files' names {strange[0]!r}, which is no plain file name"
    if missing := [name for name in NEEDED if name not in files]:
        return f"'files' lacks {', '.join(missing)}"
    if not isinstance(parameters, dict) or not all(_is_row(row) for row in parameters.values()):
        return "'parameters' must map names to shape, size and kept"
    return next((f"'{key}' is missing" for key in ("model", "recipe", "total", "kept") if key not in found), "")


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("shape"), list)
        and all(type(n) is int for n in row["shape"])
        and all(type(row.get(key)) is int for key in ("size", "kept"))
    )


def _plain(name: str) -> bool:
    return bool(name) and name == Path(name).name and name not in (".", "..") and "\\" not in name


def _no_artifact(folder: Path) -> PkcError:
    if not folder.exists():
        beside = sorted(p.parent.name for p in folder.parent.glob(f"*/{MANIFEST}")) if folder.parent.is_dir() else []
        hint = (
            f"artifacts beside it: {', '.join(beside[:5])}"
            if beside
            else "make one: pkc prune model.py --pass synflow-l2 --sparsity 90%"
        )
        return fail("PKC624", f"there is no folder '{folder}'", hint)
    what = f"'{folder}' holds no {MANIFEST}" if folder.is_dir() else f"'{folder}' is a file, an artifact is a folder"
    return fail("PKC624", f"{what}, so it is no artifact", "give the folder that pkc prune has written")


def _malformed(folder: Path, problem: str) -> PkcError:
    return fail(
        "PKC627", f"the {MANIFEST} of '{folder}' cannot be used: {problem}", "make the artifact anew: pkc prune ... --force"
    )
