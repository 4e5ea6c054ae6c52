"""The modules that the user's code imports: a file meets those of its own folder, a piece of work leaves none behind. No torch."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

_kept: dict[Path, dict[str, ModuleType]] = {}
"""By folder: the modules that stand in ``sys.modules`` only while code of that folder runs, for others have their names."""
_read: dict[Path, str] = {}
"""The files of the user's modules with the sha256 that they had when they were imported."""


@cache
def is_installed(file: Path) -> bool:
    """Whether a file belongs to Python, to an installed package or to this one, not to the user."""
    if not {"site-packages", "dist-packages"}.isdisjoint(file.parts):
        return True
    libraries = (Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib"))
    return file.is_relative_to(Path(__file__).parent) or any(file.is_relative_to(library) for library in libraries)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Inside, imports find what lies in ``folder`` first, and never a module of another folder that has the name of one there."""
    folder = folder.resolve()
    before = dict(sys.modules)
    sys.path.insert(0, str(folder))
    others = _others(folder)
    aside = _taken(others)
    for name, module in _kept.pop(folder, {}).items():
        sys.modules.setdefault(name, module)
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name, module in sys.modules.copy().items():
            if before.get(name) is not module:
                _note(module)
        if aside:
            _kept[folder] = _taken(others)
            sys.modules.update(aside)


@contextmanager
def fresh() -> Iterator[dict[Path, str]]:
    """What is imported of the user's modules inside is dropped afterwards; ``sys.path`` and the working directory are as before.

    Yields the files of these modules with the sha256 that each had when it was imported; it is filled at the end.
    """
    modules, path, here, kept = dict(sys.modules), list(sys.path), Path.cwd(), dict(_kept)
    read: dict[Path, str] = {}
    _kept.clear()
    _read.clear()
    try:
        yield read
    finally:
        for name, module in sys.modules.copy().items():
            if modules.get(name) is module or not _places(module):
                continue
            _note(module)
            del sys.modules[name]
            if name in modules:
                sys.modules[name] = modules[name]
        read.update(_read)
        _kept.clear()
        _kept.update(kept)
        sys.path[:] = path
        os.chdir(here)


def _others(folder: Path) -> set[str]:
    """The first parts of the names of modules that are here, but that the path of now finds in another file."""
    path = [str(folder), *sys.path]
    here = [(name, file) for name, module in sys.modules.copy().items() for file in _places(module)[:1] if file.is_file()]
    return {name.partition(".")[0] for name, file in here if (found := _file(name, path)) is not None and found != file}


def _taken(tops: Iterable[str]) -> dict[str, ModuleType]:
    """The modules of these names, and what lies in them, taken out of ``sys.modules``."""
    wanted = set(tops)
    names = [name for name in sys.modules if name.partition(".")[0] in wanted] if wanted else []
    return {name: sys.modules.pop(name) for name in names}


def _file(name: str, path: Sequence[str]) -> Path | None:
    """The file in which the path finds a module, without running anything."""
    where, origin = list(path), None
    for part in name.split("."):
        spec = PathFinder.find_spec(part, where) if where else None
        if spec is None:
            return None
        origin, where = spec.origin if spec.has_location else None, list(spec.submodule_search_locations or ())
    return Path(origin).resolve() if origin else None


def _places(module: ModuleType) -> list[Path]:
    """The file of a module of the user's, or the folders of a package without one; nothing for any other module."""
    names = getattr(module, "__dict__", {})
    if names.get("__name__") in ("__main__", "__mp_main__"):
        return []
    file = names.get("__file__")
    texts = [file] if isinstance(file, str) else list(names.get("__path__") or ())
    places = [_place(text) for text in texts if isinstance(text, str)]
    return [] if None in places else [place for place in places if place is not None]


@cache
def _place(text: str) -> Path | None:
    """A file or a folder of the user's; None for one that is installed, and for what is no place."""
    place = Path(text)
    return None if not place.is_absolute() or is_installed(place) else place.resolve()


def _note(module: ModuleType) -> None:
    """Remember the file of a module as it is now."""
    for file in _places(module):
        if file not in _read and file.is_file():
            _read[file] = sha256(file.read_bytes()).hexdigest()
