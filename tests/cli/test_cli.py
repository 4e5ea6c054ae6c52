"""The command line: exit codes, what goes where, both error formats, and what is imported for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

from pkcompiler.cli import COMMANDS, main
from pkcompiler.ir.parse import parse_graph

GOOD = 'pass mine {\n  source = "me"\n  score  = abs(theta)\n}\n'
BAD = 'pass mine {\n  source = "me"\n  score = abs(thta)\n  rounds = 0\n}\n'
LOOSE = 'pass mine { source="me"\n score=abs(theta) }\n'
GRAPH = "path.graph @net(%x: f32[B, 4]) -> f32[B, 4] {\n  %act: f32[B, 4] = gate %x {kind = relu}\n  return %act\n}\n"


def pkc(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, args, input=stdin, catch_exceptions=False)


def run(*args: str, code: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-c", "from pkcompiler.cli import main; main()", *args]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "utf-8"} | env, check=False
    )


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("mine.pkc")


def test_help_names_every_command_without_cutting_its_line() -> None:
    result = pkc("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        line = next(line for line in result.stdout.splitlines() if line.split()[:1] == [name])
        assert not line.endswith("...")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_takes_the_error_format(name: str) -> None:
    result = pkc(name, "--help")
    assert result.exit_code == 0 and result.stderr == ""
    assert "--error-format [text|json]" in result.stdout


def test_version() -> None:
    result = pkc("--version")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "pkc")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("chek", "x.pkc"), "did you mean 'pkc check'?"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("check",), "Missing argument 'FILES...'"),
        (("fmt", "--chek", "x.pkc"), "--chek"),
        (("ir", "m.py", "--format", "xml"), "'xml' is not one of"),
        (("--error-format", "xml", "passes"), "'xml' is not one of"),
        (("passes", "extra"), "extra"),
    ],
)
def test_usage_errors_exit_with_two(args: Sequence[str], message: str) -> None:
    result = pkc(*args)
    assert result.exit_code == 2 and result.stdout == "" and message in result.stderr


def test_usage_errors_as_json() -> None:
    result = pkc("check", "--error-format", "json")
    assert result.exit_code == 2
    assert json.loads(result.stderr) == {"code": "usage", "severity": "error", "message": "Missing argument 'FILES...'."}


def test_check_of_a_good_file(file: Path) -> None:
    file.write_text(GOOD)
    result = pkc("check", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "1 file checked, no errors\n"


def test_check_reports_every_error_of_every_file_with_carets(file: Path) -> None:
    file.write_text(BAD)
    Path("other.pkc").write_text(BAD)
    result = pkc("check", str(file), "other.pkc", "missing.pkc")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--> mine.pkc:3:15\n" in result.stderr and "--> other.pkc:3:15\n" in result.stderr
    assert "|               ^^^^" in result.stderr
    assert "'missing.pkc'" in result.stderr
    assert result.stderr.endswith("\n5 errors\n")


@pytest.mark.parametrize("before", [True, False])
def test_errors_as_json_are_one_object_to_a_line(file: Path, before: bool) -> None:
    file.write_text(BAD)
    option = ("--error-format", "json")
    result = pkc(*option, "check", str(file)) if before else pkc("check", str(file), *option)
    assert result.exit_code == 1
    records = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(r["file"], r["line"]) for r in records] == [("mine.pkc", 3), ("mine.pkc", 4)]
    assert all(r["code"].startswith("PKC") and r["help"] for r in records)


@pytest.mark.parametrize(("name", "note"), [("net.py", "it is a Python file"), ("net.txt", "a .pkc file holds declarations")])
def test_a_file_without_declarations_is_one_error(file: Path, name: str, note: str) -> None:
    Path(name).write_text("import torch\n\ndef model(n=3):\n    x = {1: 2}\n    return torch.nn.Linear(n, n)\n" * 9)
    result = pkc("check", name)
    assert result.exit_code == 1 and result.stderr.count("error[") == 1 and note in result.stderr


def test_warnings_do_not_fail(file: Path) -> None:
    file.write_text("pass mine {\n  score = abs(theta)\n}\n")
    result = pkc("check", str(file))
    assert result.exit_code == 0 and "warning[PKC115]" in result.stderr
    assert result.stderr.endswith("\n1 file checked, no errors, 1 warning\n")
    as_json = pkc("check", str(file), "--error-format=json")
    assert [json.loads(line)["severity"] for line in as_json.stderr.splitlines()] == ["warning", "info"]


def test_fmt_rewrites_once(file: Path) -> None:
    file.write_text(LOOSE)
    assert pkc("fmt", str(file)).stderr == "formatted mine.pkc\n"
    assert file.read_text() == GOOD
    again = pkc("fmt", str(file))
    assert (again.exit_code, again.stderr) == (0, "")


def test_fmt_check_changes_nothing(file: Path) -> None:
    file.write_text(LOOSE)
    Path("good.pkc").write_text(GOOD)
    result = pkc("fmt", "--check", str(file), "good.pkc")
    assert result.exit_code == 1 and file.read_text() == LOOSE
    assert "PKC009" in result.stderr and "pkc fmt mine.pkc" in result.stderr and "good.pkc" not in result.stderr
    assert pkc("fmt", "--check", "good.pkc").exit_code == 0


def test_fmt_goes_on_after_a_file_that_it_cannot_read(file: Path) -> None:
    file.write_text(LOOSE)
    Path("broken.pkc").write_text("pass {")
    result = pkc("fmt", "broken.pkc", str(file))
    assert result.exit_code == 1 and file.read_text() == GOOD and "broken.pkc:1" in result.stderr


def test_fmt_of_stdin() -> None:
    result = pkc("fmt", "-", stdin=LOOSE)
    assert (result.exit_code, result.stdout, result.stderr) == (0, GOOD, "")


def test_passes() -> None:
    listed = json.loads(pkc("passes", "--json").stdout)
    assert listed["schema"] == 1
    rows = pkc("passes").stdout.splitlines()
    assert rows[0].split() == ["pass", "reads", "rounds", "source"]
    middle = rows.index("")
    assert [row.split()[0] for row in rows[2:middle]] == [p["name"] for p in listed["passes"]]
    assert rows[middle + 1].split() == ["analysis", "reads", "source"]
    assert [row.split()[0] for row in rows[middle + 3 :]] == [a["name"] for a in listed["analyses"]]
    assert all(p["source"] in row for p, row in zip(listed["passes"], rows[2:middle], strict=True))


def test_explain() -> None:
    result = pkc("explain", "synflow")
    assert result.exit_code == 0 and "score_i" in result.stdout
    assert "PKC305" in pkc("explain", "PKC305").stdout
    unknown = pkc("explain", "sinflow")
    assert unknown.exit_code == 1 and unknown.stdout == "" and "synflow" in unknown.stderr


def test_ops() -> None:
    listed = json.loads(pkc("ops", "--json").stdout)
    readings = {o["name"]: o["readings"] for o in listed["operators"]}
    assert "map" in readings["aten.conv2d.default"] and "gate" in readings["aten.relu.default"]
    assert {r for found in readings.values() for r in found} == set(listed["readings"])
    shown = pkc("ops").stdout
    assert all(name in shown for name in readings)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A driver that notes what it is asked for."""
    asked: dict[str, object] = {}

    def open_model(spec: str, **options: object) -> SimpleNamespace:
        asked.update(options, spec=spec)
        return SimpleNamespace(graph=parse_graph(GRAPH))

    module = ModuleType("pkcompiler.driver.open")
    module.open_model = open_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pkcompiler.driver.open", module)
    monkeypatch.setattr("pkcompiler.driver.open", module, raising=False)
    return asked


