"""The NTK on data against plain autograd, row by row, and the frozen-gate kernel against enumerated paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models import zoo
from oracle.dag import Max
from oracle.enumerate import Setting, Structure, evaluate, gains_of, list_paths, path_jacobian, run
from oracle.families import FAMILIES, Case
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.paths.certificate import SIGNED
from pkcompiler.paths.record import observe
from pkcompiler.paths.sources import input_sources
from pkcompiler.paths.sweep import Sweep
from pkcompiler.tangent.bound import at_data
from pkcompiler.tangent.ntk import ntk


def rows(model: nn.Module, x: Tensor, masks: dict[str, Tensor] | None = None) -> Tensor:
    """J row by row: one sample, one output, one backward pass."""
    masks = masks or {}
    named = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters() if p.requires_grad}
    out = []
    for sample in x:
        kept = {n: p * masks[n] if n in masks else p for n, p in named.items()}
        for value in torch.func.functional_call(model, kept, (sample[None],)).reshape(-1):
            grads = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
            pairs = zip(grads, named.values(), strict=True)
            out.append(torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs]))
    return torch.stack(out)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {n: torch.rand(p.shape, generator=generator) < 0.75 for n, p in model.named_parameters()}


@pytest.fixture(params=sorted(FAMILIES))
def case(request) -> Case:
    return FAMILIES[request.param]()


def test_the_kernel_is_that_of_plain_autograd(case):
    kernel = ntk(case.module, case.signed)
    jacobian = rows(case.module, case.signed)
    assert apart(kernel.kernel, jacobian @ jacobian.T) < 1e-12
    assert apart(kernel.traces().reshape(-1), jacobian.square().sum(1)) < 1e-12
    assert float(kernel.trace()) == pytest.approx(float(jacobian.square().sum()), rel=1e-12)
    u = torch.randn(len(jacobian), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert apart(kernel.matvec(u), jacobian @ (jacobian.T @ u)) < 1e-12


def test_masked_entries_do_not_count(case):
    masks = masks_of(case.module)
    jacobian = rows(case.module, case.signed, masks)
    kernel = ntk(case.module, case.signed, masks)
    assert apart(kernel.kernel, jacobian @ jacobian.T) < 1e-12
    assert kernel.kept == sum(int(m.sum()) for m in masks.values())
    if case.piecewise:
        assert float(kernel.difference()) < 1e-12


def test_behind_locally_constant_slopes_the_frozen_kernel_is_the_ntk(case):
    kernel = ntk(case.module, case.signed)
    if case.piecewise:
        assert kernel.frozen().is_ntk
        assert float(kernel.difference()) < 1e-12
    elif kernel.frozen().is_ntk:
        assert case.products and float(kernel.difference()) < 1e-12
    else:
        assert float(kernel.difference()) > 1e-3


def enumerated(case: Case) -> np.ndarray:
    """J_v Pi J_v^T with J_v[(n, k), p] = a_p(x_n) x_s(p) for p -> k, and Pi = J J^T over all paths."""
    _, jacobian = path_jacobian(case.dag, case.theta)
    pi = jacobian @ jacobian.T
    lists = list_paths(case.dag, Structure(constants=True))
    out = []
    for x in case.encode(case.signed):
        slopes, start = run(case.dag, case.theta, x).factors / gains_of(case.dag), 0
        for paths in lists:
            row = np.zeros(len(pi))
            row[start : start + len(paths)] = [math.prod(x[list(p.sources)]) * math.prod(slopes[list(p.gates)]) for p in paths]
            out.append(row)
            start += len(paths)
    feature = np.array(out)
    return feature @ pi @ feature.T


def separates(case: Case) -> bool:
    """Whether a path's factors at data are slopes alone."""
    return not case.factors and len(case.theta) < 60 and not any(isinstance(node, Max) for node in case.dag.nodes)


SEPARATE = [name for name, make in FAMILIES.items() if separates(make())]


