"""Commands on files of the language: no model, no torch."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pkcompiler.cli.output import put, say, table, warn, write_json
from pkcompiler.diagnostics import Diagnostic, PkcError, fail
from pkcompiler.files import deliver
from pkcompiler.render import summary


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
def check(files: tuple[str, ...]) -> None:
    """Report every error of .pkc files, without loading a model."""
    from pkcompiler.lang.library import check_files

    found = check_files(files)
    if any(d.severity == "error" for d in found):
        raise PkcError(*found)
    warn(found)
    say(f"{len(files)} file{'s' if len(files) > 1 else ''} checked, no errors{f', {summary(found)}' if found else ''}")


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit with 1 where a file is laid out otherwise.")
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
def fmt(only_check: bool, files: tuple[str, ...]) -> None:
    """Lay .pkc files out in the one canonical way.

    Comments are kept. The file '-' is read from stdin and written to stdout.
    """
    found: list[Diagnostic] = []
    for file in files:
        try:
            _format(file, only_check)
        except PkcError as error:
            found += error.diagnostics
    if found:
        raise PkcError(*found)


def _format(file: str, only_check: bool) -> None:
    from pkcompiler.lang.library import decoded, format_text, read_source

    text = decoded(sys.stdin.buffer.read() if sys.stdin else b"", "<stdin>") if file == "-" else read_source(Path(file))
    formatted = format_text(text, "<stdin>" if file == "-" else file)
    if only_check and formatted != text:
        raise fail("PKC009", f"'{file}' is not laid out canonically", f"pkc fmt {file}")
    if only_check:
        return
    if file == "-":
        put(formatted, nl=False, exact=True)
    elif formatted != text:
        deliver(file, formatted, "PKC612", "make it writable, or print the result: pkc fmt - < FILE")
        say(f"formatted {file}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON instead of tables.")
def passes(as_json: bool) -> None:
    """List the passes and analyses of the library."""
    from pkcompiler.lang.explain.word import reads
    from pkcompiler.lang.library import list_analyses, list_passes

    found, measured = list_passes(), list_analyses()
    if not as_json:
        table(("pass", "reads", "rounds", "source"), [(p.name, reads(p), str(p.rounds), p.source) for p in found])
        put()
        table(("analysis", "reads", "source"), [(a.name, reads(a), a.source) for a in measured])
        return
    rows = [
        {"name": p.name, "doc": p.doc, "source": p.source, "reads": reads(p), "rounds": p.rounds, "curve": p.curve, "text": p.text}
        for p in found
    ]
    others = [
        {
            "name": a.name,
            "doc": a.doc,
            "source": a.source,
            "reads": reads(a),
            "reports": [r.label for r in a.reports],
            "text": a.text,
        }
        for a in measured
    ]
    write_json({"schema": 1, "passes": rows, "analyses": others})


@click.command()
@click.argument("word")
def explain(word: str) -> None:
    """Explain a pass, an analysis, a word or an error code.

    A pass or an analysis (by name or path) is shown with its formula, a word of the language with what it takes.
    """
    from pkcompiler.lang.explain.word import explain as explained

    put(explained(word), nl=False)
