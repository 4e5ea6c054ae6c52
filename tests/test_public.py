"""The public names: complete, loaded late, and never hidden by a module of the same name."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import pkcompiler

PROMISED = {
    "lift",
    "parse_graph",
    "certify",
    "path_functional",
    "score",
    "prune",
    "lower",
    "apply_masks",
    "remove_masks",
    "analyze",
    "load",
    "PkcError",
}


def test_the_promised_names_are_public() -> None:
    assert set(pkcompiler.__all__) >= PROMISED
    assert set(dir(pkcompiler)) >= PROMISED


def test_no_module_hides_a_public_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(pkcompiler.__path__)}
    assert modules & set(pkcompiler.__all__) == set()


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prunee'"):
        _ = pkcompiler.prunee


def test_the_import_is_light() -> None:
    code = (
        "import sys, pkcompiler; print(sorted({'torch', 'numpy', 'rich', 'lark', 'click', 'sympy', 'networkx'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_every_public_name_loads() -> None:
    code = (
        "import pkcompiler, types; print([n for n in pkcompiler.__all__ if isinstance(getattr(pkcompiler, n), types.ModuleType)])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr
