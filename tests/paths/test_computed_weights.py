"""Weights computed from parameters (docs/theory.md, section 1): every number is that of the model with them folded in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import pkcompiler as pk
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.paths.certificate import certify_capture
from pkcompiler.paths.functional import Functional, functional_of
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.topology import topology

X = torch.ones(2, 4, dtype=torch.float64)
Wrap = Callable[[nn.Module], nn.Module]


class Computed(nn.Module):
    """A parametrization by a function of the weight (and a gate of its own)."""

    def __init__(self, function: Callable[..., Tensor], rows: int = 0) -> None:
        super().__init__()
        self.function = function
        self.g = nn.Parameter(torch.randn(rows, 1)) if rows else None

    def forward(self, w: Tensor) -> Tensor:
        return self.function(w) if self.g is None else self.function(w, self.g)


def by(function: Callable[..., Tensor], gated: bool = False) -> Wrap:
    def wrap(layer: nn.Module) -> nn.Module:
        parametrize.register_parametrization(layer, "weight", Computed(function, layer.weight.shape[0] if gated else 0))
        return layer

    return wrap


KINDS: dict[str, Wrap] = {
    "spectral_norm": parametrizations.spectral_norm,
    "spectral_norm_hook": nn.utils.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "weight_norm_hook": nn.utils.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "norm": by(lambda w: w / w.norm()),
    "sigmoid": by(lambda w, g: torch.sigmoid(g) * w, gated=True),
    "softmax": by(lambda w: w.softmax(1)),
    "standardised": by(lambda w: (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True) + 1e-5)),
    "square": by(lambda w: w * w),
    "tanh": by(torch.tanh),
    "transposed": by(lambda w: (w.t() / w.norm(dim=1)).t()),
}


def network(wrap: Wrap) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)]
    with pytest.warns(FutureWarning) if wrap is nn.utils.weight_norm else torch.no_grad():
        made = nn.Sequential(*(wrap(layer) if isinstance(layer, nn.Linear) else layer for layer in layers)).double().eval()
    made(X)
    return made


def original(kind: str) -> str:
    """The name of the first layer's parameter that holds the entries of its weight."""
    if kind.endswith("hook"):
        return "0.weight_v" if kind.startswith("weight") else "0.weight_orig"
    return "0.parametrizations.weight.original" + ("1" if kind == "weight_norm" else "")


@cache
def captured(kind: str) -> Capture:
    return capture(network(KINDS[kind]), X)


@cache
def plain() -> Capture:
    """The same network with weights of its own."""
    return capture(network(lambda layer: layer), X)


