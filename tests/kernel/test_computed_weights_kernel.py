"""The Path Kernel of networks with computed weights (docs/theory.md, section 3), against its paths differentiated one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import pkcompiler as pk
from pkcompiler.kernel.explicit import explicit

X = torch.ones(1, 2, dtype=torch.float64)


class By(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, w: Tensor) -> Tensor:
        return self.function(w)


def by(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    def wrap(layer: nn.Module) -> nn.Module:
        parametrize.register_parametrization(layer, "weight", By(function))
        return layer

    return wrap


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "norm": by(lambda w: w / w.norm()),
    "softmax": by(lambda w: w.softmax(1)),
}


class Twice(nn.Module):
    """One computed weight, crossed twice by a path."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.inner = wrap(nn.Linear(2, 2, bias=False)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.relu(self.inner(x)))


def chain(kind: str) -> nn.Sequential:
    torch.manual_seed(2)
    wrap = KINDS[kind]
    return nn.Sequential(wrap(nn.Linear(2, 3, bias=False)), nn.ReLU(), nn.Linear(3, 2, bias=False)).double()


def path_values(first: Tensor, second: Tensor) -> Tensor:
    """first[j, i] * second[k, j] of every path."""
    return (first.t()[:, :, None] * second.t()[None]).reshape(-1)


def gram(model: nn.Module, first: nn.Module, second: nn.Module, masks: dict[str, Tensor]) -> Tensor:
    """J^T J, the derivative of every path's value by autograd of the module's own weights."""
    names = [n for n, _ in model.named_parameters()]
    theta = [p.detach() * masks.get(n, 1) for n, p in model.named_parameters()]

    def values(*given: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hooks = [m.register_forward_pre_hook(lambda m, _: seen.append(m.weight)) for m in (first, second)]
        torch.func.functional_call(model, dict(zip(names, given, strict=True)), X)
        for hook in hooks:
            hook.remove()
        return path_values(seen[0], seen[-1])

    parts = torch.autograd.functional.jacobian(values, tuple(theta))
    rows = [(j * masks.get(n, torch.ones_like(t))).reshape(len(j), -1) for n, t, j in zip(names, theta, parts, strict=True)]
    whole = torch.cat(rows, 1)
    return whole.t() @ whole


def in_order(kernel: object, model: nn.Module, matrix: Tensor) -> Tensor:
    """Rows and columns in the kernel's order of parameters."""
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    starts = dict(zip(sizes, torch.tensor([0, *sizes.values()]).cumsum(0).tolist(), strict=False))
    order = [starts[n] + i for n in kernel.names for i in range(sizes[n])]
    return matrix[order][:, order]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_is_that_of_its_paths(kind: str, masked: bool) -> None:
    model = chain(kind)
    name = "0.parametrizations.weight.original" + ("1" if kind == "weight_norm" else "")
    masks = {name: torch.tensor([[True, True], [True, False], [True, True]])} if masked else {}
    kernel = pk.path_kernel(model, X, masks)
    right = in_order(kernel, model, gram(model, model[0], model[2], masks))
    torch.testing.assert_close(kernel.dense(), right)
    torch.testing.assert_close(kernel.flatten(kernel.diagonal()), right.diagonal())
    trace = kernel.trace()
    assert float(trace) == pytest.approx(float(right.trace()), rel=1e-12) and trace.status == "exact"
    assert float(kernel.traces_by_output().sum()) == pytest.approx(float(right.trace()), rel=1e-12)
    part = kernel.restricted(name)
    torch.testing.assert_close(part.dense(), right[: part.size, : part.size] if kernel.names[0] == name else part.dense())


@pytest.mark.parametrize("kind", KINDS)
def test_paths_that_cross_a_computed_weight_twice_are_probed(kind: str) -> None:
    model = Twice(KINDS[kind])
    kernel = pk.path_kernel(model, X)
    right = in_order(kernel, model, gram(model, model.inner, model.inner, {}))
    torch.testing.assert_close(kernel.dense(), right)
    torch.testing.assert_close(kernel.flatten(kernel.diagonal()), right.diagonal())
    trace = kernel.trace()
    assert trace.status == "estimated" and trace.error is not None
    assert abs(float(trace) - float(right.trace())) < 4 * trace.error + 1e-9


def test_tau_is_that_of_the_entry_of_the_weight() -> None:
    model = chain("weight_norm")
    tau = pk.path_kernel(model, X).tau()
    found = pk.path_functional(model, X, edge="theta^2", pools="sum", constants="on").grad
    assert tau.keys() == found.keys()
    for name, right in found.items():
        torch.testing.assert_close(tau[name], right)


@pytest.mark.parametrize("listed", [explicit, pk.polynomials])
def test_lists_of_paths_are_of_stored_weights(listed: Callable[[nn.Module, Tensor], object]) -> None:
    with pytest.raises(pk.PkcError, match=r"PKC509.*'0\.weight' is computed from"):
        listed(chain("weight_norm"), X)


def test_a_computed_weight_is_one_step_of_a_path() -> None:
    lengths = pk.analyze(chain("weight_norm"), X).totals
    assert (lengths["shortest_path"].value, lengths["longest_path"].value) == (2, 2)
