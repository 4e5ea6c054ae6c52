"""The Path Kernel against the explicit enumeration of paths on every family, and its laws."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracle.case import Case
from oracle.enumerate import gram
from oracle.families import FAMILIES
from torch import nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.kernel.gram import PathKernel
from pkcompiler.kernel.path_kernel import kernel_of, path_kernel
from pkcompiler.paths.semiring import settings

TOLERANCE = 1e-10
CHOSEN = settings(edge="theta^2", pools="sum", constants="on")
TIED = ("shared_twice", "tied_weights", "product_shared")


@cache
def built(name: str):
    case = FAMILIES[name]()
    return case, capture(case.module, case.example_inputs, dtype=torch.float64)


def masks_of(case: Case) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {n: torch.rand(p.shape, generator=generator) < 0.8 for n, p in case.module.named_parameters()}


def kernel(name: str, masks=None, **more) -> PathKernel:
    captured = built(name)[1]
    return kernel_of(captured.graph, captured.tensors, CHOSEN, masks, **more)


def expected(case: Case, of: PathKernel, masks=None) -> np.ndarray:
    """The oracle's G in the order of the kernel's parameters."""
    matrix = gram(case.dag, case.theta, mask=None if masks is None else case.flat(masks))
    order = [case.parameter_index(n, i) for n in of.names for i in range(of.theta[n].numel())]
    return matrix[np.ix_(order, order)]


def close(got, wanted, scale: float) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=0, atol=TOLERANCE * scale)


@pytest.fixture(
    params=[(n, m) for n in sorted(FAMILIES) for m in (False, True)], ids=lambda p: f"{p[0]}{' masked' if p[1] else ''}"
)
def both(request):
    """A kernel, and the matrix that it should be."""
    name, masked = request.param
    case = built(name)[0]
    masks = masks_of(case) if masked else None
    made = kernel(name, masks)
    return made, expected(case, made, masks)


def test_figures_are_those_of_the_enumerated_matrix(both):
    made, matrix = both
    scale = abs(matrix).max()
    dense = made.matmat(torch.eye(made.size, dtype=torch.float64))
    close(dense, matrix, scale)
    close(made.flatten(made.diagonal()), np.diag(matrix), scale)
    close(float(made.trace()), np.trace(matrix), np.trace(matrix))
    close(float(made.frobenius()), np.linalg.norm(matrix), np.linalg.norm(matrix))
    k = min(12, made.size)
    close(made.eigenvalues(k), np.linalg.eigvalsh(matrix)[::-1][:k], np.linalg.norm(matrix))
    assert {made.trace().status, made.frobenius().status} == {made.status}
    close(float(made.effective_rank()), np.trace(matrix) ** 2 / np.linalg.norm(matrix) ** 2, made.size)
    close(float(made.stable_rank()), np.trace(matrix) / np.linalg.eigvalsh(matrix)[-1], made.size)


def test_products_are_linear_symmetric_and_nonnegative(both):
    made, matrix = both
    generator = torch.Generator().manual_seed(3)
    u, v = torch.randn(2, made.size, generator=generator, dtype=torch.float64)
    gu, gv = made.matvec(u), made.matvec(v)
    scale = np.linalg.norm(matrix) * made.size
    close(gu, matrix @ u.numpy(), scale)
    close(made.matvec(2 * u - 3 * v), 2 * gu - 3 * gv, scale)
    assert float(torch.dot(v, gu)) == pytest.approx(float(torch.dot(u, gv)), rel=0, abs=TOLERANCE * scale)
    assert float(torch.dot(u, gu)) >= -TOLERANCE * scale
    named = made.matvec(made.split(u))
    assert torch.equal(made.flatten(named), gu)
    np.testing.assert_array_equal(made.linear_operator().matvec(u.numpy()), gu.numpy())


def test_entries_keep_one_sign_in_the_frame_of_the_parameters(both):
    """v_p / (theta_i theta_j) summed over paths: with D = diag(sign theta), D G D has no negative entry."""
    made, matrix = both
    signs = made.flatten(made.theta).sign().numpy()
    assert (signs[:, None] * matrix * signs[None, :]).min() >= -TOLERANCE * abs(matrix).max()


def test_a_restriction_is_the_submatrix(both):
    made, matrix = both
    names = made.names[:: 2 if len(made.names) > 2 else 1]
    part = made.restricted(names)
    chosen = np.concatenate([np.full(made.theta[n].numel(), n in names) for n in made.names])
    close(part.dense(), matrix[np.ix_(chosen, chosen)], abs(matrix).max())
    close(float(part.trace()), np.diag(matrix)[chosen].sum(), np.trace(matrix))


@pytest.mark.parametrize("name", TIED)
def test_parameters_crossed_twice_make_the_diagonal_more_than_tau(name):
    """47.08 against 46.25 in docs/theory.md: the sum of tau is no trace there."""
    made = kernel(name)
    tau = sum(float(t.sum()) for t in made.tau().values())
    assert float(made.trace()) > tau * 1.01


@pytest.mark.parametrize("depth", [2, 3])
def test_a_layer_crossed_up_to_three_times(depth):
    """x -> w^(depth+1) x with one scalar weight: R_2 = W^(d+1), G = ((d+1) w^d)^2."""

    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(1, 1, bias=False)

        def forward(self, x):
            for _ in range(depth + 1):
                x = self.a(x)
            return x

    module = Again().double()
    w = float(module.a.weight.detach())
    made = path_kernel(module, torch.zeros(1, 1))
    wanted = ((depth + 1) * w**depth) ** 2
    assert float(made.trace()) == pytest.approx(wanted, rel=1e-12)
    assert float(made.dense()) == pytest.approx(wanted, rel=1e-12)


def linear(*widths: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))).double()


def test_theta_goes_to_depth_times_theta_tau():
    """R_2 is homogeneous of degree 1 in every layer's squares: H w = (L - 1) tau (Euler)."""
    made = path_kernel(linear(3, 5, 4, 2), torch.zeros(1, 3))
    wanted = {n: 3 * t * made.tau()[n] for n, t in made.theta.items()}
    got = made.matvec(made.theta)
    for n in made.names:
        torch.testing.assert_close(got[n], wanted[n], rtol=1e-12, atol=0)


