"""What the files of an artifact hold, checked against each other: a right hash says only that a file is what its manifest names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from torch import Tensor

from pkcompiler import schema
from pkcompiler.artifact.manifest import GRAPH, MASKS, REPORT, SCHEDULE
from pkcompiler.diagnostics import Diagnostic, PkcError, fail, first_few, raise_all
from pkcompiler.files import parse_json
from pkcompiler.frontend.load_weights import odd_entries
from pkcompiler.frontend.observed import DTYPES
from pkcompiler.ir.parse import parse_graph
from pkcompiler.ir.types import PathGraph, Slot
from pkcompiler.pruning.recipe import state_hash

REMEDY = "make the artifact anew"
MODULATOR = re.compile(r"(\{kind = (?:mul|matmul)), value = 1(?=\})")
"""What products of format version 1 say beside their kind; it is read off the graph by now."""
WORDS = {word: dtype for dtype, word in DTYPES.items()}


def read_text(folder: Path, name: str) -> str:
    """The text of a file. Raises ``PKC628`` where it is none."""
    try:
        return (folder / name).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unfitting(folder, f"'{name}' is no UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise _unfitting(folder, f"'{name}' cannot be read: {error.strerror}") from None


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a file, sorted by name (safetensors gives them in another order at every reading).

    Raises ``PKC628`` where it holds none, or two of one name; OSError.
    """
    content = (folder / name).read_bytes()
    try:
        found = dict(sorted(tensors_of(content).items()))
        parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        # torch does not know every type of element that the format has; those it does not know are a KeyError
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise _unfitting(folder, f"'{name}' is no safetensors file that can be read: {first}") from None
    return found


def read_report(text: str, folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The report. Raises ``PKC628`` where it is none, or not of these masks."""
    try:
        found: dict[str, Any] = parse_json(text)
    except ValueError as error:
        raise _unfitting(folder, f"'{REPORT}' is no JSON: {error}") from None
    if problem := schema.problem(found, "artifact/report.schema.json"):
        raise _unfitting(folder, f"'{REPORT}' is no report: {problem}")
    rows = {row["name"]: row for row in found["parameters"]}
    for name, own in manifest["parameters"].items():
        row = rows.get(name)
        if row is None or row["shape"] != own["shape"] or (row["entries"], row["kept"]) != (own["size"], own["kept"]):
            raise _unfitting(folder, f"'{REPORT}' and the manifest differ in what they say of '{name[:60]}'")
    if len(rows) < len(found["parameters"]):
        raise _unfitting(folder, f"'{REPORT}' has two rows for one parameter")
    return found


def stored_graph(folder: Path, version: int) -> PathGraph:
    """The path graph of an artifact of this format version. Raises ``PKC628`` where its text prints none, with the first reason."""
    text = read_text(folder, GRAPH)
    try:
        return parse_graph(text if version > 1 else MODULATOR.sub(r"\1", text), str(folder / GRAPH))
    except PkcError as error:
        first = error.diagnostics[0]
        message = f"'{GRAPH}' is no path graph: {first.message} (in '{folder}')"
        raise PkcError(Diagnostic("PKC628", message, first.span, first.label, (REMEDY,))) from None


def check_contents(
    folder: Path,
    manifest: Mapping[str, Any],
    masks: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
    graph: PathGraph,
) -> None:
    """Masks, weights, graph, manifest and recipe say the same. Raises ``PKC628`` with everything in which they do not."""
    stored = {**weights, **constants}
    unmasked = [s for s in graph.slots if s.role != "computed" and s.name not in masks]
    found = [*_masks(manifest, masks, weights), *_recipe(folder, manifest, weights), *_unmasked(unmasked, stored)]
    raise_all(Diagnostic("PKC628", f"{problem} (in '{folder}')", notes=(REMEDY,)) for problem in found)


def _masks(manifest: Mapping[str, Any], masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Iterator[str]:
    """Each mask is boolean, belongs to a weight of its shape, and keeps as many entries as the manifest says."""
    rows = manifest["parameters"]
    if apart := [f"'{name[:60]}'" for name in sorted(masks.keys() ^ rows.keys())]:
        yield f"in the manifest or in {MASKS}, not in both: {first_few(apart)}"
    for name, mask in masks.items():
        shown = f"'{name[:60]}'"
        if mask.dtype != torch.bool:
            yield f"the mask of {shown} is {mask.dtype}, not torch.bool"
        elif name not in weights or weights[name].shape != mask.shape:
            yield f"the mask of {shown} has no weight of its shape"
        elif name in rows and (list(mask.shape), int(mask.sum())) != (rows[name]["shape"], rows[name]["kept"]):
            yield f"the mask of {shown} keeps {int(mask.sum())} of {list(mask.shape)}, the manifest says {_said(rows[name])}"
        elif not _is_finite(weights[name]):
            yield f"the weight {shown} is not finite and real throughout, in 16 bits or more ({weights[name].dtype})"


def _unmasked(slots: Iterable[Slot], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Each tensor that the graph reads without a mask is there, in the slot's shape, of its kind of numbers, and as finite as a run
    demands; what no path reads is the user's own, whatever it holds."""
    for slot in slots:
        shown, tensor = f"the {slot.role} '{slot.name[:60]}'", tensors.get(slot.name)
        if tensor is None or tuple(tensor.shape) != slot.type.shape:
            yield f"{shown} has no tensor of its shape"
        elif kind_of(WORDS.get(slot.type.dtype)) != kind_of(tensor.dtype):
            yield f"{shown} is {tensor.dtype}, and '{GRAPH}' declares {slot.type.dtype}"
        elif tensor.is_floating_point() and tensor.dtype.itemsize < 2:
            yield f"{shown} is not in 16 bits or more ({tensor.dtype})"
        elif bool(odd_entries(slot.name, tensor, slot.role).any()):
            yield f"{shown} is not finite throughout"


def kind_of(dtype: torch.dtype | None) -> str:
    """Which numbers a type of elements holds: tensors of one kind can be loaded into each other, others lose what they say."""
    if dtype is None or dtype == torch.bool:
        return str(dtype)
    return "floating" if dtype.is_floating_point else "complex" if dtype.is_complex else "whole"


def _is_finite(weight: Tensor) -> bool:
    """Whether a weight is real and finite throughout, of a type that torch computes with: not of one byte or less (float8)."""
    return weight.is_floating_point() and weight.dtype.itemsize > 1 and bool(weight.isfinite().all())


def _said(row: Mapping[str, Any]) -> str:
    return f"{row['kept']} of {row['shape']}"


def _recipe(folder: Path, manifest: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Iterator[str]:
    """The files are those that the recipe names by their hashes."""
    recipe = manifest["recipe"]
    if recipe["model"]["weights"] != state_hash(weights):
        yield "the weights are not those that the recipe names"
    if recipe["model"]["graph"] != manifest["files"][GRAPH]:
        yield f"'{GRAPH}' is not the path graph that the recipe names"
    if recipe["schedule"] != read_text(folder, SCHEDULE):
        yield f"'{SCHEDULE}' is not the schedule of the recipe"


def _unfitting(folder: Path, problem: str) -> PkcError:
    return fail("PKC628", f"{problem} (in '{folder}')", REMEDY)
