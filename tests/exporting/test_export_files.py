"""Every file of ``export`` works in a process that does not know pkcompiler, and computes what the masked model does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from examples_path import load_example
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import prune

import pkcompiler

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "source": ".py", "safetensors": ".safetensors", "torch-prune": ".pt"}


class Words(nn.Module):
    """Tokens to classes, by an embedding and an LSTM, with named outputs; also their last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.cells = nn.LSTM(8, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 3)

    def forward(self, words: Tensor) -> dict[str, Tensor]:
        states, (last, _) = self.cells(self.embed(words))
        return {"logits": self.head(states.mean(1)), "last": last}


BUILT: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "resnet20": (
        lambda: load_example("resnet20").model(),
        {"x": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))},
    ),
    "gpt": (lambda: load_example("gpt_tiny").model(depth=2), {"tokens": torch.arange(16).reshape(1, 16) * 7 % 256}),
    "words": (Words, {"words": torch.arange(10).reshape(2, 5)}),
}
"""Convolutions over residuals; attention, an embedding tied to the output; LSTM."""


def built(name: str) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """A model whose statistics are not those of its start, its example, and masks that keep 3 in 10 of all matrices."""
    torch.manual_seed(0)
    model, inputs = BUILT[name][0](), BUILT[name][1]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, -1.5, 1.5)
    masks = {n: torch.rand(p.shape) < 0.3 for n, p in model.named_parameters() if p.dim() > 1}
    return model, inputs, masks


def masked(name: str) -> nn.Module:
    """The model with zeros stored, by nothing of ours."""
    model, _, masks = built(name)
    with torch.no_grad():
        for parameter, mask in masks.items():
            model.get_parameter(parameter).mul_(mask)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model in every form, and inputs of another batch."""
    where = tmp_path_factory.mktemp("exports")
    for name in BUILT:
        model, inputs, masks = built(name)
        for to, suffix in SUFFIXES.items():
            stem = f"{name}_weights" if to == "safetensors" else name
            found = pkcompiler.export(model, where / f"{stem}{suffix}", to=to, example_inputs=inputs, masks=masks)
            assert found.batch is None
            assert found.inputs == (tuple(inputs) if to in ("onnx", "pt2", "source") else ())
        save_file({n: torch.cat([t, t.flip(-1), t]) for n, t in inputs.items()}, where / f"{name}.inputs")
    return where


def run(code: str, folder: Path) -> Any:
    """What a fresh process prints as JSON; it cannot import pkcompiler."""
    done = subprocess.run([sys.executable, "-I", "-c", code, *BUILT], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def expected(name: str, folder: Path) -> list[Tensor]:
    with torch.no_grad():
        found = masked(name)(**load_file(folder / f"{name}.inputs"))
    return list(found.values()) if isinstance(found, dict) else [found]


SERVE = """
import json, sys, onnxruntime
from safetensors.numpy import load_file
found = {}
for name in sys.argv[1:]:
    session = onnxruntime.InferenceSession(name + ".onnx", providers=["CPUExecutionProvider"])
    values = session.run(None, load_file(name + ".inputs"))
    found[name] = {
        "inputs": [[i.name, i.shape[0]] for i in session.get_inputs()],
        "outputs": [o.name for o in session.get_outputs()],
        "values": [v.tolist() for v in values],
    }
