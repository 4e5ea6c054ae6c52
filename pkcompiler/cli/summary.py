"""What ``prune``, ``show`` and ``compare`` print, from plain data."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pkcompiler.cli.output import put, table
from pkcompiler.cli.streams import stdout

if TYPE_CHECKING:
    from pkcompiler.artifact.comparison import Comparison
    from pkcompiler.artifact.read import Artifact
    from pkcompiler.pruning.state import Round
    from pkcompiler.training.planned import PlannedRound

WORST = 3

BEFORE = "before training"


def result_json(artifact: Artifact) -> dict[str, Any]:
    """Kept, sparsities, one entry per masked parameter, and the report."""
    rows = masked_rows(artifact)
    effective = sum(row["effective"] for row in rows)
    return {
        "schema": 1,
        "folder": str(artifact.path),
        "kept": artifact.kept,
        "total": artifact.total,
        "by_position": artifact.by_position,
        "direct_sparsity": 1 - artifact.kept / artifact.total,
        "effective_sparsity": 1 - effective / artifact.total,
        "seconds": artifact.manifest.get("seconds"),
        "layers": rows,
        "manifest": dict(artifact.manifest),
        "report": artifact.report,
    }


def masked_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of the report whose parameter has a mask."""
    return [row for row in artifact.report["parameters"] if row["name"] in artifact.masks]


def result(artifact: Artifact, spec: str) -> None:
    """One screen: what is left, where it is weakest, where it lies, how it is used with the model that ``spec`` names."""
    from pkcompiler.artifact.readme import usage

    found = result_json(artifact)
    rows = sorted(found["layers"], key=lambda row: row["effective"] / max(1, row["entries"]))[:WORST]
    lines = [
        ("kept", f"{found['kept']:,} of {found['total']:,} ({found['kept'] / found['total']:.4g})"),
        *_arbitrary(artifact),
        ("sparsity", f"{found['direct_sparsity']:.4%} direct, {found['effective_sparsity']:.4%} effective"),
        *(("worst layers" if i == 0 else "", text) for i, text in enumerate(_aligned(rows))),
        *_warned(artifact),
        ("seconds", "not known" if found["seconds"] is None else f"{found['seconds']:.1f}"),
        ("folder", found["folder"]),
    ]
    for label, text in lines:
        put(f"{label:<14}{text}".rstrip())
    put(f"\n{usage({**artifact.manifest['model'], 'spec': spec}, found['folder'])}", nl=False)


def _arbitrary(artifact: Artifact) -> list[tuple[str, str]]:
    chosen = artifact.by_position
    return [("by position", f"{chosen:,} of the kept ({chosen / artifact.kept:.1%}): their score is 0")] if chosen else []


def _warned(artifact: Artifact) -> list[tuple[str, str]]:
    count = len(artifact.report["warnings"])
    return [("warnings", f"{count}: pkc analyze {artifact.path}")] if count else []


def _aligned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    width = max((len(row["name"]) for row in rows), default=0)
    return [
        f"{row['name']:<{width}}  {row['density']:.4g} kept, {row['effective']:,} of {row['entries']:,} effective, "
        f"{row['effective_units']} of {row['units']} units"
        for row in rows
    ]


