"""The artifact: what is written can be read back and used, with and without this package; what is damaged is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pkcompiler
from pkcompiler.artifact.contents import MODULATOR
from pkcompiler.diagnostics import PkcError
from pkcompiler.files import sha256_of
from pkcompiler.ir.parse import parse_graph
from pkcompiler.lang.library import find_schedule

SCHEMA = json.loads((files("pkcompiler") / "artifact" / "manifest.schema.json").read_text())


class Net(nn.Module):
    """Convolution, BatchNorm, a buffer outside of the state_dict, and one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(64, 3)
        self.register_buffer("scale", torch.tensor([2.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).flatten(1).view(-1, 4, 64).sum(1) * self.scale
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


def net() -> Net:
    torch.manual_seed(3)
    return Net()


X = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "net"
    pruned = pkcompiler.prune(net(), X, "synflow-l2", density=0.2, rounds=3)
    assert pruned.save(folder) == folder
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def digest(data: object) -> str:
    return sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest, and its own hashes with it."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if "recipe" in manifest:
        manifest["recipe_sha256"] = digest(manifest["recipe"])
    manifest["sha256"] = digest({key: value for key, value in manifest.items() if key != "sha256"})
    path.write_text(json.dumps(manifest))


def rehash(folder: Path, name: str) -> None:
    edit(folder, lambda m: m["files"].update({name: sha256_of(folder / name)}))


def codes(folder: Path) -> list[str]:
    with pytest.raises(pkcompiler.PkcError) as caught:
        pkcompiler.load(folder)
    assert all(d.notes for d in caught.value.diagnostics)
    return [d.code for d in caught.value.diagnostics]


@pytest.mark.parametrize(("old", "new", "refused"), [("relu", "relu", False), ("relu", "sigmoid", True)])
def test_graphs_of_version_1_say_no_gains(copied: Path, old: str, new: str, refused: bool) -> None:
    graph = (copied / "graph.pkir").read_text()
    (copied / "graph.pkir").write_text(graph.replace(f"kind = {old}", f"kind = {new}"))
    rehash(copied, "graph.pkir")
    edit(copied, lambda m: (m.update(format_version=1), m["recipe"]["model"].update(graph=m["files"]["graph.pkir"])))
    artifact = pkcompiler.load(copied)
    assert artifact.masks  # masks and weights are read as ever
    product = "%p: f32[B, 4] = product %x, %x {kind = mul"
    assert MODULATOR.sub(r"\1", product + ", value = 1}") == product + "}"
    if not refused:
        assert artifact.graph.ops
        return
    with pytest.raises(pkcompiler.PkcError, match="does not say the gains of its gates \\(sigmoid\\)") as caught:
        _ = artifact.graph
    assert [d.code for d in caught.value.diagnostics] == ["PKC614"]


def test_the_manifest_keeps_its_schema_and_names_every_file(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(manifest, SCHEMA)
    assert {p.name for p in saved.iterdir()} == {*manifest["files"], "manifest.json"}
    assert all(sha256_of(saved / name) == digest for name, digest in manifest["files"].items())
    assert str(saved.parent) not in "".join(p.read_text() for p in saved.iterdir() if p.suffix != ".safetensors")


@pytest.mark.parametrize("damage", ["format_version", "files", "parameters", "recipe_sha256"])
def test_the_schema_refuses_a_manifest_without(saved: Path, damage: str) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest[damage]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_the_weights_are_the_dense_ones_and_load_strictly(saved: Path) -> None:
    dense, fresh = net(), Net()
    fresh.load_state_dict(load_file(saved / "weights.safetensors"), strict=True)
    for name, tensor in dense.state_dict().items():
        stored = fresh.state_dict()[name]
        assert stored.dtype == tensor.dtype and torch.equal(stored, tensor), name
    assert fresh.second.weight is fresh.first.weight


def test_the_masks_are_plain_booleans_of_the_prunable_parameters(saved: Path) -> None:
    masks = load_file(saved / "masks.safetensors")
    assert set(masks) == {"conv.weight", "first.weight", "head.weight"}
    assert all(m.dtype == torch.bool and m.shape == net().get_parameter(n).shape for n, m in masks.items())
    total = sum(m.numel() for m in masks.values())
    assert sum(int(m.sum()) for m in masks.values()) == round(0.2 * total)


def test_tensors_come_in_one_order(saved: Path) -> None:
    for found in (pkcompiler.load(saved) for _ in range(4)):
        assert list(found.masks) == sorted(found.masks)
        assert list(found.weights) == sorted(found.weights)


def test_what_is_read_back_is_what_was_pruned(saved: Path) -> None:
    pruned = pkcompiler.prune(net(), X, "synflow-l2", density=0.2, rounds=3)
    artifact = pkcompiler.load(saved)
    assert artifact.masks.keys() == pruned.masks.keys()
    assert all(torch.equal(artifact.masks[n], m) for n, m in pruned.masks.items())
    assert artifact.graph == pruned.graph == parse_graph((saved / "graph.pkir").read_text())
    assert artifact.tensors.keys() == pruned.tensors.keys() and "scale" in artifact.constants
    assert all(torch.equal(artifact.tensors[n], t) for n, t in pruned.tensors.items())
    assert artifact.report == pruned.report.to_json() and artifact.extra == ()
    assert (artifact.kept, artifact.total) == (pruned.kept, pruned.total)


def test_the_schedule_makes_the_same_masks(saved: Path) -> None:
    schedule = pkcompiler.load(saved).schedule
    assert find_schedule(schedule).stages[0].rounds == 3
    again = pkcompiler.prune(net(), X, schedule=schedule)
    assert all(torch.equal(again.masks[n], m) for n, m in pkcompiler.load(saved).masks.items())


def test_lower_and_apply_start_from_the_scored_weights(saved: Path) -> None:
    artifact = pkcompiler.load(saved)
    other = Net().eval()
    before = {n: t.clone() for n, t in other.state_dict().items()}
    expected = net().eval()
    with torch.no_grad():
        for name, mask in artifact.masks.items():
            expected.get_parameter(name).mul_(mask)
    lowered = artifact.lower(other)
    assert torch.equal(lowered.eval()(X), expected(X))
    small = artifact.compact(other, X)
    assert torch.allclose(small.module.eval()(X), expected(X), rtol=1e-5, atol=1e-6)
    assert small.report.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (other, small.module))
    assert all(torch.equal(t, before[n]) for n, t in other.state_dict().items())
    assert torch.equal(artifact.apply(other)(X), expected(X))


def test_lower_and_apply_can_leave_the_weights_alone(saved: Path) -> None:
    artifact, trained = pkcompiler.load(saved), Net().eval()
    kept = trained.head.bias.clone()
    assert torch.equal(artifact.lower(trained, weights=False).get_parameter("head.bias"), kept)
    assert torch.equal(artifact.apply(trained, weights=False).get_parameter("head.bias"), kept)


def test_another_model_is_refused(saved: Path) -> None:
    for refused in (pkcompiler.load(saved).lower, pkcompiler.load(saved).apply):
        with pytest.raises(pkcompiler.PkcError, match="PKC629"):
            refused(nn.Linear(2, 2))
    with pytest.raises(pkcompiler.PkcError, match="PKC629"):
        pkcompiler.load(saved).compact(nn.Linear(2, 2), torch.ones(1, 2))


def test_the_readme_works_without_this_package(saved: Path) -> None:
    text = (saved / "README.txt").read_text()
    lines = text[text.index("    import torch") : text.index("Make the optimizer")].splitlines()
    model = net()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    code = "\n".join(line[4:] for line in lines).replace('load_file("', f'load_file("{saved}/')
    exec(code, {"model": model})
    masks = load_file(saved / "masks.safetensors")
    model(X).sum().backward()
    for name, mask in masks.items():
        parameter = model.get_parameter(name)
        assert torch.equal(parameter.detach(), net().get_parameter(name).detach() * mask)
        assert parameter.grad is not None and not bool(parameter.grad[~mask].any())


def test_every_change_of_a_file_is_found_and_named(copied: Path) -> None:
    for name in ("masks.safetensors", "report.json"):
        content = bytearray((copied / name).read_bytes())
        content[-2] ^= 1
        (copied / name).write_bytes(bytes(content))
    (copied / "graph.pkir").unlink()
    with pytest.raises(pkcompiler.PkcError) as caught:
        pkcompiler.load(copied)
    assert [d.code for d in caught.value.diagnostics] == ["PKC626"] * 3
    for name, diagnostic in zip(("graph.pkir", "masks.safetensors", "report.json"), caught.value.diagnostics, strict=True):
        assert f"'{name}'" in diagnostic.message


def test_files_that_are_not_named_are_named(copied: Path) -> None:
    (copied / "notes.txt").write_text("mine")
    assert pkcompiler.load(copied).extra == ("notes.txt",)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda m: m.update(format_version=4), "PKC625"),
        (lambda m: m.update(format_version="1"), "PKC627"),
        (lambda m: m.update(format_version=True), "PKC627"),
        (lambda m: m.update(format="zip"), "PKC627"),
        (lambda m: m.pop("files"), "PKC627"),
        (lambda m: m["files"].pop("graph.pkir"), "PKC627"),
        (lambda m: m["files"].update({"../net/graph.pkir": "0" * 64}), "PKC627"),
        (lambda m: m["files"].update({"..\\graph.pkir": "0" * 64}), "PKC627"),
        (lambda m: m["parameters"].update(x=3), "PKC627"),
        (lambda m: m.pop("recipe"), "PKC627"),
        (lambda m: m["files"].update({"more.bin": "0" * 64}), "PKC626"),
        (lambda m: m["parameters"].pop("head.weight"), "PKC627"),
        (lambda m: m["parameters"]["head.weight"].update(kept=0), "PKC627"),
    ],
)
def test_manifests_that_cannot_be_used(copied: Path, change: Callable[[dict[str, Any]], object], code: str) -> None:
    edit(copied, change)
    assert codes(copied) == [code]


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_manifests_that_are_none(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_text(text)
    assert codes(copied) == ["PKC627"]


def test_unknown_keys_are_ignored(copied: Path) -> None:
    edit(copied, lambda m: (m.update(later={"a": 1}), m["model"].update(later=2)))
    assert pkcompiler.load(copied).kept == json.loads((copied / "manifest.json").read_text())["kept"]


@pytest.mark.parametrize(
    "masks",
    [
        {"head.weight": torch.ones(3, 64)},
        {"head.weight": torch.ones(3, 63, dtype=torch.bool)},
        {"body.weight": torch.ones(3, 64, dtype=torch.bool)},
    ],
)
def test_masks_that_do_not_fit(copied: Path, masks: dict[str, Tensor]) -> None:
    save_file({**load_file(copied / "masks.safetensors"), **masks}, copied / "masks.safetensors")
    rehash(copied, "masks.safetensors")
    assert set(codes(copied)) == {"PKC628"}


def test_tensors_that_are_none(copied: Path) -> None:
    (copied / "weights.safetensors").write_bytes(b"no tensors")
    rehash(copied, "weights.safetensors")
    assert codes(copied) == ["PKC628"]


@pytest.mark.parametrize("place", ["nowhere", "a-file", "a-folder"])
def test_what_is_no_artifact(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("")
    (tmp_path / "a-folder").mkdir()
    assert codes(tmp_path / place) == ["PKC624"]


def test_a_link_is_not_followed(copied: Path, saved: Path) -> None:
    (copied / "report.json").unlink()
    (copied / "report.json").symlink_to(saved / "report.json")
    assert codes(copied) == ["PKC626"]


def test_nothing_that_an_artifact_names_is_run(copied: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef model(): raise SystemExit\n")
    edit(copied, lambda m: m["model"].update(spec="trap.py", factory="model", plugins={"trap.py": "0" * 64}))
    code = "import sys; from pkcompiler.cli import main; main(sys.argv[1:])"
    for command in (["show", "copy"], ["analyze", "copy"], ["compare", "copy", "copy"]):
        done = subprocess.run([sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_saving_never_overwrites(saved: Path, tmp_path: Path) -> None:
    pruned = pkcompiler.prune(net(), X, "magnitude", density=0.5)
    with pytest.raises(pkcompiler.PkcError, match="PKC621"):
        pruned.save(saved)
    (tmp_path / "file").write_text("")
    with pytest.raises(pkcompiler.PkcError, match="PKC620"):
        pruned.save(tmp_path / "file" / "below")
    (tmp_path / "empty").mkdir()
    assert pkcompiler.load(pruned.save(tmp_path / "empty")).kept == pruned.kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file"]


def test_data_are_recorded(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(6, 1, 8, 8, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    folder = pkcompiler.prune(net(), X, "snip", density=0.5, data=(x, y)).save(tmp_path / "snip")
    manifest = json.loads((folder / "manifest.json").read_text())
    jsonschema.validate(manifest, SCHEMA)
    assert manifest["data"]["indices"] == [0, 1, 2, 3, 4, 5] and manifest["data"]["classes"] == [0, 1, 2]
    other = pkcompiler.prune(net(), X, "snip", density=0.5, data=(x + 1, y)).save(tmp_path / "other")
    assert json.loads((other / "manifest.json").read_text())["data"]["sha256"] != manifest["data"]["sha256"]


def test_half_precision_weights_stay_half(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).to(torch.bfloat16)
    folder = pkcompiler.prune(model, torch.randn(1, 4, dtype=torch.bfloat16), "magnitude", density=0.5).save(tmp_path / "half")
    stored = load_file(folder / "weights.safetensors")
    assert all(torch.equal(stored[n], t) and stored[n].dtype == torch.bfloat16 for n, t in model.state_dict().items())


def test_results_are_shown_in_one_line_and_taken_as_masks(saved: Path) -> None:
    artifact, model = pkcompiler.load(saved), net()
    assert 0 < artifact.kept < artifact.total and f"{artifact.kept:,} of {artifact.total:,} kept" in repr(artifact)
    plain = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    pruned = pkcompiler.prune(plain, torch.randn(1, 4), "magnitude", density=0.5)
    shown = [pruned, pkcompiler.score(plain, torch.randn(1, 4), "magnitude"), artifact]
    shown.append(pkcompiler.path_functional(plain, torch.randn(1, 4)))
    assert all(len(repr(s)) < 120 and repr(s).startswith(type(s).__name__) for s in shown)
    assert repr(pruned) == "Pruned(magnitude: 9 of 18 kept, density 0.5)"
    lowered = pkcompiler.lower(plain, pruned, torch.randn(1, 4))
    assert torch.equal(lowered(torch.ones(1, 4)), pkcompiler.lower(plain, pruned.masks)(torch.ones(1, 4)))
    pkcompiler.apply_masks(model, artifact)
    assert all(not model.state_dict()[n][~m].any() for n, m in artifact.masks.items())
    with pytest.raises(PkcError, match="masks are given as a list"):
        pkcompiler.apply_masks(plain, [1])
