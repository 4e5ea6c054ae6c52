"""The one writer: a file appears whole or stays as it was, whatever fails; and what is read of files."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import unicodedata
from pathlib import Path

import pytest

from pkcompiler import files
from pkcompiler.diagnostics import PkcError
from pkcompiler.files import json_text, locked, parse_json, sweep, write_whole
from tests.cli_support import home, pkc

__all__ = ["home"]

UGLY = "pass   mine{ score=abs(theta) }\n" + "# a comment\n" * 40


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_mode_and_links_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("before")
    real.chmod(0o640)
    link.symlink_to("real")
    write_whole(link, "after")
    assert link.is_symlink() and real.read_text() == "after" and stat.S_IMODE(real.stat().st_mode) == 0o640
    (tmp_path / "hanging").symlink_to("new")
    write_whole(tmp_path / "hanging", b"made")
    assert (tmp_path / "new").read_bytes() == b"made" and (tmp_path / "hanging").is_symlink()
    umask = os.umask(0o022)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask
    assert names(tmp_path) == ["hanging", "link", "new", "real"]


def test_devices_are_written_to_as_they_are(tmp_path: Path) -> None:
    write_whole("/dev/null", "nothing")
    reader, writer = os.pipe()
    write_whole(f"/dev/fd/{writer}", "through a pipe")
    os.close(writer)
    assert os.read(reader, 100) == b"through a pipe"
    os.close(reader)
    with pytest.raises(OSError, match="No space left on device"):
        write_whole("/dev/full", "too much")
    with (tmp_path / "log").open("a+b") as log:
        log.write(b"before, ")
        log.flush()
        write_whole(f"/dev/fd/{log.fileno()}", "after")
    assert (tmp_path / "log").read_bytes() == b"before, after"


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_text("before")
    monkeypatch.setattr(files.os, name, full)
    with pytest.raises(OSError, match=r"No space left on device: .*file"):
        write_whole(tmp_path / "file", "after")
    assert (tmp_path / "file").read_text() == "before" and names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "place", ["no/such/folder", "a\0b", "n" * 300, "loop", "folder"], ids=["no folder", "NUL", "long", "loop", "a folder"]
)
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / place, "text")
    assert names(tmp_path) == ["folder", "loop"]


def test_long_names_have_room_for_their_temporary_ones(tmp_path: Path) -> None:
    write_whole(tmp_path / ("é" * 127), "text")
    assert len(names(tmp_path)) == 1


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    left = tmp_path / f".file.{'0' * 16}.unfinished"
    other, mine = tmp_path / f".other.{'0' * 16}.unfinished", tmp_path / "file.unfinished"
    for path in (left, other, mine):
        path.write_text("half")
    write_whole(tmp_path / "file", "whole")
    assert names(tmp_path) == sorted(["file", other.name, mine.name])
    with locked(other, ""):
        sweep(tmp_path)
        assert other.exists()
    sweep(tmp_path)
    assert names(tmp_path) == ["file", "file.unfinished"]


# the commands --------------------------------------------------------------------------------------------------------------

MODEL = "mlp.py"
WRITERS = {
    "mine.pkc": (("fmt", "mine.pkc"), "PKC612"),
    "report.json": (("analyze", MODEL, "--json", "report.json"), "PKC631"),
    "forms.tex": (("analyze", MODEL, "--latex", "forms.tex"), "PKC613"),
    "page.html": (("analyze", MODEL, "--html", "page.html", "--eigenvalues", "0"), "PKC634"),
    "densities.png": (("prune", MODEL, "--pass", "magnitude", "--density", "50%", "--dry-run", "--plot", "."), "PKC634"),
    "new.safetensors": (("rescale", MODEL, "-o", "new.safetensors", "--force"), "PKC543"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_every_file_as_it_was(home: Path, name: str) -> None:
    """The kernel refuses every byte past the 100th of any file."""
    arguments, code = WRITERS[name]
    (home / name).write_text(UGLY)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        result = pkc(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert result.exit_code == 1 and code in result.stderr and "File too large" in result.stderr
    assert (home / name).read_text() == UGLY and not [n for n in names(home) if n.endswith(".unfinished")]


def test_fmt_through_a_link_keeps_it(home: Path) -> None:
    (home / "mine.pkc").write_text(UGLY)
    (home / "link.pkc").symlink_to("mine.pkc")
    assert pkc("fmt", "link.pkc").exit_code == 0
    assert (home / "link.pkc").is_symlink() and (home / "mine.pkc").read_text().startswith("pass mine {")


# contents ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "stands twice"),
        ('{"a": [{"b": 1, "b": 1}]}', "stands twice"),
        ("NaN", "no number"),
        ("[-Infinity]", "no number"),
        ("1e999", "no number"),
        ("9" * 5000, "digits"),
        ("[" * 100_000, "deep"),
        ("{", "Expecting"),
        (b"\xff\xfe\xff", "decode"),
    ],
)
def test_json_that_is_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text)


def test_json_holds_nothing_that_a_terminal_obeys_and_reads_back_equal() -> None:
    odd = {"".join(map(chr, range(0x100))): ["\u202e", "\u2028", os.fsdecode(b"\xff"), "é", "日本"]}
    text = json_text(odd)
    assert json.loads(text) == odd and "é" in text and "日本" in text
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c == "\u202e" for c in text if c != "\n")
    text.encode()


def test_a_lock_is_held_once_and_its_token_is_written_once(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", "mine\n"), pytest.raises(PkcError, match="PKC623"):
        locked(tmp_path / "lock", "other\n")
    with locked(tmp_path / "lock", "other\n"):
        assert (tmp_path / "lock").read_text() == "mine\n"
