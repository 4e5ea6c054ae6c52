"""Models that write into what they are given: the graph holds all that follows, and the caller's tensors stay as they were."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pkcompiler import ntk, path_kernel, prune, score
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.frontend.export import normalise_inputs
from pkcompiler.frontend.inputs import Inputs
from pkcompiler.ir.maps import Constant, Dense, Gate
from pkcompiler.paths.certificate import certify_capture


class Net(nn.Module):
    """Two layers behind ``change``, which is given the module and its inputs and returns what the first layer reads."""

    def __init__(self, change: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.change = change

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(self.change(self, *args, **kwargs))))


def half_less(m: Any, x: Tensor) -> Tensor:
    x -= 0.5
    return x


def doubled(m: Any, x: Tensor) -> Tensor:
    x *= 2
    return x


def column(m: Any, x: Tensor) -> Tensor:
    x[:, 0] *= 2
    return x


def by_a_view(m: Any, x: Tensor) -> Tensor:
    x.t().mul_(2)
    return x


def by_a_narrow_view(m: Any, x: Tensor) -> Tensor:
    x.narrow(1, 0, 2).mul_(2)
    return x


def into(m: Any, x: Tensor) -> Tensor:
    torch.add(x, 1, out=x)
    return x


def rectified(m: Any, x: Tensor) -> Tensor:
    return torch.relu_(x)


def first_of_two(m: Any, x: Tensor, z: Tensor) -> Tensor:
    z += x
    x *= 3
    return x + z


def in_containers(m: Any, x: Any, more: Any) -> Tensor:
    more[0].mul_(2)
    x["x"][:, :2] -= 0.5
    return x["x"] + more[0]


def branching(m: Any, x: Tensor) -> Tensor:
    x -= 0.5
    return x if m.a(x).sum() < 1e6 else -x


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CHANGES = (half_less, doubled, column, by_a_view, by_a_narrow_view, into, rectified, branching)
INPUTS: dict[str, tuple[Callable[..., Tensor], Any]] = {
    **{change.__name__: (change, X) for change in CHANGES},
    "first_of_two": (first_of_two, (X, X + 1)),
    "nested": (in_containers, Inputs(({"x": X},), {"more": [X + 1]})),
    "keyword": (doubled, {"x": X}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [None, torch.float64])
@pytest.mark.parametrize("name", INPUTS)
def test_a_model_may_write_into_its_inputs(name: str, dtype: torch.dtype | None) -> None:
    """In the model's own precision, where nothing is copied for another one, too."""
    change, given = INPUTS[name]
    inputs = deepcopy(given)
    captured = capture(Net(change).double(), inputs, dtype=dtype)
    assert [type(op.map) for op in captured.graph.ops if isinstance(op.map, Dense)] == [Dense, Dense]
    assert certify_capture(captured).holds
    same = zip(*(pytree.tree_leaves(normalise_inputs(i)) for i in (inputs, given)), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_positional_and_keyword_inputs_together_are_cast() -> None:
    inputs = Inputs(({"x": X.float()},), {"more": [X.float()]})
    captured = capture(Net(in_containers), inputs, dtype=torch.float64)
    assert {t.dtype for t in captured.call.flat} == {torch.float64} and certify_capture(captured).holds


def test_what_is_written_is_a_factor() -> None:
    captured = capture(Net(doubled), X.float())
    assert [type(op.map) for op in captured.graph.ops] == [Constant, Dense, Gate, Dense]


def test_a_view_of_an_activation_may_be_written_into() -> None:
    """``t`` and its kin are views by their schema: what is written through them is written into what they show."""

    def change(m: Any, x: Tensor) -> Tensor:
        h = torch.sin(x @ m.a.weight.t())
        h.t().mul_(2)
        return h

    captured = capture(Net(change), X, dtype=torch.float64)
    assert Constant in [type(op.map) for op in captured.graph.ops]
    assert certify_capture(captured).holds


def test_no_command_changes_the_data() -> None:
    net, x, y = Net(half_less).double(), X.clone(), torch.tensor([0, 1, 0])
    path_kernel(net, x).trace()
    ntk(net, x).trace()
    score(net, x, "snip", data=(x, y))
    prune(net, x, "snip", density=0.5, data=(x, y))
    assert torch.equal(x, X)


def test_buffers_are_left_as_they_were() -> None:
    def counted(m: Any, x: Tensor) -> Tensor:
        m.calls += 1
        return x * m.calls

    net = Net(counted).double()
    captured = capture(net, X)
    assert certify_capture(captured).holds and net.calls == 0


def test_rows_of_limited_norm_are_left_as_they_were() -> None:
    """The rows are rewritten when they are read, which no path does: refused, and not done to the caller's model."""
    net = nn.Sequential(nn.Embedding(5, 4, max_norm=1.0), nn.Linear(4, 2)).double()
    before = net[0].weight.detach().clone()
    with pytest.raises(PkcError, match="embedding_renorm"):
        capture(net, torch.tensor([0, 1, 2]))
    assert bool((before.norm(dim=1) > 1).any()) and torch.equal(net[0].weight, before)
