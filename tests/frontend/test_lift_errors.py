"""What the front end cannot place: all of it reported at once, in the user's own lines, with the option that continues."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from operator_tools import Net, p
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler import path_op, usercode
from pkcompiler.diagnostics import PkcError, on_the_command_line
from pkcompiler.frontend.capture import capture
from pkcompiler.ir.maps import Constant, Dense, Gate, Literal
from pkcompiler.ops.table import TABLE
from pkcompiler.paths.certificate import SIGNED, certify_capture
from pkcompiler.paths.record import observe
from pkcompiler.render import render


def refused(net: nn.Module, inputs: Any, **options: Any) -> PkcError:
    """What a command says; of what Python is told see test_messages.py."""
    with on_the_command_line(lambda line: None), pytest.raises(PkcError) as caught:
        capture(net, inputs, **options)
    return caught.value


class Unplaced(nn.Module):
    """Three operators without a meaning; the third is on no path."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = torch.sort(y, -1).values
        z = torch.special.erfcx(self.b(x)).cumprod(-1)
        torch.sort(x)
        return y + z


def test_all_unplaced_operators_are_reported_together() -> None:
    error = refused(Unplaced(), torch.randn(2, 4))
    assert [d.code for d in error.diagnostics] == ["PKC201", "PKC201"]
    first, second = error.diagnostics
    assert "aten.sort" in first.message and "aten.cumprod" in second.message


def test_the_users_own_line_and_the_printed_graph_are_shown() -> None:
    first = refused(Unplaced(), torch.randn(2, 4)).diagnostics[0]
    assert first.span is not None and first.span.file.endswith("test_lift_errors.py")
    assert first.span.text[first.span.start : first.span.end] == "y = torch.sort(y, -1).values"
    assert any("%a: f32[B, 4] = dense %x, weight=@a.weight, bias=@a.bias" in note for note in first.notes)
    assert any("aten.sort.default(%a)" in note for note in first.notes)
    assert first.notes[-1].endswith("--plugin my_ops.py")
    drawn = render([first])
    assert "^^^^" in drawn and "torch.sort" in drawn


