"""Every operator that a computed weight may be made by, in one formula: under every edge it is the edge of the folded weight."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import pkcompiler as pk
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.ir.computed import OPERATORS
from pkcompiler.ir.types import Slot, TensorType
from pkcompiler.paths.certificate import certify_capture
from pkcompiler.paths.computed import Made
from pkcompiler.paths.functional import functional_of
from pkcompiler.paths.semiring import EDGES, settings

# a step of every operator -----------------------------------------------------------------------------------------------

BEFORE = {
    "W": "tanh.default(p0)",
    "B": "gt.Scalar(W, 0)",
    "S": "sort.default(W, 1)",
    "I": "getitem(S, 1)",
    "J": "select.int(I, 0, 1)",
    "P": "add.Scalar(W, 2.0)",
    "R": "select.int(W, 0, 0)",
    "M": "mean.default(W)",
    "T": "split.Tensor(W, 2)",
    "W3": "view.default(W, [1, 4, 4])",
    "W4": "view.default(W, [1, 1, 4, 4])",
    "W5": "view.default(W, [1, 1, 1, 4, 4])",
}
"""Numbers, booleans, several results, integers, a row of them, positive numbers, a row, one number, a list, and more dimensions."""

CALLS = """
view.default(W, [2, 8]) reshape.default(W, [8, 2]) _unsafe_view.default(B, [16]) unsqueeze.default(I, 0) squeeze.default(W4)
squeeze.dim(W3, 0) squeeze.dims(W4, [0, 1]) permute.default(B, [1, 0]) transpose.int(W, 0, 1) t.default(B) expand.default(R, [4, 4])
slice.Tensor(W, 0, 0, 2) select.int(I, 0, 1) narrow.default(W, 0, 1, 2) flatten.using_ints(W4) flip.default(W, [0])
roll.default(W, [1], [0]) diagonal.default(W) unfold.default(W, 1, 2, 2) repeat.default(W, [1, 2])
repeat_interleave.self_int(W, 2, 1) index_select.default(W, 0, J) index.Tensor(W, [J]) _unsafe_index.Tensor(W, [J])
gather.default(W, 1, I) embedding.default(W, I) cat.default([W, B]) stack.default([W, P]) unbind.int(W) split.Tensor(W, 2)
split_with_sizes.default(W, [1, 3]) chunk.default(W, 2) getitem(T, 1) tril.default(P) triu.default(P) alias.default(B)
clone.default(I) contiguous.default(B) detach.default(W) lift_fresh_copy.default(W) _to_copy.default(B, dtype=f32)
to.dtype(P, i64) dropout.default(W, 0.5, False) constant_pad_nd.default(W, [0, 1], 1.0)
pkcompiler.centre.default(W, [1]) add.Tensor(B, B) add.Scalar(I, 1) sub.Tensor(W, I, alpha=2) sub.Scalar(I, 1) rsub.Tensor(W, P)
rsub.Scalar(I, 1) sum.default(B) sum.dim_IntList(B, [1], True) mean.default(W) mean.dim(W, [1]) cumsum.default(B, 1)
avg_pool1d.default(W3, [2]) avg_pool2d.default(W4, [2, 2]) avg_pool3d.default(W5, [1, 2, 2]) adaptive_avg_pool1d.default(W3, [2])
adaptive_avg_pool2d.default(W4, [2, 2]) adaptive_avg_pool3d.default(W5, [1, 2, 2])
mul.Tensor(B, I) mul.Scalar(I, 2) div.Tensor(B, P) div.Scalar(I, 3) neg.default(I) mm.default(W, P) bmm.default(W3, W3)
matmul.default(W, W) mv.default(W, R) dot.default(R, R) linear.default(W, P, R) addmm.default(R, W, P) baddbmm.default(W3, W3, W3)
conv1d.default(W3, W3) conv2d.default(W4, W4) conv3d.default(W5, W5)
convolution.default(W3, W3, None, [1], [0], [1], False, [0], 1) where.self(B, W, P) where.ScalarSelf(B, 1.0, W)
where.ScalarOther(B, W, 0.0) masked_fill.Scalar(W, B, 2.0) masked_fill.Tensor(W, B, M)
abs.default(I) square.default(I) sqrt.default(P) rsqrt.default(P) reciprocal.default(P) exp.default(B) exp2.default(W)
expm1.default(W) log.default(P) log1p.default(W) log2.default(P) log10.default(P) sigmoid.default(I) tanh.default(B)
relu.default(I) gelu.default(W) silu.default(W) elu.default(W) celu.default(W) selu.default(W) mish.default(W) softplus.default(W)
leaky_relu.default(W) relu6.default(W) hardtanh.default(W) hardsigmoid.default(W) hardswish.default(W) log_sigmoid.default(W)
softshrink.default(W, 0.1) hardshrink.default(W, 0.1) threshold.default(W, 0.1, 0.0) clamp.default(I, 1, 2) clamp.Tensor(W, B, P)
clamp_min.default(I, 1) clamp_max.default(I, 2) clamp_min.Tensor(W, R) clamp_max.Tensor(W, R) pow.Tensor_Scalar(I, 2)
pow.Scalar(2.0, W) pow.Tensor_Tensor(P, I) sin.default(W) cos.default(B) tan.default(W) asin.default(W) acos.default(W)
atan.default(W) sinh.default(W) cosh.default(W) erf.default(W) sign.default(I) sgn.default(W) round.default(W) floor.default(W)
ceil.default(W) trunc.default(P) maximum.default(I, I) minimum.default(W, R) atan2.default(W, P) logical_not.default(B)
logical_and.default(B, W) logical_or.default(I, B) bitwise_not.default(B) bitwise_and.Tensor(B, B) bitwise_or.Tensor(B, B)
eq.Scalar(I, 1) eq.Tensor(W, R) ne.Scalar(I, 1) ne.Tensor(W, R) gt.Scalar(W, 0) gt.Tensor(W, R) ge.Scalar(I, 1) ge.Tensor(W, R)
lt.Scalar(I, 1) lt.Tensor(W, R) le.Scalar(I, 1) le.Tensor(W, R) max.other(W, R) min.other(I, I)
linalg_vector_norm.default(W) norm.Scalar(W) norm.ScalarOpt_dim(W, 2, [1]) var.correction(W, [1]) std.correction(W, [1])
softmax.int(B, 1, f64) _softmax.default(W, 1, False) _safe_softmax.default(W, 1) logsumexp.default(W, [1]) amax.default(B, [1])
amin.default(I, [0]) max.default(I) min.default(W) max.dim(W, 1) prod.default(W) prod.dim_int(B, 1) cumprod.default(W, 1)
layer_norm.default(W, [4]) rms_norm.default(W, [4]) group_norm.default(W, 2) linalg_matrix_exp.default(W)
linalg_solve_ex.default(W, P) _linalg_solve_ex.default(W, P) linalg_inv_ex.default(W) linalg_householder_product.default(W, R)
sort.default(W, 1) topk.default(W, 2, 1) zeros_like.default(B) ones_like.default(I) full_like.default(W, 0.5) eye.default(4)
eye.m(4, 3) arange.default(4) full.default([2], 0.1) zeros.default([2]) ones.default([2]) max_pool1d.default(W3, [2])
max_pool2d.default(W4, [2, 2])
"""


def calls() -> dict[str, str]:
    """Each operator with its arguments."""
    written = (part.partition("(") for part in " ".join(CALLS.split()).removesuffix(")").split(") "))
    return {name: arguments for name, _, arguments in written}


CALLED = calls()
THETA = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
STRUCTURAL = ("tril.default", "triu.default")
"""What these make 0 is an entry of no path."""


def made(op: str) -> Made:
    """The half of what an operator gives, of several results the first."""
    steps = {**BEFORE, "out": f"{op}({CALLED[op]})"}
    if several(op):
        steps["one"] = "getitem(out, 0)"
    steps["half"] = f"mul.Tensor({[*steps][-1]}, 0.5)"
    text = "; ".join(f"{name} = {step}" for name, step in steps.items())
    for i, name in enumerate(steps):
        text = re.sub(rf"\b{name}\b", f"v{i}", text)
    return Made(Slot("u", TensorType("f64", ()), "computed", False, ("w",), text))


def several(op: str) -> bool:
    returned = () if op == "getitem" or op.startswith("pkcompiler") else aten(op)._schema.returns
    return len(returned) > 1 or any(str(r.type) == "List[Tensor]" for r in returned)


def aten(op: str) -> Any:
    name, _, overload = op.partition(".")
    return getattr(getattr(torch.ops.aten, name), overload)


def truth(op: str, theta: Tensor) -> Tensor:
    """The same by torch itself."""
    w = theta.tanh()
    given: dict[str, Any] = {"W": w, "B": w > 0, "S": w.sort(1), "I": w.sort(1).indices, "P": w + 2, "R": w[0], "M": w.mean()}
    given |= {"J": w.sort(1).indices[1], "T": w.split(2), "W3": w[None], "W4": w[None, None], "W5": w[None, None, None]}
    given |= {"f32": torch.float64, "f64": torch.float64, "i64": torch.int64}
    if op == "getitem":
        return given["T"][1] / 2
    if op.startswith("pkcompiler"):
        return (w - w.mean(1, keepdim=True)) / 2
    positional, named = eval(f"(lambda *a, **k: (a, k))({CALLED[op]})", given)
    found = aten(op)(*positional, **named)
    return (found[0] if several(op) else found) * 0.5


@pytest.fixture(autouse=True)
def in_doubles() -> Iterator[None]:
    """The oracle's constants; analyses take no default of a caller's."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_every_operator_of_the_list_is_tried() -> None:
    assert CALLED.keys() == OPERATORS.keys()


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_an_edge_is_that_of_the_folded_weight_and_so_is_its_derivative(op: str) -> None:
    weight, theta = made(op), THETA.clone().requires_grad_()
    for edge, power in (("abs(theta)", 1), ("theta^2", 2), ("theta", 1)):
        transform = EDGES[edge].transform
        right = transform(truth(op, theta))
        edges = {"w": transform(THETA).requires_grad_()}
        torch.set_default_dtype(torch.float32)
        mine = weight.edge(edges, {"w": THETA}, EDGES[edge])
        torch.set_default_dtype(torch.float64)
        torch.testing.assert_close(mine, right)
        expected = derivative(right, theta) * THETA / power
        torch.testing.assert_close(derivative(mine, edges["w"]) * edges["w"].detach(), expected)