@pytest.mark.parametrize("name", SEPARATE)
def test_the_frozen_kernel_is_the_product_of_enumerated_matrices(name):
    case = FAMILIES[name]()
    frozen = ntk(case.module, case.signed).frozen()
    assert apart(frozen.kernel, torch.from_numpy(enumerated(case))) < 1e-10


@pytest.mark.parametrize("name", SEPARATE)
def test_the_bound_is_the_sum_over_enumerated_paths(name):
    """sum over k of g_k h_k, both from the list of paths."""
    case = FAMILIES[name]()
    setting = Setting(edge="1", input="data^2", gates="data^2", pools="data", constants="on")
    g = evaluate(case.dag, case.theta, setting, data=case.encode(case.signed)).each
    _, jacobian = path_jacobian(case.dag, case.theta)
    ends = np.cumsum([len(paths) for paths in list_paths(case.dag, Structure(constants=True))])[:-1]
    h = [(part**2).sum() for part in np.split(jacobian, ends)]
    assert float(ntk(case.module, case.signed).bound()) == pytest.approx(float(g @ h), rel=1e-10)


@pytest.mark.parametrize("name", ["layer_norm", "attention", "causal_attention", "written_attention"])
def test_paths_at_data_written_out_compute_the_model(name):
    case = FAMILIES[name]()
    captured = capture(case.module, case.example_inputs)
    observed, output = observe(captured.program, captured.lifted, captured.call.flat, captured.program.tensors, SIGNED)
    sweep = Sweep(at_data(captured.graph), captured.tensors, SIGNED, observed=observed)
    sources = input_sources(captured, captured.call.flat, "data", 1, torch.float64)
    torch.testing.assert_close(sweep.run(sweep.edges(), sources).at(0), output, rtol=1e-10, atol=1e-12)


def test_enough_families_are_enumerated():
    assert {"residual", "shared_twice", "tied_weights", "silu_mlp", "sine_mlp", "batch_norm"} <= set(SEPARATE)


