"""tests/text/*.pkc: ``# CHECK: line:column CODE message | help`` at the end of each file lists every finding, in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkcompiler.diagnostics import Diagnostic, position
from pkcompiler.lang.library import check_files

FILES = sorted((Path(__file__).parents[1] / "text").glob("*.pkc"))


def _line(diagnostic: Diagnostic) -> str:
    assert diagnostic.span is not None
    line, column, *_ = position(diagnostic.span)
    kind = "" if diagnostic.severity == "error" else f"{diagnostic.severity} "
    return f"{line}:{column} {diagnostic.code} {kind}{diagnostic.message} | {diagnostic.notes[-1]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_findings_of_a_file_are_exactly_those_listed(path: Path) -> None:
    marks = [line.removeprefix("# CHECK: ") for line in path.read_text().splitlines() if line.startswith("# CHECK: ")]
    assert [_line(d) for d in check_files([str(path)])] == marks


def test_there_are_files() -> None:
    assert len(FILES) >= 8
