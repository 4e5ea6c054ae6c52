"""What a target makes of a model, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pkcompiler.diagnostics import typed_or_called


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """``files``: the bytes of each file, by what takes the place of the path's suffix ('' is the path itself).

    ``inputs``, ``outputs``: their names (nothing for files of weights). ``batch``: the only batch that it takes, None for any.
    ``difference``: the largest one from the model, of the largest entry; None where nothing was compared.
    """

    files: Mapping[str, bytes]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    batch: int | None = None
    difference: float | None = None


def as_target(*targets: str) -> str:
    """How other targets are asked for."""
    return typed_or_called(" or ".join(f"--to {to}" for to in targets), " or ".join(f"to='{to}'" for to in targets))


def unchecked() -> str:
    """How a file is asked for that is not compared with the model."""
    return typed_or_called("--no-check", "check=False")