def test_ir_prints_what_parses_back(driver: dict[str, object]) -> None:
    assert parse_graph(pkc("ir", "net.py").stdout) == parse_graph(GRAPH)
    assert json.loads(pkc("ir", "net.py", "--format", "json").stdout)["name"] == "net"
    assert pkc("ir", "net.py", "--format", "dot").stdout.startswith('digraph "net" {')


def test_ir_hands_its_options_on(driver: dict[str, object]) -> None:
    args = ("--arg", "width=8", "--input", "1x3x8x8", "--input", "int64:1x4", "--output", "1", "--seed", "7", "--weights", "w.pt")
    assert pkc("ir", "net.py:f", *args, "--plugin", "ops.py", "--gate", "aten.sin.default").exit_code == 0
    assert callable(driver.pop("say"))
    assert driver == {
        "spec": "net.py:f",
        "args": ("width=8",),
        "inputs": ("1x3x8x8", "int64:1x4"),
        "output": 1,
        "seed": 7,
        "weights": "w.pt",
        "plugins": ("ops.py",),
        "gates": ("aten.sin.default",),
    }
    pkc("ir", "net.py", "--output", "logits")
    assert driver["output"] == "logits"


def test_an_unexpected_exception_is_a_traceback(driver: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkcompiler.driver.open.open_model", None)
    with pytest.raises(TypeError):
        pkc("ir", "net.py")


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort])
def test_interrupted(driver: dict[str, object], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pkcompiler.driver.open.open_model", interrupted)
    assert pkc("ir", "net.py").exit_code == 130


def test_a_closed_pipe_is_no_traceback() -> None:
    code = "from pkcompiler.cli import main; main(['passes', '--json'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


@pytest.mark.parametrize(
    ("args", "heavy"),
    [
        (("--help",), ("torch", "rich", "numpy", "lark")),
        (("check", "mine.pkc"), ("torch", "rich", "numpy")),
        (("fmt", "mine.pkc"), ("torch", "rich", "numpy")),
        (("explain", "synflow"), ("torch", "rich", "numpy")),
        (("passes",), ("torch", "numpy")),
        (("ir", "--help"), ("torch", "rich", "numpy", "lark")),
        (("prune", "--help"), ("torch", "rich", "numpy", "lark")),
        (("compare", "--help"), ("torch", "rich", "numpy", "lark")),
    ],
)
def test_what_a_command_does_not_import(file: Path, args: tuple[str, ...], heavy: tuple[str, ...]) -> None:
    file.write_text(GOOD)
    call = f"import sys; from pkcompiler.cli import main\nassert not main({list(args)!r}, standalone_mode=False)"
    result = run(code=f"{call}\nprint([m for m in {heavy!r} if m in sys.modules])")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_no_colour_when_piped_and_nothing_truncated() -> None:
    result = run("passes", COLUMNS="20")
    assert "\x1b" not in result.stdout and "…" not in result.stdout
    assert "Gebhart et al. 2021, arXiv:2101.10552" in result.stdout
    errors = run("explain", "sinflow", NO_COLOR="")
    assert errors.returncode == 1 and "\x1b" not in errors.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    result = run(_PKC_COMPLETE=f"{shell}_source")
    assert "_PKC_COMPLETE" in result.stdout
    offered = run(_PKC_COMPLETE="bash_complete", COMP_WORDS="pkc ch", COMP_CWORD="1")
    assert "check" in offered.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_on_a_terminal_unless_refused(no_color: str, coloured: bool) -> None:
    reader, terminal = os.openpty()
    command = [sys.executable, "-c", "from pkcompiler.cli import main; main(['explain', 'sinflow'])"]
    subprocess.run(command, stderr=terminal, check=False, env=os.environ | {"TERM": "xterm", "NO_COLOR": no_color})
    os.close(terminal)
    shown = os.read(reader, 10_000).decode()
    os.close(reader)
    assert "PKC122" in shown and ("\x1b[" in shown) == coloured
