"""The certificates, on real architectures with every norm, statistic and bias drawn at random, and on every example."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from examples_path import EXAMPLES, load_example
from models.zoo import MODELS, randomise

from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.ir.parse import parse_graph
from pkcompiler.ir.text import print_graph
from pkcompiler.paths.certificate import SIGNED, Certificate, certify_capture, path_gradients
from pkcompiler.paths.record import observe

SCRIPTS = {"train_mnist", "train_schedule"}
NAMES = sorted(Path(f).stem for f in EXAMPLES.glob("*.py") if Path(f).stem not in SCRIPTS)


def holds(captured: Capture) -> Certificate:
    """The certificate, after the graph has been printed and parsed back."""
    assert parse_graph(print_graph(captured.graph)) == captured.graph
    found = certify_capture(captured)
    assert found.refused == ()
    assert found.max_relative_error < 1e-9
    assert found.max_gradient_error < 1e-9
    assert found.max_autograd_error < 1e-9
    assert found.holds and found.tested + len(found.untested) == len(list(captured.module.named_parameters()))
    assert found.parameters == len(captured.graph.parameters)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_real_architectures(name):
    module, inputs = MODELS[name]()
    captured = capture(randomise(module), inputs, dtype=torch.float64)
    found = holds(captured)
    assert found.observed_only == ()
    assert set(dict(module.named_parameters())) == {s.name for s in captured.graph.parameters} | set(unread(name, module))
    assert set(unread(name, module)) <= set(found.untested)
    assert math.isfinite(found.max_gradient_error)


def unread(name, module):
    """Parameters that the analysed output does not read: those whose plain derivative does not exist."""
    _, inputs = MODELS[name]()
    output = module(*inputs)
    output = output[0] if isinstance(output, tuple) else output
    named = dict(module.named_parameters())
    grads = torch.autograd.grad(output.sum(), list(named.values()), allow_unused=True)
    return [n for n, g in zip(named, grads, strict=True) if g is None]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
    torch.manual_seed(0)
    example = load_example(name)
    holds(capture(randomise(example.model()), example.example_inputs(), dtype=torch.float64))


def test_relu6_is_piecewise_linear_and_its_recorded_slopes_are_no_autograd():
    """Saturated, phi(z)/z = 6/z is not locally constant: the paths' derivative is not plain autograd's, which is 0 there."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU6(), torch.nn.Linear(8, 1)).double()
    torch.nn.init.constant_(model[0].bias, 10.0)
    captured = capture(model, torch.rand(2, 3, dtype=torch.float64))
    found = holds(captured)
    assert found.untested == ("0.weight", "0.bias")
    x = captured.call.flat[0]
    model(x).sum().backward()
    assert float(model[0].weight.grad.abs().max()) == 0.0
    observed, _ = observe(captured.program, captured.lifted, captured.call.flat, captured.program.tensors, SIGNED)
    _, grads = path_gradients(captured, observed, torch.ones(2, 1, dtype=torch.float64))
    assert float(grads["0.weight"].abs().max()) > 0.01
