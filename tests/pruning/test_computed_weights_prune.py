"""Criteria, lowered networks and artifacts of networks whose weights are computed (docs/theory.md, sections 1 and 3)."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import pkcompiler as pk
from pkcompiler.diagnostics import fail
from pkcompiler.report.analyze import analyze_graph
from pkcompiler.training import load_schedule
from tests.artifact.test_artifact import edit

X = torch.ones(2, 4)
V = ["0.parametrizations.weight.original1", "2.parametrizations.weight.original1"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    normed = parametrizations.weight_norm
    return nn.Sequential(normed(nn.Linear(4, 6)), nn.ReLU(), normed(nn.Linear(6, 3)))


def folded(model: nn.Sequential) -> nn.Sequential:
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    for i in (0, 2):
        plain[i].load_state_dict({"weight": model[i].weight.detach(), "bias": model[i].bias.detach()})
    return plain


@pytest.mark.parametrize("criterion", ["synflow", "synflow-l2"])
def test_one_round_keeps_what_it_keeps_of_the_folded_network(criterion: str) -> None:
    model = network()
    mine, right = (pk.prune(m, X, criterion, density=0.5, rounds=1).masks for m in (model, folded(model)))
    assert list(mine) == V
    for name in V:
        assert torch.equal(mine[name], right[name[0] + ".weight"])


class ByHand(nn.Module):
    """Rows divided by their length, in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6))

    @property
    def weight(self) -> torch.Tensor:
        return self.w / self.w.norm(dim=1, keepdim=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(4, 6)), "0.parametrizations.weight.original1"),
        (lambda: nn.utils.weight_norm(nn.Linear(4, 6)), "0.weight_v"),
        (ByHand, "0.w"),
    ],
    ids=["parametrized", "hook", "by hand"],
)
def test_where_data_are_read_a_row_without_a_kept_weight_is_0(made: Callable[[], nn.Module], name: str) -> None:
    """Scores of all that comes after are those of the folded network under the same mask."""
    torch.manual_seed(0)
    model = nn.Sequential(made(), nn.ReLU(), nn.Linear(6, 3))
    data = torch.randn(7, 4), torch.arange(7) % 3
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    plain[2].load_state_dict(model[2].state_dict())
    plain[0].load_state_dict({"weight": model[0].weight.detach(), "bias": model[0].bias.detach()})
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[2] = False
    for criterion in ("snip", "fisher", "px"):
        mine = pk.score(model, X, criterion, masks={name: mask}, data=data)
        right = pk.score(plain, X, criterion, masks={"0.weight": mask}, data=data)
        assert all(bool(t.isfinite().all()) for t in mine.values())
        assert torch.allclose(mine["2.weight"], right["2.weight"], rtol=1e-6, atol=1e-12)
        assert not mine[name][2].any()


@pytest.mark.parametrize("criterion", ["phew", "path-kernel-trace", "node-path-balance"])
def test_a_pass_that_reads_weights_alone_names_the_parameter(criterion: str) -> None:
    with pytest.raises(pk.PkcError, match=rf"PKC444.*{V[0]}"):
        pk.prune(network(), X, criterion, density=0.5)


def test_an_artifact_is_analysed_without_the_model(tmp_path: Path) -> None:
    pruned = pk.prune(network(), X, "synflow", density=0.3, rounds=3)
    pruned.save(tmp_path / "a")
    back = pk.load(tmp_path / "a")
    assert len(back.graph.computed) == 2
    alone = analyze_graph(back.graph, back.tensors, back.masks, "Sequential")
    assert alone.to_json() == pk.analyze(network(), X, back.masks).to_json()


TAMPERED = [
    ("reciprocal.default(v0)", "__import__('os').system('true')", "is not on the list"),
    ("reciprocal.default(v0)", "rand_like.default(v0)", "is not on the list"),
    ("reciprocal.default(v0)", "reciprocal.default(v9)", "no argument"),
    ("reciprocal.default(v0)", "reciprocal.default((lambda: v0)())", "no argument"),
    ("v1 = ", "import os; v1 = ", "is no step"),
]


@pytest.mark.parametrize(("old", "new", "why"), TAMPERED)
def test_a_formula_that_is_no_list_of_known_calls_is_refused(old: str, new: str, why: str) -> None:
    text = str(pk.lift(network(), X))
    assert old in text
    with pytest.raises(pk.PkcError, match=rf"PKC314.*{why}"):
        pk.parse_graph(text.replace(old, new))


def test_a_tampered_artifact_is_refused(tmp_path: Path) -> None:
    pk.prune(network(), X, "magnitude", density=0.5).save(tmp_path)
    file = tmp_path / "graph.pkir"
    changed = file.read_text().replace("reciprocal.default(v0)", "eval(v0)")
    file.write_text(changed)
    with pytest.raises(pk.PkcError, match="PKC626"):
        pk.load(tmp_path)
    digest = sha256(changed.encode()).hexdigest()
    edit(tmp_path, lambda m: (m["files"].update({file.name: digest}), m["recipe"]["model"].update(graph=digest)))
    with pytest.raises(pk.PkcError, match=r"PKC628.*'eval' is not on the list of operators"):
        pk.load(tmp_path)


LOWERED = [
    (parametrizations.weight_norm, "0.parametrizations.weight.original1", [1]),
    (parametrizations.spectral_norm, "0.parametrizations.weight.original", [0, 1, 2]),
    (nn.utils.weight_norm, "0.weight_v", [1]),
    (nn.utils.spectral_norm, "0.weight_orig", [0, 1, 2]),
]


