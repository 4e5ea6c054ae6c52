"""Weights that a forward computes by its own code: masks that leave them 0/0 are refused wherever masks are applied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

import pkcompiler as pk

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
Weight = Callable[[nn.Module], Tensor]


class Net(nn.Module):
    """A layer whose weight is computed, and one within a part; a table, and a list of weights."""

    def __init__(self, computed: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.w, self.bias, self.fc = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6)), nn.Linear(4, 6)
        self.rows, self.computed = nn.ParameterList([torch.randn(6, 4)]), computed
        self.register_buffer("gain", torch.ones(6, 1))

    def scaled(self, w: Tensor) -> Tensor:
        return w / w.norm(dim=1, keepdim=True)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.computed(self, x)


def written_out(net: Net, x: Tensor) -> Tensor:
    return linear(x, net.w / net.w.norm(dim=1, keepdim=True), net.bias)


def by_a_method(net: Net, x: Tensor) -> Tensor:
    return linear(x, net.scaled(net.w), net.bias)


def by_a_root(net: Net, x: Tensor) -> Tensor:
    return linear(x, net.gain * net.w * net.w.square().sum(1, keepdim=True).rsqrt())


def of_the_output(net: Net, x: Tensor) -> Tensor:
    return linear(x, net.w) / net.w.norm(dim=1)


def before_a_branch(net: Net, x: Tensor) -> Tensor:
    y = linear(x, net.w / net.w.norm(dim=1, keepdim=True))
    return y if y.sum() > 0 else -y


def of_a_part(net: Net, x: Tensor) -> Tensor:
    return linear(x, net.scaled(net.fc.weight))


def of_a_list(net: Net, x: Tensor) -> Tensor:
    return linear(x, net.scaled(net.rows[0]))


UNDEFINED = {
    written_out: "w",
    by_a_method: "w",
    by_a_root: "w",
    of_the_output: "w",
    before_a_branch: "w",
    of_a_part: "fc.weight",
    of_a_list: "rows.0",
}


def without_rows(*names: str) -> dict[str, Tensor]:
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[[1, 4]] = False
    return dict.fromkeys(names, mask)


def build(forward: Callable[[Net, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Net(forward), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize("forward", UNDEFINED, ids=lambda f: f.__name__)
def test_masks_given_as_a_dict_are_refused_where_they_leave_rows_undefined(forward: Callable[[Net, Tensor], Tensor]) -> None:
    name = f"0.{UNDEFINED[forward]}"
    model, masks = build(forward), without_rows(name)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    with torch.no_grad():
        cut = build(forward)
        cut.get_parameter(name).mul_(masks[name])
        assert not cut(X)[:, :1].isfinite().all()
    with pytest.raises(pk.PkcError, match=rf"PKC462.*nothing is kept of 2 rows of '{name}'"):
        pk.apply_masks(model, masks)
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    if forward is not before_a_branch:
        with pytest.raises(pk.PkcError, match=rf"PKC462.*'{name}'"):
            pk.lower(model, masks)


def normalised(net: Net, x: Tensor) -> Tensor:
    return linear(x, normalize(net.w, dim=1), net.bias)


def guarded(net: Net, x: Tensor) -> Tensor:
    return linear(x, torch.nan_to_num(net.w / net.w.norm(dim=1, keepdim=True)))


def of_data(net: Net, x: Tensor) -> Tensor:
    y = linear(x, net.w)
    return y / (1 + y.norm(dim=1, keepdim=True)) / net.w.norm()


@pytest.mark.parametrize("forward", [normalised, guarded, of_data], ids=lambda f: f.__name__)
def test_what_stays_defined_is_masked(forward: Callable[[Net, Tensor], Tensor]) -> None:
    model = pk.apply_masks(build(forward), without_rows("0.w"))
    assert model(X).isfinite().all()


def test_a_row_of_which_an_entry_is_kept_is_defined() -> None:
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[1, 1:] = False
    assert pk.apply_masks(build(written_out), {"0.w": mask})(X).isfinite().all()


def test_masks_together_leave_a_row() -> None:
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[1, 1:] = False
    model = pk.apply_masks(build(written_out), {"0.w": mask})
    with pytest.raises(pk.PkcError, match=r"PKC462.*a row of '0\.w'"):
        pk.apply_masks(model, {"0.w": ~mask | (torch.arange(6) != 1)[:, None]})


def test_so_are_those_of_an_artifact(tmp_path: Path) -> None:
    """One whose masks are known to leave a row only with what has been masked before."""
    model = build(written_out)
    pruned = pk.prune(model, X, "magnitude", density=0.9)
    pruned.masks["0.w"].fill_(True)[2] = False
    pruned.save(tmp_path / "a")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    for act in (pk.load(tmp_path / "a").apply, pk.load(tmp_path / "a").lower):
        with pytest.raises(pk.PkcError, match=r"PKC462.*'0\.w'"):
            act(model)
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_recording_leaves_the_model_and_random_numbers_alone() -> None:
    def noted(net: Net, x: Tensor) -> Tensor:
        net.last = linear(x, net.w + torch.randn(()))
        return net.last

    model = build(noted)
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    pk.apply_masks(model, without_rows("0.w"))
    assert torch.equal(torch.randn(2), expected) and not hasattr(model[0], "last")
