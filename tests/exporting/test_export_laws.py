"""What does not matter for a file: how the masks are given, when it is written. And all that can be wrong."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

import pkcompiler
from pkcompiler.diagnostics import PkcError
from pkcompiler.exporting.entry import SUFFIXES

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()


def masks() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {n: torch.rand(p.shape, generator=generator) < 0.4 for n, p in small().named_parameters() if p.dim() > 1}


def pruned_by_torch() -> nn.Module:
    model = small()
    for name, mask in masks().items():
        prune.custom_from_mask(model.get_submodule(name.rpartition(".")[0]), "weight", mask)
    return model


WAYS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "given": lambda: (small(), masks()),
    "applied": lambda: (pkcompiler.apply_masks(small(), masks()), None),
    "lowered": lambda: (pkcompiler.lower(small(), masks()), None),
    "torch prune": lambda: (pruned_by_torch(), None),
}


@pytest.mark.parametrize(
    ("to", "name"), [("pt2", "a.pt2"), ("source", "a.py"), ("safetensors", "a.safetensors"), ("onnx", "a.onnx")]
)
def test_masks_come_in_any_way(to: str, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if to == "onnx":
        pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    found = {}
    for way, make in WAYS.items():
        model, given = make()
        before = {n: t.clone() for n, t in model.state_dict().items()}
        pkcompiler.export(model, tmp_path / name, to=to, example_inputs=X, masks=given, check=False, force=True)
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items()), way
        found[way] = (tmp_path / name).read_bytes()
    if to == "pt2":  # torch notes the classes that it came through, and has put pruned weights behind their biases
        del found["lowered"], found["torch prune"]
    assert [way for way, text in found.items() if text != found["given"]] == []
    assert capfd.readouterr() == ("", "")


class Computes(nn.Module):
    """Weights by both kinds of norms of torch, one with a row that is dropped; dropout; a buffer that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Linear(4, 6))
        self.second = nn.utils.spectral_norm(nn.Linear(6, 3))
        self.register_buffer("shift", torch.ones(3))
        parametrize.register_parametrization(self, "shift", nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.dropout(self.first(x), 0.5, training=self.training)) + self.shift


@pytest.mark.parametrize("to", SUFFIXES)
def test_the_model_stays_as_it_is(to: str, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    torch.manual_seed(0)
    model, x = Computes().train(), torch.randn(2, 4)
    mask = torch.rand(6, 4) < 0.5
    mask[0] = False
    state, outputs = copy.deepcopy(model.state_dict()), model.eval()(x)
    masks = {"first.parametrizations.weight.original1": mask}
    for _ in range(2):
        pkcompiler.export(model.train(), tmp_path / f"a{SUFFIXES[to]}", to=to, example_inputs=x, masks=masks, force=True)
        assert model.training and model.state_dict().keys() == state.keys()
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
        assert torch.equal(model.eval()(x), outputs)


class Draws(nn.Module):
    """Drops at random in evaluation mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.fc(x), 0.5, training=True)


@pytest.mark.parametrize(("to", "name"), [("onnx", "a.onnx"), ("pt2", "a.pt2"), ("source", "a.py")])
def test_what_computes_something_else_is_not_written(to: str, name: str, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    with pytest.raises(PkcError) as caught:
        pkcompiler.export(Draws(), tmp_path / name, to=to, example_inputs=torch.ones(2, 4))
    assert caught.value.diagnostics[0].code == "PKC651" and list(tmp_path.iterdir()) == []


class Fixed(nn.Module):
    """Takes two samples, and a switch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = parametrizations.weight_norm(nn.Linear(6, 3))
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, x: Tensor, twice: bool = False) -> tuple[Tensor, Tensor]:
        y = self.fc(x.reshape(2, -1)) + self.shift
        return (2 * y if twice else y), x


