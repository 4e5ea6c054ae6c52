"""The streams of a command: its own, which the user's code cannot reach, and what stdout is while that code runs.

Results leave by a duplicate of stdout; descriptor 1 itself leads to stderr from then on, so that nothing that is written by
``os.write``, by C code, by a process that the model starts or at exit comes between the results.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TextIO

from pkcompiler import files
from pkcompiler.userstreams import lent

OUT, ERR = 1, 2
"""The descriptors of stdout and stderr."""


HIGH = 1000
"""From where on a duplicate is sought; a process may have 1024 descriptors at least on most systems."""


@dataclass(slots=True)
class Streams:
    """Where a command writes. ``out``, ``err``: None where it is closed; ``for_good``: the process ends with the command;
    ``closed``: whether descriptor 1 was; ``fallen``: see :func:`fall_back`."""

    out: TextIO | None
    err: TextIO | None
    for_good: bool
    closed: bool
    fallen: bool = False


_STREAMS: ContextVar[Streams | None] = ContextVar("streams", default=None)


@contextmanager
def kept(*, for_good: bool) -> Iterator[None]:
    """Inside, :func:`stdout` and :func:`stderr` are what they are now, whatever becomes of ``sys.stdout`` and ``sys.stderr``."""
    before = sys.stdout, sys.stderr
    token = _STREAMS.set(Streams(*before, for_good, OUT in _filled()))
    try:
        yield
    finally:
        _STREAMS.reset(token)
        sys.stdout, sys.stderr = before


def stdout() -> TextIO | None:
    """Where results go; None where it is closed."""
    streams = _STREAMS.get()
    return sys.stdout if streams is None else streams.out


def stderr() -> TextIO | None:
    """Where messages go; None where it is closed."""
    streams = _STREAMS.get()
    return sys.stderr if streams is None else streams.err


@contextmanager
def apart() -> Iterator[None]:
    """The user's code may run inside: what it writes to stdout, by whatever way, goes to stderr."""
    streams = _STREAMS.get()
    assert streams is not None
    before = streams.out, streams.err
    own = {number: found for number, stream in zip((OUT, ERR), before, strict=True) if (found := _own(stream, number))}
    streams.out, streams.err = own.get(OUT, before[0]), own.get(ERR, before[1])
    if OUT in own or streams.closed:
        os.dup2(ERR, OUT)
    try:
        with lent(streams.err):
            yield
    finally:
        if not streams.for_good:
            streams.out, streams.err = before
            _put_back(own)


def _own(stream: TextIO | None, number: int) -> TextIO | None:
    """A stream of our own to where a stream leads; None where that is no descriptor of the process (in a test, a notebook)."""
    try:
        if stream is None or stream.fileno() != number:
            return None
        stream.flush()
        if number not in files.MOVED:
            files.MOVED[number] = _aside(number)
        return _onto(files.MOVED[number], stream.encoding)
    except (OSError, ValueError, AttributeError):
        return None


def _onto(number: int, encoding: str) -> TextIO:
    return open(number, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)


def _aside(number: int) -> int:
    """A duplicate with a high number, where the system has one: programs close the low ones in a row."""
    try:
        from fcntl import F_DUPFD_CLOEXEC, fcntl

        return fcntl(number, F_DUPFD_CLOEXEC, HIGH)
    except (ImportError, OSError):  # Windows; a limit below
        return os.dup(number)


def _filled() -> set[int]:
    """The standard descriptors that were closed, and lead to nothing now: else the next file that is opened would be one."""
    found = set()
    for number in (0, OUT, ERR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            found.add(number)
    return found


def _put_back(own: Mapping[int, TextIO]) -> None:
    """The descriptors lead where they led before."""
    for number, stream in own.items():
        with suppress(OSError, ValueError, AttributeError):
            (sys.stdout if number == OUT else sys.stderr).flush()
        with suppress(OSError):
            stream.close()
        there = files.MOVED.pop(number)
        with suppress(OSError):  # where the user's code has closed the duplicate, too
            os.dup2(there, number)
            os.close(there)


def fall_back() -> bool:
    """Messages go to descriptor 2 itself from now on, as the user's code has closed our duplicate; False where they do already."""
    streams = _STREAMS.get()
    if streams is None or streams.err is None or ERR not in files.MOVED or streams.fallen:
        return False
    streams.fallen = True
    with suppress(OSError):
        streams.err = _onto(ERR, streams.err.encoding)
    return True


def abandon(stream: TextIO | None) -> None:
    """Give up what a stream still holds, or Python would try to write it once more at its end."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        os.close(null)
