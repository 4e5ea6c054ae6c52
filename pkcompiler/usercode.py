"""The user's own Python: import a file or a module, call what it names, report what it raises at the user's own line. No torch."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from hashlib import sha256
from importlib.machinery import ModuleSpec
from pathlib import Path
from traceback import walk_tb
from types import ModuleType, TracebackType

from pkcompiler.diagnostics import PkcError, Span, fail
from pkcompiler.files import barred
from pkcompiler.usermodules import importable, is_installed
from pkcompiler.userstreams import lent

FILES = 0.75
"""How alike the names of two files are of which one is suggested for the other (they share the suffix)."""
WORDS = {"true": True, "false": False, "none": None}
"""The words of values that other languages write in lower case."""
FILE_SPEC = re.compile(r"(?P<place>.+\.py)(?::(?P<name>\w+))?")
MODULE_SPEC = re.compile(r"(?P<place>[A-Za-z_]\w*(?:\.\w+)*)(?::(?P<name>\w+))?")


@dataclass(frozen=True, slots=True)
class UserSpec:
    """``path/model.py[:name]`` or ``package.module[:name]``, taken apart."""

    place: str  # the path or the dotted module
    name: str | None
    is_file: bool

    @property
    def text(self) -> str:
        """The spec as written, an absolute path made relative to the current folder or cut to its file name."""
        place = self.place
        if self.is_file and Path(place).is_absolute():
            path, here = Path(place), Path.cwd()
            place = path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name
        return f"{place}:{self.name}" if self.name else place

    @property
    def folder(self) -> Path:
        """What becomes importable: the file's folder, or the current one for a dotted module."""
        return Path(self.place).resolve().parent if self.is_file else Path.cwd()

    @property
    def stem(self) -> str:
        """``resnet20`` of ``examples/resnet20.py``, ``zoo`` of ``tests.models.zoo``."""
        return Path(self.place).stem if self.is_file else self.place.rpartition(".")[2]


def parse_spec(text: str, what: str = "model") -> UserSpec:
    """Take a spec apart; ``what`` names it in the error. Raises ``PKC240`` for anything else."""
    if match := FILE_SPEC.fullmatch(text):
        return UserSpec(match["place"], match["name"], is_file=True)
    file = Path(text.partition(":")[0])
    if file.suffix and os.path.isfile(file):
        raise fail("PKC240", f"'{file}' is no Python file", f"a {what} is named by path/file.py, or path/file.py:name")
    if match := MODULE_SPEC.fullmatch(text):
        return UserSpec(match["place"], match["name"], is_file=False)
    raise fail(
        "PKC240",
        f"'{text}' is not a {what} spec",
        "expected path/file.py, path/file.py:name or package.module:name",
        f"try {text.partition(':')[0].removesuffix('/').removesuffix('.py')}.py",
    )


def parse_arguments(texts: Sequence[str]) -> dict[str, object]:
    """``["width=16", "act=relu", "wn=false"]`` as keyword arguments. Raises ``PKC241``.

    A value is a Python literal where it reads as one, with ``true``, ``false`` and ``none`` in any case; else it is text. What is
    quoted is text: ``act='"none"'``.
    """
    found: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise fail("PKC241", f"'{text}' is not an argument", "expected key=value", f"try --arg {key or 'key'}=value")
        if key in found:
            raise fail("PKC241", f"the argument '{key}' is given twice", f"give --arg {key}=... once")
        found[key] = _literal(value)
    return found


