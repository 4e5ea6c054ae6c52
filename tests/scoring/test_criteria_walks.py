"""Biased random walks (phew): hop by hop against enumerated networks, whole walks by statistics, and what they leave of a model."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracle.families import FAMILIES
from torch import nn
from torch.nn import functional as F

from pkcompiler.diagnostics import PkcError
from pkcompiler.driver.prune import prune
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.explain.word import explain
from pkcompiler.lang.library import find_pass
from pkcompiler.paths.topology import topology
from pkcompiler.scoring.functions.orders.walks.hops import Along, Relation, Same
from pkcompiler.scoring.functions.orders.walks.order import order_of
from pkcompiler.scoring.functions.orders.walks.walker import Walker, generator
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.scoring.score import score
from pkcompiler.selection.candidates import Goal
from tests.scoring.walks_oracle import Enumerated

ENUMERATED = [
    "mlp_bias",
    "deep_linear",
    "residual",
    "shared_twice",
    "conv_padded_strided_grouped",
    "conv_dilated",
    "conv_transposed",
    "avg_pool",
    "max_pool",
    "batch_norm",
]


def walker_of(model, example, masks=None, whole=False):
    captured = capture(model, example, dtype=torch.float64)
    masks = masks or {}
    weights = {s.name: captured.tensors[s.name].abs() for s in captured.graph.parameters}
    weights = {n: w * masks[n] if n in masks else w for n, w in weights.items()}
    return captured, Walker(captured.graph, captured.tensors, weights, masks, batch=captured.static_batch, whole=whole)


# the same from the prepared hops --------------------------------------------------------------------------------------------


def named(walker, hop, ids):
    return ((hop.weighted.slot, int(ids)),)


def members(groups, key):
    return groups.members[groups.starts[key] : groups.starts[key] + groups.counts[key]]


def ways_ahead(walker, i, position, entry):
    """(entry of the result, visited, probability) of every hop."""
    hop = walker.hops[i]
    match hop:
        case Same():
            return [(entry, (), 1.0)]
        case Relation():
            found = members(hop.ahead, hop.starts[position] + entry)
            return [(int(e), (), 1.0 / len(found)) for e in found]
        case Along():
            to, ids, weights = (part[0] for part in hop.weighted.listed(np.array([entry]), True))
            return [(int(t), named(walker, hop, n), w / weights.sum()) for t, n, w in zip(to, ids, weights, strict=True) if w]
    raise AssertionError(hop)


def ways_back(walker, i, entry):
    """(input position, its entry, visited, probability) of every hop."""
    hop = walker.hops[i]
    match hop:
        case Same():
            alive = [p for p, fed in enumerate(hop.fed) if fed[entry]]
            return [(p, entry, (), 1.0 / len(alive)) for p in alive]
        case Relation():
            found = members(hop.back, entry)
            place = np.searchsorted(hop.starts, found, side="right") - 1
            return [(int(p), int(e - hop.starts[p]), (), 1.0 / len(found)) for p, e in zip(place, found, strict=True)]
        case Along():
            to, ids, weights = (part[0] for part in hop.weighted.listed(np.array([entry]), False))
            return [(0, int(t), named(walker, hop, n), w / weights.sum()) for t, n, w in zip(to, ids, weights, strict=True) if w]
    raise AssertionError(hop)


def walked_ahead(walker, name, entry, path, chance, found):
    if name == walker.output:
        found[path] += chance
        return
    uses = [use for use in walker.used[name] if walker.live.uses[use][entry]]
    for i, position in uses:
        for to, ids, p in ways_ahead(walker, i, position, entry):
            walked_ahead(walker, walker.graph.ops[i].name, to, path + ids, chance * p / len(uses), found)


def walked_back(walker, name, entry, path, chance, found):
    if name not in walker.made:
        found[path] += chance
        return
    i = walker.made[name]
    for position, to, ids, p in ways_back(walker, i, entry):
        walked_back(walker, walker.graph.ops[i].inputs[position], to, path + ids, chance * p, found)


def prepared(walker, ends, go):
    found = defaultdict(float)
    for unit in range(ends.units):
        places = members(ends.groups, unit)
        for joint in places:
            which = int(np.searchsorted(ends.starts, joint, side="right")) - 1
            go(walker, ends.names[which], int(joint - ends.starts[which]), (), 1.0 / ends.units / len(places), found)
    return found


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert abs(sum(found.values()) - 1) < 1e-12
    assert max(abs(found[path] - expected[path]) for path in expected) < 1e-12


def output_channels(walker):
    shape = walker.live.shapes[walker.output]
    made = walker.graph.ops[walker.made[walker.output]]
    return shape[1] if len(shape) == 2 or type(made.map).__name__ == "Conv" else shape[-1]


@pytest.mark.parametrize("name", ENUMERATED)
def test_hops_against_the_network_of_scalars(name):
    case = FAMILIES[name]()
    _, walker = walker_of(case.module, case.example_inputs)
    by_hand = Enumerated(case)
    assert_equal(prepared(walker, walker.inputs, walked_ahead), by_hand.forward())
    assert_equal(prepared(walker, walker.outputs, walked_back), by_hand.backward(output_channels(walker)))


def test_hops_back_through_a_concatenation():
    case = FAMILIES["concat"]()
    _, walker = walker_of(case.module, case.example_inputs)
    assert_equal(prepared(walker, walker.outputs, walked_back), Enumerated(case).backward(2))


@pytest.mark.parametrize("name", ["residual", "conv_padded_strided_grouped", "conv_transposed", "max_pool"])
def test_walks_come_as_often_as_they_should(name):
    """Chi-square of 10,000 walks each way, bins of fewer than 10 expected together, at four standard deviations."""
    case = FAMILIES[name]()
    _, walker = walker_of(case.module, case.example_inputs)
    walks, ids = walker.run(0, 20_000, generator(5))
    named_ids = {walker.starts[slot] + k: (slot, k) for slot in walker.slots for k in range(walker.weights[slot].numel())}
    seen = [defaultdict(int), defaultdict(int)]
    bounds = np.flatnonzero(np.diff(walks, prepend=-1, append=-1))
    for start, end in pairwise(bounds):
        seen[walks[start] % 2][tuple(named_ids[k] for k in ids[start:end])] += 1
    ends = [(walker.inputs, walked_ahead), (walker.outputs, walked_back)]
    for side, counts in zip(ends, seen, strict=True):
        expected = {path: p * 10_000 for path, p in prepared(walker, *side).items() if path}
        assert counts.keys() <= expected.keys()
        common = [path for path, n in expected.items() if n >= 10]
        rare = sum(n for n in expected.values() if n < 10), sum(counts[path] for path, n in expected.items() if n < 10)
        bins = [(expected[path], counts[path]) for path in common] + ([rare] if rare[0] >= 10 else [])
        free = len(bins) - 1
        assert sum((n - e) ** 2 / e for e, n in bins) < free + 4 * (2 * free) ** 0.5


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_everything_visited_lies_on_a_path(name):
    """On every tiny network, products and attention included: what whole walks visit is effective, all of it."""
    case = FAMILIES[name]()
    captured, walker = walker_of(case.module, case.example_inputs)
    for count in (2, 40):
        visited = np.zeros(walker.size, dtype=bool)
        visited[walker.run(0, count, generator(count))[1]] = True
        masks = {n: torch.from_numpy(visited[walker.part(n)]).reshape(walker.weights[n].shape) for n in walker.slots}
        left = topology(captured.graph, captured.tensors, masks)
        assert visited.any()
        assert {n: int(m.sum()) for n, m in masks.items()} == {n: int(left.effective[n].sum()) for n in masks}


# on networks --------------------------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """1x1, grouped 3x1, 1x1 around a skip; concatenation; depthwise; an excitation; average pool, flattened to a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.down, self.mid, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=2), nn.Conv2d(4, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.short = nn.Conv2d(8, 6, 1, stride=2)
        self.depth = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.head = nn.Linear(14 * 4, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.norm(x + self.up(self.mid(self.down(x).relu()).relu())).relu()
        y = self.depth(x)
        y = y * torch.sigmoid(self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()))
        x = torch.cat([y, self.short(x)], 1)
        return self.head(F.avg_pool2d(x, 2).flatten(1))


def bottleneck():
    torch.manual_seed(0)
    return Bottleneck().double().eval(), torch.randn(1, 2, 8, 8, dtype=torch.float64)


class Flattened(nn.Module):
    """Samples and positions in one dimension for a while, as GPT-2 has them: its size is a multiple of the batch."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.first(x.reshape(-1, 3)).relu().reshape(-1, 5, 4)).mean(1)


def test_positions_beside_samples():
    torch.manual_seed(0)
    pruned = prune(Flattened(), torch.randn(1, 5, 3), "phew", density=0.5)
    left = topology(pruned.graph, pruned.tensors, pruned.masks)
    assert pruned.kept == 10 == sum(int(left.fed[n].sum()) for n in pruned.masks)


class Unbiased(nn.Module):
    """Attention and a gated product without a bias: no factor of a product is kept from 0 by a constant but the softmax."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(9, 6)
        self.query, self.key, self.value, self.gate, self.up, self.down = (nn.Linear(6, 6, bias=False) for _ in range(6))
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, tokens):
        x = self.rows(tokens)
        x = x + F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        return self.head(x)


