"""The example models and the test models: they load by spec, compute, and are what their docstrings say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from models.zoo import MODELS, randomise
from torch import nn

from pkcompiler.frontend.inputs import example_inputs
from pkcompiler.frontend.spec import load_model

EXAMPLES = Path(__file__).parent.parent / "examples"
OUTPUTS = {
    "resnet20": (1, 10),
    "vgg16_bn": (1, 100),
    "digits_mlp": (1, 10),
    "mnist_cnn": (1, 10),
    "vit_tiny": (1, 10),
    "gpt_tiny": (1, 32, 256),
}


def weights(module: nn.Module) -> int:
    """Weights of linear layers and convolutions; no biases, norms or embeddings."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)]
    return sum(layer.weight.numel() for layer in layers)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_loads_and_computes(name: str) -> None:
    loaded = load_model(str(EXAMPLES / f"{name}.py"))
    inputs = example_inputs(loaded)
    loaded.module.eval()
    with torch.no_grad():
        output = loaded.module(*inputs.args, **inputs.kwargs)
    assert output.shape == OUTPUTS[name]
    assert output.isfinite().all() and output.std() > 0
    assert inputs.args[0].shape[0] == 1


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_says_what_to_try(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert re.search(rf"^pkc (prune|analyze) examples/{name}\.py", text, flags=re.MULTILINE)


def test_the_weight_counts_are_the_published_ones() -> None:
    assert weights(load_model(str(EXAMPLES / "vgg16_bn.py")).module) == 14_761_664
    resnet = load_model(str(EXAMPLES / "resnet20.py")).module
    identity_shortcuts = 9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64) + 640
    assert weights(resnet) == identity_shortcuts + 16 * 32 + 32 * 64
    assert sum(isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) for layer in resnet.modules()) == 19


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet20"])
def test_he_initialisation(name: str) -> None:
    for layer in load_model(str(EXAMPLES / f"{name}.py"), seed=1).module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            assert layer.weight.std().item() * (fan_in / 2) ** 0.5 == pytest.approx(1, abs=0.12)


def test_the_language_model_is_causal_and_tied() -> None:
    loaded = load_model(str(EXAMPLES / "gpt_tiny.py"))
    assert loaded.module.head.weight is loaded.module.tokens.weight
    tokens = torch.randint(0, 256, (1, 12))
    changed = tokens.clone()
    changed[0, 7] += 1 if changed[0, 7] < 255 else -1
    loaded.module.eval()
    with torch.no_grad():
        difference = (loaded.module(tokens) - loaded.module(changed)).abs().amax(dim=2)[0]
    assert (difference[:7] == 0).all() and (difference[7:] > 0).all()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "resnet50"])  # resnet50: as resnet20, and large
def test_a_test_model_is_reproducible_and_randomised(name: str) -> None:
    first, inputs = MODELS[name]()
    again, _ = MODELS[name]()
    for (key, a), b in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert not first.training
    randomise(first, 1)
    randomise(again, 2)
    norms = [layer for layer in first.modules() if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm)]
    assert all((norm.weight < 0).any() and (norm.weight > 0).any() for norm in norms if norm.weight.numel() >= 32)
    vectors = {key for key, value in first.named_parameters() if value.ndim <= 1}
    moved = {key for key, value in first.named_parameters() if not torch.equal(value, again.get_parameter(key))}
    assert vectors == moved
    with torch.no_grad():
        output = first(*inputs)
    assert output.isfinite().all()