def _literal(value: str) -> object:
    """What the text of an argument means."""
    if value.lower() in WORDS:
        return WORDS[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two of texts nested too deep
        return value


def import_spec(spec: UserSpec) -> ModuleType:
    """Run the file afresh, or import the module; its folder is importable meanwhile, what it prints goes to stderr.

    Raises ``PKC242`` where nothing lies there (with the nearest file) or what cannot be read, ``PKC243`` for what the user's code
    raises.
    """
    return _run_file(spec) if spec.is_file else _import_module(spec)


def source_of(python: ModuleType) -> Path | None:
    """The file of an imported module, where it has one."""
    file = getattr(python, "__file__", None)
    return Path(file) if file else None


def source_hash(source: Path | None) -> str:
    """The sha256 of the file's bytes in hexadecimal; of nothing where there is no file."""
    return sha256(source.read_bytes() if source else b"").hexdigest()


def call(function: Callable[..., object], arguments: Mapping[str, object], source: Path | None, folder: Path, label: str) -> object:
    """``function(**arguments)`` of the user's; ``label`` is its name in messages.

    Raises ``PKC244`` with the signature where the arguments do not fit and ``PKC243`` for what the call raises.
    """
    check_arguments(function, arguments, label)
    try:
        with _running(folder, source, f"calling {label}"):
            return function(**arguments)
    except PkcError as error:
        raise _suspecting(error, arguments) from error.__cause__


def _suspecting(error: PkcError, arguments: Mapping[str, object]) -> PkcError:
    """The error with a note that names the arguments given on the command line, texts first: most are mistyped numbers."""
    if not arguments:
        return error
    given = sorted(arguments.items(), key=lambda item: not isinstance(item[1], str))
    words = ", ".join(f"--arg {key}={value}{' (a text)' if isinstance(value, str) else ''}" for key, value in given)
    return PkcError(*(replace(d, notes=(*d.notes, f"check what it was given: {words}")) for d in error.diagnostics))


def check_arguments(function: Callable[..., object], arguments: Mapping[str, object], label: str) -> None:
    """Raise ``PKC244``, with the signature, where ``function(**arguments)`` would not bind."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        missing = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.default is parameter.empty and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
        flags = " ".join(f"--arg {name}={arguments.get(name, '...')}" for name in missing)
        raise fail(
            "PKC244",
            f"the arguments do not fit {label}: {error}",
            f"its signature is {label}{signature.replace(return_annotation=inspect.Signature.empty)}",
            f"try {flags}" if flags else "leave out the --arg that the signature does not have",
        ) from None


def nearest(name: str, known: Sequence[str], cutoff: float = 0.5) -> str:
    """``did you mean 'x'?`` for the closest of ``known``; the first few of them where none is close; empty where none is known."""
    if close := get_close_matches(name, known, n=1, cutoff=cutoff):
        return f"did you mean '{close[0]}'?"
    return f"there are: {', '.join(sorted(set(known))[:8])}" if known else ""


def blame(error: BaseException, source: Path | None, doing: str) -> PkcError:
    """``PKC243``: what the user's code raised, with the innermost line of the user's file that led to it."""
    first, _, rest = (str(error).strip() or "(no message)").partition("\n")
    line = _line_of(error, source)
    notes = [" ".join(rest.split())] if rest.strip() else []
    if isinstance(error, ModuleNotFoundError) and error.name:
        notes.append(f"install it: pip install {error.name.partition('.')[0]}")
    elif line is not None and source is not None:
        notes.append(f"correct {source.name}, line {line}")
    notes = notes or ["correct what raises it"]
    span = span_of(source, line) if source is not None and line is not None else None
    return fail("PKC243", f"{doing} raised {type(error).__name__}: {first}", *notes, span=span, label="raised here")


@contextmanager
def blaming(doing: str) -> Iterator[None]:
    """What a function of the user's raises inside is ``PKC243``, at the innermost line that is the user's own."""
    try:
        yield
    except (PkcError, MemoryError):
        raise
    except Exception as error:
        place = user_line(error)
        raise blame(error, None if place is None else place[0], doing) from error


def _run_file(spec: UserSpec) -> ModuleType:
    path = Path(spec.place)
    if (fault := barred(path)) is not None:
        raise fail("PKC242", fault, "give a Python file that can be read")
    if not os.path.isfile(path):
        raise _no_file(path)
    name = f"pkc_user_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path.resolve())
    if found is None or found.loader is None:
        raise fail("PKC242", f"{spec.place} is not a Python file", "give a file that ends with .py")
    python = importlib.util.module_from_spec(found)
    sys.modules[name] = python
    with _running(spec.folder, path.resolve(), f"running {path.name}"):
        found.loader.exec_module(python)
    return python


def _import_module(spec: UserSpec) -> ModuleType:
    with _running(spec.folder, None, f"importing {spec.place}"):
        found = _find(spec.place)
    if found is None:
        files = [path.name for path in Path.cwd().glob("*.py")]
        hint = nearest(f"{spec.place}.py", files, FILES) if get_close_matches(f"{spec.place}.py", files, cutoff=FILES) else ""
        notes = [note for note in (hint, f"for a file, write its path: {spec.place.replace('.', '/')}.py") if note]
        raise fail("PKC242", f"there is no module '{spec.place}'", *notes)
    source = Path(found.origin) if found.has_location and found.origin else None
    with _running(spec.folder, source, f"importing {spec.place}"):
        return importlib.import_module(spec.place)


def _find(place: str) -> ModuleSpec | None:
    """The module's import spec; None where it, or a package on the way to it, does not exist. Packages on the way are imported."""
    try:
        return importlib.util.find_spec(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            return None
        raise


def _no_file(path: Path) -> PkcError:
    if not os.path.isdir(path.parent):
        return fail("PKC242", f"there is no folder '{path.parent}'", f"run 'ls {path.parent.parent}'")
    beside = [found.name for found in path.parent.glob("*.py")]
    hint = nearest(path.name, beside, FILES) or f"the folder '{path.parent}' holds no Python file"
    return fail("PKC242", f"there is no file '{path}'", hint)


@contextmanager
def _running(folder: Path, source: Path | None, doing: str) -> Iterator[None]:
    """The user's code runs inside: folder importable, prints on stderr, exceptions blamed."""
    with importable(folder), lent():
        try:
            yield
        except (PkcError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise blame(error, source, doing) from error


def _line_of(error: BaseException, source: Path | None) -> int | None:
    if source is None:
        return None
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) == source:
        return error.lineno
    return _last_line(error.__traceback__, source)


def user_line(error: BaseException) -> tuple[Path, int] | None:
    """File and line of the innermost frame that lies neither in an installed package nor in this one."""
    own = own_lines([(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)])
    return own[-1] if own else None


def own_lines(frames: Sequence[tuple[str, int]]) -> list[tuple[Path, int]]:
    """Those of some frames that lie neither in an installed package nor in this one."""
    places = [(Path(file), line) for file, line in frames]
    return [(file, line) for file, line in places if os.path.isfile(file) and not is_installed(file)]


def raised_in(error: BaseException) -> Path | None:
    """The user's file whose code raised an exception itself, or in what it called of other packages; None where this one did."""
    frames = [Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__)]
    own = Path(__file__).parent
    last = next((file for file in reversed(frames) if file.is_relative_to(own) or not is_installed(file)), own)
    return last if last.is_file() and not is_installed(last) else None


def _last_line(trace: TracebackType | None, source: Path) -> int | None:
    lines = [line for frame, line in walk_tb(trace) if Path(frame.f_code.co_filename) == source]
    return lines[-1] if lines else None


def span_of(source: Path, line: int) -> Span | None:
    """That line of a file, None where it has none."""
    text = source.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines(keepends=True)
    if not 1 <= line <= len(lines):
        return None
    content = lines[line - 1]
    start = sum(map(len, lines[: line - 1])) + len(content) - len(content.lstrip())
    return Span(source.name, text, start, start + max(1, len(content.strip())))
