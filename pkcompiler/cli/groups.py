"""What ``pkc ir --groups`` writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pkcompiler.cli.output import put, table, write_json
from pkcompiler.diagnostics import first_few

if TYPE_CHECKING:
    from pkcompiler.frontend.capture import Capture
    from pkcompiler.structure import Coupling, Layer

SHOWN = 3
"""Names per cell."""


def write_groups(captured: Capture, as_json: bool) -> None:
    """The coupled layers of a graph as a table, every group as JSON.

    :raises PkcError: as :func:`pkcompiler.structure.coupling`
    """
    from pkcompiler.structure import coupling

    found = coupling(captured.graph, captured.watched)
    if as_json:
        write_json(_as_data(found))
        return
    if found.groups:
        table(("groups", "units", "entries of one", "made by", "read by"), [_row(layer, found) for layer in found.layers])
        put()
    put(f"{len(found.groups):,} groups in {len(found.layers)} layers")
    for line in _counted(found):
        put(line)
    if found.excluded:
        put()
        table(
            ("not removable because", "units", "where"),
            [(e.reason, f"{e.count:,}", _listed(name for name, _ in e.made)) for e in found.excluded],
        )


def _row(layer: Layer, found: Coupling) -> Sequence[str]:
    groups = len(layer.groups)
    size = found.groups[layer.groups[0]].size
    made = _listed(name for name, _, _ in layer.made)
    read = _listed(name for name, _, _ in layer.read)
    return f"{groups:,}", f"{groups * layer.made[0][2]:,}", f"{size:,}", made, read


def _counted(found: Coupling) -> list[str]:
    """The units of which a normalisation or a sum would notice that they are gone."""
    groups = [g for g in found.groups if g.statistics]
    if not groups:
        return []
    where = _listed(name for g in groups for name in g.statistics)
    return [f"{len(groups):,} of them are normalised or summed with others ({where}): there a unit of zeros still counts"]


def _listed(names: Iterable[str]) -> str:
    """Modules by name, each once; a parameter that is no weight or bias by its own."""
    modules = (name.removesuffix(".weight").removesuffix(".bias") for name in names)
    return first_few(list(dict.fromkeys(modules)), SHOWN)


def _as_data(found: Coupling) -> dict[str, Any]:
    return {
        "schema": 1,
        "groups": [asdict(group) for group in found.groups],
        "layers": [asdict(layer) for layer in found.layers],
        "excluded": [asdict(item) for item in found.excluded],
    }