@torch.library.custom_op("pkc_test::bend", mutates_args=())
def bend(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


@bend.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def bend_backward(ctx: Any, grad: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    s = torch.sigmoid(x)
    return grad * s * (1 + x * (1 - s))


bend.register_autograd(bend_backward, setup_context=keep)


@pytest.mark.parametrize("spelled", ["pkc_test.bend", "pkc_test.bend.default"])
def test_a_declared_gate_is_one(spelled: str) -> None:
    net = Net(lambda m, x: m.b(bend(m.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 2))
    x = torch.randn(2, 4)
    assert refused(net, x).diagnostics[0].notes[-1].endswith("--gate pkc_test.bend")
    captured = capture(net, x, gates=[spelled], dtype=torch.float64)
    assert [type(op.map) for op in captured.graph.ops] == [Dense, Gate, Dense]
    assert certify_capture(captured).holds


PLUGIN = """
from pkcompiler import path_op
from pkcompiler.ir.maps import Constant, Literal


@path_op("pkc_test.double.default")
def double(use):
    return use.emit(Constant(Literal(2.0)), use["x"])
"""


@torch.library.custom_op("pkc_test::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return x * 2


@double.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


double.register_autograd(lambda context, grad: grad * 2)


def test_a_plug_in_gives_a_meaning(tmp_path: Path) -> None:
    net = Net(lambda m, x: m.b(double(m.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 2))
    x = torch.randn(2, 4)
    assert "pkc_test.double.default" in refused(net, x).diagnostics[0].message
    file = tmp_path / "my_ops.py"
    file.write_text(textwrap.dedent(PLUGIN))
    usercode.import_spec(usercode.parse_spec(str(file)))
    try:
        captured = capture(net, x, dtype=torch.float64)
        assert Constant(Literal(2.0)) in [op.map for op in captured.graph.ops]
        assert certify_capture(captured).holds
    finally:
        del TABLE["pkc_test.double.default"]


def test_a_wrong_plug_in_is_not_certified() -> None:
    @path_op("pkc_test.double.default")
    def triple(use: Any) -> Any:
        return use.emit(Constant(Literal(3.0)), use["x"])

    net = Net(lambda m, x: m.b(double(m.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 2))
    try:
        assert not certify_capture(capture(net, torch.randn(2, 4), dtype=torch.float64)).holds
    finally:
        del TABLE["pkc_test.double.default"]


def test_a_lost_use_of_a_parameter_is_an_error() -> None:
    """A plug-in that reads x alone loses the parameter that its operator multiplies with."""

    @path_op("aten.mul.Tensor")
    def forgetful(use: Any) -> Any:
        return use.path(use["self"])

    kept = TABLE["aten.mul.Tensor"]
    try:
        error = refused(Net(lambda m, x: m.l(x) * m.w, l=nn.Linear(4, 4), w=p(4)), torch.randn(2, 4))
    finally:
        from pkcompiler.ops.sums import mul

        TABLE["aten.mul.Tensor"] = mul
    assert kept is forgetful
    (diagnostic,) = error.diagnostics
    assert diagnostic.code == "PKC202" and "parameter 'w'" in diagnostic.message
    assert diagnostic.notes[-1].endswith("--plugin my_ops.py")


REFUSED = {
    "uneven adaptive maximum": (lambda x: F.adaptive_max_pool2d(x, 3), (2, 3, 4, 7), "windows"),
    "mean over the batch": (lambda x: x - x.mean(0), (2, 3), "over the batch"),
    "cat along the batch": (lambda x: torch.cat([x, x]), (2, 3), "along the batch"),
    "index of the batch": (lambda x: x[torch.tensor([1, 0])], (2, 3), "batch"),
    "one sample": (lambda x: x[0] + x, (2, 3), "one sample"),
    "roll over everything": (lambda x: torch.roll(x, 1), (2, 3), "batch"),
    "indices of the data": (lambda x: x.gather(1, x.argmax(-1, keepdim=True)), (2, 3), "depend on the data"),
    "infinite filling": (lambda x: x.masked_fill(torch.tensor([True, False, False]), float("inf")), (2, 3), "infinity"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_path_map_is_refused(name: str) -> None:
    function, shape, expected = REFUSED[name]
    error = refused(Net(lambda m, x: function(x * m.w), w=p(*shape[1:])), torch.randn(*shape))
    assert any(d.code in ("PKC201", "PKC206") and expected in d.message for d in error.diagnostics), error


def test_an_operator_that_torch_wraps_for_its_effects_is_named_itself() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.linalg.inv(m.l(x).view(-1, 2, 2)).flatten(1)

    error = refused(Net(forward, l=nn.Linear(4, 4)), torch.randn(2, 4))
    (found,) = error.diagnostics
    assert found.code == "PKC201" and "'aten.linalg_inv_ex.default'" in found.message
    assert found.span is not None and "torch.linalg.inv" in found.span.text[found.span.start : found.span.end]
    assert "with_effects" not in str(error) and '@path_op("aten.linalg_inv_ex.default")' in found.notes[-1]


def test_an_effect_beside_the_paths_leaves_the_models_output() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return (m.l(x).view(-1, 2, 2) @ torch.linalg.inv(2 * torch.eye(2, dtype=x.dtype))).flatten(1)

    captured = capture(Net(forward, l=nn.Linear(4, 4)), torch.randn(2, 4), dtype=torch.float64)
    assert any(isinstance(op.map, Dense) for op in captured.graph.ops) and certify_capture(captured).holds


def test_batch_norm_without_statistics_is_refused() -> None:
    error = refused(nn.BatchNorm1d(3, track_running_stats=False), torch.randn(4, 3))
    assert error.diagnostics[0].code in ("PKC201", "PKC205", "PKC206")


class Branching(nn.Module):
    """Another layer for negative sums."""

    def __init__(self) -> None:
        super().__init__()
        self.plus = nn.Linear(3, 3)
        self.minus = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.plus(x) if x.sum() > 0 else self.minus(x)


@pytest.mark.parametrize(("sign", "layer"), [(1, "plus"), (-1, "minus")])
def test_a_model_that_branches_on_data_is_recorded(sign: int, layer: str) -> None:
    captured = capture(Branching(), sign * torch.ones(2, 3), dtype=torch.float64)
    assert captured.recorded and not captured.batched and captured.static_batch == 1
    assert {s.name for s in captured.graph.parameters} == {f"{layer}.weight", f"{layer}.bias"}
    certificate = certify_capture(captured)
    assert certificate.holds and certificate.recorded


def test_a_loop_over_data_is_recorded() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        for _ in range(int(x.abs().max())):
            x = torch.relu(m.l(x))
        return x

    captured = capture(Net(forward, l=nn.Linear(3, 3)), torch.full((2, 3), 3.0), dtype=torch.float64)
    assert captured.recorded and certify_capture(captured).holds
    assert sum(isinstance(op.map, Gate) for op in captured.graph.ops) == 3


def test_a_fixed_batch_is_static_and_says_so() -> None:
    net = Net(lambda m, x: m.l(x.reshape(2, 12)).reshape(2, 3), l=nn.Linear(12, 3))
    captured = capture(net, torch.randn(2, 3, 4), dtype=torch.float64)
    assert not captured.batched and not captured.recorded
    certificate = certify_capture(captured)
    assert certificate.holds and not certificate.batched


def test_an_untraceable_model_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.l(torch.from_numpy(x.detach().numpy() * 2))

    error = refused(Net(forward, l=nn.Linear(3, 3)), torch.randn(2, 3))
    assert [d.code for d in error.diagnostics] == ["PKC205"]
    assert error.diagnostics[0].notes


def test_wrong_calls_are_refused() -> None:
    net = nn.Linear(3, 3)
    assert refused(net, torch.randn(2, 4)).diagnostics[0].code == "PKC203"
    assert refused(net, 3).diagnostics[0].code == "PKC203"
    inputs, line = refused(Net(lambda m, x: m.l(x), l=net), torch.randn(2, 4)).diagnostics[0].notes
    assert inputs == "check the inputs first: example_inputs, or --input such as 1x3" and line.startswith("or correct ")
    assert refused(net, torch.randn(2, 3), output="logits").diagnostics[0].code == "PKC204"
    assert refused(Net(lambda m, x: x.argmax(-1), l=net), torch.randn(2, 3)).diagnostics[0].code == "PKC204"
    assert refused(print, torch.randn(2, 3)).diagnostics[0].code == "PKC207"  # type: ignore[arg-type]


@pytest.mark.parametrize("spectrum", [lambda h: torch.fft.fft(h).real, lambda h: torch.fft.fft(h).abs()])
def test_complex_numbers_on_a_path_are_refused_and_never_frozen(spectrum: Any) -> None:
    error = refused(Net(lambda m, x: m.b(spectrum(m.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 2)), torch.randn(2, 4))
    (diagnostic,) = error.diagnostics
    assert diagnostic.code == "PKC201" and "fft" in diagnostic.message and "complex" in diagnostic.message
    assert "--gate" not in diagnostic.notes[-1]


def test_a_rotation_by_complex_numbers_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        turned = torch.view_as_complex(m.a(x).reshape(-1, 2, 2)) * m.turn
        return m.b(torch.view_as_real(turned).reshape(-1, 4))

    net = Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 2), turn=torch.polar(torch.ones(2), torch.ones(2)))
    assert [d.code for d in refused(net, torch.randn(2, 4)).diagnostics] == ["PKC201"]


@pytest.mark.parametrize(("end", "named"), [(lambda h: 1 / h, "reciprocal"), (torch.log, "log")])
def test_a_graph_whose_every_path_ends_in_a_constant_is_refused(end: Any, named: str) -> None:
    (diagnostic,) = refused(Net(lambda m, x: end(m.a(x)), a=nn.Linear(4, 4)), torch.randn(2, 4)).diagnostics
    assert diagnostic.code == "PKC208" and f"aten.{named}" in diagnostic.message
    assert diagnostic.span is not None and "--output" in diagnostic.notes[-1]


def test_random_draws_are_no_gates() -> None:
    net = Net(lambda m, x: m.b(m.a(x) + torch.randn_like(x)), a=nn.Linear(4, 4), b=nn.Linear(4, 2))
    (diagnostic,) = refused(net, torch.randn(2, 4)).diagnostics
    assert diagnostic.code == "PKC201" and not any("--gate" in note for note in diagnostic.notes)


class Doubling(nn.Module):
    """Branches on what a parameter makes of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h * 2 if h.sum() > 0 else h)


@pytest.mark.parametrize("bias", [-9.0, 9.0])
def test_the_recorded_branch_is_the_one_that_parameters_choose(bias: float) -> None:
    net = Doubling()
    nn.init.constant_(net.a.bias, bias)
    captured = capture(net, torch.randn(2, 3), dtype=torch.float64)
    doubled = Constant(Literal(2.0)) in [op.map for op in captured.graph.ops]
    assert captured.recorded and doubled == (bias > 0)
    assert certify_capture(captured).holds


def test_inputs_that_take_another_branch_than_the_recorded_one_are_refused() -> None:
    captured = capture(Branching(), torch.ones(2, 3), dtype=torch.float64)
    flat = (-torch.ones(2, 3, dtype=torch.float64),)
    with pytest.raises(PkcError, match="another branch") as caught:
        observe(captured.program, captured.lifted, flat, captured.program.tensors, SIGNED)
    assert [d.code for d in caught.value.diagnostics] == ["PKC205"]


def test_nested_outputs_are_named_by_their_path() -> None:
    net = Net(lambda m, x: (m.a(x), {"aux": m.b(x)}), a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    for wanted in ("1.aux", "aux", 1):
        captured = capture(net, torch.randn(2, 3), output=wanted)
        assert captured.call.output_name == "1.aux" and captured.graph.ops[-1].map == Dense("b.weight", "b.bias")
    assert capture(net, torch.randn(2, 3)).call.output_name == "0"
    assert "1 (1.aux)" in refused(net, torch.randn(2, 3), output="logits").diagnostics[0].notes[0]


def test_an_input_without_a_batch_leaves_no_log_lines(capfd: pytest.CaptureFixture[str]) -> None:
    assert not capture(nn.Linear(3, 3), torch.randn(3)).batched
    assert capfd.readouterr().err == ""


def test_an_input_of_another_shape_is_answered_with_a_likely_one() -> None:
    (diagnostic,) = refused(nn.Linear(3, 3), torch.randn(2, 4)).diagnostics
    assert diagnostic.notes[0].endswith("--input such as 1x3")


def test_what_the_users_forward_raises_is_shown_at_its_line() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        raise ValueError("not today")

    (diagnostic,) = refused(Net(forward, l=nn.Linear(3, 3)), torch.randn(2, 3)).diagnostics
    assert diagnostic.code == "PKC203" and "ValueError: not today" in diagnostic.message
    assert diagnostic.span is not None
    assert diagnostic.span.text[diagnostic.span.start : diagnostic.span.end] == 'raise ValueError("not today")'
    assert "correct test_lift_errors.py, line" in diagnostic.notes[-1]


def test_unplaced_operators_one_behind_another_are_reported_together():
    net = Net(lambda m, x: torch.sort(torch.cumprod(m.w * x, 1), 1).values, w=p(4))
    with pytest.raises(PkcError) as caught:
        capture(net, torch.randn(2, 4))
    named = [d.message for d in caught.value.diagnostics]
    assert len(named) == 2
    assert "cumprod" in named[0]
    assert "sort" in named[1]
