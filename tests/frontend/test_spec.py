"""Model specs: which name is meant, the seed, the arguments, and what is said when it goes wrong."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn

from pkcompiler.codes import CODES
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.spec import LoadedModel, load_model
from pkcompiler.usercode import parse_arguments, parse_spec

HEAD = "import torch\nfrom torch import nn\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a file into an empty current folder; returns its name."""
    monkeypatch.chdir(tmp_path)

    def writer(text: str, name: str = "net.py") -> str:
        (tmp_path / name).write_text(HEAD + text)
        return name

    return writer


def refused(*args: object, **kwargs: object) -> PkcError:
    with pytest.raises(PkcError) as caught:
        load_model(*args, **kwargs)
    assert all(diagnostic.notes for diagnostic in caught.value.diagnostics)
    return caught.value


def width(loaded: LoadedModel) -> int:
    assert isinstance(loaded.module, nn.Linear)
    return loaded.module.out_features


@pytest.mark.parametrize(
    "text",
    [
        "def model(): return nn.Linear(2, 5)\nother = nn.Linear(2, 3)",
        "model = nn.Linear(2, 5)\ndef other(): return nn.Linear(2, 3)",
        "net = nn.Linear(2, 5)",
        "def build(): return nn.Linear(2, 5)",
        "def build(width=5): return nn.Linear(2, width)",
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(2, 5)",
        "class Part(nn.Module):\n    def __init__(self, n): super().__init__()\ndef build(): return nn.Linear(2, 5)",
        "def _hidden(): return 1\nnet = nn.Linear(2, 5)",
        "def main() -> None: pass\nnet = nn.Linear(2, 5)",
        "def example_inputs(): return torch.ones(1, 2)\ndef loss(): return 0\nnet = nn.Linear(2, 5)",
        "from torch.nn import ReLU\nfrom random import random\nnet = nn.Linear(2, 5)",
        "from functions import *\nnet = nn.Linear(2, 5)",
        "from shared import given\nnet = nn.Linear(2, 5)",
    ],
)
def test_the_only_candidate_is_meant(write, text: str) -> None:
    write("given = nn.Linear(1, 1)\ndef helper(): pass", "shared.py")
    write("def helper(): pass", "functions.py")
    assert width(load_model(write(text))) == 5


def test_a_name_is_taken_as_given(write) -> None:
    spec = write("first = nn.Linear(2, 3)\ndef second(): return nn.Linear(2, 4)\nclass Third(nn.Linear): pass")
    assert width(load_model(f"{spec}:first")) == 3
    assert width(load_model(f"{spec}:second")) == 4
    assert width(load_model(f"{spec}:Third", {"in_features": 1, "out_features": 6})) == 6


def test_several_candidates_are_listed_as_specs(write) -> None:
    spec = write("net = nn.Linear(2, 3)\ndef build(): return net\nclass Third(nn.Module): pass")
    (diagnostic,) = refused(spec).diagnostics
    assert diagnostic.code == "PKC245"
    for name in ("net", "build", "Third"):
        assert any(f"net.py:{name}" in note for note in diagnostic.notes)


def test_arguments_choose_and_reach_the_factory(write) -> None:
    spec = write("def build(width, act='relu'):\n    assert act == 'gelu'\n    return nn.Linear(2, width)")
    assert width(load_model(spec, parse_arguments(["width=7", "act=gelu"]))) == 7


def test_no_candidate_shows_what_they_need(write) -> None:
    (diagnostic,) = refused(write("def build(width): return nn.Linear(2, width)")).diagnostics
    assert diagnostic.code == "PKC245"
    assert "build(width)" in diagnostic.notes[0]
    assert "--arg" in diagnostic.notes[-1]
    assert "def model()" in refused(write("x = 3", "empty.py")).diagnostics[0].notes[-1]


