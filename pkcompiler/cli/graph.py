"""Commands on the path graph."""

from __future__ import annotations

from typing import Any

import click

from pkcompiler.cli.model import model_options, opened
from pkcompiler.cli.output import table, write_json


@click.command()
@model_options
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "dot"]), default="text", show_default=True, help="How to print it."
)
def ir(form: str, **model: Any) -> None:
    """Print the path graph of a model."""
    from pkcompiler.ir.dot import to_dot
    from pkcompiler.ir.json import to_json
    from pkcompiler.ir.text import print_graph

    graph = opened(**model).graph
    if form == "json":
        write_json(to_json(graph))
    else:
        click.echo(to_dot(graph) if form == "dot" else print_graph(graph), nl=False)


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
    click.echo()
    table(("reading", "meaning"), READINGS.items())
