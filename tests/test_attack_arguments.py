"""The attack on the command line in short: every vector ends in a result, a diagnosis or a usage error, and leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from benchmarks.attack import arguments as attacks
from pkcompiler.usercode import parse_arguments


def test_a_few_hundred_vectors(tmp_path: Path) -> None:
    found = list(attacks.attack(tmp_path, 150, Random(7)))
    assert [seen for _, seen in found if seen.kind in attacks.FAULTS] == []
    assert {seen.kind for _, seen in found} == set(attacks.GOOD)


def test_the_attack_sees_each_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def seen(command: Callable[[], int]) -> str:
        monkeypatch.setattr(attacks, "_run", lambda arguments: command())
        kind = attacks.outcome(tmp_path, ("pkc",), {}).kind
        attacks.restore(tmp_path, {})
        return kind

    def left() -> int:
        Path("half.json").touch()
        return 2

    def ran() -> int:
        Path("RAN").touch()
        return 0

    def control() -> int:
        print("\x1b[31m")
        return 0

    assert seen(lambda: 1 // 0) == "traceback"
    assert [seen(c) for c in (left, ran, control, lambda: 1)] == ["left", "ran", "escape", "silent"]
    assert [seen(c) for c in (lambda: 0, lambda: attacks.REACHED, lambda: 2)] == ["done", "reached", "usage"]


def test_what_the_values_of_arguments_mean() -> None:
    given = ["a=false", "b=True", "c=NONE", "d=1e-3", "e=-4", "f=(1, 2)", "g=relu", 'h="false"', "i=", "j=007", "k=" + "(" * 300]
    found = parse_arguments(given)
    assert list(found.values())[:6] == [False, True, None, 1e-3, -4, (1, 2)]
    assert list(found.values())[6:] == ["relu", "false", "", "007", "(" * 300]