def test_misfitting_arguments_show_the_signature(write) -> None:
    spec = write("def model(depth, width=3): return nn.Linear(2, width)\nfixed = nn.Linear(2, 2)")
    for args in ({}, {"depth": 1, "colour": 2}):
        (diagnostic,) = refused(spec, args).diagnostics
        assert diagnostic.code == "PKC244"
        assert any("model(depth, width=3)" in note for note in diagnostic.notes)
        assert "--arg" in diagnostic.notes[-1]
    assert refused(f"{spec}:fixed", {"depth": 1}).diagnostics[0].code == "PKC244"


def test_the_seed_fixes_all_three_generators_and_is_set_again_before_the_factory(write) -> None:
    spec = write(
        "import random\nimport numpy\nclass Holder(nn.Module): pass\n"
        "def draw(): return (torch.rand(()).item(), numpy.random.rand(), random.random())\n"
        "at_import = draw()\n"
        "def model():\n    net = Holder()\n    net.drawn = draw()\n    return net"
    )
    first, again, other = load_model(spec, seed=3), load_model(spec, seed=3), load_model(spec, seed=4)
    assert first.module.drawn == again.module.drawn == first.python.at_import
    assert all(a != b for a, b in zip(first.module.drawn, other.module.drawn, strict=True))


def test_what_is_recorded(write, tmp_path: Path) -> None:
    write("model = nn.Linear(2, 3)")
    source = tmp_path / "net.py"
    inside = load_model(str(source))
    assert (inside.name, inside.spec) == ("net", "net.py")
    assert inside.source == source.resolve()
    assert inside.sha256 == sha256(source.read_bytes()).hexdigest()
    assert inside.python.model is inside.module


def test_an_absolute_path_elsewhere_is_cut_to_its_name(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("model = nn.Linear(2, 3)")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    assert load_model(f"{tmp_path}/net.py:model").spec == "net.py:model"


def test_modules_by_dotted_name(write) -> None:
    assert width(load_model("torch.nn:Linear", {"in_features": 2, "out_features": 9})) == 9
    write("def build(): return nn.Linear(2, 3)", "pkc_dotted_example.py")
    loaded = load_model("pkc_dotted_example:build")
    assert (width(loaded), loaded.name) == (3, "pkc_dotted_example")
    assert refused("pkc_dotted_exampel:build").diagnostics[0].code == "PKC242"


def test_the_folder_is_importable_only_while_the_file_runs(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    write("def width(): return 8", "pkc_sibling_example.py")
    write("def model():\n    from pkc_sibling_example import width\n    return nn.Linear(2, width())")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    before = list(sys.path)
    assert width(load_model("../net.py")) == 8
    assert sys.path == before


def test_prints_of_the_file_do_not_reach_stdout(write, capsys: pytest.CaptureFixture[str]) -> None:
    load_model(write("print('hello')\nmodel = nn.Linear(2, 3)"))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("x = 1\nraise ValueError('too\\nbad')", 4, "ValueError: too"),
        ("def model(:\n", 3, "SyntaxError"),
        ("def model():\n    x = torch.zeros(2)\n    return nn.Linear(2, 3)(x.view(5))", 5, "RuntimeError: shape"),
        ("import pkc_absent_package", 3, "ModuleNotFoundError"),
        ("import sys\nsys.exit(3)", 4, "SystemExit: 3"),
        ("def deep(): raise KeyError('k')\n\ndeep()", 3, "KeyError: 'k'"),
        ("raise ValueError", 3, "ValueError: (no message)"),
    ],
)
def test_an_exception_is_reported_at_the_users_line(write, text: str, line: int, said: str) -> None:
    (diagnostic,) = refused(write(text)).diagnostics
    assert diagnostic.code == "PKC243"
    assert said in diagnostic.message
    assert "\n" not in diagnostic.message
    span = diagnostic.span
    assert span is not None and span.file == "net.py"
    assert span.text.count("\n", 0, span.start) + 1 == line
    assert span.text[span.start : span.end] == span.text.splitlines()[line - 1].strip()


def test_an_absent_package_is_named(write) -> None:
    assert refused(write("import pkc_absent.part")).diagnostics[0].notes[-1] == "install it: pip install pkc_absent"


def test_our_own_errors_pass_unchanged(write) -> None:
    spec = write("from pkcompiler.diagnostics import fail\nraise fail('PKC999', 'inner', 'do this')")
    assert refused(spec).diagnostics[0].code == "PKC999"


