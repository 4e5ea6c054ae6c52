"""Models that cannot be analysed, or not as they are: each is named by what is wrong with it, in every public function."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pkcompiler
from pkcompiler.diagnostics import PkcError, Remark
from pkcompiler.frontend.faithful import faithful_copy

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")

DRAWS = itertools.count()
"""What no generator has drawn."""

X, Y = torch.linspace(-1, 1, 12).reshape(2, 6), torch.tensor([0, 1])


class Net(nn.Module):
    """Linear 6 to 3, and what a test puts beside it."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f = nn.Linear(6, 3)
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


WAYS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "analyze": pkcompiler.analyze,
    "certify": pkcompiler.certify,
    "score": lambda m, x: pkcompiler.score(m, x, "synflow"),
    "prune": lambda m, x: pkcompiler.prune(m, x, "magnitude", density=0.5),
    "path_functional": pkcompiler.path_functional,
    "path_kernel": lambda m, x: pkcompiler.path_kernel(m, x).trace(),
    "ntk": lambda m, x: pkcompiler.ntk(m, x).trace(),
    "rescale": pkcompiler.rescale,
    "predict_trace": pkcompiler.predict_trace,
    "explicit": pkcompiler.explicit,
    "run_analysis": lambda m, x: pkcompiler.run_analysis(m, x, "path-kernel"),
}


def refusal(call: Callable[[], object]) -> PkcError:
    with pytest.raises(PkcError) as caught:
        call()
    return caught.value


def told(call: Callable[[], object], code: str, said: str) -> None:
    first = refusal(call).diagnostics[0]
    assert (first.code, said in first.message) == (code, True), first


# without values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_tensors_without_values(way: str) -> None:
    lazy = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3))
    told(lambda: WAYS[way](lazy, X), "PKC212", "lazy")
    with torch.device("meta"):
        meta = nn.Linear(6, 3)
    told(lambda: WAYS[way](meta, X), "PKC212", "meta device: weight, bias")


def test_a_lazy_module_is_not_masked() -> None:
    told(lambda: pkcompiler.apply_masks(nn.LazyLinear(3), {"weight": torch.ones(3, 6, dtype=torch.bool)}), "PKC474", "no shape yet")


# empty ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_nothing_in_and_nothing_out(way: str) -> None:
    empty = "PKC526" if way == "ntk" else "PKC203"
    told(lambda: WAYS[way](Net(), X[:0]), empty, "no sample")
    told(lambda: WAYS[way](nn.Linear(6, 0), X), "PKC204", "and no entry")
    if way not in ("ntk",):
        told(lambda: WAYS[way](Net(), X.to_sparse()), "PKC203", "is sparse")
        told(lambda: WAYS[way](Net(), X.to("meta")), "PKC203", "meta device")


def test_a_layer_without_entries_inside() -> None:
    model = nn.Sequential(nn.Linear(6, 0), nn.Linear(0, 2))
    told(lambda: pkcompiler.prune(model, X, "magnitude", density=0.5), "PKC402", "hold no entry")
    assert len(pkcompiler.explicit(model, X).paths) == 2  # the biases


# copies -----------------------------------------------------------------------------------------------------------------


class NoCopy(Net):
    def __deepcopy__(self, memo: Any) -> Net:
        raise RuntimeError("there is one of me")


class Another(Net):
    def __deepcopy__(self, memo: Any) -> Net:
        other = Another()
        other.f.reset_parameters()
        return other


class Forgetful(Net):
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "cache"}


class Reseeded(Net):
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.noise = torch.Generator()


@pytest.mark.parametrize("way", [way for way in WAYS if way != "run_analysis"])
def test_a_model_that_cannot_be_copied(way: str) -> None:
    told(lambda: WAYS[way](Net(lock=threading.Lock()), X), "PKC213", "attribute 'lock' of 'Net' (a lock)")


def test_copies_that_are_not_the_model() -> None:
    told(lambda: pkcompiler.analyze(Net(rows=(i for i in range(3))), X), "PKC213", "'rows' of 'Net' (a generator)")
    error = refusal(lambda: pkcompiler.analyze(NoCopy(), X)).diagnostics[0]
    assert error.code == "PKC213" and error.span is not None and "there is one of me" in error.message
    told(lambda: pkcompiler.analyze(Another(), X), "PKC213", "other parameters or buffers: f.bias, f.weight")
    told(lambda: pkcompiler.lower(Net(lock=threading.Lock()), {}), "PKC213", "lock")


def test_copies_that_lack_something_are_told() -> None:
    with pytest.warns(Remark, match="lacks 'cache'"):
        pkcompiler.analyze(Forgetful(cache={}), X)
    with pytest.warns(Remark, match="'noise' of 'Reseeded' has another state"):
        pkcompiler.analyze(Reseeded(noise=torch.Generator().manual_seed(3)), X)


def test_copies_that_are_the_model_are_not(recwarn: pytest.WarningsRecorder) -> None:
    pkcompiler.analyze(Net(noise=torch.Generator().manual_seed(3), cache={}), X)
    assert [w for w in recwarn if issubclass(w.category, Remark)] == []