def show(artifact: Artifact) -> None:
    """Where an artifact comes from, then one row per masked parameter."""
    found, made = artifact.manifest, artifact.manifest["model"]
    data = found.get("data")
    lines = [
        ("model", f"{made.get('class', '?')}" + (f" of {made['spec']}" if made.get("spec") else "")),
        ("weights", "from a file" if made.get("weights_sha256") else f"as initialised, seed {made.get('seed')}"),
        ("inputs", ", ".join(_input(i) for i in found["inputs"])),
        ("data", f"{data['name']}, {len(data['indices'])} samples, sha256 {data['sha256'][:12]}" if data else "none"),
        ("recipe", f"{found['recipe_sha256'][:12]}, {found['recipe'].get('dtype', '?')} on {found['recipe'].get('device', '?')}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in found["versions"].items())),
        ("kept", f"{artifact.kept:,} of {artifact.total:,} ({artifact.kept / artifact.total:.4g})"),
        *_arbitrary(artifact),
    ]
    for label, text in lines:
        put(f"{label:<14}{text}")
    put()
    rows = (
        (n, "x".join(map(str, row["shape"])), f"{row['kept']:,}", _share(row["kept"], row["size"]))
        for n, row in found["parameters"].items()
    )
    table(("parameter", "shape", "kept", "density"), rows)
    put(f"\n{artifact.schedule}", nl=False)


def _input(described: Mapping[str, Any]) -> str:
    name = f"{described['name']}=" if described["name"] else ""
    return f"{name}{described['dtype']}:{'x'.join(map(str, described['shape']))}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.4f}" if whole else "-"


def compared(found: Comparison) -> None:
    """Totals, densities side by side, overlaps."""
    names = [str(a.path) for a in found.artifacts]
    totals = [report.totals for report in found.reports]
    rows = [
        ("kept", *(f"{a.kept:,} of {a.total:,}" for a in found.artifacts)),
        ("direct sparsity", *(f"{1 - a.kept / a.total:.4%}" for a in found.artifacts)),
        ("effective sparsity", *(_percent(t["effective_sparsity"].value) for t in totals)),
        ("log10 paths", *(_log10(t["paths"].value) for t in totals)),
        ("log10 L1 path norm", *(_mass(t["l1"].value) for t in totals)),
        ("log10 L2 path norm", *(_mass(t["l2"].value) for t in totals)),
    ]
    table(("", *names), rows)
    put()
    pair = found.overlaps[0].layers if len(names) == 2 else None
    header = ("density", *names) + (("overlap",) if pair else ())
    table(header, ((n, *map(_density, found.densities[n]), *((_density(pair[n]),) if pair else ())) for n in found.names))
    put()
    table(("mask overlap (Jaccard)", "", ""), ((names[o.first], names[o.second], _density(o.whole)) for o in found.overlaps))


def _density(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.4%}"


def _log10(count: int) -> str:
    return f"{math.log10(count):.3f}" if count else "no path"


def _mass(mass: Any) -> str:
    if mass is None:
        return "-"
    return f"{mass.log10:.3f}" if mass.mantissa else "0"


def densities_json(state: Round) -> dict[str, Any]:
    """A state as plain data: the density of every layer."""
    layers = {n: float(m.sum()) / max(1, m.numel()) for n, m in state.masks.items()}
    facts = {"stage": state.stage, "round": state.round, "when": BEFORE, "density": state.density, "kept": state.kept}
    return {**facts, "layers": layers}


def planned_json(found: PlannedRound) -> dict[str, Any]:
    """The same of a round in training: no layers, and the part of another quantity under its own word."""
    counted = found.word == "density"
    facts = {"stage": found.appointment.stage, "round": found.appointment.round, "when": str(found.appointment)}
    own = {} if counted else {found.word: found.part}
    return {**facts, "density": found.part if counted else None, "kept": found.left if counted else None, **own, "layers": {}}


def densities(states: Sequence[Mapping[str, Any]]) -> None:
    """One row per round, one column per layer; cut into blocks that fit where stdout is a terminal."""
    names = list(dict.fromkeys(name for state in states for name in state["layers"]))
    width = len(str(len(names))) + 1
    for i, name in enumerate(names, 1):
        put(f"{f'#{i}':<{width}}  {name}")
    head, fixed = _facts(states)
    widths = [max(len(title), *(len(row[i]) for row in fixed)) for i, title in enumerate(head)]
    room = shutil.get_terminal_size().columns - sum(widths) - 2 * len(widths)
    step = max(1, min(room // 8, len(names))) if (stream := stdout()) is not None and stream.isatty() else max(1, len(names))
    for start in range(0, max(1, len(names)), step):
        part = names[start : start + step]
        if names:
            put()
        put(_line(head, widths) + "".join(f"{f'#{start + i + 1}':>8}" for i in range(len(part))))
        for state, row in zip(states, fixed, strict=True):
            put(_line(row, widths) + "".join(_cell(state["layers"].get(name)) for name in part))


def _facts(states: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Titles, and a row for every state: the moments and the parts of other quantities only where there are any."""
    several = len({state["stage"] for state in states}) > 1
    moments = any(state["when"] != BEFORE for state in states)
    others = [word for word in ("flops", "size") if any(word in state for state in states)]
    rows = [
        [
            _round(state, several),
            *[state["when"]] * moments,
            *(_part(state.get(word)) for word in ("density", *others)),
            "-" if state["kept"] is None else f"{state['kept']:,}",
        ]
        for state in states
    ]
    return ["round", *["when"] * moments, "density", *others, "kept"], rows


def _part(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _round(state: Mapping[str, Any], several: bool) -> str:
    return f"{state['stage'] + 1}.{state['round']}" if several else str(state["round"])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _cell(value: float | None) -> str:
    return f"{_part(value):>8}"
