"""``pkc rescale``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkcompiler.cli.model import model_options, opened
from pkcompiler.cli.output import deliver_json, put, say, table

if TYPE_CHECKING:
    from pkcompiler.rescaling import Figures, LeftAlone, Rescaled

SHOWN = 4
"""How many names the table gives for each reason."""


@click.command()
@model_options
@click.option(
    "--method",
    type=click.Choice(["conditioning", "equi-norm"]),
    default="conditioning",
    show_default=True,
    help="Align diag(G) of the Path Kernel, or make the sum of squared weights smallest.",
)
@click.option("--powers-of-two", is_flag=True, help="Scales are powers of two, which change no digit of a weight.")
@click.option("-o", "--out", metavar="FILE", help="The new weights.  [default: ./<model>-rescaled.safetensors]")
@click.option("--force", is_flag=True, help="Replace the file that is there.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the figures as JSON (- is stdout, in place of the table).")
def rescale(method: str, powers_of_two: bool, out: str | None, force: bool, json_file: str | None, **options: Any) -> None:
    """Rescale units without changing the function; write weights.

    Units are rescaled where the network is positively homogeneous; everything else is left alone and named. The function in
    evaluation mode is compared on random inputs in float64, and nothing is written where it differs by more than 1e-9.
    """
    from pkcompiler.driver.rescale import SUFFIX, refuse_file, rescale_to

    if out is not None:
        refuse_file(Path(out), force)
    found = opened(**options)
    file = Path(out or f"{found.name}-rescaled{SUFFIX}")
    result = rescale_to(found, file, method=method, powers_of_two=powers_of_two, force=force)
    if deliver_json({"file": file.as_posix(), **result.to_json()}, json_file):
        _print(result, file)


# the table ------------------------------------------------------------------------------------------------------------------


def _print(result: Rescaled, file: Path) -> None:
    table(("", "before", "after"), [_objective(result), *_rows(result.before, result.after)])
    ended = "converged" if result.converged else "not converged"
    put()
    put(f"{result.units:,} units rescaled by {result.method}: {ended} after {len(result.history) - 1} steps, ", nl=False)
    put(f"scales {_range(result)}; diag(G) {result.status}")
    put(f"the function, on random inputs in float64: preserved to {result.checked:.2e} ({result.stored:.1e} as stored)")
    if result.left_alone:
        put()
        table(("left alone because", "units", "where"), _reasons(result.left_alone))
    say(f"written: {file}")


def _objective(result: Rescaled) -> tuple[str, str, str]:
    name = "F = p log sum g - sum Bz" if result.method == "conditioning" else "sum of squared weights"
    old, new = result.objective
    return name, f"{old:.6g}", f"{new:.6g}"


def _rows(before: Figures, after: Figures) -> list[tuple[str, str, str]]:
    return [
        (name, show(before), show(after))
        for name, show in (
            ("diag(G): arithmetic / geometric mean", lambda f: f"{f.ratio:.4g}"),
            ("diag(G): largest / smallest (log10)", lambda f: f"{f.spread_log10:.2f}"),
            ("diag(G): sum (log10)", lambda f: f"{f.trace_log10:.2f}"),
            ("norm of the weights", lambda f: f"{f.squares**0.5:.4g}"),
        )
    ]


def _range(result: Rescaled) -> str:
    """The smallest and the largest scale."""
    if not result.scales:
        return "1"
    return f"{min(float(s.min()) for s in result.scales.values()):.3g} to {max(float(s.max()) for s in result.scales.values()):.3g}"


def _reasons(left: tuple[LeftAlone, ...]) -> list[tuple[str, str, str]]:
    """One row per reason: how many units, and which values bring them in."""
    found: dict[str, list[LeftAlone]] = {}
    for item in left:
        found.setdefault(item.reason.partition(" (%")[0], []).append(item)
    return [(why, f"{sum(i.units for i in items):,}", _names(items)) for why, items in found.items()]


def _names(items: list[LeftAlone]) -> str:
    """The first few names, and how many more there are (all of them are in the JSON)."""
    more = len(items) - SHOWN
    return ", ".join(i.name for i in items[:SHOWN]) + (f" and {more} more" if more > 0 else "")
