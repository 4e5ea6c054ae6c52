"""Finding passes, analyses, schedules and studies: by name in the library, by path, or as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from pkcompiler import resources
from pkcompiler.diagnostics import Diagnostic, PkcError, fail, raise_all, typed_or_called
from pkcompiler.files import special
from pkcompiler.lang.ast import Analysis, Block, Document, Pass, Schedule, Study
from pkcompiler.lang.check.document import Checked, check
from pkcompiler.lang.rows import suggest
from pkcompiler.lang.syntax.format import format_text
from pkcompiler.lang.syntax.parse import parse
from pkcompiler.lang.syntax.print_schedule import schedule_block
from pkcompiler.lang.syntax.tokens import MAX_BYTES
from pkcompiler.lang.words import WORDS

__all__ = [
    "analysis_names",
    "as_typed",
    "check_files",
    "find_analysis",
    "find_pass",
    "find_schedule",
    "find_study",
    "format_text",
    "library_names",
    "list_analyses",
    "list_passes",
    "print_schedule",
    "read_source",
]

GIVEN_OPEN = re.compile(r"/dev/stdin|/(?:dev|proc/self)/fd/\d{1,9}")
"""What is open already, so that a pipe there has a writer."""
FILES = 0.75
"""How alike the names of two files are of which one is suggested for the other (they share the suffix)."""

STUDIES = ("study",)
"""A study may name an analysis or a schedule of its own file, which is looked for without the studies."""

_Declared = TypeVar("_Declared", Pass, Schedule, Analysis, Study)


@dataclass(frozen=True, slots=True)
class _Files:
    """Resolves the pass names of a file: paths relative to ``folder``, bare names in the library."""

    folder: Path

    def __call__(self, name: str) -> Pass:
        return find_pass(name, folder=self.folder)

    def other(self, kind: str, name: str) -> Analysis | Schedule:
        """An analysis or a schedule; a schedule is always a file's."""
        if kind == "analysis":
            return find_analysis(name, folder=self.folder)
        if not is_path(name):
            note = f'a schedule of another file is given by its path: "./{name}.pkc"'
            raise fail("PKC117", f"no schedule '{name}' in this file", note)
        return find_schedule(name, folder=self.folder)


def find_pass(name_or_path_or_text: str | Path, *, folder: Path | None = None) -> Pass:
    """The pass that is meant: a text (it holds a ``{``), a file (``/`` or ``.pkc`` in it), or a name of the library.

    ``file.pkc:name`` picks one of several. Paths are relative to ``folder`` (default: the working directory).
    Raises PkcError with everything wrong.
    """
    given = as_typed(name_or_path_or_text)
    if "{" in given:
        return _pick(_passes(given, "<text>"), "the text", "", "pass", _others(given, "<text>", "pass"))
    if is_path(given):
        path, name = split_path(given)
        text = read_source(_within(path, folder), path)
        return _pick(_passes(text, path), path, name, "pass", _others(text, path, "pass"))
    if given not in library_names():
        close = suggest(given, list(library_names()))
        note = f"did you mean '{close}'?" if close else "'pkc passes' lists the library; a file is given by its path: ./my-pass.pkc"
        raise fail("PKC117", f"no pass '{given}' in the library", note)
    return _library_pass(given)


def find_analysis(name_or_path_or_text: str | Path, *, folder: Path | None = None) -> Analysis:
    """The analysis that is meant: as :func:`find_pass`. Raises PkcError with everything wrong."""
    given = as_typed(name_or_path_or_text)
    if "{" in given:
        checked = _checked(given, "<text>", folder or Path())
        return _pick(checked.analyses, "the text", "", "analysis", _others(given, "<text>", "analysis"))
    if is_path(given):
        path, name = split_path(given)
        text = read_source(_within(path, folder), path)
        checked = _checked(text, path, _within(path, folder).parent, leave=STUDIES)
        return _pick(checked.analyses, path, name, "analysis", _others(text, path, "analysis"))
    if given not in analysis_names():
        close = suggest(given, list(analysis_names()))
        note = f"did you mean '{close}'?" if close else "'pkc passes' lists the library; a file is given by its path: ./mine.pkc"
        if given in library_names():
            prune = typed_or_called(f"prune with --pass {given}", f"prune(model, x, {given!r}, ...)")
            note = f"'{given}' is a pass: pkc explain {given}, or {prune}"
        raise fail("PKC117", f"no analysis '{given}' in the library", note)
    return _library_analysis(given)


