"""The files that a study's own code consists of, found without running any of it: part of what determines a cell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from hashlib import sha256
from importlib.machinery import PathFinder
from pathlib import Path

from pkcompiler.usercode import UserSpec, parse_spec

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
    """The sha256 of a spec's file and of every file beside it that it imports, and these import, by name.

    Empty for what is installed. A file that cannot be read or parsed counts with its bytes alone: running it is what reports it.
    """
    parsed = parse_spec(spec)
    start = _start(parsed)
    if start is None:
        return {}
    root = parsed.folder
    found: dict[Path, str] = {}
    left = [start]
    while left and len(found) < MOST:
        file = left.pop()
        if file in found or not file.is_file():
            continue
        content = file.read_bytes()
        found[file] = sha256(content).hexdigest()
        left += [path for name in _imports(content) for path in _files(name, {root, file.parent})]
    return {_shown(file, root): found[file] for file in sorted(found)}


def _start(spec: UserSpec) -> Path | None:
    """The file that a spec names; None where it is a module that does not lie in the current folder."""
    if spec.is_file:
        return Path(spec.place).resolve()
    return next(
        (path for path in _files(spec.place, {spec.folder}) if path.stem == spec.stem or path.parent.name == spec.stem), None
    )


def _files(name: str, roots: set[Path]) -> list[Path]:
    """The files of a dotted module and of the packages on its way, where they lie in one of the folders."""
    found: list[Path] = []
    for root in sorted(roots):
        where = [str(root)]
        for part in name.split("."):
            spec = PathFinder.find_spec(part, where)
            if spec is None:
                break
            if spec.has_location and spec.origin and spec.origin.endswith(".py"):
                found.append(Path(spec.origin).resolve())
            where = list(spec.submodule_search_locations or ())
            if not where:
                break
    return found


def _imports(content: bytes) -> Iterator[str]:
    """The modules that a source imports anywhere, ``a.b`` for ``from a import b`` too; nothing where it does not parse."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def _shown(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
