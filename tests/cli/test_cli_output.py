"""Where the command line writes: results to stdout and nothing else, whatever the user's code prints, and what if it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pkcompiler.cli import main
from pkcompiler.usercode import raised_in
from tests.cli_support import home, pkc

__all__ = ["home"]

CODE = "from pkcompiler.cli import main; main({arguments!r})"
FORWARD = """\
import sys
import torch
from torch import nn

class Odd(BaseException):
    pass

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.calls = nn.Linear(4, 3), nn.Linear(3, 2), 0
    def forward(self, x):
        self.calls += 1
        WHAT
        return self.b(torch.relu(self.a(x)))

def model():
    return Net()

def example_inputs():
    return torch.randn(1, 4)
"""


def ran(*arguments: str, **streams: str) -> subprocess.CompletedProcess[str]:
    """A command in a process; ``streams``: files in place of the pipes."""
    command = [sys.executable, "-c", CODE.format(arguments=list(arguments))]
    with ExitStack() as stack:
        opened = {name: stack.enter_context(open(file, "w")) for name, file in streams.items()}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.run(command, text=True, check=False, **{**pipes, **opened})  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("arguments", [("passes",), ("explain", "synflow"), ("--help",), ("passes", "--help")])
def test_a_full_stdout_has_a_code(arguments: tuple[str, ...]) -> None:
    done = ran(*arguments, stdout="/dev/full")
    assert done.returncode == 1 and done.stderr.startswith("error[PKC635]") and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_full_stderr_changes_nothing(tmp_path: Path) -> None:
    assert ran("check", str(tmp_path / "nothing.pkc"), stderr="/dev/full").returncode == 1
    assert ran("show", stderr="/dev/full").returncode == 2


def test_a_reader_that_has_enough_ends_it_as_other_tools() -> None:
    command = f'{sys.executable} -c "{CODE.format(arguments=["passes"])}" | head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0].startswith("pass ") and done.stdout.splitlines()[-1] in ("0", "141") and done.stderr == ""


def test_names_that_are_no_text_are_shown_all_the_same(tmp_path: Path) -> None:
    done = ran("check", str(tmp_path) + "/n\udcffo.pkc")
    assert done.returncode == 1 and "PKC611" in done.stderr


# the user's code -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("analyze",), ("certify",), ("prune", "--pass", "magnitude", "--density", "50%")])
def test_prints_of_forward_go_to_stderr(home: Path, command: tuple[str, ...]) -> None:
    (home / "net.py").write_text(FORWARD.replace("WHAT", "print('from forward')"))
    result = pkc(command[0], "net.py", *command[1:], "--json", "-")
    assert result.exit_code == 0 and isinstance(json.loads(result.stdout), dict) and "from forward" in result.stderr


@pytest.mark.parametrize("what", ["sys.exit(3)", "raise Odd('it')", "raise GeneratorExit()"])
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_whatever_forward_raises_and_whenever_has_a_code_and_a_line(home: Path, what: str, calls: int) -> None:
    (home / "net.py").write_text(FORWARD.replace("WHAT", f"if self.calls == {calls}: {what}"))
    result = CliRunner().invoke(main, ["certify", "net.py"])
    assert result.exit_code == 1 and ("PKC203" if calls == 1 else "PKC243") in result.stderr, result.output
    assert "net.py:14" in result.stderr and what in result.stderr


def test_an_exception_of_a_later_call_is_the_users(home: Path) -> None:
    (home / "net.py").write_text(FORWARD.replace("WHAT", "if self.calls > 2: raise ValueError('late')"))
    result = CliRunner().invoke(main, ["certify", "net.py"])
    assert (
        result.exit_code == 1 and "PKC243" in result.stderr and "ValueError: late" in result.stderr and "net.py:14" in result.stderr
    )


def test_what_this_package_raises_is_not_the_users() -> None:
    from pkcompiler.pruning.recipe import recipe_hash

    with pytest.raises(TypeError) as caught:
        recipe_hash({"a": object()})
    assert raised_in(caught.value) is None


@pytest.mark.parametrize("device", ["meta", "cuda:99"])
@pytest.mark.parametrize("place", ["top", "factory"])
def test_a_default_device_is_refused_and_put_back(home: Path, device: str, place: str) -> None:
    text = (home / "mlp.py").read_text()
    line = f"torch.set_default_device('{device}')\n"
    text = f"{text}\n{line}" if place == "top" else text.replace("    return nn.Sequential", f"    {line}    return nn.Sequential")
    (home / "mlp.py").write_text(text)
    result = pkc("analyze", "mlp.py")
    assert result.exit_code == 1 and "PKC248" in result.stderr and torch.get_default_device().type == "cpu"


def test_tensors_without_values_are_refused(home: Path) -> None:
    (home / "mlp.py").write_text(
        (home / "mlp.py").read_text().replace("nn.Linear(64, width)", "nn.Linear(64, width, device='meta')")
    )
    for command in (("analyze",), ("prune", "--pass", "random", "--density", "50%")):
        result = pkc(command[0], "mlp.py", *command[1:])
        assert result.exit_code == 1 and "PKC212" in result.stderr and "1.weight" in result.stderr


def test_fmt_of_stdin_that_is_no_text() -> None:
    result = CliRunner().invoke(main, ["fmt", "-"], input=b"\xff\xfe", catch_exceptions=False)
    assert result.exit_code == 1 and "PKC008" in result.stderr and "<stdin>" in result.stderr