def find_schedule(path_or_text: str | Path, *, folder: Path | None = None) -> Schedule:
    """The schedule of a text (it holds a ``{``) or of a file (``file.pkc:name`` picks one of several). Raises PkcError."""
    given = as_typed(path_or_text)
    if "{" in given:
        checked = _checked(given, "<text>", folder or Path())
        return _pick(checked.schedules, "the text", "", "schedule", _others(given, "<text>", "schedule"))
    path, name = split_path(given)
    text = read_source(_within(path, folder), path)
    checked = _checked(text, path, _within(path, folder).parent, leave=STUDIES)
    return _pick(checked.schedules, path, name, "schedule", _others(text, path, "schedule"))


def find_study(path_or_text: str, *, folder: Path | None = None) -> Study:
    """The study of a text (it holds a ``{``) or of a file (``file.pkc:name`` picks one of several). Raises PkcError."""
    given = path_or_text
    if "{" in given:
        checked = _checked(given, "<text>", folder or Path())
        return _pick(checked.studies, "the text", "", "study", _others(given, "<text>", "study"))
    path, name = split_path(given)
    text = read_source(_within(path, folder), path)
    checked = _checked(text, path, _within(path, folder).parent)
    return _pick(checked.studies, path, name, "study", _others(text, path, "study"))


def list_passes() -> list[Pass]:
    """Every pass of the library, by name."""
    return [_library_pass(name) for name in library_names()]


def list_analyses() -> list[Analysis]:
    """Every analysis of the library, by name."""
    return [_library_analysis(name) for name in analysis_names()]


@cache
def library_names() -> tuple[str, ...]:
    """The names of the library's passes."""
    return _names_in("prune")


@cache
def analysis_names() -> tuple[str, ...]:
    """The names of the library's analyses."""
    return _names_in("analyze")


def _names_in(folder: str) -> tuple[str, ...]:
    files = (resources.folder("passes") / folder).iterdir()
    return tuple(sorted(f.name.removesuffix(".pkc") for f in files if f.name.endswith(".pkc")))


@cache
def _library_pass(name: str) -> Pass:
    file, text = _library_text("prune", name)
    return _pick(_checked(text, file, Path(), library=True).passes, file, name, "pass")


@cache
def _library_analysis(name: str) -> Analysis:
    file, text = _library_text("analyze", name)
    return _pick(_checked(text, file, Path(), library=True).analyses, file, name, "analysis")


def _library_text(folder: str, name: str) -> tuple[str, str]:
    """What a file of the library is called, and its text."""
    return f"passes/{folder}/{name}.pkc", (resources.folder("passes") / folder / f"{name}.pkc").read_text(encoding="utf-8")


def check_files(paths: Iterable[str]) -> list[Diagnostic]:
    """Every error and warning of every file. Never raises for what the files hold."""
    found: list[Diagnostic] = []
    for path in paths:
        try:
            text = read_source(Path(path))
        except PkcError as error:
            found += error.diagnostics
            continue
        document, syntax = parse(text, path)
        found += _in_order(document, syntax, Path(path).parent, library=False)[1]
    return found


def print_schedule(schedule: Schedule, *, with_passes: bool = False) -> str:
    """The canonical text of a schedule; ``find_schedule`` of it is equal. ``with_passes`` puts the text of every pass that it uses
    before it and calls each by its plain name, so that the text needs no other file."""
    names = {label: _plain_name(label, schedule) for label, _ in schedule.passes} if with_passes else {}
    needed = [(label, p) for label, p in schedule.passes if with_passes or not _found_again(label, p)]
    texts = [_renamed(p, names.get(label, p.name)) for label, p in needed]
    return "\n".join([*texts, schedule_block(schedule, names)])


