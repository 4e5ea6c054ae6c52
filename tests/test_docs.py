"""README and docs, run: their console blocks print what they show, their Python blocks run, their links lead somewhere.

A block with ``title="FILE"`` is written to that file. In a console block ``$`` begins a command and the rest is what it prints,
``...`` standing for anything. The Python blocks of a page are one program; a ``text`` block after one is what it prints.
"""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from warm import pkc

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {"masks-without-pkcompiler.md"}  # run by test_lower_docs.py, where pkcompiler cannot be imported
TITLE = re.compile(r'title="([^"]+)"')
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
VARIES = re.compile(r"(?<=^seconds)\s+[\d.]+$|\d\.\d\de-1[4-9]|0\.00e\+00|(?<=, worst )[\w.]+(?=\)$)", re.MULTILINE)
"""What differs between machines: durations, and which rounding error is the largest."""


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [Block(language, "".join(TITLE.findall(rest)), text) for language, rest, text in found]


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with what it prints; a trailing backslash continues a command."""
    parts = re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)
    assert not parts[0].strip(), "a console block begins with a command"
    return [(command, printed) for command, _, printed in (part.partition("\n") for part in parts[1:])]


def assert_prints(got: str, want: str, what: str) -> None:
    got, want = VARIES.sub("~", got), VARIES.sub("~", want)
    checker, example = doctest.OutputChecker(), doctest.Example(what, want)
    if not checker.check_output(want, got, LOOSE):
        pytest.fail(f"{what}\n{checker.output_difference(example, got, LOOSE)}")


def run_console(text: str, folder: Path) -> None:
    for command, want in commands(text):
        program, *arguments = shlex.split(command)
        assert program == "pkc"
        done = pkc(arguments, folder)
        expected = 1 if "error[" in want else 0
        assert done.returncode == expected, f"$ {command}\n{done.printed}"
        assert_prints(done.printed, want, f"$ {command}")


def run_python(text: str, want: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    exec(compile(text, "<docs>", "exec"), names)
    assert_prints(capsys.readouterr().out, want, text)


def runs(page: Path) -> bool:
    return any(block.language in ("console", "python") for block in blocks(page.read_text(encoding="utf-8")))


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ELSEWHERE and runs(page)], ids=label)
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    found = blocks(page.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__docs__"}
    for block, following in zip(found, [*found[1:], Block("", "", "")], strict=True):
        if block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            run_console(block.text, tmp_path)
        elif block.language == "python":
            run_python(block.text, following.text if following.language == "text" else "", names, capsys)


def test_pages_that_are_followed_one_after_the_other_write_to_folders_of_their_own() -> None:
    consoles = {page: [b.text for b in blocks(page.read_text(encoding="utf-8")) if b.language == "console"] for page in PAGES}
    written = [(name, page.name) for page, texts in consoles.items() for name in set(re.findall(r" -o (\S+)", "\n".join(texts)))]
    names = [name for name, _ in written]
    assert len(names) > 4 and [pair for pair in written if names.count(pair[0]) > 1] == []


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (page.parent / link).exists()] == []


def test_the_installation_is_the_one_that_is_checked() -> None:
    """The checks run the lines of the README: they must be there, and be the only shell lines."""
    shell = [block.text for block in blocks((ROOT / "README.md").read_text(encoding="utf-8")) if block.language == "sh"]
    assert len(shell) == 2
    assert shell[0].startswith("python3 -m venv .venv && ") and "pkc prune examples/resnet20.py" in shell[0]
    assert shell[1] == "./scripts/test\n"


def test_a_wrong_page_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="prun"):
        run_console("$ pkc prun\n", tmp_path)
    with pytest.raises(pytest.fail.Exception, match="Expected"):
        run_console("$ pkc --version\npkc two\n", tmp_path)
    run_console("$ pkc passes \\\n  --help\nUsage: pkc passes ...\n", tmp_path)
    assert blocks('a\n```python title="x.py"\nb = 1\n```\n') == [Block("python", "x.py", "b = 1\n")]
