"""An analysis is in one precision throughout: casts in forward, constants, buffers and attributes, the slow path of attention."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pkcompiler
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture

OUTSIDE = torch.tensor([0.1, 0.2, 0.3, 0.4])
TABLE = np.array([[0.1, 0.2, 0.3, 0.4]] * 4, dtype=np.float32)


class Layers(nn.Module):
    """Two layers with something in between; x [batch, 4] to [batch, 2]."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 4), nn.Linear(4, 2), between
        self.register_buffer("row", torch.tensor([0.1, 0.7, 1.3, 0.9]), persistent=False)
        self.cached = torch.full((4, 4), 0.1)
        self.listed = [torch.full((4, 4), 0.3), "text"]

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, torch.relu(self.a(x))))


BETWEEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "float": lambda m, z: z.float() / 3,
    "half": lambda m, z: z.half().to(m.a.weight.dtype),
    "bfloat16": lambda m, z: z.bfloat16().type_as(z),
    "to": lambda m, z: z.to(torch.float32),
    "to dtype": lambda m, z: (z.to(dtype=torch.float16) * 0.1).to(m.a.weight.dtype),
    "to device": lambda m, z: z.to("cpu", torch.float32) * 0.1,
    "to another": lambda m, z: z.to(OUTSIDE) * 0.1,
    "type": lambda m, z: z.type(torch.float32),
    "type text": lambda m, z: z.type("torch.FloatTensor"),
    "type class": lambda m, z: z.type(torch.FloatTensor),
    "type_as": lambda m, z: z.type_as(OUTSIDE),
    "zeros": lambda m, z: z @ (torch.zeros(4, 4, dtype=torch.float32) + 0.1),
    "arange": lambda m, z: z @ (torch.arange(16).reshape(4, 4) / 7),
    "arange of floats": lambda m, z: z @ torch.diag(torch.arange(0.1, 0.5, 0.1)),
    "full": lambda m, z: z @ torch.full((4, 4), 0.1),
    "tensor": lambda m, z: z @ torch.tensor([[0.1] * 4] * 4, dtype=torch.float32),
    "new": lambda m, z: z @ z.new_full((4, 4), 0.1, dtype=torch.float16).to(z.dtype),
    "numpy": lambda m, z: z @ torch.from_numpy(TABLE),
    "array": lambda m, z: z @ torch.tensor(TABLE),
    "global": lambda m, z: z @ torch.diag(OUTSIDE),
    "buffer": lambda m, z: z * m.row.float(),
    "attribute": lambda m, z: z @ m.cached,
    "listed": lambda m, z: z @ m.listed[0],
    "softmax": lambda m, z: z * F.softmax(m.row, 0, dtype=torch.float32).to(z.dtype),
    "sum": lambda m, z: z - z.sum(-1, keepdim=True, dtype=torch.float32),
    "stack": lambda m, z: torch.stack([z, OUTSIDE.expand_as(z)]).sum(0),
    "double": lambda m, z: (z.double() * 0.1).to(z.dtype),
    "mask": lambda m, z: F.softmax(z.masked_fill(m.row > 1, torch.finfo(z.dtype).min), -1),
    "mask of another": lambda m, z: F.softmax(z + (m.row > 1) * torch.finfo(torch.float32).min, -1),
    "rms": lambda m, z: (lambda f: f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-6))(z.to(torch.float32)).to(z.dtype),
    "complex": lambda m, z: torch.view_as_real(torch.view_as_complex(z.float().reshape(-1, 2, 2)) * (0.5 + 0.1j)).reshape(-1, 4),
}


def layers(name: str) -> Layers:
    torch.manual_seed(0)
    return Layers(BETWEEN[name])


def inputs() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [name for name in BETWEEN if name != "complex"])
def test_what_forward_says_of_dtypes_costs_no_digits(name: str) -> None:
    found = pkcompiler.certify(layers(name), inputs())
    assert found.parameters == 4
    assert max(found.max_relative_error, found.max_gradient_error, found.max_autograd_error) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BETWEEN)
def test_every_run_is_in_the_precision_asked_for(name: str, dtype: torch.dtype) -> None:
    """Of the model's copy, of its tangent kernel and of a loss, up and down: ``.double()`` stays float32 in float32."""
    model, x = layers(name), inputs()
    kernel = pkcompiler.ntk(model, x, dtype=dtype)
    assert kernel.kernel.dtype == dtype
    with torch.no_grad():
        there = model(x)
    assert torch.allclose(kernel.network.at(kernel.network.theta, (x.to(dtype),)), there.to(dtype), rtol=5e-3, atol=5e-3)


