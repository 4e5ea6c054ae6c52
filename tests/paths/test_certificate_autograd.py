"""The third certificate: what a model does to gradients, and not to its output, is named; what is rightly so holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_support import pkc
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pkcompiler import apply_masks, lower, path_op
from pkcompiler.diagnostics import PkcError
from pkcompiler.ir.maps import Constant, Literal
from pkcompiler.ops.table import TABLE
from pkcompiler.paths.certificate import certify, require


class Net(nn.Module):
    """Three layers of width 4, of which ``forward`` makes what it wants."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **more: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        for name, module in more.items():
            self.add_module(name, module)
        self.made = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.made(self, x)


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def smooth(m: Any, x: Tensor) -> Tensor:
    return m.c(F.gelu(m.b(torch.relu(m.a(x)))))


def without_grad(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    with torch.no_grad():
        h = torch.relu(m.b(h))
    return m.c(F.gelu(h))


def straight_through(m: Any, x: Tensor) -> Tensor:
    z = m.a(x)
    return m.c(F.gelu(m.b(z + (z.sign() - z).detach())))


class Bent(torch.autograd.Function):
    """tanh, which says that its derivative is 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Reversed(torch.autograd.Function):
    """The gradient reversal of domain adaptation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


def hooked_activation(m: Any, x: Tensor) -> Tensor:
    z = m.a(x)
    if z.requires_grad:
        z.register_hook(lambda gradient: 2 * gradient)
    return m.c(F.gelu(m.b(z)))


A, B = ("a.weight", "a.bias"), ("b.weight", "b.bias")
STOPS: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[str, ...]]] = {
    "detach_between_relu_and_gelu": (lambda m, x: m.c(F.gelu(m.b(torch.relu(m.a(x)).detach()))), A),
    "detach_of_a_branch": (lambda m, x: m.c(F.gelu(m.a(x))) + F.silu(m.b(x)).detach(), B),
    "no_grad_beside_gelu": (without_grad, (*A, *B)),
    "detached_weight": (lambda m, x: m.c(F.gelu(F.linear(m.a(x), m.b.weight.detach()))), ("b.weight",)),
    "straight_through_sign": (straight_through, A),
    "custom_backward": (lambda m, x: m.c(F.gelu(m.b(Bent.apply(m.a(x))))), A),
    "gradient_reversal": (lambda m, x: m.c(F.gelu(m.b(Reversed.apply(m.a(x))))), A),
    "hook_on_an_activation": (hooked_activation, A),
    "scaled_gradient": (lambda m, x: m.c(F.gelu(m.b((z := m.a(x)) * 0.1 + (z * 0.9).detach()))), A),
}


@pytest.mark.parametrize("name", STOPS)
def test_gradients_that_are_not_the_derivatives_are_named(name: str) -> None:
    """The program has lost what the model does to its gradients: (1) and (2) hold, and the graph is not the model."""
    forward, stopped = STOPS[name]
    certificate = certify(Net(forward), X)
    assert certificate.max_relative_error < 1e-9 and certificate.max_gradient_error < 1e-9
    assert certificate.stopped == stopped
    assert certificate.stops_gradients and not certificate.holds
    with pytest.raises(PkcError, match="are not the derivatives of that output: " + ", ".join(stopped)) as caught:
        require(certificate, name)
    assert "report" not in str(caught.value) and "detach" in str(caught.value)


def test_a_stopped_gradient_is_wrong_by_all_of_it() -> None:
    """``a.weight`` has no gradient in the model; each error is relative to the larger derivative of the two."""
    certificate = certify(Net(STOPS["detach_between_relu_and_gelu"][0]), X)
    assert certificate.max_autograd_error == 1.0


def twice(module: nn.Module, gradient: Any, output: Any) -> tuple[Tensor]:
    return (2 * gradient[0],)


def test_a_backward_hook_of_a_module_is_seen() -> None:
    net = Net(smooth)
    net.b.register_full_backward_hook(twice)
    assert certify(net, X).stopped == A


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_on_a_parameter_is_named(kind: str, dtype: torch.dtype) -> None:
    """Whether the model is copied for its precision or not: the hooks looked at are those of the model given."""
    net = Net(smooth).to(dtype)
    handle = getattr(net.b.weight, kind)(lambda gradient: 2 * gradient)
    certificate = certify(net, X.to(dtype))
    assert certificate.hooked == ("b.weight",) and certificate.stopped == () and not certificate.holds
    with pytest.raises(PkcError, match=r"b\.weight: a hook may change the gradient"):
        require(certificate, "hooked")
    handle.remove()
    assert certify(net, X.to(dtype)).holds


@pytest.mark.parametrize("kind", ["register_prehook", "register_hook"])
def test_a_hook_on_the_node_that_accumulates_a_gradient_is_named(kind: str) -> None:
    net = Net(smooth).double()
    node = get_gradient_edge(net.b.weight).node
    handle = getattr(node, kind)(lambda *gradients: None)
    with torch.inference_mode():
        assert certify(net, X.double()).hooked == ("b.weight",)
    handle.remove()
    assert certify(net, X.double()).holds and net.b.weight.grad is None


