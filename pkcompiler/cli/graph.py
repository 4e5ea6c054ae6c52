"""Commands on the path graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pkcompiler.cli.model import model_options, opened
from pkcompiler.cli.output import deliver_json, put, table, write_json
from pkcompiler.diagnostics import first_few

if TYPE_CHECKING:
    from pkcompiler.paths.certificate import Certificate


@click.command()
@model_options
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "dot"]), default="text", show_default=True, help="How to print it."
)
@click.option("--groups", is_flag=True, help="Print instead which units can only be removed together (text or json).")
def ir(form: str, groups: bool, **model: Any) -> None:
    """Print the path graph of a model."""
    from pkcompiler.cli.groups import write_groups
    from pkcompiler.ir.dot import to_dot
    from pkcompiler.ir.json import to_json
    from pkcompiler.ir.text import print_graph

    if groups and form == "dot":
        raise click.UsageError("--groups is written as text or json, not as dot.")
    network = opened(**model)
    if groups:
        write_groups(network.captured, form == "json")
        return
    graph = network.graph
    if form == "json":
        write_json(to_json(graph))
    else:
        put(to_dot(graph) if form == "dot" else print_graph(graph), nl=False, exact=True)


@click.command()
@model_options
@click.option("--json", "json_file", metavar="FILE|-", help="Write it as JSON (- is stdout, in place of the text).")
def certify(json_file: str | None, **model: Any) -> None:
    """Prove that the path graph of a model is the model.

    At random inputs, in float64: the sum over paths is the model's output, its derivatives are those of the exported program with
    what was recorded held fixed, and plain autograd of that program is the model's own.
    """
    from dataclasses import asdict

    from pkcompiler.driver.certify import certificate
    from pkcompiler.paths.certificate import TOLERANCE, require

    network = opened(**model)
    found = certificate(network)
    if deliver_json({"schema": 1, "holds": found.holds, "tolerance": TOLERANCE, **asdict(found)}, json_file):
        for line in _certified(found, TOLERANCE):
            put(line)
    require(found, network.name)


def _certified(found: Certificate, bound: float) -> list[str]:
    worst = f", worst {found.worst_parameter}" if found.worst_parameter else ""
    errors = [
        ("path sum = output", found.max_relative_error, ""),
        ("gradients agree", found.max_gradient_error, f"  ({found.parameters} parameters{worst})"),
        ("autograd agrees", found.max_autograd_error, f"  (the model's own, {found.tested} parameters)"),
    ]
    lines = [
        f"{'holds' if error < bound else 'FAILS'}  {label:<18} {error:.2e} < {bound:.0e}{more}" for label, error, more in errors
    ]
    lines += [f"FAILS  gradient hook      {name}" for name in found.hooked]
    if found.untested:
        lines.append(
            f"not tested: {len(found.untested)} parameters whose derivative is 0 at these inputs: {first_few(found.untested)}"
        )
    lines += [f"frozen: {place}" for place in found.frozen_at] or ["frozen: nothing"]
    if outside := found.observed_only:
        lines.append(f"on no path: {len(outside)} parameters that enter through frozen factors alone, first {outside[0]}")
    return [*lines, "recorded: the branches taken at these inputs; others may differ"] if found.recorded else lines


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON instead of a table.")
def ops(as_json: bool) -> None:
    """List the operators that a lift understands."""
    from pkcompiler.ops.catalogue import READINGS, operators

    found = operators()
    if as_json:
        write_json({"schema": 1, "readings": READINGS, "operators": [{"name": o.name, "readings": o.readings} for o in found]})
        return
    table(("operator", "read as"), [(o.name, ", ".join(o.readings)) for o in found])
    put()
    table(("reading", "meaning"), READINGS.items())
