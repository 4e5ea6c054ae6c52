"""The one writer: files appear whole or not at all. With it what is read of files: locks, hashes, JSON."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from pkcompiler.diagnostics import PkcError, fail, typed_or_called

try:
    import fcntl
except ImportError:  # no locks on Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.unfinished", re.DOTALL)
"""What a file is called while it is written."""
NUL = "a name cannot hold the character NUL"
DESCRIPTOR = re.compile(r"/dev/(?P<name>stdout|stderr)|/(?:dev|proc/self)/fd/(?P<number>\d{1,9})")
"""What is open already: opening it anew would lose its place, or cut what was appended to."""
MOVED: dict[int, int] = {}
"""Descriptors of stdout and stderr while the user's code runs, by the numbers that the user knows them by."""
LONGEST = 200  # bytes of a name that its temporary file repeats
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No room, on the disk or for this user."""
UNSAFE = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON leaves as it is although a terminal may obey it, and what UTF-8 cannot say."""


def write_whole(path: str | Path, content: bytes | str, *, durable: bool = True) -> None:
    """Replace a file's contents at once, or leave it as it is: they are written beside it, and renamed.

    Mode and owner stay; a symbolic link stays one, and what it leads to is replaced; devices and pipes are written to as they are.
    ``durable``: also survive a power failure. Raises OSError, with the file's name.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        if "\0" in os.fspath(path):
            raise OSError(errno.EINVAL, NUL)
        before = _status(path)
        if (open_already := DESCRIPTOR.fullmatch(os.fspath(path))) is not None:
            number = open_already["number"] or ("stdout", "stderr").index(open_already["name"]) + 1
            _write_into(os.dup(MOVED.get(int(number), int(number))), data)
        elif before is not None and not stat.S_ISREG(before.st_mode):
            _write_into(os.open(path, os.O_WRONLY), data)
        else:
            _replace(os.path.realpath(path), before, data, durable)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from None


def make_folder(path: Path) -> None:
    """A folder, and those on the way to it, where they are not there yet. Raises OSError, for a NUL too."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, NUL)
    path.mkdir(parents=True, exist_ok=True)


def deliver(path: str | Path, content: bytes | str, code: str, note: str) -> None:
    """Write a file that the user has named. Raises ``code``, with the system's own words and ``note``."""
    try:
        write_whole(path, content)
    except OSError as error:
        remedy = "make room there, or name a file elsewhere" if error.errno in FULL else note
        raise fail(code, f"'{path}' cannot be written: {reason(error)}", remedy) from None


def _status(path: str | Path) -> os.stat_result | None:
    """What lies at a path, behind its links; None for nothing. Raises OSError for a folder, and for what is protected."""
    try:
        before = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return before


def _write_into(handle: int, data: bytes) -> None:
    with open(handle, "wb") as stream:
        stream.write(data)


def _replace(place: str, before: os.stat_result | None, data: bytes, durable: bool) -> None:
    folder, name = os.path.split(place)
    sweep(folder, name)
    with _beside(folder, name) as stream:
        try:
            if before is not None:
                _make_alike(stream.fileno(), before)
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
            if fcntl is None:
                stream.close()  # Windows renames no open file
            os.replace(stream.name, place)
        except BaseException:
            with suppress(OSError):
                os.unlink(stream.name)
            raise
    if durable:
        _sync(folder)


def _beside(folder: str, name: str) -> IO[bytes]:
    """A new file in a folder, locked as long as it is open, so that :func:`sweep` leaves it."""
    short = os.fsdecode(os.fsencode(name)[:LONGEST])
    while True:
        path = os.path.join(folder, f".{short}.{secrets.token_hex(8)}.unfinished")
        stream = open(path, "xb")  # noqa: SIM115
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_still(path, stream):
            return stream
        stream.close()


def _make_alike(handle: int, before: os.stat_result) -> None:
    """Mode and, where it may be given, owner of the file that is replaced."""
    if not hasattr(os, "fchmod"):
        return
    now = os.fstat(handle)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        with suppress(OSError):
            os.fchown(handle, before.st_uid, before.st_gid)
    os.fchmod(handle, stat.S_IMODE(before.st_mode))