def test_one_layer_is_a_multiple_of_the_identity():
    """Every path of a linear layer crosses one weight: G is the identity, and all eigenvalues are 1."""
    made = path_kernel(linear(30, 20), torch.zeros(1, 30))
    assert made.size == 600
    pairs = made.eigenpairs(12)
    np.testing.assert_allclose(pairs.values, np.ones(12), rtol=1e-12)
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(12), atol=1e-8)
    assert float(made.effective_rank(samples=4)) == pytest.approx(600, rel=1e-12)


def parallel(units: int, inputs: int) -> nn.Sequential:
    """y = sum over identical units: u rows and v alike. Each unit adds the same block to G."""
    module = linear(inputs, units, 1)
    with torch.no_grad():
        module[0].weight.fill_(2.0)
        module[1].weight.fill_(3.0)
    return module


@pytest.mark.parametrize("units", [3, 60])
def test_clustered_and_zero_eigenvalues(units):
    """A unit with weights 2 (``n`` of them) and 3: paths 6, J rows (3 at one weight, 2 at the last). Pi = 9 I + 4 ones per unit.

    So each unit has the eigenvalue 9 + 4 n once, 9 with multiplicity n - 1, and 0 once.
    """
    n = 7
    made = path_kernel(parallel(units, n), torch.zeros(1, n))
    k = units + 5
    pairs = made.eigenpairs(k)
    np.testing.assert_allclose(pairs.values, [9.0 + 4 * n] * units + [9.0] * 5, rtol=1e-10)
    assert float(pairs.residuals.max()) < 1e-6
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(k), atol=1e-8)


def test_asking_for_more_than_the_rank_gives_zeros():
    made = path_kernel(parallel(2, 3), torch.zeros(1, 3))
    pairs = made.eigenpairs(made.size)
    np.testing.assert_allclose(pairs.values, [21, 21, 9, 9, 9, 9, 0, 0], atol=1e-12)
    assert bool((pairs.values >= 0).all()) and bool(pairs.residuals.isfinite().all())