def _found_again(label: str, found: Pass) -> bool:
    """Whether the label alone leads to this pass: a path, or a name of the library."""
    return is_path(label) or (label in library_names() and _library_pass(label) == found)


def _plain_name(label: str, schedule: Schedule) -> str:
    """The pass's own name, with a number where two passes of different files share it."""
    before = [(other, p) for other, p in schedule.passes[: [o for o, _ in schedule.passes].index(label)]]
    own = dict(schedule.passes)[label]
    same = sum(p.name == own.name for _, p in before)
    return own.name if not same else f"{own.name}-{same + 1}"


def _renamed(found: Pass, name: str) -> str:
    return found.text if found.name == name else found.text.replace(f"pass {found.name} {{", f"pass {name} {{", 1)


def is_path(given: str) -> bool:
    """Whether a pass is given as a file: ``/`` or ``.pkc`` in it."""
    return "/" in given or given.endswith(".pkc") or ".pkc:" in given


def as_typed(given: str | Path) -> str:
    """What is meant, as it is typed: a Path is a file, whatever it is called."""
    text = str(given)
    return text if isinstance(given, str) or is_path(text) else f"./{text}"


def split_path(given: str) -> tuple[str, str]:
    """``file.pkc:name`` to its parts; the name may be empty."""
    path, mark, name = given.rpartition(".pkc:")
    return (path + ".pkc", name) if mark else (given, "")


def read_source(path: Path, shown: str = "") -> str:
    """The text of a file, called ``shown`` in errors. Raises PkcError (PKC611 unreadable, PKC006 too large, PKC008 no text).

    A pipe is read only where it is open already: /dev/stdin, and what a shell makes of ``<(...)``."""
    shown = shown or str(path)
    if (kind := special(path)) is not None and GIVEN_OPEN.fullmatch(str(path)) is None:
        raise fail("PKC611", f"'{shown}' is {kind}, and no file", "give a file; what a command prints is read from /dev/stdin")
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(path, shown, error) from None
    return decoded(content, shown)


def decoded(content: bytes, shown: str) -> str:
    """The text of a file's bytes. Raises PkcError (PKC006 too large, PKC008 no text)."""
    if len(content) > MAX_BYTES:
        raise fail("PKC006", f"'{shown}' is larger than {MAX_BYTES // 1_000_000} MB", "split it into several files")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fail(
            "PKC008", f"'{shown}' is not UTF-8 text (byte {error.start})", "save it as UTF-8, or give the right file"
        ) from None
    if "\0" in text:
        raise fail("PKC008", f"'{shown}' is a binary file", "give a .pkc file")
    return text


def _unreadable(path: Path, shown: str, error: OSError | ValueError) -> PkcError:
    if isinstance(error, FileNotFoundError):
        note = f"run 'ls {path.parent}' to see what is there; 'pkc passes' lists the library"
        try:
            near = suggest(path.name, [p.name for p in path.parent.iterdir() if p.suffix == ".pkc"], FILES)
        except OSError:
            near = ""
        return fail("PKC611", f"there is no file '{shown}'", f"did you mean '{path.parent / near}'?" if near else note)
    if isinstance(error, IsADirectoryError):
        return fail("PKC611", f"'{shown}' is a folder", f"name the files in it: {shown.rstrip('/')}/*.pkc")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return fail("PKC611", f"cannot read '{shown}': {reason}", "check the path and its permissions")


def _within(path: str, folder: Path | None) -> Path:
    return (folder or Path()) / path


def _in_order(document: Document, syntax: list[Diagnostic], folder: Path, *, library: bool) -> tuple[Checked, list[Diagnostic]]:
    files = _Files(folder)
    checked = check(document, files, files.other, library=library)
    every = [*syntax, *checked.diagnostics]
    if len(every) > 1 and _declares_nothing(document):
        note = "a .pkc file holds declarations: pass my-pass { score = abs(theta) }"
        if document.file.endswith(".py"):
            note = "it is a Python file: a model is given to 'pkc prune', and a pass or schedule has a file of its own"
        every = [Diagnostic("PKC119", f"{document.file} declares no pass, analysis, schedule or study", notes=(note,))]
    return checked, sorted(every, key=lambda d: d.span.start if d.span else 0)


