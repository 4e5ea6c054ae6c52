"""Names and origins of operations: from the module path and the user's own source line."""

from __future__ import annotations

import re
from typing import Any

from torch import fx

from pkcompiler.ir.types import Origin

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


class Names:
    """Hands out unique value names: ``fc1``, ``fc1.1``, ``fc1.2`` ..."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def fresh(self, base: str) -> str:
        """``base``; where that is taken, ``base.n`` with the next free number."""
        n = self._count.get(base, 0)
        self._count[base] = n + 1
        name = base if n == 0 else f"{base}.{n}"
        return name if n == 0 or name not in self._count else self.fresh(name)


def origin_of(node: fx.Node, prefix: str) -> Origin:
    """The innermost module that called the operator, and the last line of the user's own code on the way to it."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    module = str(path).removeprefix(prefix) if str(path).startswith(prefix) else ""
    return Origin(_plain(module), _source_line(node.meta.get("stack_trace") or ""))


def _plain(path: str) -> str:
    """``L['self'].layer['1']`` and the like as ``layer.1``; the ``@1`` of a module's second call dropped."""
    return re.sub(r"\[['\"]?([^\]'\"]+)['\"]?\]", r".\1", path).split("@")[0].strip(".")


def _source_line(trace: str) -> str:
    frame = _last_frame(trace)
    return f"{frame[0].rsplit('/', 1)[-1]}:{frame[1]}" if frame else ""


def user_frame(node: fx.Node) -> tuple[str, int] | None:
    """File and line of the user's own code that called the operator."""
    return _last_frame(node.meta.get("stack_trace") or "")


def _last_frame(trace: str) -> tuple[str, int] | None:
    frames = [(f, int(n)) for f, n in _FRAME.findall(trace) if "/torch/" not in f and "pkcompiler/frontend" not in f]
    return frames[-1] if frames else None
