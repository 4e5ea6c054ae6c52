"""What published code of pruning criteria got wrong, by laws on small networks (docs/theory.md, section 5)."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pkcompiler import PkcError, prune, score
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.library import find_pass, library_names
from pkcompiler.lang.plan import plan_of
from pkcompiler.pruning.rounds import Run
from pkcompiler.scoring.evidence import Evidence

X = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 3
DATA = (X, Y)


class Block(nn.Module):
    """A residual block without biases, linear behind its sum; names and activations to be chosen."""

    def __init__(self, norm: str = "bn1", shortcut: str = "downsample", act=F.relu, average=True):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.add_module(norm, nn.BatchNorm2d(4))
        self.add_module(shortcut, nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4)))
        self.head = nn.Linear(4, 3, bias=False)
        self.names, self.act, self.average = (norm, shortcut), act, average

    def forward(self, x):
        norm, shortcut = (getattr(self, n) for n in self.names)
        x = self.act(norm(self.conv(x))) + shortcut(x)
        return self.head(x.mean((2, 3)) if self.average else x.sum((2, 3)))


def network(**given) -> nn.Module:
    return Block(**given).double().eval()


def px(model: nn.Module) -> dict[str, torch.Tensor]:
    found = score(model, X[:1], "px", data=DATA)
    return {n: t * 2.0**found.exponent for n, t in found.items()}


def close(left: torch.Tensor, right: torch.Tensor) -> None:
    assert bool(right.any())
    torch.testing.assert_close(left, right, rtol=1e-12, atol=0)


def test_gains_are_squared_whatever_they_are_called():
    before = px(network())
    renamed = px(network(norm="scale", shortcut="bnless"))
    for left, right in (("bn1.weight", "scale.weight"), ("downsample.1.weight", "bnless.1.weight"), ("conv.weight", "conv.weight")):
        close(renamed[right], before[left])
    model = network()
    with torch.no_grad():
        model.bn1.weight *= 2
    close(px(model)["conv.weight"], 4 * before["conv.weight"])
    close(px(model)["bn1.weight"], 4 * before["bn1.weight"])


def test_gains_of_shortcuts_are_squared():
    model, before = network(), px(network())
    with torch.no_grad():
        model.downsample[1].weight *= -2
    after = px(model)
    for name in ("downsample.0.weight", "downsample.1.weight"):
        close(after[name], 4 * before[name])
    close(after["conv.weight"], before["conv.weight"])


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), torch.relu, torch.Tensor.relu, lambda x: x.clamp(min=0)])
def test_an_activation_is_one_however_it_is_written(act):
    expected, found = px(network()), px(network(act=act))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-14, atol=0)


def test_a_mean_of_a_normalisation_moves_gates_only_and_nothing_is_negative():
    """The statistics shift what the data open; in the squared network they are no source, of either sign."""
    open_gates = network(act=lambda x: x)
    before = px(open_gates)
    for shift in (-0.7, 0.7):
        open_gates.bn1.running_mean.fill_(shift)
        after = px(open_gates)
        for name in before:
            torch.testing.assert_close(after[name], before[name], rtol=1e-14, atol=0)
    model = network()
    model.bn1.running_mean.fill_(0.7)
    with torch.no_grad():
        model.bn1.bias.fill_(-0.3)
    assert all(bool((t >= 0).all()) for t in px(model).values())
    assert not torch.equal(px(model)["conv.weight"], px(network())["conv.weight"])


def test_an_average_counts_its_size_squared():
    mean, total = px(network()), px(network(average=False))
    for name in mean:
        torch.testing.assert_close(total[name], 36.0**2 * mean[name], rtol=1e-12, atol=0)


def test_equal_scores_at_the_threshold_are_kept_by_position():
    """A network of equal weights: all scores of a layer tie, and exactly so many are kept."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    data = (torch.ones(3, 8), torch.zeros(3, dtype=torch.int64))
    pruned = prune(model, torch.ones(1, 8), "px", density=0.5, rounds=1, data=data)
    assert bool(pruned.masks["2.weight"].all()) and pruned.masks["0.weight"].flatten().tolist() == [True] * 16 + [False] * 48


def test_nan_scores_prune_nothing():
    text = 'pass a { source = "x" score = sqrt(0 - abs(theta)) }'
    with pytest.raises(PkcError) as caught:
        prune(network(), X[:1], text, density=0.5, data=DATA)
    (found,) = caught.value.diagnostics
    assert found.code == "PKC507" and "'head.weight'" in found.message and not any("float32" in note for note in found.notes)


def test_nan_of_an_overflow_names_the_dtype():
    """Logits beyond float32: its cross-entropy is NaN there, and finite in float64."""
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e19)
    score(model, X[:1], "snip", data=DATA)
    with pytest.raises(PkcError) as caught:
        score(model.float(), X[:1].float(), "snip", data=(DATA[0].float(), DATA[1]), dtype=torch.float32)
    (found,) = caught.value.diagnostics
    assert found.code == "PKC507" and any("float64" in note for note in found.notes)


def test_what_rounds_prune_stays_pruned():
    """Only passes that let all weights compete bring any back."""
    whole = capture(network(), X[:1], dtype=torch.float64)
    for name in {"snip", "iter-snip", "grasp", "grasp-it", "px", "px-exact"} & set(library_names()):
        if find_pass(name).among == "all":
            continue
        before: dict[str, torch.Tensor] = {}
        for state in Run(whole, plan_of(name, target=("density", 0.3), rounds=5), torch.float64, Evidence(DATA)).rounds():
            assert not any(bool((state.masks[n] & ~before[n]).any()) for n in before), name
            before = state.masks
        assert sum(int(m.sum()) for m in before.values()) == round(0.3 * 52)


class Counted(torch.utils.data.Dataset):
    def __init__(self):
        self.read = 0

    def __len__(self):
        return 3 * len(X)

    def __getitem__(self, i):
        self.read += 1
        return X[i % len(X)], int(Y[i % len(X)])


def test_data_are_read_once_for_all_rounds():
    reads = []
    for rounds in (1, 6):
        counted = Counted()
        prune(network(), X[:1], "px", density=0.5, rounds=rounds, data=counted)
        reads.append(counted.read)
    assert reads[0] == reads[1] > 0


class Fixed(nn.Linear):
    """Weights that nothing may draw anew."""

    def reset_parameters(self):
        if hasattr(self, "ready"):
            raise AssertionError("initialised again")
        super().reset_parameters()
        self.ready = True


@pytest.mark.parametrize("name", ["snip", "synflow", "px", "px-exact"])
def test_scores_are_of_the_weights_given(name):
    """Scores follow the stored weights: of a copy with its units permuted they are permuted, and nothing is initialised again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Fixed(36, 5), nn.ReLU(), Fixed(5, 3)).double()
    first = score(model, X[:1], name, data=DATA)
    order = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        for parameter, dim in ((model[1].weight, 0), (model[1].bias, 0), (model[3].weight, 1)):
            parameter.copy_(parameter.index_select(dim, order))
    second = score(model, X[:1], name, data=DATA)
    torch.testing.assert_close(second["1.weight"], first["1.weight"][order], rtol=1e-10, atol=1e-14)
    assert not torch.allclose(second["1.weight"], first["1.weight"])
