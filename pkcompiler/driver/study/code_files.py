"""The files that a study's own code consists of, found without running any of it: part of what determines a cell."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import cast

from pkcompiler.usercode import parse_spec
from pkcompiler.usermodules import is_installed

MOST = 1000
"""Files that are followed; a folder that holds more is no study's own code."""


def placed(spec: str, folder: Path, what: str = "model") -> str:
    """A spec that a study writes, with its file relative to ``folder``, as one to be used from anywhere. Raises ``PKC240``."""
    parsed = parse_spec(spec, what)
    if not parsed.is_file:
        return spec
    path = (folder / parsed.place).resolve()
    return f"{path}:{parsed.name}" if parsed.name else str(path)


def source_hashes(spec: str) -> dict[str, str]:
    """The sha256 of a spec's file and of every file that it imports, and these import, by name; of none that is installed.

    Imports are followed as Python finds them when the file runs: beside it, relative to its package, on the path, and as editable
    installs. A file that cannot be read or parsed counts with its bytes alone: running it is what reports it.
    """
    return _named(source_files(spec), [parse_spec(spec).folder, *(Path(entry).resolve() for entry in sys.path)])


def source_files(spec: str) -> dict[Path, str]:
    """The same by the files themselves."""
    parsed = parse_spec(spec)
    path = [str(parsed.folder), *sys.path]
    found: dict[Path, str] = {}
    left = [Path(parsed.place).resolve()] if parsed.is_file else _files(parsed.place, path)
    while left and len(found) < MOST:
        file = left.pop()
        if file in found or not file.is_file():
            continue
        content = file.read_bytes()
        found[file] = sha256(content).hexdigest()
        if file.suffix == ".py":
            left += _imported(file, content, path)
    return found


def _imported(file: Path, content: bytes, path: list[str]) -> Iterator[Path]:
    """The files of what a source imports."""
    for level, name in _imports(content):
        if level:
            yield from _files(name, [str([file, *file.parents][min(level, len(file.parents))])])
        else:
            yield from _files(name, path)
            yield from _files(name, [str(file.parent)])


def _files(name: str, path: list[str]) -> list[Path]:
    """The files of a dotted module and of the packages on its way, the first that the folders hold; none of what is installed."""
    found: list[Path] = []
    where: list[str] | None = path
    for part in name.split("."):
        spec = PathFinder.find_spec(part, where) or (_elsewhere(part) if where is path else None)
        if spec is None:
            break
        if spec.has_location and spec.origin:
            if is_installed(Path(spec.origin)):
                break
            found.append(Path(spec.origin).resolve())
        where = list(spec.submodule_search_locations or ())
        if not where:
            break
    return found


def _elsewhere(name: str) -> ModuleSpec | None:
    """What finders know that packages have installed, such as those of editable installs."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is None or finder is PathFinder:
            continue
        with suppress(Exception):
            if (spec := find(name, None)) is not None:
                return cast(ModuleSpec, spec)
    return None


def _imports(content: bytes) -> Iterator[tuple[int, str]]:
    """Dots and name of what a source imports anywhere, ``a.b`` for ``from a import b`` too; nothing where it does not parse."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, f"{node.module}.{alias.name}" if node.module else alias.name) for alias in node.names)


def _named(found: Mapping[Path, str], roots: Sequence[Path]) -> dict[str, str]:
    """The hashes by the files' names below the first folder that holds them; several of one name are numbered."""
    named: dict[str, str] = {}
    for file in sorted(found):
        root = next((root for root in roots if file.is_relative_to(root)), file.parent)
        name = plain = file.relative_to(root).as_posix()
        number = 1
        while name in named:
            number += 1
            name = f"{plain} ({number})"
        named[name] = found[file]
    return named
