"""``manifest.json`` of an artifact: what it holds, what it was made from, the hash of every other file. Written last.

Its schema is published beside this file as ``manifest.schema.json``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkcompiler import schema
from pkcompiler.diagnostics import Diagnostic, PkcError, fail, raise_all, typed_or_called
from pkcompiler.files import hidden, parse_json, reason, sha256_of, special
from pkcompiler.pruning.recipe import recipe_hash

MANIFEST = "manifest.json"
FORMAT = "pkcompiler artifact"
FORMAT_VERSION = 3
"""2: the gates of the printed graph carry their gain. 3: the manifest holds its own hash."""
OWN_HASH = 3
SCHEMA = "artifact/manifest.schema.json"

MASKS, WEIGHTS, CONSTANTS = "masks.safetensors", "weights.safetensors", "constants.safetensors"
SCHEDULE, GRAPH, REPORT, README = "schedule.pkc", "graph.pkir", "report.json", "README.txt"
README_BEGINS = "A sparse network: "
NEEDED = (MASKS, WEIGHTS, SCHEDULE, GRAPH, REPORT, README)
SPARSE = "sparse.safetensors"
KNOWN = (*NEEDED, CONSTANTS, SPARSE)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact, every entry checked; keys that this version does not know are left alone.

    Raises ``PKC624`` (no artifact), ``PKC625`` (written by a newer version), ``PKC627`` (a manifest that is none, or was changed).
    """
    path = folder / MANIFEST
    if os.path.islink(path):
        raise _malformed(folder, "it is a symbolic link, and none is followed")
    if (kind := special(path)) is not None:
        raise _malformed(folder, f"it is {kind}")
    if not os.path.isfile(path):
        raise _no_artifact(folder)
    found = _object(folder, path)
    version = found.get("format_version")
    if found.get("format") != FORMAT or type(version) is not int or version < 1:
        raise _malformed(folder, f"it does not name the format '{FORMAT}' and its version")
    if version > FORMAT_VERSION:
        raise fail(
            "PKC625",
            f"'{folder}' has format version {version}, this pkcompiler reads up to {FORMAT_VERSION}",
            "use a newer one: pip install --upgrade pkcompiler",
        )
    if problem := schema.problem(found, SCHEMA) or _changed(found, version) or _miscounted(found):
        raise _malformed(folder, problem)
    return found


def _object(folder: Path, path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise _malformed(folder, f"it is no JSON: {error}") from None
    except OSError as error:
        raise _malformed(folder, f"it cannot be read: {reason(error)}") from None
    if not isinstance(found, dict):
        raise _malformed(folder, "it is no JSON object")
    return found


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """sha256 of all entries but ``sha256``."""
    return recipe_hash({key: value for key, value in manifest.items() if key != "sha256"})


def _changed(found: Mapping[str, Any], version: int) -> str:
    """What shows that a manifest is not as it was written."""
    if version >= OWN_HASH and "sha256" not in found:
        return "it lacks 'sha256', its own hash"
    if "sha256" in found and found["sha256"] != manifest_hash(found):
        return "it was changed: its hash is another than the 'sha256' in it"
    if found["recipe_sha256"] != recipe_hash(found["recipe"]):
        return "the hash of 'recipe' is another than 'recipe_sha256'"
    return ""


def _miscounted(found: Mapping[str, Any]) -> str:
    """Sizes, sums and files that contradict each other."""
    if strange := [name for name in found["files"] if name == MANIFEST]:
        return f"'files' names '{strange[0]}', which holds it"
    rows = found["parameters"]
    for name, row in rows.items():
        if math.prod(row["shape"]) != row["size"] or row["kept"] > row["size"]:
            return f"'parameters' says that '{name[:60]}' has shape {row['shape']}, size {row['size']} and {row['kept']} kept"
    for word, key in (("total", "size"), ("kept", "kept")):
        if found[word] != (count := sum(row[key] for row in rows.values())):
            return f"'{word}' is {found[word]}, and the parameters add up to {count}"
    if found.get("by_position", 0) > found["kept"]:
        return f"'by_position' is {found['by_position']} of {found['kept']} kept"
    return ""


def check_files(folder: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Every file that the manifest names has its hash; returns the names of files that it does not name.

    Raises ``PKC626``, one diagnostic for each file that is missing or was changed.
    """
    named: Mapping[str, str] = manifest["files"]
    raise_all(d for name, expected in named.items() if (d := _fault(folder, name, expected)))
    return tuple(sorted(p.name for p in folder.iterdir() if p.name not in named and p.name != MANIFEST))


def anew() -> str:
    """What writes an artifact once more."""
    return typed_or_called("pkc prune ... --force", "prune(...).save(FOLDER)")


def _fault(folder: Path, name: str, expected: str) -> Diagnostic | None:
    path = folder / name
    try:
        fault = _unlike(path, expected)
    except OSError as error:
        fault = f"cannot be read: {reason(error)}"
    return Diagnostic("PKC626", f"'{name}' of the artifact '{folder}' {fault}", notes=(_again(path),)) if fault else None


def _again(path: Path) -> str:
    """How to come by an artifact that is whole, where this file is not. A run replaces no folder that holds links or folders."""
    if os.path.islink(path):
        return f"copy the folder with what its links point to: cp -rL '{path.parent}' NEW"
    if os.path.isdir(path):
        return f"move '{path}' away, then copy the folder again, or make it anew: {anew()}"
    return f"copy the folder again, or make it anew: {anew()}"


def _unlike(path: Path, expected: str) -> str:
    if os.path.islink(path):
        return "is a symbolic link, and none is followed"
    if not os.path.lexists(path):
        return "is missing"
    if not os.path.isfile(path):
        return "is no ordinary file"
    return "" if sha256_of(path) == expected else "is damaged: its hash is another"


def _no_artifact(folder: Path) -> PkcError:
    if (why := hidden(folder / MANIFEST)) is not None:
        return fail("PKC624", f"'{folder}' cannot be read: {why}", "give a folder that can be read")
    if not os.path.exists(folder):
        beside = sorted(p.parent.name for p in folder.parent.glob(f"*/{MANIFEST}")) if os.path.isdir(folder.parent) else []
        hint = (
            f"artifacts beside it: {', '.join(beside[:5])}"
            if beside
            else "make one: " + typed_or_called("pkc prune model.py --pass synflow-l2 --sparsity 90%", "prune(...).save(FOLDER)")
        )
        return fail("PKC624", f"there is no folder '{folder}'", hint)
    what = f"'{folder}' holds no {MANIFEST}" if os.path.isdir(folder) else f"'{folder}' is a file, an artifact is a folder"
    return fail("PKC624", f"{what}, so it is no artifact", "give the folder that pkc prune has written")


def _malformed(folder: Path, problem: str) -> PkcError:
    return fail("PKC627", f"the {MANIFEST} of '{folder}' cannot be used: {problem}", _again(folder / MANIFEST))
