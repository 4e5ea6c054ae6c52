"""Every error code that the source raises is explained, and every explained code is raised."""

from __future__ import annotations

import re
from pathlib import Path

from pkcompiler.codes import CODES

SOURCE = Path(__file__).parents[1] / "pkcompiler"


def test_codes_and_explanations_are_the_same_set():
    files = [f for f in SOURCE.rglob("*.py") if f.parent.name != "codes"]
    raised = {code for f in files for code in re.findall(r"PKC\d{3}", f.read_text(encoding="utf-8"))}
    assert raised == set(CODES)
