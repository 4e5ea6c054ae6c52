"""Trees of plain values and tensors, written and read back equal; nothing else is written, and nothing else is read."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from contextlib import suppress
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pkcompiler.diagnostics import PkcError
from pkcompiler.pruning.recipe import state_hash
from pkcompiler.training.tree import FORMAT, from_bytes, to_bytes

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
KEYS = st.integers() | st.text(max_size=8) | st.tuples(st.text(max_size=3), st.integers())
TREES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@given(TREES)
def test_plain_trees_come_back_equal(tree: Any) -> None:
    assert same({"tree": tree}, from_bytes(to_bytes({"tree": tree})))


def test_tensors_arrays_and_what_schedulers_hold_come_back_equal() -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
    tree = {
        "tensors": [torch.tensor([[1, 0, 3]]).to(d) for d in dtypes],
        "scalar": torch.tensor(0.1),
        "empty": torch.empty(0, 3),
        "view": torch.arange(12.0).reshape(3, 4).t(),
        "shared": [torch.ones(2)] * 2,
        "dtype": torch.bfloat16,
        "set": {1, 2},
        "frozen": frozenset({"a"}),
    }
    assert same(tree, from_bytes(to_bytes(tree)))
    odd = from_bytes(
        to_bytes(
            {
                "counter": Counter({3: 2}),
                "ordered": OrderedDict(a=1),
                "array": np.arange(3, dtype=np.int32),
                "float": np.float64(0.1),
                "bool": np.bool_(True),
                "parameter": torch.nn.Parameter(torch.ones(2)),
                "device": torch.device("cpu"),
            }
        )
    )
    assert odd["counter"] == Counter({3: 2}) and isinstance(odd["counter"], Counter)
    assert odd["ordered"] == {"a": 1} and odd["float"] == 0.1 and odd["bool"] is True and odd["device"] == torch.device("cpu")
    assert odd["array"].dtype == np.int32 and odd["array"].tolist() == [0, 1, 2]
    assert not odd["parameter"].requires_grad


def test_the_same_tree_is_the_same_bytes() -> None:
    tree = {"b": torch.ones(3), "a": [1.5, {"x": torch.zeros(2)}]}
    assert to_bytes(tree) == to_bytes(tree)


def test_what_is_written_is_a_copy() -> None:
    weight = torch.ones(3)
    content = to_bytes({"w": weight})
    weight.zero_()
    assert from_bytes(content)["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("value", [lambda: 0, object(), np.array([object()]), 1j, Exception()], ids=lambda v: type(v).__name__)
def test_nothing_else_is_written(value: object) -> None:
    with pytest.raises(PkcError, match=r"PKC457.*others\.mine\[1\] is a "):
        to_bytes({"others": {"mine": [1, value]}})


def test_damaged_bytes_are_refused() -> None:
    tree = {"w": torch.ones(3), "n": [1, {"a": (2,)}]}
    content = to_bytes(tree)
    for end in range(len(content)):
        with pytest.raises(ValueError):
            from_bytes(content[:end])
    generator = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(content)
        for place in generator.integers(0, len(content), 4):
            broken[place] = int(generator.integers(256))
        with suppress(ValueError):  # one blank for another, at most
            assert same(from_bytes(bytes(broken)), tree)


def test_files_of_another_kind_are_refused() -> None:
    from safetensors.torch import save

    tensors = {"w": torch.ones(1)}
    texts = [
        "{",
        json.dumps([1]),
        *(json.dumps(tree) for tree in ({"tensor": "1"}, {"map": [1]}, {"dtype": "no"}, {"device": "no"})),
    ]

    def sealed(text: str) -> dict[str, str]:
        return {FORMAT: sha256((text + state_hash(tensors)).encode()).hexdigest() + text}

    assert from_bytes(save(tensors, sealed('{"map": []}'))) == {}
    for metadata in (None, {}, {"format": "other"}, {FORMAT: "{}"}, *map(sealed, texts)):
        with pytest.raises(ValueError):
            from_bytes(save(tensors, metadata))
