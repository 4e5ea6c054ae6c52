"""A full disk in every writer, what others have put in the way, and folders that look like ours: a code, and nothing is lost.

No file system is mounted. A full disk is RLIMIT_FSIZE (the kernel refuses every byte past it: EFBIG), an ``os.fsync`` or an
``os.replace`` that fails with ENOSPC, and ``/dev/full`` for stdout.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.attack.kills import FIT, STUDY, study
from benchmarks.attack.processes import ONE, TWO, Done, command, contents, home, run
from benchmarks.attack.tally import Tally

UGLY = "pass   mine{ score=abs(theta)\n rounds =3 }\n" + "# a comment that is long\n" * 20


@dataclass(frozen=True, slots=True)
class Writer:
    """``target``: what it writes, below the folder; ``work``: what writes it."""

    name: str
    work: Callable[[], object]
    target: str


WRITERS = (
    Writer("pkc fmt", command("fmt", "mine.pkc"), "mine.pkc"),
    Writer("--json", command("analyze", "net.py", "--json", "report.json"), "report.json"),
    Writer("--latex", command("analyze", "net.py", "--symbolic", "--latex", "forms.tex"), "forms.tex"),
    Writer("--html", command("analyze", "net.py", "--html", "page.html", "--eigenvalues", "0"), "page.html"),
    Writer(
        "--plot", command("prune", "net.py", "--pass", "synflow", "--density", "20%", "--dry-run", "--plot", "."), "densities.svg"
    ),
    Writer("pkc rescale", command("rescale", "net.py", "-o", "new.safetensors", "--force"), "new.safetensors"),
    Writer("pkc prune", command(*ONE, "-o", "out"), "out/masks.safetensors"),
    Writer("pkc prune --force", command(*TWO, "-o", "old", "--force"), "old/masks.safetensors"),
    Writer("pkc study", study, "out/results.csv"),
)


def attacks(count: int, seed: int) -> Iterator[Tally]:
    """``count`` full disks in every writer, and every way to be in the way."""
    for each in WRITERS:
        yield full(each, max(2, count // 10), seed)
    yield in_the_way()
    yield full_stdout()


def prepare(folder: Path) -> None:
    """What the writers read and what they replace."""
    (folder / "mine.pkc").write_text(UGLY)
    (folder / "small.pkc").write_text(STUDY)
    (folder / "fit.py").write_text(FIT)
    for name in ("report.json", "forms.tex", "page.html", "densities.svg", "new.safetensors"):
        (folder / name).write_text(f"the former {name}\n")


def full(writer: Writer, count: int, seed: int) -> Tally:
    tally, random = Tally(f"full disk: {writer.name}"), Random(seed)
    with home() as folder:
        prepare(folder)
        run(command(*ONE, "-o", "old"))
        before = contents(folder)
        assert (first := run(writer.work)).code == 0, first.err
        expected = contents(folder)
        size = max(len(content) for name, content in expected.items() if content != before.get(name))
        for attempt in range(count):
            _restore(folder, before)
            limit = random.randrange(size) if attempt % 2 else None
            fault = random.choice(("fsync", "replace")) if limit is None else ""
            after = random.randrange(4)
            done = run(writer.work if limit is not None else _failing(writer.work, fault, after), limit)
            _judge(tally, writer, folder, before, expected, done, f"{limit or (fault, after)}")
    return tally


def _judge(
    tally: Tally, writer: Writer, folder: Path, before: dict[str, bytes], expected: dict[str, bytes], done: Done, how: str
) -> None:
    tally.tried += 1
    now = contents(folder)
    if done.kind == "tracebacks":
        tally.add("tracebacks", f"{how}: {done.err[-300:]}")
    elif lost := [n for n, c in before.items() if now.get(n) != c and not (done.code == 0 and now.get(n) == expected[n])]:
        tally.add("lost", f"{how}: {lost[:3]}")
    elif half := [n for n in now if n.endswith(".unfinished")]:
        tally.add("lost", f"{how}: half-written {half[:3]}")
    else:
        tally.add(done.kind)
    again = run(writer.work)
    if again.code or (folder / writer.target).read_bytes() != expected[writer.target]:
        tally.add("lost", f"{how}: the same command does not end as it should: {again.err[-300:]}")


def _restore(folder: Path, before: dict[str, bytes]) -> None:
    for path in list(folder.iterdir()):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, content in before.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _failing(work: Callable[[], object], name: str, after: int) -> Callable[[], object]:
    """The same work, with an ``os.fsync`` or ``os.replace`` that fails from its so many-th call on."""

    def starved() -> object:
        whole, calls = getattr(os, name), iter(range(10**9))

        def failing(*arguments: object, **named: object) -> object:
            if next(calls) >= after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return whole(*arguments, **named)

        setattr(os, name, failing)
        return work()

    return starved


# in the way ----------------------------------------------------------------------------------------------------------------


def _thesis(place: str) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        (folder / place).mkdir(parents=True)
        (folder / place / "thesis.tex").write_text("all of it")

    return made


def _artifact(place: str) -> Callable[[Path], None]:
    return lambda folder: _none(shutil.copytree(folder / "old", folder / place))


def _with_notes(folder: Path) -> None:
    shutil.copytree(folder / "old", folder / "out")
    (folder / "out" / "notes.txt").write_text("mine")


def _link(to: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "out").symlink_to(to)


def _own_manifest(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "manifest.json").write_text('{"name": "a web page"}')


def _own_lock(folder: Path) -> None:
    (folder / "out.partial").mkdir()
    (folder / "out.partial" / "lock").write_text("mine")


def _none(_: object) -> None:
    return None


WAYS: tuple[tuple[str, Callable[[Path], None], str], ...] = (
    ("a folder out.replaced", _thesis("out.replaced"), "right"),
    ("a folder out.partial", _thesis("out.partial"), "refused"),
    ("an artifact out.partial", _artifact("out.partial"), "refused"),
    ("a folder out.partial with a lock", _own_lock, "refused"),
    ("a folder out", _thesis("out"), "refused"),
    ("a folder out with a manifest", _own_manifest, "refused"),
    ("an artifact out with notes in it", _with_notes, "refused"),
    ("a link to an artifact", _link("linked"), "right"),
    ("a link to a folder", _link("full"), "refused"),
    ("a link to an empty folder", _link("empty"), "right"),
    ("a link to nothing", _link("nothing"), "right"),
    ("a link to itself", _link("out"), "refused"),
)
"""What lies there when ``pkc prune -o out --force`` comes, and what is right then."""


def in_the_way() -> Tally:
    """Every way, with ``--force``: what lay there is there afterwards, but for the artifact that is replaced."""
    tally = Tally("in the way, with --force")
    with home() as folder:
        run(command(*ONE, "-o", "old"))
        for name, make, right in WAYS:
            shutil.copytree(folder / "old", folder / "linked")
            (folder / "empty").mkdir()
            _thesis("full")(folder)
            make(folder)
            before = contents(folder)
            done = run(command(*TWO, "-o", "out", "--force"))
            now = contents(folder)
            gone = [n for n, c in before.items() if now.get(n) != c and not (done.code == 0 and n.startswith(("out/", "linked/")))]
            tally.tried += 1
            tally.add(
                "lost" if gone else done.kind if done.kind in ("tracebacks", right) else "silent",
                f"{name}: {gone or done.err[-200:]}",
            )
            for path in list(folder.iterdir()):
                if path.name not in ("old", "net.py", "two.pkc"):
                    path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
    return tally


def full_stdout() -> Tally:
    """Every kind of result, into ``/dev/full``."""
    tally = Tally("/dev/full as stdout")
    commands = (
        ("passes",),
        ("passes", "--json"),
        ("ops",),
        ("explain", "synflow"),
        ("--help",),
        ("prune", "--help"),
        ("--version",),
    )
    commands += (
        ("show", "old"),
        ("show", "old", "--json", "-"),
        ("compare", "old", "old"),
        ("analyze", "old"),
        (*ONE, "-o", "new"),
    )
    with home():
        run(command(*ONE, "-o", "old"))
        for arguments in commands:
            done = run(_into_full(command(*arguments)))
            tally.tried += 1
            tally.add("refused" if "PKC635" in done.err and done.code == 1 else "tracebacks", f"{arguments}: {done.err[-300:]}")
    return tally


def _into_full(work: Callable[[], object]) -> Callable[[], object]:
    def full() -> object:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        return work()

    return full
