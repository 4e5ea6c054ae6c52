"""Effective units and paths (node-path-balance): layers against all their masks, counts against enumerated paths, networks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from oracle.dag import Gate, Input, Max, Mul, One, SoftmaxEntry, Sum
from oracle.families import FAMILIES
from oracle.gates import GATES
from torch import nn
from torch.nn import functional as F

from pkcompiler.diagnostics import PkcError
from pkcompiler.driver.prune import prune
from pkcompiler.frontend.capture import capture
from pkcompiler.ir.weights import joinings
from pkcompiler.lang.explain.word import explain
from pkcompiler.lang.library import find_pass
from pkcompiler.paths.topology import topology
from pkcompiler.scoring.functions.orders.balance.balance import Ordering, turns_of
from pkcompiler.scoring.functions.orders.balance.counts import Counts, Leads
from pkcompiler.scoring.functions.orders.balance.cover import Shares, in_turn, taken
from pkcompiler.scoring.score import score, workspace
from pkcompiler.scoring.terms import PARAM, Term
from pkcompiler.selection.candidates import Goal, apportion
from tests.scoring.balance_oracle import best, greedy, worth

SHARES = [(0.01, 1.0), (0.5, 0.0), (0.9, 0.3), (0.0, 0.0), (1.0, 0.0), (0.3, 5.0)]


def entries(ranks, shape):
    """The weights that are taken, in order."""
    flat = np.flatnonzero(ranks >= 0)
    return [tuple(int(k) for k in np.unravel_index(e, shape)) for e in flat[ranks[flat].argsort()]]


def one_sided(shape, side, random):
    """Path counts that depend on the unit of one side alone, some of them equal; and of each tap."""
    sizes = [n if d in (side, 2) else 1 for d, n in enumerate(shape)]
    return np.broadcast_to(random.integers(1, 5, sizes).astype(float), shape).copy()


@pytest.mark.parametrize(("nodes", "kernels"), SHARES)
@pytest.mark.parametrize(
    ("shape", "side", "groups"),
    [((3, 3, 1), 1, 1), ((4, 2, 1), 0, 1), ((2, 2, 2), 1, 1), ((3, 1, 3), 0, 3), ((4, 2, 1), 0, 2), ((2, 2, 3), 1, 1)],
)
def test_the_weights_taken_first_are_optimal_at_every_number(shape, side, groups, nodes, kernels):
    """Over all masks of the layer, where paths do not depend on the other side."""
    random = np.random.default_rng(sum(shape) + groups)
    paths, everything = one_sided(shape, side, random), np.ones(shape, dtype=bool)
    tie = random.random(shape)
    turn = in_turn(tie)
    for budget in (5,) if paths.size > 9 else (3, 6):
        order = entries(taken(paths, everything, turn, groups, Shares(nodes, kernels, budget)), shape)
        assert sorted(order) == list(np.ndindex(*shape))
        for count in range(1, len(order)):
            given = (paths, everything, groups, nodes, kernels, budget)
            assert worth(order[:count], *given) > best(*given, count) - 1e-12


@pytest.mark.parametrize("seed", range(12))
def test_always_the_largest_gain_where_it_need_not_be_optimal(seed):
    """With weights that are gone or on no path, and paths of both sides: the definition, and at least 1 - 1/e of the best."""
    random = np.random.default_rng(seed)
    shape, groups = [((4, 3, 2), 2), ((3, 4, 1), 1), ((5, 2, 3), 1), ((4, 2, 2), 4)][seed % 4]
    paths = random.integers(0, 4, shape).astype(float)
    allowed = random.random(shape) < 0.7
    tie = random.integers(0, 3, shape).astype(float)
    nodes, kernels = SHARES[seed % len(SHARES)]
    order = entries(taken(paths, allowed, in_turn(tie), groups, Shares(nodes, kernels, 5)), shape)
    assert order == greedy(paths, allowed, tie, groups, nodes, kernels, 5)
    given = (paths, allowed, groups, nodes, kernels, 5)
    assert worth(order[:3], *given) >= (1 - np.exp(-1)) * best(*given, 3)


def test_equals_go_in_order_of_position():
    order = entries(
        taken(np.ones((2, 3, 2)), np.ones((2, 3, 2), dtype=bool), in_turn(np.zeros((2, 3, 2))), 1, Shares(0, 0, 4)), (2, 3, 2)
    )
    assert order == list(np.ndindex(2, 3, 2))
    spread = entries(
        taken(np.ones((2, 3, 1)), np.ones((2, 3, 1), dtype=bool), in_turn(np.zeros((2, 3, 1))), 1, Shares(0.5, 0, 4)), (2, 3, 1)
    )
    assert spread[:3] == [(0, 0, 0), (1, 1, 0), (0, 2, 0)]


def test_rounding_decides_nothing():
    """Counts that differ in their last bits are equal."""
    paths = np.array([[[3.0], [np.nextafter(3.0, 4.0)], [np.nextafter(3.0, 2.0)]]])
    order = entries(taken(paths, np.ones((1, 3, 1), dtype=bool), np.array([[[2], [1], [0]]]), 1, Shares(0, 0, 1)), (1, 3, 1))
    assert [i for _, i, _ in order] == [2, 1, 0]


# counts ---------------------------------------------------------------------------------------------------------------------


def ending(node, known):
    """The paths that end at a node: from an input, and from anything else."""
    match node:
        case Input():
            return 1, 0
        case One():
            return 0, 1
        case Sum(edges):
            return tuple(sum(known[e.source][k] for e in edges) for k in (0, 1))
        case Gate(source, phi):
            return known[source][0], known[source][1] + (GATES[phi].zero != 0)
        case Max(sources):
            return tuple(sum(known[s][k] for s in sources) for k in (0, 1))
        case Mul(value, modulator):
            (a, b), (c, d) = known[value], known[modulator]
            return a * (c + d) + b * c, b * d
        case SoftmaxEntry(scores, which):
            return known[scores[which]][0], known[scores[which]][1] + 1
    raise AssertionError(node)


def read_by(node):
    match node:
        case Sum(edges):
            return [e.source for e in edges]
        case Gate(source):
            return [source]
        case Mul(value, modulator):
            return [value, modulator]
        case Max(sources) | SoftmaxEntry(sources):
            return list(sources)
    return []


def enumerated(case):
    """Path prefixes from an input that cross each entry of a parameter, to where a path leads on: along the graph of scalars."""
    dag, known = case.dag, []
    for node in dag.nodes:
        known.append(ending(node, known))
    leads = [number in dag.outputs for number in range(len(known))]
    for number in reversed(range(len(known))):
        for source in read_by(dag.nodes[number]):
            leads[source] |= leads[number]
    found = {name: np.zeros(p.numel()) for name, p in case.module.named_parameters()}
    for number, node in enumerate(dag.nodes):
        for edge in node.edges if isinstance(node, Sum) else ():
            for name, flat in (dag.parameters[i] for i in edge.parameters):
                found[name][flat] += known[edge.source][0] * leads[number]
    return found


SMALL = ["mlp_bias", "residual", "shared_twice", "concat", "conv_padded_strided_grouped", "embedding_sum", "causal_attention"]
SMALL += ["tied_weights", "squeeze_excite"]

COUNTED = ["mlp_bias", "deep_linear", "residual", "concat", "avg_pool", "max_pool", "batch_norm"]
COUNTED += ["gated_product", "squeeze_excite", "causal_attention", "conv_padded_strided_grouped", "conv_dilated", "conv_transposed"]


@pytest.mark.parametrize("name", COUNTED)
def test_counts_are_those_of_enumerated_paths(name):
    case = FAMILIES[name]()
    captured = capture(case.module, case.example_inputs, dtype=torch.float64)
    counts = Counts(captured.graph, captured.tensors, captured.static_batch)
    leads, edges = Leads(captured.graph, captured.tensors, captured.static_batch), counts.plain.edges()
    at = {op.name: entries.double() for op, entries in leads.back({n: e.float() for n, e in edges.items()})}
    values, expected = counts.sources(), enumerated(case)
    weights = {op.name: map.weight for op, map in joinings(captured.graph.ops)}
    for op in captured.graph.ops:
        inputs = [values[n] for n in op.inputs]
        if weight := weights.get(op.name):
            found = counts.through(op, inputs[0], weight, at[op.name]).reshape(-1) * 2.0 ** inputs[0].fed.exponent
            assert found.tolist() == expected[weight].tolist()
        values[op.name] = counts.after(op, inputs, edges)
    assert weights


# on networks --------------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A bottleneck around a skip with BatchNorms, grouped and depthwise convolutions, concatenation, pools, a flattened head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.down, self.mid, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=2), nn.Conv2d(4, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.short, self.depth = nn.Conv2d(8, 6, 1, stride=2), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.head = nn.Linear(14, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.norm(x + self.up(self.mid(self.down(x).relu()).relu())).relu()
        x = torch.cat([F.max_pool2d(self.depth(x), 2), F.avg_pool2d(self.short(x), 2)], 1)
        return self.head(x.mean((2, 3)))


class Attending(nn.Module):
    """Tied tokens and head, attention without biases, a gated product, a normalisation."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(9, 6)
        self.query, self.key, self.value, self.gate, self.up, self.down = (nn.Linear(6, 6, bias=False) for _ in range(6))
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.rows.weight

    def forward(self, tokens):
        x = self.rows(tokens)
        x = x + F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        x = self.norm(x + self.down(F.silu(self.gate(x)) * self.up(x)))
        return self.head(x)


