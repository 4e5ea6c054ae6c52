"""What ``lower`` and ``apply_masks`` refuse, by name and all at once."""

from __future__ import annotations

import copy
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.lowering import apply_masks, lower
from tests.lowering.lower_models import CASES, build, call, random_masks


def codes(error: pytest.ExceptionInfo[PkcError]) -> list[str]:
    assert all(d.notes for d in error.value.diagnostics)
    return [d.code for d in error.value.diagnostics]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize("function", [lower, apply_masks])
def test_masks_that_do_not_fit_are_reported_together(function) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    masks = {
        "0.wieght": torch.ones(4, 3, dtype=torch.bool),
        "0.weight": torch.ones(3, 4, dtype=torch.bool),
        "2.weight": torch.ones(2, 4),
        "2.bias": [True, False],
        "1.running_mean": torch.ones(4, dtype=torch.bool),
        "1.weight": torch.zeros(4, dtype=torch.bool),
    }
    with pytest.raises(PkcError) as error:
        function(model, masks)
    assert codes(error) == ["PKC470", "PKC472", "PKC471"]
    assert "2 masks ('0.wieght', '1.running_mean') name no parameter" in str(error.value)
    assert "2 masks ('2.weight', '2.bias') are no masks: '2.weight' is" in str(error.value)
    assert "0.weight" in error.value.diagnostics[0].notes[0]
    assert "(3, 4)" in str(error.value) and "(4, 3)" in str(error.value) and "torch.float32" in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("function", [lower, apply_masks])
def test_masks_of_another_model_are_one_error_that_names_the_first_few(function) -> None:
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(6)])
    with pytest.raises(PkcError) as error:
        function(model, {f"layers.{n}": mask for n, mask in random_masks(model).items()})
    (found,) = error.value.diagnostics
    assert found.code == "PKC470" and found.message.startswith("12 masks ('layers.0.weight', ") and "and 8 more" in found.message
    with pytest.raises(PkcError) as error:
        function(model, {n: mask[:2] for n, mask in random_masks(model).items()})
    (found,) = error.value.diagnostics
    assert found.code == "PKC471" and "12 masks" in found.message and "and 9 more" in found.message


def test_one_tied_parameter_takes_no_two_masks() -> None:
    model = build("tied")
    mask = random_masks(model)["embed.weight"]
    with pytest.raises(PkcError, match=r"PKC473.*'embed.weight' and 'out.weight'"):
        lower(model, {"embed.weight": mask, "out.weight": ~mask})
    assert list(lower(model, {"out.weight": mask, "embed.weight": mask.clone()}).masks) == ["embed.weight"]


@pytest.mark.parametrize("settings", [{"sparse": True}, {"max_norm": 1.0}])
@pytest.mark.parametrize("function", [lower, apply_masks])
def test_embeddings_whose_rows_are_special(function, settings) -> None:
    model = nn.Sequential(nn.Embedding(5, 3, **settings))
    with pytest.raises(PkcError, match=r"PKC474.*'0.weight'"):
        function(model, random_masks(model))
    function(model, {})


def test_a_lazy_parameter_has_no_shape() -> None:
    with pytest.raises(PkcError, match="PKC474"):
        lower(nn.Sequential(nn.LazyLinear(2)), {"0.weight": torch.ones(2, 2, dtype=torch.bool)})


@pytest.mark.parametrize("function", [lower, apply_masks])
def test_parameters_that_nothing_trains(function) -> None:
    model = nn.Linear(2, 2)
    model.codes = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(PkcError, match=r"PKC474.*'codes' is torch.int8"):
        function(model, {"codes": torch.tensor([True, False])})


def hook(*_: object) -> None:
    return None


@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_full_backward_pre_hook"],
)
def test_hooks_are_refused_by_name(register: str) -> None:
    model = net()
    for module in (model, model[2]):
        getattr(module, register)(hook)
    with pytest.raises(PkcError) as error:
        lower(model, {})
    assert codes(error) == ["PKC270", "PKC270"]
    assert "'hook' on the model" in str(error.value) and "'hook' on module '2'" in str(error.value)


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_gradient_hooks_are_refused_by_name(register: str) -> None:
    model = net()
    getattr(model[2].bias, register)(hook)
    with pytest.raises(PkcError, match=r"PKC270.*'2.bias'"):
        lower(model, {})


def test_methods_that_a_graph_loses_are_refused() -> None:
    class Frozen(nn.Linear):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    with pytest.raises(PkcError, match=r"PKC271.*Frozen.train"):
        lower(Frozen(2, 2), {})
    outer = lower(nn.Sequential(Frozen(2, 2)), {}).train()
    assert outer.training and not outer.get_submodule("0").training


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind == "export"])
def test_a_model_that_is_not_traceable_asks_for_inputs(name: str) -> None:
    with pytest.raises(PkcError, match="PKC272") as error:
        lower(build(name), {})
    assert "example_inputs" in error.value.diagnostics[0].notes[-1]


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_nothing_records_is_refused() -> None:
    with pytest.raises(PkcError, match="PKC273") as error:
        lower(DataDependent(), {}, torch.randn(2, 3))
    assert "apply_masks" in error.value.diagnostics[0].notes[-1]


class BatchBaked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).reshape(int(x.shape[0]), 3) + torch.arange(len(list(x)))[:, None]


