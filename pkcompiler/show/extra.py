"""The plotting libraries are an extra: what is missing is said with the line that installs it."""

from __future__ import annotations

from importlib.util import find_spec

from pkcompiler.diagnostics import fail

INSTALL = "pip install 'pkcompiler[plot]', or: pip install 'bokeh>=3.7' 'matplotlib>=3.9'"


def need(package: str, what: str) -> None:
    """Raise ``PKC632`` where ``package`` is not installed; ``what`` is drawn with it."""
    if find_spec(package) is None:
        raise fail("PKC632", f"{what} needs {package}, which is not installed", INSTALL)