@pytest.mark.parametrize(("wrap", "name", "rows"), LOWERED)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_a_lowered_network_has_zeros_where_nothing_of_a_row_is_kept(wrap: object, name: str, rows: list[int]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(wrap(nn.Linear(4, 3)), nn.Linear(3, 2))
    model(X)
    model.eval()
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[rows] = False
    net = pk.lower(model, {name: mask}, X)
    expected = model[0].weight.detach() * mask
    bias, last = model[0].bias.detach(), model[1]
    torch.testing.assert_close(net(X), last(X @ expected.t() + bias))
    net.train()
    net(X).sum().backward()
    grads = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    assert grads and all(bool(g.isfinite().all()) for g in grads.values())
    assert bool((grads[name][~mask] == 0).all())
    assert net.state_dict().keys() == model.state_dict().keys()


NORMED = {
    "parametrized": (lambda: parametrizations.weight_norm(nn.Linear(4, 6)), "0.parametrizations.weight.original1", [2]),
    "hook": (lambda: nn.utils.weight_norm(nn.Linear(4, 6)), "0.weight_v", [2, 3]),
    "spectral": (lambda: parametrizations.spectral_norm(nn.Linear(4, 6)), "0.parametrizations.weight.original", list(range(6))),
    "by hand": (ByHand, "0.w", [2]),
}


def emptied(kind: str) -> tuple[nn.Module, pk.Pruned]:
    """A network, and a result of pruning that keeps nothing of some rows of its first weight."""
    torch.manual_seed(0)
    made, name, rows = NORMED[kind]
    model = nn.Sequential(made(), nn.ReLU(), nn.Linear(6, 3))
    pruned = pk.prune(model, X, "magnitude", density=0.9)
    pruned.masks[name].fill_(True)[rows] = False
    return model, pruned


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", NORMED)
def test_rows_of_which_nothing_is_kept_are_refused_by_name_where_they_stay_undefined(kind: str) -> None:
    model, pruned = emptied(kind)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(pk.PkcError, match=rf"PKC462.*{NORMED[kind][1]}"):
        pk.apply_masks(model, pruned)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    if kind == "by hand":
        with pytest.raises(pk.PkcError, match=r"PKC462.*0\.w"):
            pk.lower(model, pruned)
        return
    assert pk.lower(model, pruned)(X).isfinite().all()
    with pytest.raises(pk.PkcError, match="PKC462"):
        pk.apply_masks(model, pruned.masks)


def test_masks_of_a_result_whose_graph_is_not_read_are_held_as_ever() -> None:
    class Old:
        def __init__(self) -> None:
            self.masks = {"weight": torch.eye(3, dtype=torch.bool)}

        @property
        def graph(self) -> None:
            raise fail("PKC614", "of an earlier version")

    assert pk.apply_masks(nn.Linear(3, 3), Old()).weight.count_nonzero() == 3


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["hook", "by hand"])
def test_masks_that_leave_a_row_together_are_refused(kind: str) -> None:
    model, name = nn.Sequential(NORMED[kind][0](), nn.ReLU(), nn.Linear(6, 3)), NORMED[kind][1]
    pruned = pk.prune(model, X, "magnitude", density=0.9)
    half = torch.ones(6, 4, dtype=torch.bool)
    half[1, :2] = False
    pk.apply_masks(model, {name: half})
    pruned.masks[name].copy_(~half | (torch.arange(6) != 1)[:, None])
    with pytest.raises(pk.PkcError, match="PKC462"):
        pk.apply_masks(model, pruned)


@pytest.mark.parametrize("kind", ["parametrized", "by hand"])
def test_a_schedule_in_training_refuses_such_rows(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(NORMED[kind][0](), nn.ReLU(), nn.Linear(6, 3))
    model.get_parameter(NORMED[kind][1]).data[2] *= 1e-6
    text = f'schedule s {{ prune magnitude {{ density = 60%\n at = epochs(1..1)\n include = "{NORMED[kind][1]}" }} }}'
    cycles = load_schedule(text).cycles(model, torch.optim.SGD(model.parameters(), 0.1), X, epochs=1)
    with pytest.raises(pk.PkcError, match="PKC462"):
        for cycle in cycles:
            for _ in cycle:
                cycle.epoch_end()


def test_channels_of_computed_weights_are_refused() -> None:
    """Without a column of v all other entries of g v / ||v|| would change."""
    with pytest.raises(pk.PkcError, match=r"PKC445.*'0\.weight' is computed from") as caught:
        pk.prune(network(), X, schedule="schedule s { prune synflow { density = 50% structure = channel } }")
    assert len(caught.value.diagnostics) == 2
    pk.prune(folded(network()), X, schedule="schedule s { prune synflow { density = 50% structure = channel } }")


def test_closed_forms_of_computed_weights_are_refused_by_their_name() -> None:
    with pytest.raises(pk.PkcError, match=r"PKC509.*'0\.weight' is computed from.*closed forms are of stored weights"):
        pk.closed_forms(network(), X)


def test_rescaling_leaves_computed_weights_alone_and_says_so() -> None:
    model = network()
    found = pk.rescale(model, X)
    assert [(alone.name, alone.units) for alone in found.left_alone] == [("0", 6), ("2", 3)]
    torch.testing.assert_close(found.model(X), model(X), rtol=0, atol=0)
