"""Masks into a network that trains: ``lower`` weaves them into a copy's graph, ``apply_masks`` keeps the given module."""

from __future__ import annotations

from pkcompiler.lowering.apply import apply_masks, remove_masks
from pkcompiler.lowering.assemble import lower
from pkcompiler.lowering.imported import import_masks
from pkcompiler.lowering.modules import Lowered, ModePair

__all__ = ["Lowered", "ModePair", "apply_masks", "import_masks", "lower", "remove_masks"]
