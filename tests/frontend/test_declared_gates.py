"""``--gate OP``: what is read as a gate acts on each entry alone, and the hint that suggests it is given for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_support import pkc
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError, on_the_command_line
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.ir.maps import Gate
from pkcompiler.paths.certificate import certify_capture


class Net(nn.Module):
    def __init__(self, inner: Callable[[Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, 2)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.inner(self.a(x)))


def operator(name: str, function: Callable[..., Tensor], derivative: Callable[[Tensor], Tensor] | None = None) -> Any:
    """A custom operator of one tensor; ``derivative``: of an elementwise function."""
    made: Any = torch.library.custom_op(f"pkc_gates::{name}", mutates_args=(), schema="(Tensor x) -> Tensor")(function)
    made.register_fake(torch.empty_like)
    if derivative is not None:
        made.register_autograd(
            lambda ctx, grad: grad * derivative(*ctx.saved_tensors),
            setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
        )
    return made


def ones(x: Tensor) -> Tensor:
    return torch.ones_like(x)


bend = operator("bend", lambda x: x + torch.sin(x), lambda x: 1 + torch.cos(x))
straight = operator("straight", torch.sign, ones)
centred = operator("centred", lambda x: x - x.mean(), ones)
mirrored = operator("mirrored", lambda x: x.flip(-1), ones)
coupled_far = operator("coupled_far", lambda x: x * (1 + (x.abs().amax(-1, keepdim=True) > 20)), ones)
by_place = operator("by_place", lambda x: x * torch.arange(1, x.shape[-1] + 1, dtype=x.dtype), ones)
by_size = operator("by_size", lambda x: x * x.numel(), ones)
drawn = operator("drawn", lambda x: x * torch.rand_like(x), ones)
underived = operator("underived", torch.tanh)
in_rows = operator("in_rows", lambda x: torch.stack([torch.tanh(row) for row in x.unbind(1)], 1), ones)


@torch.library.custom_op("pkc_gates::pair", mutates_args=())
def pair(x: Tensor, y: Tensor) -> Tensor:
    return x * torch.tanh(y)


@pair.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("pkc_gates::scaled", mutates_args=())
def scaled(x: Tensor, by: Tensor) -> Tensor:
    return torch.tanh(x) * by


@scaled.register_fake
def _(x: Tensor, by: Tensor) -> Tensor:
    return torch.empty_like(x)


scaled.register_autograd(
    lambda ctx, grad: (grad * (1 - torch.tanh(ctx.saved_tensors[0]) ** 2) * ctx.saved_tensors[1], None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def matrix_exponential(x: Tensor) -> Tensor:
    return torch.linalg.matrix_exp(x.reshape(-1, 2, 2)).reshape(-1, 4)


MIXED = "an entry of its result depends on other entries of its input"
PLACED = "it is not the same function for every entry"
NOT_ALONE = "it cannot be run or differentiated on numbers of its own"
WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "cumulative_product": (lambda x: x.cumprod(-1), "cumprod", MIXED),
    "matrix_exponential": (matrix_exponential, "linalg_matrix_exp", MIXED),
    "mean": (lambda x: centred(x), "pkc_gates.centred", MIXED),
    "order": (lambda x: mirrored(x), "pkc_gates.mirrored", MIXED),
    "coupled_where_large": (lambda x: coupled_far(x), "pkc_gates.coupled_far", MIXED),
    "place": (lambda x: by_place(x), "pkc_gates.by_place", PLACED),
    "size": (lambda x: by_size(x), "pkc_gates.by_size", PLACED),
    "random": (lambda x: drawn(x), "pkc_gates.drawn", "it gives two results for one input"),
    "no_derivative": (lambda x: underived(x), "pkc_gates.underived", NOT_ALONE),
    "rows_only": (lambda x: in_rows(x), "pkc_gates.in_rows", NOT_ALONE),
    "two_tensors": (lambda x: pair(x, x.flip(-1)), "pkc_gates.pair", "it reads 2 tensors that depend on data or parameters"),
    "a_scale_by_place": (lambda x: scaled(x, torch.arange(1.0, 5.0)), "pkc_gates.scaled", PLACED),
}  # fmt: skip


def refused(net: nn.Module, **options: Any) -> str:
    with on_the_command_line(lambda line: None), pytest.raises(PkcError) as caught:
        capture(net, torch.randn(3, 4), **options)
    assert [d.code for d in caught.value.diagnostics] == ["PKC201"]
    return str(caught.value)


@pytest.mark.parametrize("dtype", [None, torch.float64])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_gate_is_refused_at_the_lift(name: str, dtype: torch.dtype | None) -> None:
    inner, word, why = WRONG[name]
    said = refused(Net(inner), gates=[word], dtype=dtype)
    assert f"it is declared a gate, but {why}" in said


@pytest.mark.parametrize("name", WRONG)
def test_the_hint_is_not_given_for_it(name: str) -> None:
    said = refused(Net(WRONG[name][0]))
    assert "--plugin" in said and "--gate" not in said


RIGHT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "bend": (lambda x: bend(x), "pkc_gates.bend"),
    "bend_of_a_picture": (lambda x: bend(x.reshape(-1, 2, 2)).reshape(-1, 4), "pkc_gates.bend.default"),
    "one_scale": (lambda x: scaled(x, torch.full((4,), 3.0)), "pkc_gates.scaled"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_hint_leads_to_a_certified_gate(name: str) -> None:
    inner, word = RIGHT[name]
    assert refused(Net(inner)).splitlines()[-1].strip().endswith(f"--gate {word.removesuffix('.default')}")
    captured: Capture = capture(Net(inner), torch.randn(3, 4), gates=[word], dtype=torch.float64)
    assert len([op for op in captured.graph.ops if isinstance(op.map, Gate)]) == 1
    assert certify_capture(captured).holds


def test_a_declared_gate_with_a_backward_pass_of_its_own_is_not_certified() -> None:
    """Program and model share it, so the third certificate does not see it."""
    captured = capture(Net(lambda x: straight(x)), torch.randn(3, 4), gates=["pkc_gates.straight"], dtype=torch.float64)
    certificate = certify_capture(captured)
    assert certificate.stopped == () and not certificate.holds
    assert certificate.refused == ("'straight' has a backward pass of its own, which does not give the derivative of its values",)


def test_a_constant_may_come_first() -> None:
    """The operand of a gate is the tensor that paths lead to, wherever it stands."""

    def flipped(x: Tensor) -> Tensor:
        return scaled_last(torch.full((4,), 3.0), x)

    assert certify_capture(capture(Net(flipped), torch.randn(3, 4), gates=["pkc_gates.scaled_last"], dtype=torch.float64)).holds


@torch.library.custom_op("pkc_gates::scaled_last", mutates_args=())
def scaled_last(by: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(x) * by


@scaled_last.register_fake
def _(by: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


scaled_last.register_autograd(
    lambda ctx, grad: (None, grad * (1 - torch.tanh(ctx.saved_tensors[1]) ** 2) * ctx.saved_tensors[0]),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def test_a_pointwise_operator_without_a_derivative_is_said() -> None:
    """No declaration is needed for those, and none helps."""
    said = refused(Net(lambda x: torch.special.zeta(x, 2.0)))
    assert "it cannot be differentiated" in said and "--gate" not in said


MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(torch.linalg.matrix_exp(self.a(x).reshape(-1, 2, 2)).reshape(-1, 4))


def model():
    return Net()


def example_inputs():
    return torch.randn(2, 4)
"""


@pytest.mark.parametrize(
    "command", [("ir",), ("analyze",), ("certify",), ("prune", "--pass", "synflow", "--density", "50%", "-o", "out"), ("rescale",)]
)
def test_every_command_refuses_it(command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)
    plain = pkc(command[0], "net.py", *command[1:])
    assert plain.exit_code == 1 and "PKC201" in plain.stderr and "--gate" not in plain.stderr
    result = pkc(command[0], "net.py", *command[1:], "--gate", "linalg_matrix_exp")
    assert result.exit_code == 1 and "PKC201" in result.stderr and MIXED in result.stderr
    assert not Path("out").exists() and not Path("out.partial").exists()


@pytest.mark.parametrize(
    ("gate", "said"), [("cumsum", "the table says already"), ("cumsums", "did you mean 'cumsum'"), ("erf", "no such operator")]
)
def test_a_gate_that_is_read_as_none_is_an_error(gate: str, said: str) -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.l(x).cumsum(1)

    with pytest.raises(PkcError, match=said) as caught:
        capture(Sums(), torch.zeros(2, 3), gates=[gate])
    assert [d.code for d in caught.value.diagnostics] == ["PKC210"]
