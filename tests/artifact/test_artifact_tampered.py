"""Artifacts that were changed, under wrong and under right hashes: nothing wrong is taken for right, nothing is a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pkcompiler
from benchmarks.attack import artifacts as attack
from pkcompiler import schema
from pkcompiler.diagnostics import PkcError
from pkcompiler.pruning.recipe import state_hash
from tests.cli_support import SCHEMA, pkc, pruned

__all__ = ["pruned"]

REPORT_SCHEMA = json.loads((Path(schema.__file__).parent / "artifact" / "report.schema.json").read_text())
MASKS, WEIGHTS = "masks.safetensors", "weights.safetensors"


@pytest.fixture
def copied(pruned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pruned / "a", tmp_path / "copy"))


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> None:
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))
    if sealed:
        attack.seal(folder)


def refused(folder: Path) -> tuple[str, str]:
    """Code and message of the first thing that is said of an artifact, on the command line as from Python."""
    with pytest.raises(PkcError) as caught:
        pkcompiler.load(folder)
    shown = pkc("show", str(folder))
    assert shown.exit_code == 1 and caught.value.diagnostics[0].code in shown.stderr and not shown.stdout
    return caught.value.diagnostics[0].code, caught.value.diagnostics[0].message


# what is not covered by a hash, and what is covered by a right one ---------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(seconds=1.0),
        lambda m: m["model"].update(spec="other.py"),
        lambda m: m["versions"].update(torch="1.0"),
        lambda m: m["inputs"][0].update(shape=[1]),
        lambda m: m.pop("sha256"),
        lambda m: m.update(more=1),
    ],
)
def test_a_manifest_that_alone_was_edited_is_not_shown(copied: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(copied, "manifest.json", change, sealed=False)
    code, message = refused(copied)
    assert code == "PKC627" and "sha256" in message


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "versions": (lambda m: m.update(versions=3), "'versions' is 3"),
    "inputs": (lambda m: m.update(inputs=[{"name": None}]), "lacks 'dtype'"),
    "data": (lambda m: m.update(data={"name": "x", "sha256": "0" * 64, "indices": "y"}), "indices is 'y'"),
    "model": (lambda m: m["model"].update(args=[1]), "'model'.args is [1]"),
    "built": (lambda m: m["model"].update(built=7), "'model'.built is 7"),
    "built null": (lambda m: m["model"].update(built=None), "'model'.built is None"),
    "gates": (lambda m: m["model"].update(gates=["erf", "no name"]), "'model'.gates[1] is 'no name'"),
    "seed": (lambda m: m["model"].update(seed=2**80), "expected at most 18446744073709551615"),
    "source": (lambda m: m["model"].update(sha256="AAAA"), "'model'.sha256 is 'AAAA'"),
    "file of weights": (lambda m: m["model"].update(weights_sha256="AAAA"), "'model'.weights_sha256 is 'AAAA'"),
    "dtype": (lambda m: m["inputs"][0].update(dtype="nope"), "'inputs'[0].dtype is 'nope'"),
    "seconds": (lambda m: m.update(seconds="1"), "'seconds' is '1'"),
    "total": (lambda m: m.update(total=7), "'total' is 7"),
    "kept": (lambda m: m.update(kept=0), "'kept' is 0"),
    "no total": (lambda m: m.update(total=0), "at least 1"),
    "by_position": (lambda m: m.update(by_position=10**9), "by_position"),
    "shape": (lambda m: m["parameters"]["1.weight"].update(shape=[5, 5]), "shape [5, 5]"),
    "negative": (lambda m: m["parameters"]["1.weight"].update(kept=-1), "at least 0"),
    "hash": (lambda m: m["files"].update({"more.txt": "0"}), "of the form"),
    "long name": (lambda m: m["files"].update({"n" * 5000: "0" * 64}), "5,000 characters"),
    "file that holds it": (lambda m: m["files"].update({"manifest.json": "0" * 64}), "which holds it"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_entry_of_a_manifest_is_checked(copied: Path, name: str) -> None:
    change, said = MANIFESTS[name]
    edit(copied, "manifest.json", change)
    code, message = refused(copied)
    assert code == "PKC627" and said in message


def test_a_recipe_is_held_to_its_hash_and_to_what_it_names(copied: Path) -> None:
    edit(copied, "manifest.json", lambda m: m["recipe"].update(dtype="float32"), sealed=False)
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["sha256"] = attack.digest({key: value for key, value in manifest.items() if key != "sha256"})
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert "'recipe_sha256'" in refused(copied)[1]


def test_keys_that_stand_twice(copied: Path) -> None:
    text = (copied / "manifest.json").read_text()
    (copied / "manifest.json").write_text(text.replace("{", '{"kept": 1, ', 1))
    code, message = refused(copied)
    assert code == "PKC627" and "the key 'kept' stands twice" in message


REPORTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no rows": lambda r: r.pop("parameters"),
    "rows of text": lambda r: r.update(parameters=["x"]),
    "a row less": lambda r: r["parameters"].pop(0),
    "a row twice": lambda r: r["parameters"].append(r["parameters"][0]),
    "another count": lambda r: r["parameters"][0].update(kept=0),
    "another shape": lambda r: r["parameters"][0].update(shape=[1]),
    "warnings": lambda r: r.update(warnings=[1]),
    "density": lambda r: r["parameters"][0].update(density="much"),
}


@pytest.mark.parametrize("name", REPORTS)
def test_reports_that_are_none(copied: Path, name: str) -> None:
    edit(copied, "report.json", REPORTS[name])
    assert refused(copied)[0] == "PKC628"


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff\xfe", b'{"a": 1, "a": 2}', b"[" * 10000])
def test_reports_that_are_no_json(copied: Path, content: bytes) -> None:
    (copied / "report.json").write_bytes(content)
    attack.seal(copied)
    assert refused(copied)[0] == "PKC628"


WEIGHT = "1.weight"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda w: w.masked_fill(torch.ones_like(w).bool(), torch.nan), "finite"),
        (lambda w: torch.cat([w[:1] / 0, w[1:]]), "finite"),
        (lambda w: w.to(torch.complex64), "real"),
        (lambda w: w.to(torch.int32), "real"),
        (lambda w: w.to(torch.float8_e4m3fn), "real"),
        (lambda w: w.to(torch.float8_e5m2), "real"),
        (lambda w: w[:3], "shape"),
    ],
)
def test_weights_are_finite_real_and_of_their_shape(copied: Path, value: Any, said: str) -> None:
    stored(copied, WEIGHT, value)
    code, message = refused(copied)
    assert code == "PKC628" and said in message


def stored(folder: Path, name: str, value: Callable[[Tensor], Tensor]) -> None:
    """One tensor of the weights is another one, and every hash is right."""
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, name: value(weights[name]).contiguous()}, folder / WEIGHTS)
    changed = state_hash(load_file(folder / WEIGHTS))
    attack.seal(folder)
    edit(folder, "manifest.json", lambda m: m["recipe"]["model"].update(weights=changed), sealed=False)
    resealed(folder)


def resealed(folder: Path) -> None:
    """The manifest as it is, with the hashes of its recipe and of itself."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe_sha256"] = attack.digest(manifest["recipe"])
    manifest["sha256"] = attack.digest({key: value for key, value in manifest.items() if key != "sha256"})
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda b: b * torch.nan, "finite"),
        (lambda b: b + torch.inf, "finite"),
        (lambda b: b.to(torch.complex64) + 3j, "complex64"),
        (lambda b: b.to(torch.int32), "int32"),
        (lambda b: b > 0, "bool"),
        (lambda b: b.to(torch.float8_e4m3fn), "16 bits"),
        (lambda b: b[:2], "shape"),
    ],
)
def test_what_has_no_mask_is_checked_as_well(copied: Path, value: Callable[[Tensor], Tensor], said: str) -> None:
    stored(copied, "1.bias", value)
    code, message = refused(copied)
    assert code == "PKC628" and said in message and "'1.bias'" in message


