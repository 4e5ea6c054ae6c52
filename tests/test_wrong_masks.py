"""Masks of every kind of tensor: taken for what they say, or refused by name, in every function that takes masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pkcompiler
from pkcompiler.diagnostics import PkcError

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse CSR", "ignore:.*quantiz.*")

X = torch.linspace(-1, 1, 12).reshape(2, 6)
KEEP = (torch.arange(48) % 3 > 0).reshape(8, 6)
OTHER = KEEP.roll(1, 0)

Way = Callable[[nn.Module, dict[str, Tensor]], object]
STORED: dict[str, Way] = {
    "apply_masks": pkcompiler.apply_masks,
    "lower": pkcompiler.lower,
    "lower at inputs": lambda m, k: pkcompiler.lower(m, k, X),
}
COMPUTED: dict[str, Way] = {
    "analyze": lambda m, k: pkcompiler.analyze(m, X, masks=k),
    "path_functional": lambda m, k: pkcompiler.path_functional(m, X, masks=k),
    "ntk": lambda m, k: pkcompiler.ntk(m, X, masks=k).trace(),
    "prune": lambda m, k: pkcompiler.prune(m, X, "magnitude", density=0.5, masks=k),
}
WAYS = {**STORED, **COMPUTED}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def quantised() -> Tensor:
    return torch.quantize_per_tensor(KEEP.float(), 1.0, 0, torch.quint8)


REFUSED: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse": (lambda: KEEP.to_sparse(), "is sparse"),
    "sparse floats": (lambda: KEEP.float().to_sparse(), "is sparse"),
    "csr": (lambda: KEEP.float().to_sparse_csr(), "is sparse"),
    "quantised": (quantised, "is quantised"),
    "nested": (lambda: torch.nested.nested_tensor([r.float() for r in KEEP]), "is nested"),
    "jagged": (lambda: torch.nested.nested_tensor([r.float() for r in KEEP], layout=torch.jagged), "is nested"),
    "meta": (lambda: KEEP.to("meta"), "on the meta device"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_table_of_numbers_is_refused(way: str, kind: str) -> None:
    made, said = REFUSED[kind]
    with pytest.raises(PkcError) as caught:
        WAYS[way](net(), {"0.weight": made()})
    (found,) = caught.value.diagnostics
    assert found.code == ("PKC472" if way in STORED else "PKC401") and said in found.message
    if kind != "meta":  # the remedy is code, and makes a mask
        masks = {"0.weight": made()}
        written = found.notes[0].rpartition(" = ")[2].removeprefix("use a plain one: ")
        assert torch.equal(eval(written, {"masks": masks}), KEEP)  # our own text


TAKEN: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: KEEP.T.contiguous().T,
    "a view": lambda: KEEP.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2],
    "bfloat16": lambda: KEEP.bfloat16(),
    "float8": lambda: KEEP.float().to(torch.float8_e4m3fn),
    "with gradients": lambda: KEEP.float().requires_grad_(),
    "a parameter": lambda: nn.Parameter(KEEP.float()),
    "negated lazily": lambda: torch._neg_view(-KEEP.float()),
    "of inference": lambda: inferred(),
}


def inferred() -> Tensor:
    with torch.inference_mode():
        return KEEP.clone()


@pytest.mark.parametrize("kind", TAKEN)
def test_zeros_and_ones_are_masks_whatever_their_type_and_place(kind: str) -> None:
    given, plain = {"0.weight": TAKEN[kind]()}, {"0.weight": KEEP}
    found, expected = (pkcompiler.prune(net(), X, "magnitude", density=0.5, masks=m).masks for m in (given, plain))
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    values = [pkcompiler.path_functional(net(), X, masks=m).value for m in (given, plain)]
    assert values[0] == values[1]


class Picks(nn.Module):
    """A linear layer, and parameters of whole numbers and of truth values that only choose."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l = nn.Linear(6, 3)
        self.order = nn.Parameter(torch.tensor([1, 2, 0]), requires_grad=False)
        self.open = nn.Parameter(torch.tensor([True, False, True]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.open, self.l(x), 0.0)[:, self.order]


@pytest.mark.parametrize("way", COMPUTED)
def test_parameters_that_only_choose_have_no_mask(way: str) -> None:
    for name in ("order", "open", "ordre"):
        with pytest.raises(PkcError) as caught:
            COMPUTED[way](Picks(), {name: torch.ones(3, dtype=torch.bool)})
        (found,) = caught.value.diagnostics
        assert found.code == "PKC401" and f"'{name}', which names no floating parameter" in found.message
        assert "l.weight" in found.notes[0]


@pytest.mark.parametrize("way", COMPUTED)
def test_parameters_that_only_choose_are_used_as_they_are(way: str) -> None:
    COMPUTED[way](Picks(), {"l.weight": torch.ones(3, 6, dtype=torch.bool)})


def test_their_tangent_kernel_is_that_of_buffers() -> None:
    model = Picks()
    rows = model.l(X).detach() * 0 + X.square().sum(1, keepdim=True) + 1
    torch.testing.assert_close(pkcompiler.ntk(model, X).trace().value, float(rows[:, [0, 2]].sum()), rtol=1e-6, atol=0)