def weights(model: nn.Module, masks: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights that the model computes from its parameters times masks; nothing where it divides by 0."""
    given = {n: p.detach() * (masks or {}).get(n, 1) for n, p in model.named_parameters()}
    found = {}
    for i in (0, 2, 4):
        own = {n.removeprefix(f"{i}."): t for n, t in given.items() if n.startswith(f"{i}.")}
        seen: list[Tensor] = []
        hook = model[i].register_forward_hook(lambda layer, *_, seen=seen: seen.append(layer.weight))
        torch.func.functional_call(model[i], own, torch.ones(1, model[i].in_features, dtype=torch.float64))
        hook.remove()
        found |= {f"{i}.weight": seen[0].detach().nan_to_num(nan=0.0), f"{i}.bias": own["bias"]}
    return found


def folded(kind: str, edge: str, masks: dict[str, Tensor] | None = None, dropped: dict[str, Tensor] | None = None) -> Functional:
    """The functional of the network with the computed weights as its own. ``dropped``: masks of those."""
    tensors = {**plain().tensors, **weights(captured(kind).module, masks)}
    mine = Capture(plain().module, plain().call, plain().program, plain().lifted, tensors)
    return functional_of(mine, settings(edge=edge), masks=dropped)


def found(kind: str, edge: str, masks: dict[str, Tensor] | None = None) -> Functional:
    return functional_of(captured(kind), settings(edge=edge), masks=masks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", ["abs(theta)", "theta^2", "1"])
def test_functionals_are_those_of_the_folded_model(kind: str, edge: str) -> None:
    mine, right = found(kind, edge), folded(kind, edge)
    assert mine.value == pytest.approx(right.value, rel=1e-12)
    assert mine.count == right.count
    assert mine.status == "exact"


@pytest.mark.parametrize("kind", KINDS)
def test_the_lift_is_certified_and_its_graph_reads_back(kind: str) -> None:
    assert certify_capture(captured(kind)).holds
    graph = captured(kind).graph
    assert len(graph.computed) == 3 and pk.parse_graph(str(graph)) == graph
    assert "frozen" not in str(graph)


@pytest.mark.parametrize("kind", KINDS)
def test_the_prunable_weights_are_stored_ones(kind: str) -> None:
    names = {original(kind).replace("0.", f"{i}.", 1) for i in (0, 2, 4)}
    assert {s.name for s in captured(kind).graph.prunable} == names


FACTORS = ["weight_norm", "weight_norm_hook", "norm", "transposed", "spectral_norm", "spectral_norm_hook", "sigmoid"]


@pytest.mark.parametrize("kind", FACTORS)
@pytest.mark.parametrize(("edge", "power"), [("abs(theta)", 1), ("theta^2", 2)])
def test_a_parameter_that_is_a_factor_has_the_derivative_of_its_entry(kind: str, edge: str, power: int) -> None:
    model, name = captured(kind).module, original(kind)
    theta, u = dict(model.named_parameters())[name].detach(), weights(model)["0.weight"]
    expected = u.abs() ** power * folded(kind, edge).grad["0.weight"]
    torch.testing.assert_close(theta.abs() ** power * found(kind, edge).grad[name], expected)


OTHERS = [
    ("sigmoid", "0.parametrizations.weight.0.g"),
    ("softmax", original("softmax")),
    ("standardised", original("standardised")),
    ("tanh", original("tanh")),
    ("weight_norm", "0.parametrizations.weight.original0"),
]


@pytest.mark.parametrize(("kind", "name"), OTHERS)
@pytest.mark.parametrize(("edge", "power"), [("abs(theta)", 1), ("theta^2", 2)])
def test_any_other_parameter_has_the_derivative_of_the_function(kind: str, name: str, edge: str, power: int) -> None:
    model = captured(kind).module
    theta = dict(model.named_parameters())[name]
    with torch.enable_grad():
        mass = (model[0].weight.abs() ** power * folded(kind, edge).grad["0.weight"]).sum()
    expected = theta.detach() * torch.autograd.grad(mass, theta)[0] / power
    torch.testing.assert_close(theta.detach().abs() ** power * found(kind, edge).grad[name], expected)


def some(kind: str) -> dict[str, Tensor]:
    """A mask that drops a third of the first weight and the whole of its second row."""
    kept = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) > 0.3
    kept[1] = False
    return {original(kind): kept}


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"orthogonal"}))
@pytest.mark.parametrize("edge", ["abs(theta)", "theta^2"])
def test_under_a_mask_the_weight_is_computed_from_what_is_kept(kind: str, edge: str) -> None:
    mine = found(kind, edge, some(kind))
    assert mine.value == pytest.approx(folded(kind, edge, some(kind)).value, rel=1e-12)
    assert all(bool(g.isfinite().all()) for g in mine.grad.values())


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"orthogonal"}))
def test_an_entry_counts_unless_a_pruned_parameter_is_a_factor_of_it(kind: str) -> None:
    (kept,) = some(kind).values()
    rows = kept.any(1, keepdim=True).expand(6, 4)
    spread = {"softmax": torch.ones_like(kept), "standardised": rows}
    assert found(kind, "1", some(kind)).count == folded(kind, "1", dropped={"0.weight": spread.get(kind, kept)}).count


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "norm"])
def test_a_weight_of_zeros_is_zero(kind: str) -> None:
    nothing = {original(kind): torch.zeros(6, 4, dtype=torch.bool)}
    mine = found(kind, "abs(theta)", nothing)
    assert mine.value == pytest.approx(folded(kind, "abs(theta)", nothing).value, rel=1e-12)
    assert all(bool(g.isfinite().all()) for g in mine.grad.values())


def test_what_a_mask_leaves_is_found_through_a_computed_weight() -> None:
    left = topology(captured("weight_norm").graph, captured("weight_norm").tensors, some("weight_norm"))
    (kept,) = some("weight_norm").values()
    assert torch.equal(left.effective[original("weight_norm")], kept)
    assert left.connected
    every = topology(captured("softmax").graph, captured("softmax").tensors, some("softmax"))
    assert torch.equal(every.effective[original("softmax")], kept)
