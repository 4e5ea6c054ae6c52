"""Data of models that take several inputs: every input is read wherever data are, and another structure is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_support import pkc
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import pkcompiler
from pkcompiler import PkcError
from pkcompiler.data import subset

GENERATOR = torch.Generator().manual_seed(0)
X, Z, Y = torch.randn(6, 4, generator=GENERATOR), torch.randn(6, 3, generator=GENERATOR), torch.arange(6) % 2
EXAMPLE = (torch.ones(1, 4), torch.ones(1, 3))


class Two(nn.Module):
    """Two inputs with a layer each; ``Joined`` is the same network of one input of seven."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.out(torch.relu(self.a(x) + self.b(z)))


class Joined(Two):
    def forward(self, both: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(both[:, :4], both[:, 4:])


class Samples(Dataset[object]):
    """((x, z), y), or as a dict."""

    def __init__(self, keys: bool = False) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(Y)

    def __getitem__(self, i: int) -> object:
        return ({"x": X[i], "z": Z[i]} if self.keys else (X[i], Z[i])), int(Y[i])


BOTH = (torch.cat([X, Z], 1), Y)
DICT = ({"z": Z, "x": X}, Y)
NAMED = {"x": EXAMPLE[0], "z": EXAMPLE[1]}
PASSES = ("snip", "grasp", "fisher", "px", "synflow-dist", "synflow-l2-dist", "prospr")


def same(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    for name, t in found.items():
        torch.testing.assert_close(t.double(), wanted[name].double(), rtol=1e-10, atol=1e-300, msg=name)


@pytest.mark.parametrize("name", PASSES)
def test_scores_are_those_of_the_network_of_one_input(name: str) -> None:
    wanted = pkcompiler.score(Joined(), BOTH[0][:1], name, data=BOTH)
    for example, data in ((EXAMPLE, ((X, Z), Y)), (NAMED, DICT)):
        found = pkcompiler.score(Two(), example, name, data=data)
        assert found.exponent == wanted.exponent
        same(dict(found), dict(wanted))


def test_every_input_is_read_in_functionals_and_kernels() -> None:
    for input in ("data", "data^2", "mean(data)", "mean(data^2)"):
        found = pkcompiler.path_functional(Two(), EXAMPLE, input=input, data=((X, Z), Y), edge="theta^2")
        wanted = pkcompiler.path_functional(Joined(), BOTH[0][:1], input=input, data=BOTH, edge="theta^2")
        assert float(found.mantissa) == pytest.approx(float(wanted.mantissa), rel=1e-12) and found.exponent == wanted.exponent
    for example, data in ((None, ((X, Z), Y)), (NAMED, DICT), (None, DICT)):
        found, wanted = pkcompiler.ntk(Two(), data, example_inputs=example), pkcompiler.ntk(Joined(), BOTH)
        torch.testing.assert_close(found.kernel, wanted.kernel)
        torch.testing.assert_close(found.frozen().kernel, wanted.frozen().kernel)
        assert float(found.bound()) == pytest.approx(float(wanted.bound()))
    curves = [pkcompiler.dynamics(m, d, lr=0.01, steps=3).predicted_steps for m, d in ((Two(), ((X, Z), Y)), (Joined(), BOTH))]
    torch.testing.assert_close(curves[0], curves[1])


def test_model_of_data_runs_on_every_input() -> None:
    text = 'pass p {{ source = "a test"  score = theta * grad(mean(sum(model({}), over = output), over = sample), theta) }}'
    found = pkcompiler.score(Two(), EXAMPLE, text.format("data"), data=((X, Z), Y))
    same(dict(found), dict(pkcompiler.score(Joined(), BOTH[0][:1], text.format("data"), data=BOTH)))


def test_an_expression_of_one_input_is_refused_where_data_hold_several() -> None:
    text = 'pass p { source = "a test"  let R = paths(input = abs(data))  score = theta * grad(mean(R, over = sample), theta) }'
    with pytest.raises(PkcError) as caught:
        pkcompiler.score(Two(), EXAMPLE, text, data=((X, Z), Y))
    assert caught.value.diagnostics[0].code == "PKC505" and "2 inputs" in caught.value.diagnostics[0].message


def test_rounds_and_analyses() -> None:
    wanted = pkcompiler.prune(Joined(), BOTH[0][:1], "snip", density=0.5, rounds=2, data=BOTH)
    found = pkcompiler.prune(Two(), EXAMPLE, "snip", density=0.5, rounds=2, data=((X, Z), Y))
    assert all(torch.equal(m, wanted.masks[n]) for n, m in found.masks.items())
    assert found.origin is not None and found.origin.data is not None and found.origin.data["indices"] == list(range(6))
    reports = [
        pkcompiler.run_analysis(m, x, "ntk", data=d) for m, x, d in ((Two(), EXAMPLE, ((X, Z), Y)), (Joined(), BOTH[0], BOTH))
    ]
    found_rows, wanted_rows = ({r.label: r.to_json()["value"] for r in report.rows} for report in reports)
    last = "expected trace per sample, without data"
    assert found_rows.pop(last)["status"] == "not predicted" and wanted_rows.pop(last)["status"] == "estimated"
    for label, value in wanted_rows.items():
        key = "values" if "values" in value else "value"
        assert found_rows[label][key] == pytest.approx(value[key], rel=1e-9), label


@pytest.mark.parametrize("keys", [False, True])
def test_a_dataset_is_drawn_by_class_with_every_input(keys: bool) -> None:
    for source in (Samples(keys), DataLoader(Samples(keys), batch_size=3)):
        drawn = subset(source, per_class=2, seed=1)
        parts = drawn.x if keys else dict(zip("xz", drawn.x, strict=True))
        places = list(drawn.indices)
        assert torch.equal(parts["x"], X[places]) and torch.equal(parts["z"], Z[places]) and torch.equal(drawn.y, Y[places])
        assert Y[places].tolist().count(0) == 2 == Y[places].tolist().count(1)
    arrays = subset(((X, Z), Y))
    assert arrays.sha256 not in {subset((X, Y)).sha256, subset(((Z, X), Y)).sha256} and arrays.classes == (0, 1)
    assert subset(((X, Z), Y)).sha256 == arrays.sha256


WRONG = {
    "another number": (((X,), Y), "a tuple of 1"),
    "other names": (({"x": X, "w": Z}, Y), "a dict of 'x', 'w'"),
    "another shape": (((X, X), Y), "samples of input 1 have shape (4,)"),
    "another count": (((X, Z[:3]), Y), "6 in input 0, 3 in input 1"),
    "no tensor": (((X, 3), Y), "input 1 of the data is a int"),
    "no input": ((3, Y), "data holds a int"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_another_structure_is_refused(kind: str) -> None:
    data, message = WRONG[kind]
    calls = [
        lambda: pkcompiler.score(Two(), EXAMPLE, "snip", data=data),
        lambda: pkcompiler.ntk(Two(), data, example_inputs=EXAMPLE),
    ]
    for call in calls:
        with pytest.raises(PkcError) as caught:
            call()
        (found,) = caught.value.diagnostics
        assert found.code == "PKC505" and message in found.message, found.message


@pytest.mark.parametrize("pair", [((X, Z[:3]), Y), ((X, torch.full_like(Z, torch.nan)), Y), ((X, None), Y), ((), Y)])
def test_wrong_pairs_have_codes(pair) -> None:
    with pytest.raises(PkcError) as caught:
        subset(pair)
    assert caught.value.diagnostics[0].code in {"PKC663", "PKC666"}


FILE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x, z):
        return self.out(torch.relu(self.a(x) + self.b(z)))

def model() -> nn.Module:
    return Net()

def example_inputs():
    return {"x": torch.ones(1, 4), "z": torch.ones(1, 3)}

class Samples(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        return {"x": torch.randn(4, generator=g), "z": torch.randn(3, generator=g)}, i % 2

def dataset():
    return Samples()

def loader():
    return DataLoader(Samples(), batch_size=2)

def arrays():
    found = [Samples()[i][0] for i in range(8)]
    return {k: torch.stack([s[k] for s in found]) for k in "xz"}, torch.arange(8) % 2
"""


def test_factories_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.py").write_text(FILE)
    kept = []
    for name in ("dataset", "loader", "arrays"):
        data = f"two.py:{name}(per_class = 2, batch = 3)"
        result = pkc("prune", "two.py", "--pass", "snip", "--density", "50%", "--data", data, "-o", name)
        assert result.exit_code == 0, result.stderr
        manifest = json.loads(Path(name, "manifest.json").read_text())
        kept.append((manifest["data"]["sha256"], manifest["data"]["indices"], pkcompiler.load(name).masks))
    assert len({sha for sha, _, _ in kept}) == 1 and len({tuple(i) for _, i, _ in kept}) == 1
    assert all(torch.equal(m, kept[0][2][n]) for _, _, masks in kept for n, m in masks.items())
    result = pkc("analyze", "two.py", "--with", "ntk", "--data", "two.py:dataset(per_class = 2)")
    assert result.exit_code == 0, result.stderr


def test_python_reads_the_data_that_a_schedule_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command does: the same samples, in the same batches, the same masks and the same entry of the manifest."""
    monkeypatch.chdir(tmp_path)
    Path("two.py").write_text(FILE)
    text = 'schedule s { data = dataset("two.py:dataset", per_class = 2, batch = 3)  prune snip { density = 50% } }'
    Path("s.pkc").write_text(text)
    assert pkc("prune", "two.py", "--schedule", "s.pkc", "-o", "out").exit_code == 0
    artifact = pkcompiler.load("out")
    model = Two()
    model.load_state_dict(dict(artifact.weights))
    pruned = pkcompiler.prune(model, NAMED, schedule=text)
    assert all(torch.equal(m, artifact.masks[n]) for n, m in pruned.masks.items())
    assert pruned.origin is not None and pruned.origin.data == artifact.manifest["data"]
