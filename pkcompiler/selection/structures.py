"""Structures of masks: N kept of every M consecutive inputs, and blocks of outputs and inputs, as units of entries.

A weight is read as a matrix of outputs and inputs, the rest of its dimensions (a kernel) beside: N:M groups run along the inputs at
one output and one place of the kernel; a block takes whole kernels. The last blocks of a row or column may be smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pkcompiler.diagnostics import Diagnostic, fail, first_few, raise_all, typed_or_called
from pkcompiler.ir.weights import Sides

Ints = np.ndarray


@dataclass(frozen=True, slots=True)
class Ratio:
    """At most ``kept`` of every ``of`` consecutive inputs."""

    kept: int
    of: int

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}"


@dataclass(frozen=True, slots=True)
class Block:
    """``outputs`` times ``inputs`` entries (whole kernels) stay or go together."""

    outputs: int
    inputs: int

    def __str__(self) -> str:
        return f"block({self.outputs}, {self.inputs})"


Structure = Ratio | Block


def structure_of(text: str) -> Structure | None:
    """The structure that a canonical text names; None for ``unstructured`` and ``channel``."""
    kept, colon, of = text.partition(":")
    if colon:
        return Ratio(int(kept), int(of))
    if text.startswith("block("):
        outputs, inputs = text[len("block(") : -1].split(",")
        return Block(int(outputs), int(inputs))
    return None


def check_fits(
    structure: Structure,
    names: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    sides: Mapping[str, Sides],
    exclude: Sequence[str] = (),
) -> None:
    """Raises ``PKC422`` where parameters have no inputs, or (N:M) a number of inputs that M does not divide: one error for all.

    ``exclude``: what ``except`` names already, which the line in the error repeats.
    """
    wrong = {n: why for n in names if (why := _misfit(structure, shapes[n], sides.get(n)))}
    if not wrong:
        return
    said = first_few([f"'{n}' has {why}" for n, why in wrong.items()], 3, "; ")
    if len(wrong) > 1:
        said = f"{len(wrong):,} of {len(names):,} parameters: {said}"
    raise fail("PKC422", f"{structure} does not fit {said}", *_whole(tuple(wrong), exclude, len(wrong) == len(names) > 1))


def _whole(wrong: Sequence[str], exclude: Sequence[str], all_: bool) -> list[str]:
    """What to do about parameters that do not fit."""
    if all_:
        return ["no parameter fits: choose another structure"]
    quoted = [f'"{name}"' for name in wrong]
    given = [glob.removeprefix("@") if glob.startswith("@") else f'"{glob}"' for glob in exclude]
    whole = f"keep {'it' if len(wrong) == 1 else 'them'} whole: except = {', '.join([*given, *quoted])}"
    option = typed_or_called(f"or: {' '.join(f'--except {name}' for name in wrong)}", "")
    return [whole, option] if option else [whole]


def _misfit(structure: Structure, shape: tuple[int, ...], sides: Sides | None) -> str:
    """Why a structure does not fit a parameter; '' where it does."""
    if sides is None:
        return "no outputs and inputs"
    inputs = shape[sides.inputs]
    if isinstance(structure, Ratio) and inputs % structure.of:
        return f"{inputs:,} inputs, {inputs % structure.of} more than a multiple of {structure.of}"
    return ""


def groups_of(structure: Structure, shape: tuple[int, ...], sides: Sides) -> tuple[Ints, int]:
    """The group of N:M, or the block, of every entry (flat, in order of position), and how many there are. Numbered in the order of
    their outputs, then of their inputs, then of the places of the kernel.
    """
    outputs, inputs = (np.arange(shape[d]) for d in (sides.outputs, sides.inputs))
    rest = [d for d in range(len(shape)) if d not in (sides.outputs, sides.inputs)]
    if isinstance(structure, Block):
        rows, columns = outputs // structure.outputs, inputs // structure.inputs
        count = (int(rows[-1]) + 1) * (int(columns[-1]) + 1)
        places: Ints = np.zeros([shape[d] for d in rest], dtype=np.int64)
    else:
        rows, columns = outputs, inputs // structure.of
        places = np.arange(math.prod(shape[d] for d in rest)).reshape([shape[d] for d in rest])
        count = math.prod(shape) // structure.of
    wide = int(columns[-1]) + 1
    kernel = 1 if isinstance(structure, Block) else math.prod(shape[d] for d in rest)
    grid = (rows[:, None] * wide + columns[None, :]) * kernel
    whole = grid.reshape(*grid.shape, *[1] * len(rest)) + places.reshape(1, 1, *places.shape)
    order = np.argsort([sides.outputs, sides.inputs, *rest])
    return np.broadcast_to(whole, [shape[d] for d in (sides.outputs, sides.inputs, *rest)]).transpose(order).reshape(-1), count


def violation(structure: Structure, mask: Tensor, sides: Sides) -> str:
    """The first group that breaks a structure, in words; '' where the mask has it."""
    shape = tuple(mask.shape)
    groups, count = groups_of(structure, shape, sides)
    kept = np.bincount(groups, weights=mask.cpu().numpy().reshape(-1), minlength=count).astype(np.int64)
    if isinstance(structure, Ratio):
        wrong = np.flatnonzero(kept > structure.kept)
        what = f"keeps {kept[wrong[0]] if wrong.size else 0} of {structure.of}"
    else:
        sizes = np.bincount(groups, minlength=count)
        wrong = np.flatnonzero((kept > 0) & (kept < sizes))
        what = f"keeps {kept[wrong[0]]} of {sizes[wrong[0]]}" if wrong.size else ""
    if not wrong.size:
        return ""
    members = np.flatnonzero(groups == wrong[0])
    first, last = (np.unravel_index(i, shape) for i in (members[0], members[-1]))
    place = ", ".join(str(int(a)) if a == b else f"{int(a)}:{int(b) + 1}" for a, b in zip(first, last, strict=True))
    return f"[{place}] {what}"


def check_demands(
    demands: Sequence[tuple[str, str]],
    masks: Mapping[str, Tensor | None],
    matching: Mapping[str, Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
    sides: Mapping[str, Sides],
) -> None:
    """Raises ``PKC424`` where a mask has not the structure that ``lower`` demands of it, with the first group that breaks it.

    ``matching``: the parameters that each glob names; one whose mask is None may only not fit (``PKC422``).
    """
    found: list[Diagnostic] = []
    for glob, text in demands:
        structure = structure_of(text)
        assert structure is not None
        check_fits(structure, matching[glob], shapes, sides)
        given = [(n, mask) for n in matching[glob] if (mask := masks[n]) is not None]
        broken = [(n, where) for n, mask in given if (where := violation(structure, mask, sides[n]))]
        if broken:
            name, where = broken[0]
            more = f", and {len(broken) - 1} more parameters" if len(broken) > 1 else ""
            message = f"the mask of '{name}' is not {text}, as lower demands of \"{glob}\": {where}{more}"
            found.append(Diagnostic("PKC424", message, notes=(f"prune it so: structure = {text} in the last stage",)))
    raise_all(found)