def masks(net: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {n: torch.rand(p.shape, generator=generator) > 0.4 for n, p in net.named_parameters() if p.dim() > 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keep", [apply_masks, partial(lower, example_inputs=X)])
def test_masked_models_hold(keep: Callable[..., nn.Module], dtype: torch.dtype) -> None:
    """Our own hooks make the gradient 0 where a weight is pruned."""
    net = Net(smooth).to(dtype)
    masked = keep(net, masks(net)) if keep is apply_masks else lower(net, masks(net), X.to(dtype))
    certificate = certify(masked, X.to(dtype))
    assert certificate.holds and certificate.hooked == () and certificate.tested == 6


def test_frozen_parameters_are_no_stop() -> None:
    net = Net(smooth)
    net.a.requires_grad_(False)
    assert certify(net, X).holds and not net.a.weight.requires_grad and net.a.weight.grad is None
    net.requires_grad_(False)
    certificate = certify(net, X)
    assert certificate.holds and certificate.tested == 6


def test_recomputed_activations_hold() -> None:
    net = Net(lambda m, x: m.c(checkpoint(lambda h: F.gelu(m.b(h)), m.a(x), use_reentrant=False)))
    assert certify(net, X).holds


TOKENS = torch.tensor([[0, 1, 1], [2, 3, 0]])


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}, {"sparse": True}])
def test_embeddings_hold(options: dict[str, Any]) -> None:
    net = Net(lambda m, x: m.c(torch.tanh(m.e(x))), e=nn.Embedding(5, 4, **options))
    assert certify(net, TOKENS).holds


def test_rows_divided_by_their_counts_are_rightly_different() -> None:
    net = Net(lambda m, x: m.c(torch.tanh(m.e(x))), e=nn.Embedding(5, 4, scale_grad_by_freq=True))
    certificate = certify(net, TOKENS)
    assert certificate.max_gradient_error < 1e-9
    assert certificate.stopped == certificate.by_frequency == ("e.weight",)
    with pytest.raises(PkcError, match=r"e\.weight: Embedding\(scale_grad_by_freq=True\) divides .* rightly") as caught:
        require(certificate, "tokens")
    assert "detach" not in str(caught.value)
    assert certify(net, torch.tensor([[0, 1, 2]])).holds  # each row once


def test_what_was_not_compared_is_listed() -> None:
    """``c`` is not read, and ``a`` lies behind a step whose derivative is 0 in the model and in the program."""
    certificate = certify(Net(lambda m, x: torch.tanh(m.b(torch.sign(m.a(x))))), X)
    assert certificate.untested == (*A, "c.weight", "c.bias") and certificate.tested == 2
    assert certificate.holds


def test_an_empty_certificate_fails() -> None:
    certificate = certify(Net(lambda m, x: torch.sign(m.a(x))), X)
    assert certificate.tested == 0 and certificate.max_autograd_error == 0.0 and not certificate.holds
    with pytest.raises(PkcError, match="its derivatives by all 6 parameters are 0"):
        require(certificate, "empty")


def test_derivatives_that_are_rounding_alone_are_not_compared() -> None:
    """A key's bias adds the same to all scores of a query, which softmax does not see: its derivative is 0 up to rounding."""

    def attention(m: Any, x: Tensor) -> Tensor:
        return torch.softmax(m.a(x) @ m.b(x).transpose(1, 2), -1) @ m.c(x)

    certificate = certify(Net(attention), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)))
    assert certificate.holds and certificate.untested == ("b.bias",)


def test_the_model_is_left_as_it_was() -> None:
    net = Net(smooth).double().train()
    net.b.weight.grad = torch.ones(4, 4, dtype=torch.float64)
    certify(net, X.double())
    assert net.training and net.a.weight.grad is None and bool((net.b.weight.grad == 1).all())
    assert net.a.weight.is_leaf and net.a.weight.requires_grad


@torch.library.custom_op("pkc_test::no_backward", mutates_args=())
def no_backward(x: Tensor) -> Tensor:
    return 2 * x


@no_backward.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_operator_without_a_derivative_is_said() -> None:
    @path_op("pkc_test.no_backward.default")
    def meaning(use: Any) -> Any:
        return use.emit(Constant(Literal(2.0)), use["x"])

    try:
        with pytest.raises(PkcError, match=r"autograd cannot differentiate the model: .*pkc_test\.no_backward") as caught:
            certify(Net(lambda m, x: m.c(no_backward(m.a(x)))), X)
    finally:
        del TABLE["pkc_test.no_backward.default"]
    assert [d.code for d in caught.value.diagnostics] == ["PKC503"]


MODEL = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return F.gelu(self.b(torch.relu(self.a(x)){stop}))


def model():
    net = Net()
    {hook}
    return net


def example_inputs():
    return torch.randn(2, 4)
"""


def test_the_command_names_them(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(MODEL.format(stop=".detach()", hook="net.b.bias.register_hook(lambda g: 2 * g)"))
    result = pkc("certify", str(file))
    assert result.exit_code == 1
    assert "FAILS  autograd agrees    1.00e+00 < 1e-09  (the model's own, 4 parameters)" in result.stdout
    assert "FAILS  gradient hook      b.bias" in result.stdout
    assert "not tested: 2 parameters whose derivative is 0 at these inputs: c.weight, c.bias" in result.stdout
    assert "PKC503" in result.stderr and "a.weight, a.bias, b.bias" in result.stderr
    written = json.loads(pkc("certify", str(file), "--json", "-").stdout)
    assert not written["holds"] and written["stopped"] == ["a.weight", "a.bias"] and written["hooked"] == ["b.bias"]
    file.write_text(MODEL.format(stop="", hook="pass"))
    result = pkc("certify", str(file))
    assert result.exit_code == 0 and "FAILS" not in result.stdout