def test_interruption_is_not_swallowed(write) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_model(write("raise KeyboardInterrupt"))


@pytest.mark.parametrize("value", ["3", "lambda: 3", "lambda: (nn.Linear(1, 1), 2)", "lambda: None", "lambda: nn.Linear"])
def test_what_is_not_a_module_is_refused(write, value: str) -> None:
    assert refused(write(f"model = {value}")).diagnostics[0].code == "PKC247"


def test_missing_names_and_files_get_a_suggestion(write) -> None:
    spec = write("def resnet(): return nn.Linear(2, 3)")
    (diagnostic,) = refused(f"{spec}:resnte").diagnostics
    assert diagnostic.code == "PKC246" and "'resnet'" in diagnostic.notes[-1]
    (diagnostic,) = refused("nett.py").diagnostics
    assert diagnostic.code == "PKC242" and "'net.py'" in diagnostic.notes[-1]
    assert refused("nowhere/net.py").diagnostics[0].code == "PKC242"
    assert "'net.py'" in refused("netz").diagnostics[0].notes[0]


@pytest.mark.parametrize("spec", ["", "net.py:", "net.py:a.b", "a b", ":model", "net.txt:x y"])
def test_malformed_specs(spec: str) -> None:
    with pytest.raises(PkcError) as caught:
        parse_spec(spec)
    assert caught.value.diagnostics[0].code == "PKC240"


@pytest.mark.parametrize("place", ["README.md", "./README.md", "README.md:model"])
def test_a_file_that_is_no_python_is_told_so(write, place: str) -> None:
    write("x = 1", "README.md")
    (found,) = refused(place).diagnostics
    assert found.code == "PKC240" and "is no Python file" in found.message and "path/file.py:name" in found.notes[-1]
    assert "README.md.py" not in str(found.notes)


def test_names_that_are_listed_stand_there_once(write) -> None:
    spec = write("class Block(nn.Module): pass\nclass Net(nn.Module): pass\ndef model(): return nn.Linear(2, 3)")
    assert refused(f"{spec}:zzz").diagnostics[0].notes[-1] == "there are: Block, Net, model"


def test_arguments_are_literals_or_text() -> None:
    given = ["a=1", "b=1.5", "c=relu", "d=(1, 2)", "e=None", "f='x'", "g=", "h=a=b", "i=__import__('os')"]
    read = parse_arguments(given)
    assert read == {"a": 1, "b": 1.5, "c": "relu", "d": (1, 2), "e": None, "f": "x", "g": "", "h": "a=b", "i": "__import__('os')"}


@pytest.mark.parametrize("texts", [["a"], ["=1"], ["1a=2"], ["a=1", "a=2"]])
def test_malformed_arguments(texts: list[str]) -> None:
    with pytest.raises(PkcError) as caught:
        parse_arguments(texts)
    assert caught.value.diagnostics[0].code == "PKC241"


def test_a_file_runs_afresh_every_time(write) -> None:
    spec = write("model = nn.Linear(2, 3)")
    first, second = load_model(spec), load_model(spec)
    assert first.module is not second.module
    assert torch.equal(first.module.weight, second.module.weight)


def test_every_code_of_this_part_is_explained() -> None:
    import re

    package = Path(__file__).parents[2] / "pkcompiler"
    parts = ("usercode.py", "frontend/spec.py", "frontend/inputs.py", "frontend/load_weights.py")
    files = [package / part for part in parts] + sorted((package / "data").glob("*.py"))
    used = {code for file in files for code in re.findall(r"PKC\d{3}", file.read_text())}
    assert len(used) > 20
    assert used <= set(CODES)


def test_a_failing_factory_casts_suspicion_on_its_arguments(write) -> None:
    name = write("def build(width): return nn.Linear(width, 3)")
    (diagnostic,) = refused(name, {"width": "abc"}).diagnostics
    assert diagnostic.code == "PKC243" and diagnostic.notes[-1].endswith("--arg width=abc (a text)")