def test_both_precisions_agree_as_far_as_float32_goes() -> None:
    found = {}
    for dtype in (torch.float32, torch.float64):
        captured = capture(layers("double"), inputs(), dtype=dtype)
        found[dtype] = captured.call.run(captured.module, captured.call.flat).detach()
    assert found[torch.float32].dtype == torch.float32
    assert 0 < float((found[torch.float32] - found[torch.float64]).abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["full", "arange"])
def test_a_model_in_float64_is_lifted_as_it_is(name: str) -> None:
    """With None for a precision, what names no dtype is made in the model's."""
    model, x = layers(name).double(), inputs().double()
    assert pkcompiler.lift(model, x) == capture(layers(name), inputs(), dtype=torch.float64).graph
    with pytest.raises(RuntimeError, match="dtype"):
        model(x)


def test_the_model_is_not_changed() -> None:
    model = layers("attribute")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    pkcompiler.certify(model, inputs())
    assert {t.dtype for t in (*model.parameters(), *model.buffers(), model.cached, model.listed[0])} == {torch.float32}
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pictures_in_bytes(dtype: torch.dtype) -> None:
    class Picture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x.float() / 255))

    torch.manual_seed(0)
    found = pkcompiler.certify(Picture(), torch.randint(0, 255, (2, 4)).to(dtype))
    assert found.holds
    assert max(found.max_relative_error, found.max_gradient_error) < 1e-15


def test_a_buffer_made_in_forward() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("table", None)

        def forward(self, x: Tensor) -> Tensor:
            self.table = torch.ones(4, 4, dtype=torch.float32) / 7
            return torch.relu(self.layer(x) @ self.table)

    assert pkcompiler.certify(Lazy(), inputs()).max_relative_error < 1e-15


# models of transformers -------------------------------------------------------------------------------------------------

SIZES = {"vocab_size": 19, "hidden_size": 16, "use_cache": False}
ATTENTION = {
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": ATTENTION,
    "Mistral": ATTENTION,
    "Qwen2": ATTENTION,
    "Gemma": {**ATTENTION, "head_dim": 8},
    "Mamba": {"num_hidden_layers": 1, "state_size": 4},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_language_models_that_compute_norms_in_float32(family: str) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, **FAMILIES[family])
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    found = pkcompiler.certify(model, {"input_ids": torch.randint(0, 19, (2, 6))})
    assert found.holds
    assert found.tested == len(list(model.parameters()))
    assert max(found.max_relative_error, found.max_gradient_error, found.max_autograd_error) < 1e-13


# complex numbers --------------------------------------------------------------------------------------------------------


class Turned(nn.Module):
    """A complex buffer, and, if asked for, a complex parameter."""

    def __init__(self, parameter: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        turn = torch.polar(torch.ones(2), torch.tensor([0.3, 0.7]))
        self.turn = nn.Parameter(turn) if parameter else nn.Buffer(turn)

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.view_as_complex(self.layer(x).float().reshape(-1, 2, 2)) * self.turn
        return torch.view_as_real(turned).reshape(-1, 4)


def test_a_complex_buffer_keeps_its_imaginary_part() -> None:
    model, x = Turned(parameter=False), inputs()
    kernel = pkcompiler.ntk(model, x)
    with torch.no_grad():
        there = model(x)
    assert torch.allclose(kernel.network.at(kernel.network.theta, (x.double(),)), there.double(), rtol=1e-5, atol=1e-6)
    assert dict(kernel.network.module.named_buffers())["turn"].dtype == torch.complex128


@pytest.mark.parametrize("entry", [pkcompiler.lift, pkcompiler.certify, pkcompiler.path_functional, pkcompiler.ntk])
def test_a_complex_parameter_is_refused(entry: Any) -> None:
    with pytest.raises(PkcError, match=r"PKC209.*'turn'") as caught:
        entry(Turned(parameter=True), inputs())
    assert caught.value.diagnostics[0].code == "PKC209"


# attention --------------------------------------------------------------------------------------------------------------


def test_the_truth_takes_the_slow_path_of_attention() -> None:
    """With a padding mask torch's fast path computes another function, under no_grad in evaluation mode."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x, src_key_padding_mask=torch.tensor([[False, False, True]]).expand(x.shape[0], 3))

    torch.manual_seed(0)
    model, x = Encoder().eval(), torch.randn(2, 3, 8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of nested tensors, which the fast path is made of
        fast = model(x)
    slow = model(x).detach()
    assert float((fast - slow).abs().max()) > 0.1
    assert pkcompiler.certify(model, x).holds
    assert torch.allclose(pkcompiler.ntk(model, x).jacobian.values().reshape(slow.shape), slow.double(), atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()
