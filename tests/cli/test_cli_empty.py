"""An empty text is no value of any option or argument of any command: a usage error, before anything is read or written."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from pkcompiler.cli import COMMANDS, main
from tests.cli_support import home, listing, pkc

__all__ = ["home"]


def texts() -> list[tuple[str, str | None]]:
    """Every command with every option that takes a text, and with None for its arguments."""
    found: list[tuple[str, str | None]] = []
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        for param in command.params:
            if isinstance(param, click.Argument):
                found.append((name, None))
            elif type(param.type) is click.types.StringParamType:
                found.append((name, param.opts[-1]))
    return found


@pytest.mark.parametrize(("command", "option"), texts())
def test_an_empty_text_is_a_usage_error(home: Path, command: str, option: str | None) -> None:
    given = {"compare": ("a", "b"), "passes": (), "ops": (), "export": ("a", "mlp.py")}.get(command, ("mlp.py",))
    needed = {"export": ("--to", "pt2", "-o", "net.pt2"), "import": ("-o", "b")}.get(command, ())
    before = listing(home)
    result = pkc(command, *("" for _ in given), *needed) if option is None else pkc(command, *given, *needed, option, "")
    assert result.exit_code == 2 and "is given an empty text" in result.stderr, result.output
    assert listing(home) == before


def test_which_it_is_among_several(home: Path) -> None:
    assert "--gate is given" in pkc("analyze", "mlp.py", "--gate", "relu", "--gate", "").stderr
    assert "FILES" in pkc("check", "two.pkc", "").stderr
