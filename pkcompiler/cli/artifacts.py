"""Commands on artifacts: nothing that an artifact names is imported or run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkcompiler.cli import pages
from pkcompiler.cli.output import deliver_json, say

if TYPE_CHECKING:
    from pkcompiler.artifact.read import Artifact


@click.command()
@click.argument("artifact", metavar="ARTIFACT")
@click.option("--json", "json_file", metavar="FILE|-", help="Write it as JSON (- is stdout, in place of the text).")
def show(artifact: str, json_file: str | None) -> None:
    """Show what an artifact holds and where it comes from."""
    from pkcompiler.cli.summary import result_json
    from pkcompiler.cli.summary import show as printed

    found = loaded(artifact)
    if deliver_json({**result_json(found), "schedule": found.schedule, "extra": list(found.extra)}, json_file):
        printed(found)


@click.command()
@click.argument("artifacts", nargs=-1, required=True, metavar="ARTIFACTS...")
@click.option("--json", "json_file", metavar="FILE|-", help="Write it as JSON (- is stdout, in place of the tables).")
@click.option("--html", metavar="FILE", help="Write it as a page to look at: one file, without network access.")
def compare(artifacts: tuple[str, ...], json_file: str | None, html: str | None) -> None:
    """Compare artifacts: densities, overlaps, paths and norms."""
    if len(artifacts) < 2:
        raise click.UsageError(f"One artifact has nothing to be compared with: type pkc compare {artifacts[0]} OTHER.")
    from pkcompiler.cli.summary import compared
    from pkcompiler.driver.compare import compare as side_by_side

    pages.prepare(html, None)
    found = side_by_side([loaded(path) for path in artifacts])
    if deliver_json(found.to_json(), json_file):
        compared(found)
    if html is not None:
        pages.deliver_comparison(html, found)


def is_artifact(model: str) -> bool:
    """Whether a MODEL is the folder of an artifact. Raises ``PKC624`` where nobody can tell, for it may not be entered."""
    from pkcompiler.diagnostics import fail
    from pkcompiler.files import hidden
    from pkcompiler.usercode import FILE_SPEC

    manifest = Path(model) / "manifest.json"
    if FILE_SPEC.fullmatch(model) is None and (why := hidden(manifest)) is not None:
        raise fail("PKC624", f"'{model}' cannot be read: {why}", "give a model.py, or the folder of an artifact that can be read")
    return os.path.isfile(manifest)


def finished(folder: Path) -> None:
    """Raise ``PKC624`` where there is only an unfinished run of an artifact."""
    from pkcompiler.artifact.folder import partial_of
    from pkcompiler.artifact.resume import unfinished
    from pkcompiler.diagnostics import fail

    if folder.name in ("", "..", ".partial") or os.path.isfile(folder / "manifest.json"):
        return
    out = folder.with_name(folder.name.removesuffix(".partial"))
    if (found := unfinished(out)) is None:
        return
    command, collapse = found
    if collapse:
        note = "change its settings, and begin anew with --fresh" + (f"; it was: {command}" if command else "")
        raise fail("PKC624", f"there is no artifact '{out}': its run ended in {collapse} ('{partial_of(out)}')", note)
    note = f"go on with it: {command}" if command else "the pkc prune command that began it goes on from there"
    raise fail("PKC624", f"there is no artifact '{out}' yet, only an unfinished run: '{partial_of(out)}'", note)


def loaded(path: str) -> Artifact:
    """The artifact of a command line. Raises ``PKC624`` where there is none, and what :func:`pkcompiler.load` raises."""
    from pkcompiler.artifact.read import load

    finished(Path(path))
    found = load(path)
    if found.extra:
        say(f"'{path}' holds files that its manifest does not name: {', '.join(found.extra)}")
    return found