def _sync(folder: str) -> None:
    """Make the names in a folder survive a power failure, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: str | Path, name: str = "") -> None:
    """Remove what killed processes left half-written in a folder (of the file ``name`` alone, where it is given)."""
    if fcntl is None:
        return
    start = f".{os.fsdecode(os.fsencode(name)[:LONGEST])}." if name else "."
    with suppress(OSError):
        for left in os.listdir(folder):
            if left.startswith(start) and is_temporary(left):
                _remove_left(os.path.join(folder, left))


def _remove_left(path: str) -> None:
    if special(path) is not None:
        return
    with suppress(OSError), open(path, "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its writer lives
        os.unlink(path)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that :func:`write_whole` has not finished."""
    return TEMPORARY.fullmatch(name) is not None


# locks -------------------------------------------------------------------------------------------------------------------


def locked(path: Path, token: str) -> IO[str]:
    """An open file that no other process can lock; the lock goes with the process. A new file is given the text ``token``.

    Raises ``PKC623`` where another process has it, and OSError.
    """
    while True:
        stream = path.open("a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, stream):
                if not os.fstat(stream.fileno()).st_size:
                    stream.write(token)
                    stream.flush()
                return stream
        except BlockingIOError:
            stream.close()
            message = f"another process is at work in '{path.parent}'"
            raise fail("PKC623", message, elsewhere("wait for it, or give another folder")) from None
        except OSError:
            with suppress(OSError):
                stream.close()
            raise
        stream.close()


def bears(path: Path, token: str) -> bool:
    """Whether a file is an ordinary one and begins with ``token``."""
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    with suppress(OSError), path.open("rb") as stream:
        return stream.read(len(token.encode())) == token.encode()
    return False


def _is_still(path: str | Path, stream: IO[Any]) -> bool:
    """Whether an open file still has its name: another process may have removed it between opening and locking."""
    try:
        there, here = os.stat(path), os.fstat(stream.fileno())
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


# contents ----------------------------------------------------------------------------------------------------------------


KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


def special(path: str | Path) -> str | None:
    """``a pipe``, ``a socket`` or ``a device``, behind links: reading one might never end. None for all else, or for nothing."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return next((kind for is_one, kind in KINDS if is_one(mode)), None)


def hidden(path: str | Path) -> str | None:
    """The system's own words where nobody can tell what lies at a path: a folder on the way may not be entered. Else None."""
    try:
        os.stat(path)
    except PermissionError as error:
        return reason(error)
    except (OSError, ValueError):
        return None
    return None


def barred(path: str | Path) -> str | None:
    """What keeps a file from being read, as a sentence: it is none, or protected. None where nothing does, or nothing is there."""
    if (kind := special(path)) is not None:
        return f"'{path}' is {kind}, and no file"
    try:
        with open(path, "rb"):
            return None
    except PermissionError as error:
        return f"'{path}' cannot be read: {reason(error)}"
    except (OSError, ValueError):
        return None


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes in hexadecimal, read in pieces of 1 MiB."""
    digest = sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def json_text(data: object) -> str:
    """Indented JSON with a last newline; refuses NaN and infinities. What a terminal may obey is escaped."""
    return escaped(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def escaped(text: str) -> str:
    """JSON in which nothing stands as itself that a terminal may obey, or that UTF-8 cannot say."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def parse_json(content: bytes | str) -> Any:
    """Strict JSON. Raises ValueError: a key twice in one object, NaN, infinities, numbers of thousands of digits, depth."""
    try:
        return json.loads(content, object_pairs_hook=_each_once, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _each_once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} stands twice")
        found[key] = value
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if number - number == 0 else _no_number(text)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None where there is none, or something else."""
    if special(path) is not None:
        return None
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


# errors ------------------------------------------------------------------------------------------------------------------


def reason(error: OSError) -> str:
    """The system's own words."""
    return error.strerror or str(error) or type(error).__name__


def elsewhere(another: str) -> str:
    """``give another folder``, with the option that names it for who types a command."""
    return typed_or_called(f"{another}: -o DIR", another)


def unwritable(path: Path, error: OSError, what: str = "folder") -> PkcError:
    """``PKC620``: the system's own words, and another place to write ``what`` to."""
    again = typed_or_called("make room there: the same command goes on", "make room there")
    room = f"{again}, or give a {what} elsewhere"
    note = room if error.errno in FULL else elsewhere(f"give a {what} that can be written")
    return fail("PKC620", f"cannot write '{path}': {reason(error)}", note)
