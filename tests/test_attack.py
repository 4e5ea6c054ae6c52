"""The attacks of ``benchmarks/attack`` in their shortest form: kills, several processes at once, checkpoints that were changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_shortest_attack_finds_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.attack", "--short", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = ("kill", "three", "training", "rounds", "study")
    assert sum(line.startswith(rows) for line in done.stdout.splitlines()) == 6, done.stdout