def test_a_fixed_batch_is_announced_and_checked() -> None:
    model = BatchBaked()
    with pytest.warns(UserWarning, match="batch of 4"):
        masked = lower(model, random_masks(model), torch.randn(4, 3))
    assert masked.static_batch == 4 and masked(torch.randn(4, 3)).shape == (4, 3)
    with pytest.raises(PkcError, match=r"PKC276.*\[4, 3\].*\[5, 3\]"):
        masked(torch.randn(5, 3))


def test_recorded_shapes_are_checked() -> None:
    masked = lower(build("branching"), {}, CASES["branching"].inputs(1))
    assert call(masked, CASES["branching"].inputs(7))[0].shape == (7, 2)
    with pytest.raises(PkcError, match="PKC276"):
        masked(torch.randn(3, 6), torch.randn(4, 6))


class Noise(nn.Module):
    def __init__(self, python: bool) -> None:
        super().__init__()
        self.inner, self.python = nn.Linear(3, 3), python

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (random.random() if self.python else torch.rand(3))


def test_random_numbers_are_not_baked_in() -> None:
    with pytest.raises(PkcError, match="PKC272"):
        lower(Noise(False), {})
    model = Noise(False)
    masked = lower(model, {}, torch.randn(2, 3))
    x = torch.randn(5, 3)
    assert torch.equal(call(model, x)[0], call(masked, x)[0]) and not torch.equal(call(masked, x, 3)[0], call(masked, x, 4)[0])


def test_random_numbers_of_python_are_refused() -> None:
    with pytest.raises(PkcError, match="PKC273"):
        lower(Noise(True), {}, torch.randn(2, 3))


class Listed(nn.Module):
    """A product of two parameters that no input takes part in, held in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 3))
        self.pair = [self.a, self.b]

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.pair[0] @ self.pair[1])


def test_a_product_of_parameters_is_not_baked_in() -> None:
    model = Listed()
    masks = random_masks(model)
    masked = lower(model, masks, torch.randn(2, 3))
    x = torch.randn(2, 3)
    assert torch.allclose(masked(x), x @ ((model.a * masks["a"]) @ (model.b * masks["b"])))
    masked(x).sum().backward()
    assert masked.a.grad.any() and not masked.a.grad[~masks["a"]].any()


class Counting(nn.Module):
    """Writes to a buffer of its own, reads another that is computed with, and takes a fixed keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> Tensor:
        self.calls.add_(1)
        x = self.inner(x) * scale + (self.table * 2 + self.calls)
        return x if mask is None else F.relu(x) * mask


def test_buffers_are_read_and_written_at_run_time() -> None:
    model = Counting()
    masked = lower(model, {})
    assert not masked.calls
    x = torch.randn(2, 3)
    for _ in range(2):
        assert torch.equal(model(x), masked(x, scale=2.0, mask=None))
    masked.load_state_dict({**model.state_dict(), "table": torch.ones(3)})
    model.table.fill_(1)
    assert torch.equal(model(x), masked(x)) and masked.calls == 3
    with pytest.raises(Exception, match="mask"):
        masked(x, mask=x)
    taken = lower(model, {}, {"x": x, "mask": x})
    assert torch.equal(model(x, mask=x + 1), taken(x, mask=x + 1))


def test_a_lowered_network_is_not_pickled() -> None:
    for name in ("unet", "branching"):
        masked = lower(build(name), {}, CASES[name].inputs(2))
        with pytest.raises(PkcError, match="PKC275"):
            pickle.dumps(masked)


class Scripted(nn.Module):
    """A part of it is TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(3, 3)
        self.part = torch.jit.script(nn.Sequential(nn.Linear(3, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.plain(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("whole", [False, True])
def test_parts_that_are_torchscript_are_told(whole: bool) -> None:
    model = torch.jit.script(nn.Sequential(nn.Linear(3, 3))) if whole else Scripted()
    name = "0.weight" if whole else "part.0.weight"
    for masks in ({name: torch.eye(3) > 0}, {}):
        for example in ((), (torch.randn(2, 3),)):
            with pytest.raises(PkcError, match=r"PKC273.*(module 'part'|the model) is TorchScript") as error:
                lower(model, masks, *example)
            assert codes(error) == ["PKC273"]
    with pytest.raises(PkcError, match=f"PKC474.*'{name}' is one of a TorchScript module") as error:
        apply_masks(model, {name: torch.eye(3) > 0})
    assert codes(error) == ["PKC474"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_beside_torchscript_masks_are_held() -> None:
    model = apply_masks(Scripted(), {"plain.weight": torch.eye(3) > 0})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    assert not model.plain.weight.detach()[~torch.eye(3).bool()].any()


class Moves(nn.Linear):
    """Its forward sets torch's default device."""

    def forward(self, x: Tensor) -> Tensor:
        torch.set_default_device("meta")
        return super().forward(x)


@pytest.mark.parametrize("example", [(), (torch.randn(2, 3),)])
def test_a_default_device_that_forward_sets_is_refused_and_put_back(example: tuple[Tensor, ...]) -> None:
    try:
        with pytest.raises(PkcError, match=r"PKC248.*forward sets torch's default device to meta"):
            lower(Moves(3, 2), {"weight": torch.ones(2, 3, dtype=torch.bool)}, *example)
        assert torch.get_default_device().type == "cpu"
    finally:
        torch.set_default_device(None)