def test_products_without_biases():
    torch.manual_seed(1)
    model, tokens = Unbiased(), torch.tensor([[1, 4, 0, 8]])
    pruned = prune(model, tokens, "phew", density=0.4, dtype=torch.float32)
    left = topology(pruned.graph, pruned.tensors, pruned.masks)
    assert all(int(pruned.masks[n].sum()) > 2 for n in pruned.masks)
    assert pruned.kept == round(0.4 * pruned.total) == sum(int(left.fed[n].sum()) for n in pruned.masks)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.6])
def test_effective_is_direct_sparsity(density):
    model, x = bottleneck()
    pruned = prune(model, x, "phew", density=density)
    left = topology(pruned.graph, pruned.tensors, pruned.masks)
    assert pruned.kept == round(density * pruned.total)
    assert pruned.kept == sum(int(left.fed[n].sum()) for n in pruned.masks)


def test_same_seed_same_bits_and_densities_nest():
    model, x = bottleneck()
    first, again, other = (prune(model, x, "phew", density=0.3, seed=s).masks for s in (4, 4, 5))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)
    more = prune(model, x, "phew", density=0.5, seed=4).masks
    outside = sum(int((first[n] & ~more[n]).sum()) for n in first)
    assert outside <= 40  # the hops that fill up the smaller target, no more than the last walks