def derivative(of: Tensor, by: Tensor) -> Tensor:
    total = (of * torch.linspace(1, 2, of.numel()).reshape(of.shape)).sum()
    return torch.autograd.grad(total, by, materialize_grads=True, allow_unused=True)[0] if total.requires_grad else by * 0


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_every_entry_of_it_counts_once(op: str) -> None:
    edges = {"w": torch.ones(4, 4, requires_grad=True)}
    counted = made(op).edge(edges, {"w": THETA}, EDGES["1"])
    structure = aten(op)(torch.ones(4, 4)) if op in STRUCTURAL else torch.ones_like(truth(op, THETA))
    assert torch.equal(counted, structure) and derivative(counted, edges["w"]).isfinite().all()


# networks ---------------------------------------------------------------------------------------------------------------


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, w: Tensor) -> Tensor:
        return self.function(w)


X = torch.ones(1, 4, dtype=torch.float64)
KEY = "0.parametrizations.weight.original"


def network(function: Callable[[Tensor], Tensor] | None) -> nn.Sequential:
    """``Linear(4, 4)-ReLU-Linear(4, 2)``, the first weight computed from its parameter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    if function is not None:
        parametrize.register_parametrization(model[0], "weight", Function(function))
    return model


def folded(model: nn.Sequential) -> nn.Sequential:
    plain = network(None)
    with torch.no_grad():
        plain[0].weight.copy_(model[0].weight)
    return plain


def eye(w: Tensor) -> Tensor:
    return torch.eye(4, dtype=w.dtype)


WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "kept where large": lambda w: w * (w.abs() > 0.2),
    "kept in a band": lambda w: w * ((w > 0) & ~(w > 0.3)).float(),
    "kept at the top": lambda w: w * (w.abs() >= torch.topk(w.abs().flatten(), 8).values.min()),
    "rows in another order": lambda w: torch.tanh(w)[torch.tensor([1, 0, 3, 2])],
    "sorted": lambda w: w.sort(1).values,
    "times its order": lambda w: w * (w.sort(1).indices / 3),
    "inverse": lambda w: torch.linalg.inv(w + 3 * eye(w)),
    "Cayley": lambda w: torch.linalg.solve(3 * eye(w) + w - w.T, 3 * eye(w) - w + w.T),
    "softmax of booleans": lambda w: w * (w > 0).to(w.dtype).softmax(1),
    "rounded to integers": lambda w: (w * 10).int().to(w.dtype),
    "halves": lambda w: torch.cat(torch.tanh(w).split(2, 0)[::-1]),
    "hard sigmoid": torch.nn.functional.hardsigmoid,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_network_has_the_functionals_and_the_kernel_of_the_folded_one(name: str) -> None:
    model = network(WEIGHTS[name])
    mine, right = capture(model, X), capture(folded(model), X)
    for edge in ("abs(theta)", "theta^2", "1"):
        found = functional_of(mine, settings(edge=edge))
        assert found.value == pytest.approx(functional_of(right, settings(edge=edge)).value, rel=1e-9) and found.status == "exact"
    assert certify_capture(mine).holds
    kernel, tau = pk.path_kernel(model, X), pk.path_kernel(folded(model), X).tau()
    jacobian = torch.autograd.functional.jacobian(WEIGHTS[name], kernel.theta[KEY]).square().sum((2, 3))
    expected = sum(float(t.sum()) for n, t in tau.items() if n != "0.weight") + float((tau["0.weight"] * jacobian).sum())
    assert kernel.trace().value == pytest.approx(expected)
    assert sum(float(t.sum()) for t in kernel.diagonal().values()) == pytest.approx(expected)
    assert kernel.matvec(torch.ones(kernel.size)).isfinite().all()


def test_a_word_that_no_formula_has_is_refused() -> None:
    with pytest.raises(PkcError) as caught:
        capture(network(lambda w: w * w.to(torch.complex128).abs()), X)
    assert caught.value.diagnostics[0].code == "PKC201"
