"""The results of a study as one table: a row for every cell, the same in CSV and in Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from pkcompiler.driver.study.store import Record
from pkcompiler.files import write_whole

if TYPE_CHECKING:
    import pyarrow

CSV, PARQUET = "results.csv", "results.parquet"
LEADING = 10
"""Values along an axis that become columns; all of them stand in the cell's file."""

TEXTS, WHOLE = ("model", "method", "status"), ("seed", "weights", "kept", "on_paths")
Row = dict[str, str | int | float | None]


def rows_of(records: Sequence[Record]) -> list[Row]:
    """A row for every record, all with the same columns in the same order; what a cell does not have is None."""
    found = [_row(record) for record in records]
    columns = list(dict.fromkeys(name for row in found for name in row))
    return [{name: row.get(name) for name in columns} for row in found]


def _row(record: Record) -> Row:
    row: Row = {name: record[name] for name in ("model", "method", "seed", "status", "compression")}
    kept = record.get("kept") or {}
    weights, left, on_paths = kept.get("of"), kept.get("weights"), kept.get("on_paths")
    row |= {"weights": weights, "kept": left, "on_paths": on_paths}
    row["sparsity"] = None if not weights or left is None else 1 - left / weights
    row["effective_sparsity"] = None if not weights or on_paths is None else 1 - on_paths / weights
    row |= {f"train: {name}": value for name, value in (record.get("results") or {}).items()}
    for analysis, lines in (record.get("analyses") or {}).items():
        for label, value in lines.items():
            row |= _columns(f"{analysis}: {label}", value)
    return row


def _columns(name: str, value: Mapping[str, Any]) -> Row:
    """A number is a column, the first of those along an axis are one each; tables and distributions stay in the cell's file."""
    if "axes" in value:
        return {f"{name} [{i}]": v for i, v in enumerate(value["values"][:LEADING], 1)}
    if "log10" in value:
        return {name: value["value"]}
    return {}


def metric_of(rows: Sequence[Row]) -> str | None:
    """The column that stands for how good a network is: accuracy, else the first number that train returned."""
    found = [name for row in rows[:1] for name in row if name.startswith("train: ")]
    return next((name for name in found if name == "train: accuracy"), found[0] if found else None)


def measures_of(rows: Sequence[Row]) -> list[str]:
    """The columns of analyses; of those along an axis the first alone."""
    own = [name for row in rows[:1] for name in row if ": " in name and not name.startswith("train: ")]
    return [name for name in own if not name.endswith("]") or name.endswith("[1]")]


def summary(rows: Sequence[Row], metric: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: one row for a model and method, one column for a compression, means over seeds."""
    marks = sorted({float(r["compression"]) for r in rows if r["compression"] is not None})
    head = ["model", "method", *(f"{mark:g}x" for mark in marks)]
    if own := any(r["compression"] is None for r in rows):
        head.append("its own target")
    pairs = list(dict.fromkeys((str(r["model"]), str(r["method"])) for r in rows))
    body = []
    for model, method in pairs:
        mine = [r for r in rows if (r["model"], r["method"]) == (model, method)]
        ends: list[float | None] = [*marks, *([None] if own else [])]
        body.append([model, method, *(_mean([r for r in mine if r["compression"] == end], metric) for end in ends)])
    return head, body


def _mean(rows: Sequence[Row], metric: str) -> str:
    values = [float(value) for row in rows if (value := row[metric]) is not None]
    gone = [str(row["status"]) for row in rows if row["status"] != "done"]
    gone += ["not finite" for row in rows if row["status"] == "done" and row[metric] is None]
    shown = f"{mean(values):.4g}" if values else ""
    shown += f" +- {stdev(values):.2g}" if len(values) > 1 else ""
    lost = ", ".join(f"{gone.count(status)} {status}" for status in dict.fromkeys(gone))
    return f"{shown} ({lost})" if shown and lost else shown or lost


def csv_text(rows: Sequence[Row]) -> str:
    """Numbers by ``repr``, so that they read back as they are; nothing where there is none."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def parquet_table(rows: Sequence[Row]) -> pyarrow.Table:
    """The same rows, typed: texts, int64, float64."""
    import pyarrow

    names = list(rows[0]) if rows else []
    fields = [pyarrow.field(n, _type(n)) for n in names]
    return pyarrow.Table.from_pylist([{n: _cast(n, row[n]) for n in names} for row in rows], schema=pyarrow.schema(fields))


def _type(name: str) -> Any:
    import pyarrow

    return pyarrow.string() if name in TEXTS else pyarrow.int64() if name in WHOLE else pyarrow.float64()


def _cast(name: str, value: str | int | float | None) -> str | int | float | None:
    return value if value is None or name in TEXTS or name in WHOLE else float(value)


def write_tables(out: Path, rows: Sequence[Row]) -> tuple[Path, Path]:
    """Write ``results.csv`` and ``results.parquet``, each whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(parquet_table(rows), sink)
    write_whole(out / CSV, csv_text(rows), durable=False)
    write_whole(out / PARQUET, sink.getvalue().to_pybytes(), durable=False)
    return out / CSV, out / PARQUET