class Own(nn.Module):
    """Buffers that no path reads: a count, a NaN, and complex numbers; and a mask of -inf that one does."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 4)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("unset", torch.full((2,), torch.nan))
        self.register_buffer("phases", torch.ones(2, dtype=torch.complex64) * 1j)
        self.register_buffer("forbidden", torch.tensor([0.0, 0.0, 0.0, -torch.inf]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.l(x) + self.forbidden, -1)


def test_what_the_model_was_is_read_again_whatever_its_buffers_hold(tmp_path: Path) -> None:
    model = Own()
    pkcompiler.prune(model, torch.ones(1, 4), "magnitude", density=0.5).save(tmp_path / "a")
    artifact = pkcompiler.load(tmp_path / "a")
    applied = artifact.apply(Own())
    for name, buffer in model.named_buffers():
        assert torch.equal(dict(applied.named_buffers())[name].nan_to_num(), buffer.nan_to_num())
    stored(tmp_path / "a", "phases", lambda t: t.real)
    with pytest.raises(PkcError) as caught:
        pkcompiler.load(tmp_path / "a").apply(Own())
    assert caught.value.diagnostics[0].code == "PKC629" and "'phases'" in caught.value.diagnostics[0].message


RECIPES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "empty": (lambda m: m.update(recipe={}), "'recipe' lacks 'model'"),
    "model": (lambda m: m["recipe"].update(model=None), "'recipe'.model is None"),
    "model of nothing": (lambda m: m["recipe"].update(model={}), "'recipe'.model lacks 'weights'"),
    "weights": (lambda m: m["recipe"]["model"].update(weights=3), "weights is 3"),
    "graph": (lambda m: m["recipe"]["model"].pop("graph"), "lacks 'graph'"),
    "versions": (lambda m: m["recipe"].update(versions=3), "'recipe'.versions is 3"),
    "a version": (lambda m: m["recipe"]["versions"].update(torch=[1]), "versions.torch is [1]"),
    "dtype": (lambda m: m["recipe"].update(dtype=[]), "'recipe'.dtype is []"),
    "data": (lambda m: m["recipe"].update(data=[1]), "'recipe'.data is [1]"),
    "data that are no hash": (lambda m: m["recipe"].update(data="x"), "'recipe'.data is 'x'"),
    "seed": (lambda m: m["recipe"]["model"].update(seed=-(2**80)), "expected at least"),
    "batch": (lambda m: m["recipe"].update(batch=0), "expected at least 1"),
    "number": (lambda m: m["recipe"].update(dtype="nope"), "'recipe'.dtype is 'nope'"),
    "threads": (lambda m: m["recipe"].update(threads="2"), "'recipe'.threads is '2'"),
    "schedule": (lambda m: m["recipe"].update(schedule=None), "'recipe'.schedule is None"),
    "long name": (lambda m: m["recipe"].update({"x" * 5000: 1}), "5,000 characters"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_entry_of_a_recipe_is_checked(copied: Path, name: str) -> None:
    change, said = RECIPES[name]
    edit(copied, "manifest.json", change, sealed=False)
    resealed(copied)
    code, message = refused(copied)
    assert code == "PKC627" and said in message and len(message) < 500


@pytest.mark.parametrize("dtype", [d for d in attack.DTYPES if d not in ("F32", "I64")])
def test_types_of_elements_that_torch_does_not_know_or_that_do_not_fit(copied: Path, dtype: str) -> None:
    content = (copied / WEIGHTS).read_bytes()
    (copied / WEIGHTS).write_bytes(content.replace(b'"F32"', f'"{dtype}"'.ljust(5).encode()[:5], 1))
    attack.seal(copied)
    assert refused(copied)[0] == "PKC628"


@pytest.mark.parametrize("name", ["schedule.pkc", "graph.pkir"])
def test_the_recipe_names_schedule_graph_and_weights(copied: Path, name: str) -> None:
    (copied / name).write_bytes((copied / name).read_bytes() + b"# more\n")
    manifest = json.loads((copied / "manifest.json").read_text())
    recipe = manifest["recipe"]
    attack.seal(copied)
    edit(copied, "manifest.json", lambda m: m.update(recipe=recipe), sealed=False)
    resealed(copied)
    code, message = refused(copied)
    assert code == "PKC628" and f"'{name}'" in message


@pytest.mark.parametrize(
    ("old", "new"), [("path.graph", "graph ???"), ("return %5", ""), ("f64[12", "f31[12"), ("dense %4", "dense %7")]
)
def test_a_graph_that_is_none_is_refused_and_hides_no_bias(copied: Path, old: str, new: str) -> None:
    stored(copied, "1.bias", lambda b: b * torch.nan)
    text = (copied / "graph.pkir").read_text()
    assert old in text
    (copied / "graph.pkir").write_text(text.replace(old, new, 1))
    attack.seal(copied)
    code, message = refused(copied)
    assert code == "PKC628" and "'graph.pkir' is no path graph: " in message
    with pytest.raises(PkcError) as caught:
        pkcompiler.load(copied)
    (only,) = caught.value.diagnostics
    assert only.span is not None and only.span.file == str(copied / "graph.pkir")


def test_edits_of_a_graph_by_chance_are_refused_where_it_no_longer_parses(copied: Path) -> None:
    random, text, refusals = Random(3), (copied / "graph.pkir").read_text(), 0
    for _ in range(40):
        place = random.randrange(len(text))
        (copied / "graph.pkir").write_text(text[:place] + random.choice("{}%=x0 ") + text[place + random.randrange(3) :])
        attack.seal(copied)
        try:
            artifact = pkcompiler.load(copied)
        except PkcError as error:
            assert error.diagnostics[0].code == "PKC628"
            refusals += 1
        else:
            assert artifact.graph.ops and artifact.tensors
    assert 20 < refusals < 40


# files that are none, and what a terminal obeys ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["manifest.json", "report.json", MASKS])
def test_a_link_is_refused_as_one(copied: Path, name: str) -> None:
    (copied / name).rename(copied.parent / "elsewhere")
    (copied / name).symlink_to(copied.parent / "elsewhere")
    code, message = refused(copied)
    assert code == ("PKC627" if name == "manifest.json" else "PKC626") and "symbolic link" in message


@pytest.mark.parametrize("name", ["zz\x1b[31mzz", "n" * 5000, "n " * 9000])
def test_names_of_tensors_are_quoted_safely_and_shortly(copied: Path, name: str) -> None:
    weights = load_file(copied / WEIGHTS)
    save_file({**weights, name: torch.ones(3)}, copied / WEIGHTS)
    changed = state_hash(load_file(copied / WEIGHTS))
    attack.seal(copied)
    edit(copied, "manifest.json", lambda m: m["recipe"]["model"].update(weights=changed), sealed=False)
    resealed(copied)
    with pytest.raises(PkcError) as caught:
        pkcompiler.load(copied).apply(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)))
    text = str(caught.value)
    assert text.replace("\n", "").isprintable() and len(text) < 5000 and caught.value.diagnostics[0].code == "PKC629"


def test_escapes_of_a_manifest_and_a_schedule_stay_in_them(copied: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["model"].update({"class": "\x1b]0;owned\x07", "spec": "\x9b2J\u202ea"})
        manifest["versions"]["torch"] = "\x1b[31m\r\b"

    schedule = (copied / "schedule.pkc").read_text()
    (copied / "schedule.pkc").write_text(f"# \x1b]0;owned\x07\n{schedule}")
    edit(copied, "manifest.json", change)
    for arguments in (("show", str(copied)), ("show", str(copied), "--json", "-"), ("compare", str(copied), str(copied))):
        result = pkc(*arguments)
        assert (result.exit_code == 0 and "owned" in result.stdout) or arguments[0] == "compare"
        assert not set("\x1b\x07\x9b\r\b\u202e") & set(result.stdout + result.stderr)


# by chance -----------------------------------------------------------------------------------------------------------------


def test_flips_and_cuts_of_every_file_are_found(pruned: Path, tmp_path: Path) -> None:
    random = Random(5)
    for change in attack.damages(pruned / "a", 8, random):
        kind, done, said = attack.attacked(pruned / "a", tmp_path, change, random, sealed=False)
        assert kind == "refused", (done, said)


def test_changes_under_right_hashes_are_no_traceback(pruned: Path, tmp_path: Path) -> None:
    random = Random(7)
    kinds = set()
    for _ in range(60):
        kind, done, said = attack.attacked(pruned / "a", tmp_path, random.choice(attack.TAMPERED), random, sealed=True)
        assert kind in ("refused", "read"), (done, said)
        kinds.add(kind)
    assert kinds == {"refused", "read"}


@pytest.mark.parametrize(("name", "known"), [("manifest.json", SCHEMA), ("report.json", REPORT_SCHEMA)])
def test_our_reading_of_the_schema_is_that_of_jsonschema(pruned: Path, name: str, known: dict[str, Any]) -> None:
    whole = json.loads((pruned / "a" / name).read_text())
    ours = f"artifact/{Path(name).stem}.schema.json"
    assert not schema.problem(whole, ours) and schema.SAID.isdisjoint(schema.WORDS)
    validator, random, wrong = jsonschema.Draft202012Validator(known), Random(3), 0
    for _ in range(300):
        data = json.loads(json.dumps(whole))
        place = random.choice(list(attack.places(data)))
        holder = data
        for key in place[:-1]:
            holder = holder[key]
        if random.random() < 0.3:
            del holder[place[-1]]
        else:
            holder[place[-1]] = random.choice(attack.ODD)
        assert bool(schema.problem(data, ours)) == (not validator.is_valid(data)), (place, data)
        wrong += not validator.is_valid(data)
    assert 30 < wrong < 300
    assert words(known) <= schema.WORDS | schema.SAID


def words(known: dict[str, Any]) -> set[str]:
    """The words that a schema uses; the keys of ``properties`` and ``$defs`` are names."""
    found = set(known)
    for key, value in known.items():
        inner = value.values() if key in ("properties", "$defs") else [value] if isinstance(value, dict) else []
        found |= set().union(*(words(part) for part in inner)) if inner else set()
    return found
