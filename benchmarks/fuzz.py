"""Random and mutated ``.pkc`` texts: no traceback, at most 1 s of process time and 200 MB each.

    python benchmarks/fuzz.py                  # 10,000 texts
    python benchmarks/fuzz.py --count 500 --seed 3

A third is written by the grammar from the words of the language, a third are shipped files with tokens moved, doubled and
replaced, a third are shipped files with bytes damaged. Memory is the growth of the peak resident set (Linux). Exits with 1 where a
text breaks a bound, and prints it.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

from synflow import resident

from pkcompiler.lang import words
from pkcompiler.lang.library import check_files
from pkcompiler.render import render

ROOT = Path(__file__).parent.parent
SECONDS, MEGABYTES = 1.0, 200.0
ENDLESS = 10 * SECONDS
"""A text that is not done by then is given up: it may never be."""
TOKEN = re.compile(r'"[^"\n]*"|[A-Za-z][\w-]*|\d+(?:\.\d+)?(?:e\d+)?[%x]?|\.\.|[^\s\w]|\n')
ODD = (
    "1e9999",
    "9" * 60,
    "0",
    "-0",
    "1e-320",
    "2:4",
    "0:0",
    "7:3",
    "2..1",
    "1..999999999",
    '"',
    '"*"',
    "((((",
    "))",
    "{",
    "}",
    "\0",
    "é",
    "",
)
SETTINGS = [w for w in words.WORDS if w.role in ("setting", "labelled")]
FUNCTIONS, ARGUMENTS = ([w for w in words.WORDS if w.role == role] for role in ("function", "argument"))
NAMES = ("theta", "mask", "data", "loss", "output", "w", "R", "k", "n", "rho", "all", "each", "ones")


def shipped() -> list[str]:
    return [path.read_text(encoding="utf-8") for place in ("passes", "examples") for path in sorted((ROOT / place).rglob("*.pkc"))]


def expression(draw: Random, depth: int) -> str:
    """An expression of the grammar with words of the table, sound or not."""
    if depth <= 0 or draw.random() < 0.2:
        return draw.choice(
            [*NAMES, str(draw.randrange(100)), f"{draw.random():.3g}", f"{draw.randrange(200)}%", draw.choice(ODD[:10])]
        )
    kind = draw.random()
    if kind < 0.45:
        return f"({expression(draw, depth - 1)} {draw.choice('+-*/^')} {expression(draw, depth - 1)})"
    if kind < 0.55:
        return f"-{expression(draw, depth - 1)}"
    function = draw.choice(FUNCTIONS).name
    given = [expression(draw, depth - 1) for _ in range(draw.randrange(4))]
    named = draw.sample(ARGUMENTS, draw.randrange(3))
    given += [f"{word.name} = {expression(draw, depth - 2)}" for word in named]
    return f"{function}({', '.join(given)})"


def by_grammar(draw: Random, files: list[str]) -> str:
    blocks = []
    for _ in range(draw.randrange(1, 4)):
        kind = draw.choice(["pass", "analysis", "schedule", "study", "prune"])
        lines = []
        for _ in range(draw.randrange(8)):
            word = draw.choice(SETTINGS)
            label = " " + draw.choice([*NAMES, '"a.*"']) if word.role == "labelled" else ""
            value = word.example.partition("=")[2] if draw.random() < 0.3 else expression(draw, draw.randrange(1, 7))
            lines.append(f"  {word.name}{label} = {value}")
        if kind == "schedule":
            stage = "\n".join(lines)
            lines = [
                f"  prune {draw.choice(['synflow', 'snip', 'px', 'no-pass'])} {{\n{stage}\n  curve = {expression(draw, 6)}\n  }}"
            ]
        blocks.append(f"{kind} name{draw.randrange(3)} {{\n" + "\n".join(lines) + "\n}")
    return "\n".join(blocks)


def by_tokens(draw: Random, files: list[str]) -> str:
    tokens = TOKEN.findall(draw.choice(files))
    for _ in range(draw.randrange(1, 12)):
        at, other = draw.randrange(len(tokens)), draw.randrange(len(tokens))
        match draw.randrange(5):
            case 0:
                tokens[at] = tokens[other]
            case 1:
                tokens[at:at] = tokens[min(at, other) : max(at, other)][:40]
            case 2:
                tokens[at] = draw.choice(ODD)
            case 3:
                tokens[at] = draw.choice(words.WORDS).name
            case 4:
                tokens[at] = expression(draw, 5)
    return " ".join(tokens)


def by_bytes(draw: Random, files: list[str]) -> bytes:
    content = bytearray(draw.choice(files).encode())
    for _ in range(draw.randrange(1, 20)):
        at = draw.randrange(len(content) + 1)
        match draw.randrange(4):
            case 0:
                content[at:at] = draw.randbytes(draw.randrange(1, 5))
            case 1:
                del content[at : at + draw.randrange(1, 30)]
            case 2:
                content[at:at] = content[at : at + draw.randrange(1, 200)] * draw.randrange(1, 20)
            case 3 if at < len(content):
                content[at] ^= 1 << draw.randrange(8)
    return bytes(content)


def broken(path: Path) -> tuple[str, float, float]:
    """What a text breaks ('' for nothing), its seconds and its megabytes."""
    Path("/proc/self/clear_refs").write_text("5")
    before, start, said = resident("VmRSS"), time.process_time(), ""
    signal.setitimer(signal.ITIMER_VIRTUAL, ENDLESS)
    try:
        render(check_files([str(path)]), "text")
    except Exception:
        said = traceback.format_exc(limit=-3)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    seconds, megabytes = time.process_time() - start, (resident("VmHWM") - before) / 1024
    if not said and (seconds > SECONDS or megabytes > MEGABYTES):
        said = f"{seconds:.2f} s, {megabytes:.0f} MB"
    return said, seconds, megabytes


def _endless(number: int, frame: object) -> None:
    raise TimeoutError(f"not done after {ENDLESS} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    signal.signal(signal.SIGVTALRM, _endless)
    files, makers = shipped(), (by_grammar, by_tokens, by_bytes)
    slowest = largest = 0.0
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.pkc"
        for text in files:  # imports and caches are not the texts' own
            path.write_text(text, encoding="utf-8")
            broken(path)
        for i in range(given.count):
            make: Callable[[Random, list[str]], str | bytes] = makers[i % len(makers)]
            text = make(Random(f"{given.seed}/{i}"), files)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            said, seconds, megabytes = broken(path)
            slowest, largest = max(slowest, seconds), max(largest, megabytes)
            if said:
                wrong += 1
                print(f"--- text {i} by {make.__name__}: {said}\n{path.read_bytes()[:3000].decode(errors='replace')}", flush=True)
    print(f"{given.count:,} texts, {wrong} broke a bound; slowest {slowest:.2f} s, largest growth {largest:.0f} MB")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