class Unscaled(Net):
    """Its copy forgets the scale that it was built with, and draws as it does."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale=scale, generator=torch.Generator())

    def __deepcopy__(self, memo: Any) -> Net:
        other = type(self)()
        other.load_state_dict(self.state_dict())
        return other

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x) * self.scale


class Drawing(Unscaled):
    def forward(self, x: Tensor) -> Tensor:
        self.f.calls = getattr(self.f, "calls", 0) + 1
        return self.f(x) + torch.rand(3) + torch.rand(3, generator=self.generator) + next(DRAWS)


@pytest.mark.parametrize("way", WAYS)
def test_copies_that_compute_something_else(way: str) -> None:
    told(lambda: WAYS[way](Unscaled(7.0), X), "PKC213", "another output at the example")


def test_a_lowered_copy_computes_the_same() -> None:
    told(lambda: pkcompiler.lower(Unscaled(7.0), {"f.weight": torch.ones(3, 6).bool()}, X), "PKC213", "another output")
    assert pkcompiler.certify(Unscaled(), X).holds


class InPlaceOfIt(Unscaled):
    """Its copy is of its precision, so that the copies that analyses in float64 make beside that of the capture are looked at."""

    def __deepcopy__(self, memo: Any) -> Net:
        other = type(self)().to(self.f.weight.dtype)
        other.load_state_dict(self.state_dict())
        return other


REDRAWN = 'pass p { source = "of this test"  init = fresh  score = abs(theta) }'


@pytest.mark.parametrize(
    "act",
    [
        pkcompiler.rescale,
        pkcompiler.predict_trace,
        lambda m, x: pkcompiler.score(m, x, REDRAWN),
        lambda m, x: pkcompiler.lower(m, {}, x),
    ],
    ids=["rescale", "predict_trace", "redrawn", "lower"],
)
def test_copies_made_in_the_precision_of_the_model_compute_the_same(act: Callable[[nn.Module, Tensor], object]) -> None:
    told(lambda: act(InPlaceOfIt(7.0).double(), X.double()), "PKC213", "another output at the example")


def test_without_an_example_other_attributes_of_a_copy_are_told() -> None:
    with pytest.warns(Remark, match=r"scale = 1\.0 in 'Unscaled', where the model has 7\.0; give example_inputs"):
        pkcompiler.lower(Unscaled(7.0), {})
    pkcompiler.lower(Unscaled(), {})


def test_random_forwards_are_no_other_copies_and_stay_as_they_were() -> None:
    model = Drawing()
    before, own = torch.get_rng_state(), model.generator.get_state()
    faithful_copy(model, X)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(model.generator.get_state(), own)
    assert not hasattr(model.f, "calls")


# numbers ----------------------------------------------------------------------------------------------------------------


class Buffered(Net):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor([1.0, value, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x) * self.gain


@pytest.mark.parametrize("way", [way for way in WAYS if way != "analyze"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_buffers_that_are_not_finite_are_named(way: str, value: float) -> None:
    told(lambda: WAYS[way](Buffered(value), X), "PKC405", "buffer 'gain'")


def test_a_report_names_them() -> None:
    assert next(f.subject for f in pkcompiler.analyze(Buffered(math.nan), X).warnings) == "gain"


class Masking(Net):
    """Attention to earlier positions alone, its mask in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("later", torch.full((6, 6), -math.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.softmax(x[:, :, None] * x[:, None, :] + self.later, -1)
        return self.f((rows @ x[:, :, None])[..., 0])


def test_a_mask_of_minus_infinity_is_no_fault() -> None:
    assert pkcompiler.certify(Masking(), X).holds


class Float32Alone(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("float32 alone")
        return self.f(x)


def test_an_error_that_the_copy_in_float64_causes_says_so() -> None:
    pkcompiler.lift(Float32Alone(), X)
    told(lambda: pkcompiler.analyze(Float32Alone(), X), "PKC214", "its copy in float64")
    told(lambda: pkcompiler.ntk(Float32Alone(), X), "PKC214", "float32 alone")
    told(lambda: pkcompiler.analyze(Float32Alone(), X[:, :5]), "PKC203", "(2, 5)")


# whole numbers, samples, factors ------------------------------------------------------------------------------------------


class Permuted(Net):
    def __init__(self) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.tensor([5, 4, 3, 2, 1, 0]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x[:, self.order])


def test_an_integer_parameter_is_an_index() -> None:
    graph = pkcompiler.lift(Permuted(), X)
    assert [s.name for s in graph.parameters] == ["f.weight", "f.bias"]
    assert pkcompiler.certify(Permuted(), X).holds
    for way in ("analyze", "score", "prune", "path_functional", "ntk", "explicit"):
        WAYS[way](Permuted(), X)
    scores = pkcompiler.score(Permuted(), X, "snip", data=(X, Y))
    assert torch.allclose(scores["f.weight"], pkcompiler.score(Net(), X, "snip", data=(X.flip(1), Y))["f.weight"])


@pytest.mark.parametrize("way", [pkcompiler.apply_masks, pkcompiler.lower])
def test_masks_of_integers_are_refused(way: Callable[..., object]) -> None:
    told(lambda: way(Permuted(), {"order": torch.ones(6, dtype=torch.bool)}), "PKC474", "'order' is torch.int64")


class TimesSamples(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.f(x) * x.shape[0]


def test_the_number_of_samples_is_no_factor() -> None:
    told(lambda: pkcompiler.lift(TimesSamples(), X), "PKC201", "computes with the number of samples (x.shape[0])")
    error = refusal(lambda: pkcompiler.ntk(TimesSamples(), X))
    assert error.diagnostics[0].code == "PKC526" and "x.shape[0]" in error.diagnostics[0].notes[-1]


def test_batch_statistics_have_no_tangent_kernel() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    for x in (X, X[:1]):
        error = refusal(lambda x=x: pkcompiler.ntk(model, x))
        assert error.diagnostics[0].code == "PKC526" and "statistics of their own" in error.diagnostics[0].notes[-1]


class LowRank(Net):
    def __init__(self) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(torch.ones(2, 6)), nn.Parameter(torch.ones(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x) + F.linear(x, self.B @ self.A)


def test_both_factors_of_a_product_of_weights_are_prunable() -> None:
    assert {s.name for s in pkcompiler.lift(LowRank(), X).prunable} == {"f.weight", "A", "B"}