def mixed():
    torch.manual_seed(0)
    return Mixed().double().eval(), torch.randn(1, 2, 8, 8, dtype=torch.float64)


def pass_of(arguments, more="scope = erk"):
    return f'pass mine {{\n  source = "a test"\n  score = balance({arguments})\n  {more}\n}}\n'


@pytest.mark.parametrize("name", SMALL)
def test_families_keep_exactly_their_target(name):
    case = FAMILIES[name]()
    pruned = prune(case.module, case.example_inputs, "node-path-balance", density=0.6)
    assert pruned.kept == round(0.6 * pruned.total)
    left = topology(pruned.graph, pruned.tensors, pruned.masks)
    assert left.connected


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 3), nn.Linear(3, 3, bias=False), nn.Linear(3, 4)

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).relu())


@pytest.mark.parametrize(("nodes", "kernels"), [(0.01, 1.0), (0.6, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("density", [0.25, 0.6])
def test_each_layer_is_optimal_at_the_layers_before_it(density, nodes, kernels):
    """All masks of every layer, with the paths that the masks before it leave, counted by products of matrices."""
    torch.manual_seed(3)
    model, x = Plain(), torch.randn(1, 4)
    captured, declared = capture(model, (x,)), find_pass(pass_of("uniform()"))
    work = workspace(captured, declared, {}, torch.float64)
    shares = {"first.weight": 12, "second.weight": 9, "last.weight": 12}
    shares = {n: round(density * k) for n, k in shares.items()}
    work.goal = Goal(frozenset(shares), sum(shares.values()), shares)
    tie = Term(PARAM, {n: torch.rand(t.shape) for n, t in work.theta.items()})
    ordering = Ordering(work, turns_of(work, tie), nodes, kernels)
    ordering.forward()
    arriving = np.ones(4)
    for name, count in shares.items():
        mask = ordering.edges[name].numpy()
        paths = np.broadcast_to(arriving, mask.shape)[..., None]
        given = (paths, np.ones(paths.shape, dtype=bool), 1, nodes, kernels, count)
        chosen = [(int(o), int(i), 0) for o, i in zip(*np.nonzero(mask), strict=True)]
        assert len(chosen) == count and worth(chosen, *given) > best(*given, count) - 1e-12
        arriving = mask @ arriving


@pytest.mark.parametrize("scope", ["erk", "uniform"])
@pytest.mark.parametrize("density", [0.02, 0.2])
def test_everything_that_is_kept_lies_on_a_path(density, scope):
    """Small images, where a kept tap may read what nothing writes: nothing is left of it."""
    torch.manual_seed(0)
    widths = [3, 16, 24, 24, 24, 8]
    layers = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in pairwise(widths)]
    model = nn.Sequential(layers[0], nn.MaxPool2d(2), *layers[1:], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    pruned = prune(model, torch.randn(1, 3, 4, 4), "node-path-balance", density=density, scope=scope)
    left = topology(pruned.graph, pruned.tensors, pruned.masks)
    assert pruned.kept == round(density * pruned.total) == sum(int(left.fed[n].sum()) for n in pruned.masks)


def test_units_count_more_where_layers_share_too_few():
    """A depthwise layer between wide ones: at nodes = 0 the last layer reads too few channels for what it should keep."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 24, 1))
    found = [prune(wide, torch.randn(1, 3, 8, 8), pass_of(f"uniform(), nodes = {n}"), density=0.3) for n in (0, 0.25, 0.5)]
    for pruned in found:
        left = topology(pruned.graph, pruned.tensors, pruned.masks)
        assert pruned.kept == round(0.3 * pruned.total) == sum(int(left.fed[n].sum()) for n in pruned.masks)
    assert any(all(torch.equal(found[0].masks[n], other.masks[n]) for n in other.masks) for other in found[1:])


def test_taps_are_not_all_at_the_centre():
    """Kernels take their taps by the tie, not by where the fewest positions fall off the image."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
    pruned = prune(model, torch.randn(1, 3, 6, 6), "node-path-balance", density=0.2)
    at = pruned.masks["2.weight"].sum((0, 1)).flatten()
    assert at.min() > 0 and at.max() < 0.5 * at.sum()


@pytest.mark.parametrize("density", [0.15, 0.4])
def test_mixed_networks(density):
    model, x = mixed()
    pruned = prune(model, x, pass_of("uniform(), nodes = 0.5"), density=density)
    assert pruned.kept == round(density * pruned.total)
    sizes = {n: m.numel() for n, m in pruned.masks.items()}
    wanted = apportion(pruned.kept, {n: float(sum(m.shape)) for n, m in pruned.masks.items()}, sizes)
    assert {n: int(m.sum()) for n, m in pruned.masks.items()} == wanted
    left = topology(pruned.graph, pruned.tensors, pruned.masks)
    assert sum(int(left.fed[n].sum()) for n in pruned.masks) > 0.7 * pruned.kept


def test_attention_and_tied_weights():
    torch.manual_seed(0)
    model, tokens = Attending(), torch.tensor([[1, 4, 0, 8]])
    pruned = prune(model, tokens, "node-path-balance", density=0.4)
    assert pruned.kept == round(0.4 * pruned.total)
    left = topology(pruned.graph, pruned.tensors, pruned.masks)
    assert all(int(left.fed[n].sum()) > 0 for n in pruned.masks)
    scores = score(model, tokens, pass_of("uniform()"))
    assert all(bool(torch.isfinite(t).all()) for t in scores.values())


def test_counts_beyond_float64():
    torch.manual_seed(0)
    deep = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(180)])
    found = score(deep, torch.randn(1, 64), "node-path-balance")
    assert all(sorted(t.flatten().tolist()) == [-float(k) for k in reversed(range(4096))] for t in found.values())


def test_scores_are_ranks_and_masks_are_never_left():
    model, x = mixed()
    gone = torch.rand(8, 2, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    scores = score(model, x, "node-path-balance", masks={"stem.weight": ~gone})
    lowest = min(float(t.min()) for t in scores.values())
    assert (scores["stem.weight"][gone] == lowest).all()
    kept = scores["stem.weight"][~gone].sort(descending=True).values
    assert torch.equal(kept, -torch.arange(len(kept), dtype=torch.float64))


def test_dead_ends_are_taken_last():
    """A weight into a unit that no later weight reads, and one from a unit that nothing reaches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    masks = {"0.weight": torch.ones(4, 3, dtype=torch.bool), "2.weight": torch.ones(2, 4, dtype=torch.bool)}
    masks["2.weight"][:, 1] = False
    masks["0.weight"][2] = False
    scores = score(model, torch.randn(1, 3), "node-path-balance", masks=masks)
    lowest = min(float(t.min()) for t in scores.values())
    assert (scores["0.weight"] == lowest).all(1).tolist() == [False, True, True, False]
    assert (scores["2.weight"] == lowest).all(0).tolist() == [False, True, True, False]


def test_what_is_not_pruned_counts_as_it_is():
    model, x = mixed()
    stage = 'prune mine { density = 50% except = "down.*", "head.*" include = norm }'
    pruned = prune(model, x, schedule=f"{pass_of('uniform()')}schedule s {{ {stage} }}")
    assert all(bool(pruned.masks[n].all()) for n in ("down.weight", "head.weight"))
    assert pruned.kept == round(0.5 * pruned.total) and "norm.weight" in pruned.masks


# what is refused ----------------------------------------------------------------------------------------------------------


def codes_of(call):
    with pytest.raises(PkcError) as raised:
        call()
    assert all(d.notes for d in raised.value.diagnostics)
    return [d.code for d in raised.value.diagnostics if d.severity == "error"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (pass_of("uniform()", ""), "PKC570"),
        (pass_of("uniform()", "scope = global"), "PKC570"),
        (pass_of("uniform(), nodes = 1.5"), "PKC106"),
        (pass_of("uniform(), nodes = -1"), "PKC106"),
        (pass_of("uniform(), kernels = theta"), "PKC106"),
        (pass_of("uniform(), nodes = 5%"), "PKC106"),
        (pass_of("uniform(), paths = 1"), "PKC110"),
        (pass_of("data"), "PKC111"),
        (pass_of(""), "PKC110"),
    ],
)
def test_wrong_declarations(text, code):
    assert codes_of(lambda: find_pass(text)) == [code]


def test_layers_must_know_how_many_they_keep():
    model, x = mixed()
    assert codes_of(lambda: prune(model, x, "node-path-balance", density=0.5, scope="global")) == ["PKC570"]
    schedule = "schedule s { prune node-path-balance { density = 50% scope = global } }"
    assert codes_of(lambda: prune(model, x, schedule=schedule)) == ["PKC570"]
    assert prune(model, x, "node-path-balance", density=0.5, scope="layer").masks


def test_what_explain_says():
    shown = explain("node-path-balance")
    assert "score_i = -taken_i" in shown and "paths / most paths" in shown
    assert "kernels / k" in shown
    assert "kernels / k" not in explain(pass_of("1, kernels = 0"))
