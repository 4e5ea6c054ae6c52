"""Writes an artifact: every file whole, the manifest last, the folder under its own name only when it is complete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save as tensor_bytes
from torch import Tensor

from pkcompiler.artifact import folder
from pkcompiler.artifact.manifest import (
    CONSTANTS,
    FORMAT,
    FORMAT_VERSION,
    GRAPH,
    MANIFEST,
    MASKS,
    README,
    REPORT,
    SCHEDULE,
    SPARSE,
    WEIGHTS,
    manifest_hash,
)
from pkcompiler.artifact.readme import readme
from pkcompiler.diagnostics import fail
from pkcompiler.files import json_text, locked, unwritable, write_whole
from pkcompiler.ir.text import print_graph
from pkcompiler.pruning.provenance import Provenance
from pkcompiler.pruning.recipe import recipe_hash, versions
from pkcompiler.sparse_file import pack

if TYPE_CHECKING:
    from pkcompiler.pruning.state import Pruned


def save(pruned: Pruned, path: Path) -> Path:
    """Write the artifact folder ``path``, which may not exist yet (an empty folder may). Returns ``path``.

    Raises ``PKC621`` where something is in the way and ``PKC620`` where nothing can be written.
    """
    if pruned.origin is None:
        raise fail("PKC630", "the model's state_dict holds entries that are no tensors", "remove its get_extra_state")
    folder.refuse_name(path)
    place, partial = folder.place_of(path), folder.partial_of(path)
    try:
        if not folder.is_vacant(place):
            raise fail("PKC621", f"'{path}' exists already", "give a new folder")
        if os.path.lexists(partial):
            raise fail("PKC621", f"'{partial}' is in the way", f"give another name, or remove it: rm -r '{partial}'")
        partial.mkdir(parents=True)
    except OSError as error:
        raise unwritable(partial, error) from None
    try:
        with locked(partial / folder.LOCK, folder.TOKEN):
            write(pruned, partial)
            folder.rename_into_place(partial, path, replace=False)
    except BaseException as error:
        folder.remove(partial)
        if isinstance(error, OSError):
            raise unwritable(path, error) from None
        raise
    return path


def write(pruned: Pruned, into: Path) -> None:
    """All files of the artifact into an existing folder, the manifest last. The same result gives the same bytes of masks."""
    origin = pruned.origin
    assert origin is not None
    contents = _contents(pruned, origin)
    for name, content in contents.items():
        write_whole(into / name, content)
    hashes = {name: sha256(content).hexdigest() for name, content in contents.items()}
    write_whole(into / MANIFEST, json_text(manifest_of(pruned, origin, hashes)))


def _contents(pruned: Pruned, origin: Provenance) -> dict[str, bytes]:
    constants = _constants(pruned.tensors, origin.state)
    contents = {
        MASKS: tensor_bytes({n: m.contiguous() for n, m in pruned.masks.items()}),
        WEIGHTS: tensor_bytes(dict(origin.state)),
        SCHEDULE: pruned.plan.text.encode(),
        GRAPH: print_graph(pruned.graph).encode(),
        REPORT: json_text(pruned.report.to_json()).encode(),
        README: readme(pruned, origin, bool(constants)).encode(),
    }
    if pruned.packed:
        contents[SPARSE] = tensor_bytes(pack(origin.state, pruned.masks, pruned.packed))
    return contents | ({CONSTANTS: tensor_bytes(constants)} if constants else {})


def _constants(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of slots that the state does not hold: literals of the trace, and buffers that are not persistent."""
    return {n: t.detach().cpu().clone() for n, t in tensors.items() if n not in state}


def manifest_of(pruned: Pruned, origin: Provenance, hashes: Mapping[str, str]) -> dict[str, Any]:
    """The manifest as plain data (its schema: ``manifest.schema.json``)."""
    found = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": versions(),
        "model": dict(origin.model),
        "inputs": list(origin.inputs),
        "total": pruned.total,
        "kept": pruned.kept,
        "by_position": pruned.by_position,
        "seconds": round(pruned.seconds, 3),
        "parameters": {n: {"shape": list(m.shape), "size": m.numel(), "kept": int(m.sum())} for n, m in pruned.masks.items()},
        "recipe": dict(origin.recipe),
        "recipe_sha256": recipe_hash(origin.recipe),
        "data": origin.data,
        "files": dict(sorted(hashes.items())),
    }
    return {**found, "sha256": manifest_hash(found)}
