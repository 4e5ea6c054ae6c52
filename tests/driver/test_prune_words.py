"""Python's ``prune`` has the words of the command line: the same words give the same plan and the same masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pkcompiler
from pkcompiler.diagnostics import PkcError
from tests.cli_support import pkc

FILE = """
import torch
from torch import nn

def model():
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)]
    return nn.Sequential(*layers)

def example_inputs():
    return torch.ones(1, 1, 8, 8)
"""

WORDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "density": (["--density", "20%"], {"density": 0.2}),
    "sparsity": (["--sparsity", "80%"], {"sparsity": 0.8}),
    "compression": (["--compression", "5x"], {"compression": 5.0}),
    "flops": (["--flops", "40%"], {"flops": 0.4}),
    "size": (["--size", "5KB"], {"size": 5000}),
    "structure": (["--density", "50%", "--structure", "channel"], {"density": 0.5, "structure": "channel"}),
    "include": (["--density", "30%", "--include", "bias"], {"density": 0.3, "include": "bias"}),
    "except": (["--density", "70%", "--except", "0.*", "--except", "norm"], {"density": 0.7, "except_": ["0.*", "norm"]}),
    "rules": (
        ["--density", "30%", "--rounds", "3", "--curve", "linear", "--scope", "layer", "--select", "kth-le"],
        {"density": 0.3, "rounds": 3, "curve": "linear", "scope": "layer", "select": "kth-le"},
    ),
}


def network() -> nn.Module:
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(FILE, names)
    module: nn.Module = names["model"]()
    return module


X = torch.ones(1, 1, 8, 8)


@pytest.mark.parametrize("name", WORDS)
def test_the_words_of_the_command_line(name: str, tmp_path: Path) -> None:
    typed, given = WORDS[name]
    (tmp_path / "net.py").write_text(FILE)
    assert pkc("prune", str(tmp_path / "net.py"), "--pass", "synflow-l2", *typed, "-o", str(tmp_path / "out")).exit_code == 0
    artifact = pkcompiler.load(tmp_path / "out")
    pruned = pkcompiler.prune(network(), X, "synflow-l2", **given)
    assert {n: m.tolist() for n, m in pruned.masks.items()} == {n: m.tolist() for n, m in artifact.masks.items()}
    assert pruned.plan.text == (tmp_path / "out" / "schedule.pkc").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"density": 0.5, "sparsity": 0.5}, "2 targets are given: sparsity=0.5 and density=0.5"),
        ({}, "no target is given"),
        ({"sparsity": 1.0}, "keeps a fraction of 0"),
        ({"flops": 2.0}, "flops = 2"),
        ({"size": -1.0}, "size = -1"),
    ],
    ids=str,
)
def test_targets_that_cannot_be(given: dict[str, float], said: str) -> None:
    with pytest.raises(PkcError, match=said) as caught:
        pkcompiler.prune(network(), X, "synflow-l2", **given)
    assert caught.value.diagnostics[0].code == "PKC404"


@pytest.mark.parametrize(("setting", "code"), [("include", "PKC402"), ("except_", "PKC402")])
def test_a_glob_without_a_match(setting: str, code: str) -> None:
    with pytest.raises(PkcError) as caught:
        pkcompiler.prune(network(), X, "synflow-l2", density=0.5, **{setting: "nothing.*"})
    assert caught.value.diagnostics[0].code == code


def test_a_structure_that_is_none() -> None:
    with pytest.raises(PkcError, match="structure"):
        pkcompiler.prune(network(), X, "synflow-l2", density=0.5, structure="diagonal")


def test_the_device_is_where_scores_are_computed() -> None:
    model = network()
    there = pkcompiler.prune(model, X, "snip", density=0.5, data=(torch.randn(6, 1, 8, 8), torch.arange(6) % 4), device="cpu")
    assert there.kept == round(there.total / 2)
    with pytest.raises(PkcError) as caught:
        pkcompiler.prune(model, X, "synflow-l2", density=0.5, device="nowhere")
    assert caught.value.diagnostics[0].code == "PKC411"


class Twins(nn.Module):
    """Two outputs, of which the second does not read ``a``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"first": self.a(x), "second": self.b(x)}


def test_one_of_several_outputs() -> None:
    torch.manual_seed(0)
    pruned = pkcompiler.prune(Twins(), torch.ones(1, 4), "synflow-l2", density=0.5, output="second")
    assert list(pruned.masks) == ["b.weight"] and pruned.kept == 6


def test_without_a_device_python_is_told_its_own_word() -> None:
    with pytest.raises(PkcError) as caught:
        pkcompiler.prune(network(), X, "synflow-l2", density=0.5, device="nowhere")
    assert caught.value.diagnostics[0].notes == ('leave it out, or give device="cpu"',)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("structure", "channel\n rounds = 3"),
        ("structure", 'unstructured floor "2.weight" = 100%'),
        ("structure", "2:4 } prune random {"),
        ("structure", ""),
        ("curve", "cubic rounds=5"),
        ("curve", " "),
    ],
)
def test_a_setting_is_one_setting_alone(word: str, text: str) -> None:
    with pytest.raises(PkcError) as caught:
        pkcompiler.prune(network(), X, "synflow-l2", density=0.5, **{word: text})
    (found,) = caught.value.diagnostics
    assert found.code == "PKC404" and found.message == f"{word} = {text!r} is not one {word} alone"


def test_a_keyword_that_is_none_is_told_with_the_function() -> None:
    with pytest.raises(TypeError, match=r"^prune\(\) got an unexpected keyword argument 'densty'$"):
        pkcompiler.prune(network(), X, "synflow-l2", densty=0.5)


@pytest.mark.parametrize("given", [{"0.*", "norm"}, frozenset({"norm", "0.*"}), {"0.*": 1, "norm": 2}.keys()])
def test_names_may_be_a_set_or_keys(given: Any) -> None:
    one, other = (pkcompiler.prune(network(), X, "magnitude", density=0.7, except_=names) for names in (given, ["0.*", "norm"]))
    assert all(torch.equal(one.masks[name], mask) for name, mask in other.masks.items())


class Place:
    def __init__(self, text: str) -> None:
        self.text = text

    def __fspath__(self) -> str:
        return self.text


def test_a_folder_may_be_whatever_names_a_path(tmp_path: Path) -> None:
    place: Any = Place(str(tmp_path / "a"))
    pruned = pkcompiler.prune(network(), X, "magnitude", density=0.5)
    pruned.save(place)
    assert pkcompiler.load(place).kept == pruned.kept
