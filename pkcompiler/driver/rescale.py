"""Rescale: an opened model -> a file of weights that give the same function."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save

from pkcompiler.diagnostics import fail
from pkcompiler.driver.open import Opened
from pkcompiler.files import deliver, hidden
from pkcompiler.pruning.provenance import state_of
from pkcompiler.rescaling.rescale import Rescaled, rescale_captured

SUFFIX = ".safetensors"


def rescale_to(opened: Opened, file: Path, *, method: str, powers_of_two: bool = False, force: bool = False) -> Rescaled:
    """Rescale a model in float64 and write its new weights. Raises ``PKC543`` for the file, and what ``rescale`` raises."""
    refuse_file(file, force)
    captured = opened.capture(torch.float64)
    found = rescale_captured(captured, opened.module, method=method, powers_of_two=powers_of_two, seed=opened.seed)
    deliver(file, save(state_of(found.model)), "PKC543", "give a file that can be written: -o FILE")
    return found


def refuse_file(file: Path, force: bool) -> None:
    """Raise ``PKC543`` where weights cannot be written, or something is there already."""
    if file.suffix != SUFFIX:
        raise fail(
            "PKC543",
            f"'{file}' is no {SUFFIX} file",
            f"give one: -o {file.with_suffix(SUFFIX) if file.name else file / f'rescaled{SUFFIX}'}",
        )
    if (why := hidden(file)) is not None:
        raise fail("PKC543", f"'{file}' cannot be written: {why}", "give a file that can be written: -o FILE")
    if not os.path.isdir(file.parent):
        raise fail("PKC543", f"there is no folder '{file.parent}' for '{file.name}'", f"make it: mkdir -p '{file.parent}'")
    if os.path.isdir(file):
        raise fail("PKC543", f"'{file}' is a folder", "give a file: -o NAME.safetensors")
    if os.path.lexists(file) and not force:
        raise fail("PKC543", f"'{file}' exists already", "replace it with --force, or give another name: -o FILE")