assert not {"torch", "pkcompiler"} & set(sys.modules)
print(json.dumps(found))
"""


def test_onnx_is_served_without_torch(folder: Path) -> None:
    found = run(SERVE, folder)
    for name in BUILT:
        assert found[name]["inputs"] == [[given, "batch"] for given in BUILT[name][1]]
        assert found[name]["outputs"] == (["logits", "last"] if name == "words" else ["output"])
        for own, other in zip(expected(name, folder), found[name]["values"], strict=True):
            assert torch.allclose(own, torch.tensor(other), atol=1e-4 * float(own.abs().max()))


def test_initialisers_are_zero_where_the_masks_drop_and_there_are_no_masks(folder: Path) -> None:
    named = 0
    for name in BUILT:
        _, _, masks = built(name)
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(folder / f"{name}.onnx").graph.initializer}
        assert not [n for n, value in stored.items() if value.dtype == bool or "mask" in n]
        for parameter, mask in masks.items():
            if parameter in stored:
                named += 1
                assert np.array_equal(stored[parameter] != 0, mask.numpy()), parameter
        vectors = sum(p.numel() for n, p in built(name)[0].named_parameters() if n not in masks)
        kept = sum(int(mask.sum()) for mask in masks.values())
        assert sum(np.count_nonzero(v) for v in stored.values() if v.dtype == np.float32 and v.size > 1) <= kept + vectors
    assert named > 20


TRAIN = """
import json, sys, torch
sys.path.insert(0, ".")
from importlib import import_module
from safetensors.torch import load_file
found = {}
for name in sys.argv[1:]:
    inputs = load_file(name + ".inputs")
    program = torch.export.load(name + ".pt2").module()
    leaves = torch.utils._pytree.tree_leaves
    with torch.no_grad():
        values = {"pt2": [v.tolist() for v in leaves(program(**inputs))]}
        network = import_module(name).load()
        values["source"] = [v.tolist() for v in leaves(network(**inputs))]
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        leaves(network(**inputs))[0].square().mean().backward()
        optimizer.step()
    values["trained"] = {n: t.tolist() for n, t in network.state_dict().items() if t.dim() == 1}
    found[name] = values
assert "pkcompiler" not in sys.modules
print(json.dumps(found))
"""


def test_pt2_and_source_run_and_the_source_trains_as_the_model_does(folder: Path) -> None:
    found = run(TRAIN, folder)
    for name in BUILT:
        for to in ("pt2", "source"):
            for own, other in zip(expected(name, folder), found[name][to], strict=True):
                assert torch.allclose(own, torch.tensor(other), atol=1e-5 * float(own.abs().max())), (name, to)
        model, inputs = masked(name).train(), load_file(folder / f"{name}.inputs")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            outputs = model(**inputs)
            (outputs["logits"] if isinstance(outputs, dict) else outputs).square().mean().backward()
            optimizer.step()
        own = {n: t for n, t in model.state_dict().items() if t.dim() == 1}
        assert own.keys() == found[name]["trained"].keys()
        for n, t in own.items():
            assert torch.allclose(t, torch.tensor(found[name]["trained"][n]), rtol=1e-4, atol=1e-5), (name, n)


def test_the_source_calls_modules_where_the_trace_has_them_and_names_no_machine(folder: Path) -> None:
    text = (folder / "resnet20.py").read_text()
    assert "nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)" in text and "self.layer2[0].shortcut[0](" in text
    assert "nn.LSTM(8, 12, 2, batch_first=True, bidirectional=True)" in (folder / "words.py").read_text()
    assert "self.head.weight = self.tokens.weight" in (folder / "gpt.py").read_text()
    home = str(Path(__file__).parents[2]).encode()
    assert [path.name for path in folder.glob("*.*") if home in path.read_bytes()] == []


def test_weights_with_zeros_and_those_of_torch_prune(folder: Path) -> None:
    for name in BUILT:
        dense, _, masks = built(name)
        zeros = load_file(folder / f"{name}_weights.safetensors")
        assert zeros.keys() == dense.state_dict().keys()
        assert all(torch.equal(t, zeros[n]) for n, t in masked(name).state_dict().items())
        state = torch.load(folder / f"{name}.pt", weights_only=True)
        assert all(torch.equal(state[f"{n}_orig"], dense.get_parameter(n)) for n in masks)
        for n in [n.removesuffix("_mask") for n in state if n.endswith("_mask")]:
            path, _, leaf = n.rpartition(".")
            prune.identity(dense.get_submodule(path), leaf)
        dense.load_state_dict(state)
        with torch.no_grad():
            outputs = dense.eval()(**load_file(folder / f"{name}.inputs"))
        found = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
        assert all(torch.equal(a, b) for a, b in zip(expected(name, folder), found, strict=True))
