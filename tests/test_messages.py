"""Who is spoken to: a caller of Python is told arguments, who typed a command its options; and where a message points."""

from __future__ import annotations

import ast
import errno
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pkcompiler
from pkcompiler import files
from pkcompiler.diagnostics import TEXT, Diagnostic, PkcError, Remark, Span, on_the_command_line, remark, typed_or_called
from pkcompiler.show import html
from pkcompiler.training.checkpoint import Checkpoint

PACKAGE = Path(pkcompiler.__file__).parent
TYPED_ALONE = (
    *("cli/", "codes/", "driver/study/", "driver/open.py", "driver/rescale.py", "usercode.py", "show/html.py", "data/load.py"),
    *("frontend/spec.py", "frontend/load_weights.py", "frontend/inputs.py"),
    *("scoring/total_loss.py", "pruning/recipe.py", "artifact/resume.py"),
)
"""What is reached from a command line alone (and a style sheet)."""
FLAG = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]+|-o(?= [A-Z{]))")
OF_PIP = {"--no-deps", "--upgrade"}


def spoken(tree: ast.AST, asked: bool = False) -> Iterator[tuple[str, int]]:
    """The texts of a file, but for docstrings and for what ``typed_or_called`` gives to who typed a command."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value, child.lineno
        if isinstance(child, ast.Call) and getattr(child.func, "id", "") == "typed_or_called":
            yield from spoken(ast.Tuple(child.args[1:], ast.Load()))
            continue
        yield from spoken(child)


def test_no_message_tells_a_caller_of_python_an_option() -> None:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if name.startswith(TYPED_ALONE):
            continue
        texts = spoken(ast.parse(file.read_text(encoding="utf-8")))
        found += [f"{name}:{line}: {flag}" for text, line in texts for flag in FLAG.findall(text) if flag not in OF_PIP]
    assert found == []


def test_that_test_sees_options() -> None:
    assert FLAG.findall("give another: -o DIR, or --force") == ["-o", "--force"]
    tree = ast.parse('"""--doc"""\nfail("try --typed", typed_or_called("--left", "or --right"))')
    assert [text for text, _ in spoken(tree)] == ["try --typed", "or --right"]


def test_a_model_without_prunable_parameters_in_both_worlds() -> None:
    def message() -> str:
        with pytest.raises(PkcError) as caught:
            pkcompiler.prune(nn.Sequential(nn.LayerNorm(4)), torch.zeros(1, 4), "magnitude", density=0.5)
        return str(caught.value)

    assert "--include" not in message() and 'include = "GLOB"' in message()
    with on_the_command_line(lambda line: None):
        assert "--include GLOB" in message()
    assert typed_or_called("--flag", "flag=1") == "flag=1"


def test_a_remark_is_a_warning_at_the_callers_line_or_a_line_of_the_command() -> None:
    with pytest.warns(Remark, match="counts as one sample") as told:
        pkcompiler.lift(nn.Sequential(nn.Linear(3, 2)), torch.zeros(3))
    assert told[0].filename == __file__
    said: list[str] = []
    with on_the_command_line(said.append):
        remark("something")
    assert said == ["something"]


def test_a_printed_graph_that_cannot_be_read_shows_its_line() -> None:
    text = "path.graph @g(%x: f32[B, 4]) -> f32[B, 2] {\n  %y: f32[B, 2] = dens %x, weight=@w\n  return %y\n}"
    with pytest.raises(PkcError) as caught:
        pkcompiler.parse_graph(text)
    lines = str(caught.value).splitlines()
    assert lines[1:4] == ["  --> <graph>:2:19", "  |   %y: f32[B, 2] = dens %x, weight=@w", "  |                   ^^^^"]


class Cut(nn.Module):
    """Where its gradients stop: ``how`` names it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.how = nn.Linear(4, 3), nn.Linear(3, 2), how

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.how == ".detach()":
            h = h.detach()
        if self.how == "torch.no_grad()":
            with torch.no_grad():
                h = h * 2
        return self.b(h.relu())


@pytest.mark.parametrize("how", [".detach()", "torch.no_grad()"])
def test_cut_gradients_are_said_with_their_line(how: str) -> None:
    for call in (pkcompiler.analyze, lambda m, x: pkcompiler.prune(m, x, "magnitude", density=0.5)):
        with pytest.warns(Remark, match=re.escape(f"gradients stop at {how} at test_messages.py:")):
            call(Cut(how), torch.zeros(1, 4))


def test_a_model_that_cuts_nothing_is_told_nothing(recwarn: pytest.WarningsRecorder) -> None:
    pkcompiler.analyze(Cut(""), torch.zeros(1, 4))
    assert [w for w in recwarn if issubclass(w.category, Remark)] == []


class Attending(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ x.transpose(1, 2), -1) @ self.f(x)

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(4, 4)


