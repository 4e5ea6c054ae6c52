"""The loss of a run: a function ``loss(output, target)`` of the user's, blamed at their own line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from pkcompiler import usercode
from pkcompiler.diagnostics import fail
from pkcompiler.pruning.labels import a_number
from pkcompiler.pruning.workspace import Loss


@overload
def load_loss(spec: str) -> tuple[Loss, str]: ...
@overload
def load_loss(spec: Callable[..., Any], source: Path | None) -> Loss: ...
def load_loss(spec: str | Callable[..., Any], source: Path | None = None) -> Any:
    """The function that ``path/file.py:name`` names, with the sha256 of its file; or a given function, made to blame its file.

    Raises ``PKC412`` where it is no function, and when called ``PKC243`` (it raised) or ``PKC412`` (it gave no number).
    """
    if not isinstance(spec, str):
        return _blamed(spec, getattr(spec, "__name__", "loss"), source)
    parsed = usercode.parse_spec(spec, "loss")
    if parsed.name is None:
        raise fail("PKC412", f"'{spec}' names no function", f"try --loss {spec}:loss")
    python = usercode.import_spec(parsed)
    found = getattr(python, parsed.name, None)
    if not callable(found):
        known = [name for name, value in vars(python).items() if callable(value) and not name.startswith("_")]
        raise fail("PKC412", f"{parsed.place} has no function '{parsed.name}'", usercode.nearest(parsed.name, known))
    origin = usercode.source_of(python)
    return _blamed(found, parsed.name, origin), usercode.source_hash(origin)


def _blamed(function: Callable[..., Any], name: str, source: Path | None) -> Loss:
    def loss(output: Any, target: Any) -> Tensor:
        try:
            value = function(output, target)
        except Exception as error:
            raise usercode.blame(error, source, f"calling {name}(output, target)") from error
        return a_number(value, name)

    return loss