def test_more_than_the_rank_where_the_matrix_is_not_written_out():
    made = path_kernel(parallel(1, 700), torch.zeros(1, 700), {"0.weight": (torch.arange(700) < 3)[None]})
    assert (made.size, made.kept) == (701, 4)
    pairs = made.eigenpairs(6)
    np.testing.assert_allclose(pairs.values, [21, 9, 9, 0, 0, 0], atol=1e-9)


def test_outputs_share_the_kernel():
    """Paths to different outputs are different paths: G is the sum of the kernels of the outputs, weighed."""
    case = built("mlp_bias")[0]
    whole, first, second = kernel("mlp_bias"), kernel("mlp_bias", output=0), kernel("mlp_bias", output=1)
    close(first.dense() + second.dense(), whole.dense(), float(whole.dense().abs().max()))
    weighed = kernel("mlp_bias", output=torch.tensor([[2.0, 0.5]]))
    close(weighed.dense(), 2 * first.dense() + 0.5 * second.dense(), float(whole.dense().abs().max()))
    assert case.dag.outputs


def test_traces_by_output_are_those_of_each_output_alone(both):
    """Ties on a path, products and masks included."""
    made, matrix = both
    traces = made.traces_by_output()
    assert float(traces.sum()) == pytest.approx(np.trace(matrix), rel=TOLERANCE)
    first = kernel_of(made.graph, made._tensors, CHOSEN, made._given, output=0)
    assert float(traces.reshape(-1)[0]) == pytest.approx(float(first.trace()), rel=TOLERANCE)


def test_products_and_spectra_are_the_same_bits_again():
    first, second = (path_kernel(linear(20, 30, 10), torch.zeros(1, 20)) for _ in range(2))
    assert torch.equal(first.eigenpairs(4).vectors, second.eigenpairs(4).vectors)
    assert torch.equal(first.density(8, probes=2).density, second.density(8, probes=2).density)


def test_a_deep_net_carries_its_exponent():
    """R_2 = 2^(1202 * 2): beyond float64. Scaling the weights down to range by powers of two gives the same mantissas."""
    deep = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(1202))).double()
    with torch.no_grad():
        for i, layer in enumerate(deep):
            layer.weight.copy_(torch.tensor([[1.0, -0.5], [0.25, 1.0]]) * (2.0 if i % 2 else 1.0))
    made = path_kernel(deep, torch.zeros(1, 2))
    assert made.exponent > 1000
    assert made.value().log10 > 308
    got = made.matvec(made.theta)
    for n, t in made.tau().items():
        torch.testing.assert_close(got[n], 1202 * made.theta[n] * t, rtol=1e-10, atol=0)
    trace = made.trace()
    assert np.isfinite(trace.log10) and trace.exponent == made.exponent


def test_a_zero_kernel():
    module = linear(3, 2, 2)
    made = path_kernel(module, torch.zeros(1, 3), {"1.weight": torch.zeros(2, 2, dtype=torch.bool)})
    assert float(made.trace()) == 0 and not made.eigenvalues(3).any()
    assert made.effective_rank().status == made.stable_rank().status == "not predicted"


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("PKC520", lambda c: kernel_of(c.graph, c.tensors, settings(edge="theta"))),
        ("PKC520", lambda c: kernel_of(c.graph, c.tensors, settings(edge="theta^2", gates="data"))),
        ("PKC401", lambda c: kernel_of(c.graph, c.tensors, CHOSEN, {"nothing": torch.ones(1, dtype=torch.bool)})),
        ("PKC522", lambda c: kernel_of(c.graph, c.tensors, CHOSEN).matvec(torch.ones(3))),
        ("PKC522", lambda c: kernel_of(c.graph, c.tensors, CHOSEN).matmat(torch.ones(3, 3))),
        ("PKC522", lambda c: kernel_of(c.graph, c.tensors, CHOSEN).matvec({"a.wait": torch.ones(1)})),
        ("PKC523", lambda c: kernel_of(c.graph, c.tensors, CHOSEN).restricted(["a.*", "z.*"])),
        ("PKC501", lambda c: path_kernel(linear(2, 2), torch.zeros(1, 2), pools="most")),
    ],
)
def test_what_is_refused(code, wrong):
    with pytest.raises(PkcError) as error:
        wrong(built("mlp_bias")[1])
    assert [d.code for d in error.value.diagnostics] == [code]
