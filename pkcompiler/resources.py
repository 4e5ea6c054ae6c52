"""The only file that knows where ``grammar/`` and ``passes/`` lie (installed: inside the package; in a checkout: beside it)."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pkcompiler.diagnostics import fail


def folder(name: str) -> Traversable:
    """The resource folder ``name`` (``grammar`` or ``passes``)."""
    beside = files("pkcompiler") / name
    if beside.is_dir():
        return beside
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise fail("PKC601", f"the installation lacks its folder '{name}'", "reinstall pkcompiler")


def read(name: str, file: str) -> str:
    """The text of one resource, e.g. ``read("grammar", "language.lark")``."""
    return (folder(name) / file).read_text(encoding="utf-8")