def test_a_fixed_batch_is_said_and_computed_weights_are_written_as_they_are(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    mask = {"fc.parametrizations.weight.original1": torch.rand(3, 6) < 0.5}
    mask["fc.parametrizations.weight.original1"][0] = False  # 0/0
    given = {"x": torch.randn(2, 6), "twice": True}
    found = pkcompiler.export(Fixed(), tmp_path / "a.onnx", example_inputs=given, masks=mask)
    assert (found.inputs, found.outputs, found.batch) == (("x",), ("output_0", "output_1"), 2)
    graph = onnx.load(tmp_path / "a.onnx").graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert not [n for n in stored if "mask" in n or "dropped" in n or "original" in n]
    assert stored["fc.weight"].astype(bool).tolist() == mask["fc.parametrizations.weight.original1"].tolist()
    source = pkcompiler.export(Fixed(), tmp_path / "b.py", to="source", example_inputs=given, masks=mask)
    assert source.inputs == ("x",) and "_only('twice', twice, True)" in (tmp_path / "b.py").read_text()


class Branches(nn.Module):
    """Goes two ways, by the values that it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


@fx.wrap
def own(x: Tensor) -> Tensor:
    """A function that a trace does not enter."""
    return x.relu()


class Calls(nn.Module):
    """Calls a function of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return own(x)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "target": ({"to": "onx"}, "PKC654", "did you mean 'onnx'"),
    "suffix": ({"to": "pt2", "path": "a.onnx"}, "PKC655", "a.pt2"),
    "module name": ({"to": "source", "path": "a-b.py"}, "PKC655", "letters, digits"),
    "folder": ({"to": "pt2", "path": "there.pt2"}, "PKC655", "is a folder"),
    "no folder": ({"to": "pt2", "path": "none/a.pt2"}, "PKC655", "mkdir -p"),
    "exists": ({"to": "pt2", "path": "mine.pt2"}, "PKC655", "force=True"),
    "weights exist": ({"to": "source", "path": "mine.py"}, "PKC655", "mine.safetensors"),
    "no example": ({"to": "pt2", "example_inputs": None}, "PKC272", "example_inputs"),
    "unknown mask": ({"to": "pt2", "masks": {"5.weight": torch.ones(1, dtype=torch.bool)}}, "PKC470", "5.weight"),
    "no masks": ({"to": "torch-prune", "masks": None}, "PKC463", "masks"),
    "branches": ({"to": "pt2", "module": Branches(), "masks": None}, "PKC650", "branch on no values"),
    "own function": ({"to": "source", "module": Calls(), "masks": None}, "PKC653", "own"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_said_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    (tmp_path / "there.pt2").mkdir()
    for name in ("mine.pt2", "mine.safetensors"):
        (tmp_path / name).write_text("mine")
    changed, code, said = WRONG[case]
    given = {"module": small(), "example_inputs": X, "masks": masks(), **changed}
    path = given.pop("path", {"source": "a.py", "torch-prune": "a.pt"}.get(given["to"], "a.pt2"))
    with pytest.raises(PkcError) as caught:
        pkcompiler.export(given.pop("module"), tmp_path / path, **given)
    assert caught.value.diagnostics[0].code == code and said in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.pt2", "mine.safetensors", "there.pt2"]
    assert (tmp_path / "mine.pt2").read_text() == "mine"


def test_what_onnxruntime_does_not_run_is_said(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    model, x = small().bfloat16(), X.bfloat16()
    with pytest.raises(PkcError, match=r"PKC650.*onnxruntime cannot run(.|\n)*float\(\)"):
        pkcompiler.export(model, tmp_path / "a.onnx", example_inputs=x)
    assert list(tmp_path.iterdir()) == []
    assert pkcompiler.export(model, tmp_path / "a.onnx", example_inputs=x, check=False).difference is None


def test_a_missing_extra_is_said_with_the_line_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(PkcError, match=r"PKC652.*onnxscript(.|\n)*pip install 'pkcompiler\[export\]'"):
        pkcompiler.export(small(), tmp_path / "a.onnx", example_inputs=X)