def test_a_certificate_says_where_what_is_frozen_is_called() -> None:
    (place,) = pkcompiler.certify(Attending(), torch.randn(1, 3, 4)).frozen_at
    line = Attending.forward.__code__.co_firstlineno + 1
    assert place == f"softmax at test_messages.py:{line}"


def test_the_package_runs_as_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "pkcompiler", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"pkc {pkcompiler.__version__}\n"


def told(call: Callable[[], object], code: str) -> str:
    """The help of the one error."""
    with pytest.raises(PkcError) as caught:
        call()
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    return " ".join(diagnostic.notes)


def test_the_help_for_a_mask_of_numpy_makes_a_mask() -> None:
    model, masks = nn.Linear(2, 2), {"weight": np.array([[1, 0], [0, 1]])}
    help = told(lambda: pkcompiler.apply_masks(model, masks), "PKC472")
    assert help == "masks['weight'] = torch.as_tensor(masks['weight']) != 0"
    exec(help, {"torch": torch, "masks": masks})
    assert pkcompiler.apply_masks(model, masks) is model
    assert "!=" not in told(lambda: pkcompiler.apply_masks(model, {"weight": None}), "PKC472")
    empty = torch.ones(2, 2, dtype=torch.bool, device="meta")
    assert told(lambda: pkcompiler.apply_masks(model, {"weight": empty}), "PKC472") == "give a mask with values"


def test_a_loss_is_given_where_one_is_spoken_to() -> None:
    data = (torch.ones(2, 4), torch.zeros(2, 3))
    call = partial(pkcompiler.score, nn.Linear(4, 2), data[0], "snip", data=data)
    assert "give loss=" in told(call, "PKC506")
    with on_the_command_line(lambda line: None):
        assert "in the model's file" in told(call, "PKC506")


def test_the_help_for_inputs_without_values_is_of_their_kind() -> None:
    for x, help in ((torch.ones(1, 4, device="meta"), "torch.zeros((1, 4)"), (torch.ones(1, 4).to_sparse(), "x.to_dense()")):
        assert help in told(partial(pkcompiler.lift, nn.Linear(4, 2), x), "PKC203")
        assert help in told(partial(pkcompiler.ntk, nn.Linear(4, 2), x, example_inputs=torch.ones(1, 4)), "PKC505")
    assert "one sample or more" in told(partial(pkcompiler.lift, nn.Linear(4, 2), torch.ones(0, 4)), "PKC203")


def test_the_help_for_a_full_disk_is_room_and_for_a_file_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_whole", full)
    assert told(lambda: html.save(tmp_path / "page.html", ""), "PKC634") == "make room there, or name a file elsewhere"
    monkeypatch.undo()
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    assert told(lambda: Checkpoint(below, {}).write({}), "PKC620") == "give a file that can be written"
    monkeypatch.setattr("pkcompiler.training.checkpoint.write_whole", full)
    assert told(lambda: Checkpoint(tmp_path / "run", {}).write({}), "PKC620") == "make room there, or give a file elsewhere"


def test_the_help_for_a_link_in_an_artifact_copies_what_it_points_to(tmp_path: Path) -> None:
    pruned = pkcompiler.prune(nn.Linear(4, 2), torch.ones(1, 4), "magnitude", density=0.5)
    folder, kept = pruned.save(tmp_path / "art ifact"), tmp_path / "kept"
    (folder / "masks.safetensors").rename(kept)
    (folder / "masks.safetensors").symlink_to(kept)
    help = told(lambda: pkcompiler.load(folder), "PKC626")
    subprocess.run(["/bin/sh", "-c", help.partition(": ")[2]], cwd=tmp_path, check=True)
    assert pkcompiler.load(tmp_path / "NEW").kept == pruned.kept


@pytest.mark.parametrize("text", ["a\x1b[31mb", "x" * 5000, "x " * 9000, "\x9b2J", "\u202eab", "tab\tend"])
def test_what_messages_quote_is_safe_and_short(text: str) -> None:
    span = Span(f"{text}.pkc", text, 0, len(text))
    error = PkcError(Diagnostic("PKC628", f"there is '{text}' here", span, text, (f"leave out {text}",)))
    assert all(line.isprintable() for line in str(error).split("\n")) and len(str(error)) < 5 * TEXT
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_names_as_long_as_any_of_ones_own_are_shown_whole() -> None:
    path = "/".join(["folder"] * 40)
    assert path in str(PkcError(Diagnostic("PKC620", f"cannot write '{path}'")))


def test_a_line_of_a_graph_is_shown_around_its_fault() -> None:
    text = pkcompiler.ir.text.print_graph(pkcompiler.lift(nn.Linear(2, 2), torch.ones(1, 2)))
    for long in ("relu" * 30_000, "%x, " * 30_000):
        with pytest.raises(PkcError) as caught:
            pkcompiler.parse_graph(text.replace("dense %x", f"dense {long}"))
        assert len(str(caught.value)) < 30_000
