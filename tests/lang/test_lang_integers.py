"""Whole numbers of texts: what is out of range is a code at its own line and caret, and every seed that is taken is read again."""

from __future__ import annotations

import pytest

from pkcompiler.diagnostics import PkcError, position
from pkcompiler.lang.library import find_schedule, find_study, print_schedule

SCHEDULE = (
    "schedule s {{\n  seed = 1\n  data = digits(per_class = 2)\n  prune {pass_} {{\n    density = 50%\n    {line}\n  }}\n}}\n"
)
STUDY = 'study s {{\n  model = "m.py"\n  passes = synflow\n  compression = 10\n  {line}\n  train = "t.py:train"\n}}\n'
HUGE = ["18446744073709551616", "1" + "0" * 30, "1" + "0" * 400, "1e300", "1e400"]
SETTINGS = {
    "seed": ("  seed = 1", "  seed = {}", [*HUGE, "2.5", "-9223372036854775809"]),
    "per_class": ("per_class = 2", "per_class = {}", [*HUGE, "2.5", "0", "-1"]),
    "count": ("per_class = 2", "count = {}", [*HUGE, "2.5", "0", "-1"]),
    "batch": ("per_class = 2", "per_class = 2, batch = {}", [*HUGE, "2.5", "0", "-1"]),
    "rounds": ("LINE", "rounds = {}", [*HUGE, "2.5", "0", "-1"]),
    "require": ("LINE", "require effective_paths {}", [*HUGE, "2.5", "0", "-1"]),
    "ratio": ("LINE", "structure = {}:4", [*HUGE, "2.5", "0", "-1"]),
    "block": ("LINE", "structure = block({}, 2)", [*HUGE, "2.5", "0", "-1"]),
    "moment": ("LINE", "at = epochs({})", [*HUGE, "2.5", "0", "-1"]),
    "moments": ("LINE", "at = epochs(1..{})", [*HUGE, "2.5", "0", "-1"]),
    "study-rounds": ("STUDY", "rounds = {}", [*HUGE, "2.5", "0", "-1"]),
    "seeds": ("STUDY", "seeds = {}", [*HUGE, "2.5", "-9223372036854775809", "0..10000", "2..1"]),
}
SEEDS = [-(2**63), -1, 0, 2**63 - 1, 2**63, 2**64 - 1]


def text_of(setting: str, number: str) -> str:
    place, written, _ = SETTINGS[setting]
    line = written.format(number)
    if place == "STUDY":
        return STUDY.format(line=line if setting == "seeds" else f"seeds = 0 {line}")
    text = SCHEDULE.format(pass_="magnitude", line="LINE").replace(place, line)
    return text.replace("LINE", "")


@pytest.mark.parametrize(("setting", "number"), [(s, n) for s, (_, _, numbers) in SETTINGS.items() for n in numbers])
def test_what_is_out_of_range_has_a_place(setting: str, number: str) -> None:
    text = text_of(setting, number)
    with pytest.raises(PkcError) as caught:
        (find_study if SETTINGS[setting][0] == "STUDY" else find_schedule)(text)
    found = caught.value.diagnostics[0]
    assert found.span is not None and found.notes
    line, column, *_ = position(found.span)
    assert number.split("..")[0].lstrip("-") in text.splitlines()[line - 1][: found.span.end], (found, column)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_seed_of_the_command_line_is_one_of_the_language(seed: int) -> None:
    found = find_schedule(text_of("seed", str(seed)))
    assert found.seed == seed and find_schedule(print_schedule(found)) == found
    assert find_study(text_of("seeds", str(seed))).seeds == (seed,)


def test_ranges_of_seeds_have_signs() -> None:
    assert find_study(text_of("seeds", "-1..1")).seeds == (-1, 0, 1)
