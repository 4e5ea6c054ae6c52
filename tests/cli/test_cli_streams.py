"""Results are all that leaves by stdout: whatever the user's code writes there, by whatever way, and whatever it makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pkcompiler.cli import main
from tests.cli_support import home, pkc

__all__ = ["home"]

MODEL = """\
import atexit, codecs, ctypes, io, os, subprocess, sys
import torch
from torch import nn

TOP

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)
    def forward(self, x):
        FORWARD
        return self.b(torch.relu(self.a(x)))

def model():
    return Net()

def example_inputs():
    return torch.randn(1, 4)
"""
WRITES = {
    "print": "print('noise')",
    "descriptor": "os.write(1, b'noise\\n')",
    "C": "ctypes.CDLL(None).puts(b'noise')",
    "process": "subprocess.run([sys.executable, '-c', 'print(\"noise\")'])",
    "original": "print('noise', file=sys.__stdout__)",
    "exit": "atexit.register(os.write, 1, b'noise\\n')",
    "exit-print": "atexit.register(print, 'noise')",
}
TAKES = {
    "closes": "sys.stdout.close(); sys.stderr.close()",
    "closes-originals": "sys.__stdout__.close(); sys.__stderr__.close()",
    "replaces": "sys.stdout = open(os.devnull, 'w'); sys.stderr = sys.stdout",
    "none": "sys.stdout = sys.stderr = None",
    "deletes": "del sys.stdout, sys.stderr",
    "detaches": "sys.stdout.detach()",
    "descriptors": "os.close(1); os.close(2)",
    "closes-buffers": "sys.stdout.buffer.close(); sys.stderr.buffer.raw.close()",
    "detaches-buffers": "sys.stdout.buffer.detach().close(); sys.stdout.detach().close()",
    "wraps-buffers": "io.TextIOWrapper(sys.stdout.buffer).write('noise'); codecs.getwriter('utf8')(sys.stderr.buffer).close()",
    "descriptors-in-a-row": "os.closerange(3, 64)",
    "all-descriptors-in-a-row": "os.closerange(0, 64)",
}


def written(folder: Path, top: str = "", forward: str = "pass") -> Path:
    file = folder / "net.py"
    file.write_text(MODEL.replace("TOP", top).replace("FORWARD", forward))
    return file


def ran(folder: Path, *arguments: str, redirect: str = "") -> subprocess.CompletedProcess[str]:
    line = f'"$0" -m pkcompiler "$@" {redirect}'
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["sh", "-c", line, sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def test_json_is_json_whatever_the_model_writes(tmp_path: Path) -> None:
    ways = "; ".join(way.replace("noise", f"noise-{name}") for name, way in WRITES.items())
    written(tmp_path, top=ways, forward=f"if not torch.compiler.is_compiling(): {ways}")
    done = ran(tmp_path, "analyze", "net.py", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    assert all(done.stderr.count(f"noise-{name}\n") >= 2 for name in WRITES)


@pytest.mark.parametrize(("way", "place"), [*((way, "top") for way in TAKES), ("closes", "forward"), ("deletes", "forward")])
def test_what_the_model_makes_of_the_streams_ends_with_it(tmp_path: Path, way: str, place: str) -> None:
    written(tmp_path, **{place: TAKES[way] if place == "top" else f"if not torch.compiler.is_compiling(): {TAKES[way]}"})
    done = ran(tmp_path, "ir", "net.py", "--format", "json")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert isinstance(json.loads(done.stdout), dict) and "no --weights given" in done.stderr


@pytest.mark.parametrize("way", [way for way in TAKES if "buffers" in way or "row" in way])
def test_what_forward_makes_of_the_streams_ends_with_it(tmp_path: Path, way: str) -> None:
    written(tmp_path, forward=f"if not torch.compiler.is_compiling(): {TAKES[way]}")
    done = ran(tmp_path, "ir", "net.py", "--format", "json")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert isinstance(json.loads(done.stdout), dict) and "no --weights given" in done.stderr


def test_where_every_way_to_stdout_is_closed_stderr_says_so(tmp_path: Path) -> None:
    written(tmp_path, top="os.closerange(3, 4096)")
    done = ran(tmp_path, "ir", "net.py", "--format", "json")
    assert done.returncode == 1 and not done.stdout and "error[PKC635]" in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )


def test_an_error_is_told_all_the_same(tmp_path: Path) -> None:
    written(tmp_path, top=f"{TAKES['closes']}\n{TAKES['deletes']}\nraise ValueError('mine')")
    done = ran(tmp_path, "analyze", "net.py")
    assert done.returncode == 1 and "error[PKC243]" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("redirect", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_closed_streams_stay_closed(tmp_path: Path, redirect: str) -> None:
    written(tmp_path, forward=f"if not torch.compiler.is_compiling(): {WRITES['process']}")
    done = ran(tmp_path, "analyze", "net.py", "--json", "found.json", redirect=redirect)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert isinstance(json.loads((tmp_path / "found.json").read_text()), dict) and "noise" not in done.stdout
    if "2" not in redirect:
        assert "noise" in done.stderr


def test_stdout_by_its_name_is_stdout(tmp_path: Path) -> None:
    written(tmp_path, top=WRITES["descriptor"])
    done = ran(tmp_path, "certify", "net.py", "--json", "/dev/fd/1")
    assert done.returncode == 0 and done.stdout.startswith("{"), done.stderr
    assert "noise" not in done.stdout and "noise" in done.stderr


def test_a_caller_of_python_keeps_its_streams(tmp_path: Path) -> None:
    written(tmp_path, top=WRITES["descriptor"])
    text = (
        "import os, sys; from pkcompiler.cli import main; before = sys.stdout, sys.stderr\n"
        "for _ in range(2): main(['analyze', 'net.py', '--json', '-'], standalone_mode=False)\n"
        "assert (sys.stdout, sys.stderr) == before; os.write(1, b'mine'); print(' too')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 and done.stdout.endswith("}\nmine too\n") and done.stderr.count("noise") == 2, done.stderr


def test_streams_that_are_none_of_the_process_are_left_alone(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written(home, top=WRITES["print"])
    before = sys.stdout, sys.stderr
    for _ in range(2):
        result = pkc("analyze", "net.py", "--json", "-")
        assert result.exit_code == 0 and isinstance(json.loads(result.stdout), dict) and "noise" in result.stderr
    with pytest.raises(SystemExit):
        main(["passes", "--json"])
    assert (sys.stdout, sys.stderr) == before and isinstance(json.loads(capfd.readouterr().out), dict)
    os.write(1, b"mine")
    assert capfd.readouterr().out == "mine"