class Net(nn.Module):
    """Convolutions with batch normalisation, a max-pool, two residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.na, self.nb, self.short = nn.BatchNorm2d(6), nn.BatchNorm2d(8), nn.Conv2d(6, 8, 1, stride=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.norm(self.stem(x)).relu(), 2)
        x = self.na(self.a(x)).relu() + x
        x = (self.nb(self.b(x)) + self.short(x)).relu()
        return self.head(x.mean((2, 3)))


def built(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    if kind == "mlp":
        mlp = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5))
        return mlp.double(), torch.randn(16, 12, generator=generator, dtype=torch.float64)
    return zoo.randomise(Net()).double().train(), torch.randn(6, 3, 10, 10, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_decomposition_equals_autograd_in_piecewise_linear_networks(kind):
    model, x = built(kind)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    kernel = ntk(model, x)
    jacobian = rows(model.eval(), x)
    assert apart(kernel.kernel, jacobian @ jacobian.T) < 1e-12
    assert apart(kernel.frozen().kernel, jacobian @ jacobian.T) < 1e-10
    assert float(kernel.trace()) <= float(kernel.bound())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_small_vision_transformer_has_two_kernels():
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4)
    model = zoo.Logits(ViTForImageClassification(config)).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    kernel = ntk(model, x)
    jacobian = rows(model.double(), x.double())
    assert apart(kernel.kernel, jacobian @ jacobian.T) < 1e-12
    assert not kernel.frozen().is_ntk
    assert 1e-3 < float(kernel.difference()) < 10
    assert float(kernel.frozen().trace()) <= float(kernel.bound())
    assert "may exceed" in kernel.bound().note


# memory, and what cannot be vectorised


@pytest.mark.parametrize(("n", "room", "blocks"), [(5, 0, 10), (20, 8_000, 20), (60, 24_000, 12)])
def test_a_jacobian_that_does_not_fit_gives_the_same_kernel(n, room, blocks):
    """Blocks of one output, of one sample, of several samples."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pieces = ntk(model, x, memory=(2 * n) ** 2 * 8 + room)
    assert apart(pieces.kernel, ntk(model, x).kernel) < 1e-13
    assert pieces.size * pieces.kept * 8 > room
    assert len(pieces.jacobian.blocks(max(room // 3, 1))) == blocks


def test_a_kernel_that_does_not_fit_is_refused_and_its_figures_are_not():
    model, x = built("mlp")
    whole, without = ntk(model, x), ntk(model, x, memory=50_000)
    with pytest.raises(PkcError, match=r"PKC525.*80 rows and takes 51.2 kB; the limit is 50.0 kB"):
        _ = without.kernel
    assert apart(without.traces(), whole.traces()) < 1e-12
    pairs = without.eigenpairs(4)
    assert apart(pairs.values, whole.eigenvalues(4)) < 1e-9
    assert float(pairs.residuals.max()) < 1e-6
    assert torch.equal(pairs.vectors, without.eigenpairs(4).vectors)
    assert without.condition_number().status == "not predicted"
    assert float(without.largest_stable_step()) == pytest.approx(float(whole.largest_stable_step()), rel=1e-9)
    with pytest.raises(PkcError, match="PKC525"):
        without.eigenpairs(80)


class Branching(nn.Module):
    """Asks for a value, which vmap cannot give."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h.tanh()) if h.sum().item() > 1e9 else self.b(h.sin())


class NoForward(torch.autograd.Function):
    """A square without a derivative in forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


class Reverse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(NoForward.apply(self.a(x)))


@pytest.mark.parametrize(("make", "vectorised", "modes"), [(Branching, False, 2), (Reverse, True, 1)])
def test_models_that_some_derivatives_cannot_read(make, vectorised, modes):
    torch.manual_seed(0)
    model = make().double()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kernel = ntk(model, x)
    jacobian = rows(model, x)
    gram = jacobian @ jacobian.T
    u = torch.arange(18.0, dtype=torch.float64)
    assert apart(kernel.kernel, gram) < 1e-12
    assert apart(kernel.matvec(u), gram @ u) < 1e-12
    assert kernel.jacobian.vectorised == vectorised
    assert len(kernel.jacobian._modes) == modes


def test_only_parameters_that_require_grad_count():
    model, x = built("mlp")
    model[0].weight.requires_grad_(False)
    jacobian = rows(model, x)
    kernel = ntk(model, x)
    assert jacobian.shape[1] == kernel.kept == sum(p.numel() for p in model.parameters()) - 12 * 32
    assert apart(kernel.kernel, jacobian @ jacobian.T) < 1e-12
    assert float(kernel.difference()) < 1e-12
    dropped = ntk(model, x, {"0.weight": torch.zeros(32, 12, dtype=torch.bool)})
    flat = rows(model, torch.zeros_like(x))
    assert apart(dropped.kernel, flat @ flat.T) < 1e-12


def test_twice_the_same_bits():
    model, x = built("cnn")
    assert torch.equal(ntk(model, x).kernel, ntk(model, x).kernel)


def test_single_precision_is_close():
    model, x = built("mlp")
    assert apart(ntk(model, x, dtype=torch.float32).kernel.double(), ntk(model, x).kernel) < 1e-5


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_cuda_device():
    model, x = built("cnn")
    masks = masks_of(model)
    there, here = ntk(model.cuda(), (x, torch.arange(6) % 4), masks), ntk(model.cpu(), x, masks)
    assert there.kernel.device.type == "cuda"
    assert apart(there.kernel.cpu(), here.kernel) < 1e-10
    assert float(there.difference()) < 1e-10
    assert float(there.bound()) == pytest.approx(float(here.bound()), rel=1e-10)
    free = ntk(model.cuda(), x, masks, memory=4_000)
    assert apart(free.eigenvalues(3).cpu(), here.eigenvalues(3)) < 1e-9
    assert float(there.alignment()) > 0
