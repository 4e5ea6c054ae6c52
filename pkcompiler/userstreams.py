"""``sys.stdout`` and ``sys.stderr`` while the user's code runs: it may print, close, replace or delete them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any, TextIO, cast

BEHIND = ("buffer", "raw")
"""What a stream of text writes to, and what that writes to."""


class _Lent:
    """A stream that its user may close: what lies behind it stays open, and is lent in the same way."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._stream, name)
        return _Lent(found) if name in BEHIND else found

    def close(self) -> None:
        """Write what waits, and close nothing."""
        self._stream.flush()

    def detach(self) -> Any:
        """What lies behind, which stays ours."""
        self._stream.flush()
        return next(getattr(self, name) for name in BEHIND if hasattr(self._stream, name))


@contextmanager
def lent(stderr: TextIO | None = None) -> Iterator[None]:
    """Inside, prints go to stderr (to ``stderr``); what is made of ``sys.stdout`` and ``sys.stderr`` ends with the block."""
    before = getattr(sys, "stdout", None), getattr(sys, "stderr", None)
    behind = stderr or before[1]
    if behind is not None and not isinstance(behind, _Lent):
        behind = cast(TextIO, _Lent(behind))
    sys.stdout = sys.stderr = behind
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def kept() -> Iterator[None]:
    """Inside, a forward may replace or delete ``sys.stdout`` and ``sys.stderr``; the next one finds them as this one did."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr") if hasattr(sys, name)}
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


@contextmanager
def silenced() -> Iterator[None]:
    """Inside, what is written to ``sys.stderr`` is lost; afterwards it is what it was, or stderr itself where it was deleted."""
    before = getattr(sys, "stderr", sys.__stderr__)
    sys.stderr = StringIO()
    try:
        yield
    finally:
        sys.stderr = before