def test_whole_kernels():
    model, x = bottleneck()
    captured, walker = walker_of(model, (x,), whole=True)
    order = order_of(walker, Goal(frozenset(s.name for s in captured.graph.prunable), 300, {}), Draw(0))
    kernels, cut = 0, 0
    for name in ("stem.weight", "mid.weight", "depth.weight"):
        ranks = order.ranks[walker.part(name)].reshape(-1, walker.weights[name][0, 0].numel())
        kept = (ranks >= 0).sum(1)
        kernels += int((kept == ranks.shape[1]).sum())
        cut += int(((kept > 0) & (kept < ranks.shape[1])).sum())
        assert (np.diff(ranks[kept == ranks.shape[1]], axis=1) == 1).all()
    assert kernels > 10
    assert cut <= 1


def test_a_mask_is_never_left():
    model, x = bottleneck()
    masks = {"stem.weight": torch.rand(8, 2, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.3}
    scores = score(model, x, "phew", masks=masks)
    assert (scores["stem.weight"][~masks["stem.weight"]] == min(float(t.min()) for t in scores.values())).all()
    assert (scores["stem.weight"][masks["stem.weight"]] > -1000).any()


def test_scores_are_ranks():
    model, x = bottleneck()
    values = torch.cat([t.flatten() for t in score(model, x, "phew").values()])
    visited = values[values > values.min()]
    assert torch.equal(visited.sort(descending=True).values, -torch.arange(len(visited), dtype=torch.float64))


def test_other_scopes_visit_every_layer():
    model, x = bottleneck()
    pruned = prune(model, x, "phew", density=0.2, scope="uniform")
    left = topology(pruned.graph, pruned.tensors, pruned.masks)
    assert {n: int(m.sum()) > 0 for n, m in pruned.masks.items()} == dict.fromkeys(pruned.masks, True)
    assert sum(int(left.fed[n].sum()) for n in pruned.masks) > 0.8 * pruned.kept


# what cannot be walked ----------------------------------------------------------------------------------------------------


class Written(nn.Module):
    """A convolution by a kernel that is computed."""

    def __init__(self):
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.randn(2, 2, 3, 3)), nn.Parameter(torch.randn(2, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.weight * self.gain)


def pass_of(expression):
    return f'pass mine {{\n  source = "a test"\n  score = {expression}\n}}\n'


def code_of(call):
    with pytest.raises(PkcError) as raised:
        call()
    return raised.value.diagnostics[0]


def test_errors():
    model, x = bottleneck()
    below = code_of(lambda: score(model, x, pass_of("walks(theta)")))
    assert below.code == "PKC560"
    assert "walks(abs(theta))" in below.notes[0]
    assert code_of(lambda: score(Written(), torch.randn(1, 2, 5, 5), "phew")).code == "PKC561"
    model.down.weight.data[:2] = 0
    beyond = code_of(lambda: prune(model, x, "phew", density=0.999))
    assert beyond.code == "PKC562"
    assert "lie on a path" in beyond.message
    model.head.weight.data.zero_()
    assert code_of(lambda: score(model, x, "phew")).code == "PKC564"
    tiny = nn.Linear(2, 1, bias=False)
    tiny.weight.data = torch.tensor([[1.0, 1e-30]])
    wide = nn.Sequential(nn.Linear(1, 2, bias=False), tiny)
    wide[0].weight.data = torch.tensor([[1.0], [1e-30]])
    assert code_of(lambda: prune(wide, torch.ones(1, 1), "phew", density=1.0)).code == "PKC563"


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("walks(data)", "PKC111"),
        ("walks()", "PKC110"),
        ("walks(abs(theta), keep = kernel)", "PKC105"),
        ("walks(abs(theta), over = param)", "PKC110"),
        ("theta * grad(sum(walks(abs(theta)), over = param), theta)", "PKC112"),
    ],
)
def test_wrong_calls(expression, code):
    assert code_of(lambda: find_pass(pass_of(expression))).code == code


def test_explained():
    text = explain("phew")
    assert "score_i = -visit_i" in text
    assert "proportional to |theta_i| * mask_i" in text
    assert "whole kernel" not in text
    assert "whole kernel" in explain("phew-kernels")