def _declares_nothing(document: Document) -> bool:
    """Whether no block of a file is called what a block is called, or nearly so; no Python file does."""
    kinds = [w.name for w in WORDS if w.role == "block"]
    return document.file.endswith(".py") or not any(
        isinstance(i, Block) and (i.name.value in kinds or suggest(i.name.value, kinds)) for i in document.items
    )


def _passes(text: str, file: str) -> tuple[Pass, ...]:
    """The passes of a text. All else is left alone: it may name passes of this very file."""
    return _checked(text, file, Path(), leave=("schedule", "analysis", *STUDIES)).passes


def _checked(text: str, file: str, folder: Path, *, library: bool = False, leave: tuple[str, ...] = ()) -> Checked:
    """Parse and check, without the declarations of the kinds ``leave``; raise every error at once."""
    document, syntax = parse(text, file)
    kept = tuple(i for i in document.items if not (isinstance(i, Block) and i.name.value in leave))
    document = replace(document, items=kept)
    checked, every = _in_order(document, syntax, folder, library=library)
    raise_all(d for d in every if d.severity == "error")
    return checked


def _others(text: str, file: str, what: str) -> list[tuple[str, str]]:
    """Kind and name of what a text declares besides ``what``."""
    kinds = [k for k in ("pass", "analysis", "schedule", "study") if k != what]
    blocks = [i for i in parse(text, file)[0].items if isinstance(i, Block) and i.name.value in kinds]
    return [(b.name.value, b.label.value) for b in blocks if b.label]


_EXAMPLES = {
    "pass": "pass my-pass { score = abs(theta) }",
    "schedule": "schedule my-schedule { prune synflow { sparsity = 90% } }",
    "study": 'study my-study { model = "model.py" passes = synflow compression = 1, 10 seeds = 0..2 train = "train.py:train" }',
    "analysis": 'analysis my-analysis { report "kept weights" = sum(mask, over = param) }',
}


def _given_as(what: str, where: str) -> str:
    """How a file with a declaration of that kind is given."""
    match what:
        case "pass":
            return typed_or_called(f"--pass {where}", f"prune(model, x, {where!r}, density=0.1)")
        case "schedule":
            return typed_or_called(f"--schedule {where}", f"prune(model, x, schedule={where!r})")
        case "analysis":
            return typed_or_called(f"--with {where}", f"run_analysis(model, x, {where!r})")
        case _:
            return f"pkc study {where}"


def _pick(found: tuple[_Declared, ...], where: str, name: str, what: str, others: Sequence[tuple[str, str]] = ()) -> _Declared:
    """The only declaration, or the one of this name. ``others``: (kind, name) of the rest, for who took one for the other."""
    if name:
        chosen = next((d for d in found if d.name == name), None)
        if chosen is not None:
            return chosen
        close = suggest(name, [d.name for d in found])
        note = f"did you mean '{where}:{close}'?" if close else f"it declares {', '.join(d.name for d in found) or 'none'}"
        raise fail("PKC117", f"no {what} '{name}' in {where}", note)
    if len(found) == 1:
        return found[0]
    if not found and others:
        other, named = others[0]
        note = f"it declares the {other} '{named}', which is given so: {_given_as(other, where)}"
        raise fail("PKC119", f"{where} declares no {what}", note)
    if not found:
        raise fail("PKC119", f"{where} declares no {what}", f"add one: {_EXAMPLES[what]}")
    prefix = where if is_path(where) else "file.pkc"
    several = {"analysis": "analyses", "study": "studies"}.get(what, f"{what}s")
    raise fail("PKC119", f"{where} declares {len(found)} {several}", "pick one: " + ", ".join(f"{prefix}:{d.name}" for d in found))
