"""A caller's context changes nothing: every public entry gives the same bits under every mode of torch's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pkcompiler
import pkcompiler.data
import pkcompiler.rescaling
import pkcompiler.structure
import pkcompiler.symbolic
import pkcompiler.training
from pkcompiler.diagnostics import PkcError
from pkcompiler.driver.certify import certificate
from pkcompiler.driver.open import Opened, open_model
from pkcompiler.driver.prune import job
from pkcompiler.lang.plan import plan_of
from pkcompiler.modes import MARK, in_own_modes, own_modes
from tests.same_bits import close, same


class Net(nn.Module):
    """A GELU beside a ReLU, and numbers of no dtype of their own; x [batch, 4] to [batch, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.c(nn.functional.gelu(self.b(h)) + h * (torch.arange(6) / 7))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def piecewise() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def the_others() -> Iterator[None]:
    with default_dtype(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        yield


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference_mode": torch.inference_mode,
    "the others": the_others,
}
ONE_BY_ONE: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": default_dtype,
    "default device": default_device,
    "device": lambda: torch.device("meta"),
    "grad": lambda: torch.set_grad_enabled(False),
}

MODEL, RELU = net(), piecewise()
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
Y = torch.tensor([0, 1, 2, 1, 0])
DATA = (X, Y)
MASKS = {"b.weight": torch.rand(6, 6, generator=torch.Generator().manual_seed(3)) > 0.5}
EMPTIED = {n: torch.ones_like(p).bool() for n, p in MODEL.named_parameters()}
for of_unit in ("a.weight", "a.bias", "b.weight", "b.bias"):
    EMPTIED[of_unit][:2] = False
GRAPH = pkcompiler.lift(MODEL, X)
TRAINED = net(4), net(5)
TRAINING = "schedule gradual { prune magnitude { density = 50% at = epochs(1..2) } }"
FRESH = "pass fresh-snip { init = fresh score = abs(theta * grad(loss, theta)) rounds = 1 }"


def trained(model: nn.Module) -> list[Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for cycle in pkcompiler.load_schedule(TRAINING).cycles(model, optimizer, X[:1], epochs=2):
        for _ in cycle:
            cycle.step()
            cycle.epoch_end()
    return [cycle.masks, model.state_dict()]


def recorded() -> list[Any]:
    kernel = pkcompiler.LossPathKernel(MODEL, DATA, samples=[0, 1])
    kernel.record(TRAINED[0], 0.1)
    kernel.close(TRAINED[1])
    return [kernel.kernel, kernel.losses(), kernel.drops(), kernel.explained()]


def of_path_kernel() -> list[Any]:
    kernel = pkcompiler.path_kernel(MODEL, X)
    return [
        kernel.trace(),
        kernel.value(),
        kernel.eigenvalues(3),
        kernel.diagonal(),
        kernel.dense(),
        kernel.restricted("a.*").trace(),
    ]


def of_ntk() -> list[Any]:
    kernel = pkcompiler.ntk(MODEL, DATA)
    return [kernel.kernel, kernel.trace(), kernel.bound(), kernel.frozen().kernel, kernel.difference()]


def rescaled() -> list[Any]:
    found = pkcompiler.rescale(RELU, X)
    return [found.state_dict, found.objective]


def grouped() -> list[Any]:
    found = pkcompiler.structure.coupling(GRAPH)
    scores = {n: p.detach().abs() for n, p in MODEL.named_parameters()}
    of_groups = pkcompiler.structure.group_scores(found, scores)
    kept = pkcompiler.structure.select_groups(found, scores, lambda masks: sum(int(m.sum()) for m in masks.values()) <= 60)
    return [of_groups, pkcompiler.structure.removal_order(found, of_groups), kept]


def exported() -> bytes:
    with TemporaryDirectory() as folder:
        (file,) = pkcompiler.export(MODEL, Path(folder) / "net.pt2", to="pt2", example_inputs=X, masks=MASKS, check=False).files
        return file.read_bytes()


def scored(name: str) -> Callable[[], Any]:
    return lambda: pkcompiler.score(MODEL, X, name, data=DATA)


ON_A_MODEL: dict[str, Callable[[nn.Module], Any]] = {
    "apply_masks": lambda model: pkcompiler.apply_masks(model, MASKS).state_dict(),
    "remove_masks": lambda model: pkcompiler.remove_masks(pkcompiler.apply_masks(model, MASKS)).state_dict(),
    "cycles": trained,
}
"""What changes the model that it is given."""

ENTRIES: dict[str, Callable[[], Any]] = {
    "lift": lambda: pkcompiler.lift(MODEL, X),
    "certify": lambda: [pkcompiler.certify(MODEL, X), pkcompiler.certify(RELU, X)],
    "path_functional": lambda: pkcompiler.path_functional(MODEL, X, gates="data", data=DATA, masks=MASKS),
    "path_functional float32": lambda: pkcompiler.path_functional(MODEL, X, edge="theta^2", dtype=torch.float32),
    "analyze": lambda: pkcompiler.analyze(MODEL, X, MASKS),
    "run_analysis": lambda: pkcompiler.run_analysis(RELU, X, "ntk", data=DATA),
    **{name: scored(name) for name in ("synflow", "snip", "grasp", "ntk-sap", "fisher", "path-kernel-trace", "px")},
    "snip float32": lambda: pkcompiler.score(MODEL, X, "snip", data=DATA, dtype=torch.float32),
    "prune": lambda: pkcompiler.prune(MODEL, X, "synflow", density=0.3, rounds=3).masks,
    "prune fresh": lambda: pkcompiler.prune(MODEL, X, FRESH, density=0.3, data=DATA, initialise=net).masks,
    "path_kernel": of_path_kernel,
    "explicit": lambda: (lambda e: [e.kernel, e.gram])(pkcompiler.explicit(RELU, X)),
    "ntk": of_ntk,
    "dynamics": lambda: pkcompiler.dynamics(MODEL, DATA, lr=0.01, steps=3, verify=True),
    "LossPathKernel": recorded,
    "LossPathKernel trained": lambda: pkcompiler.LossPathKernel(MODEL, DATA, 0.1, 2).kernel,
    "predict_trace": lambda: pkcompiler.predict_trace(RELU, X, draws=3),
    "predict_trace monte carlo": lambda: pkcompiler.predict_trace(MODEL, X, draws=2, method="monte carlo", initialise=net),
    "rescale": rescaled,
    "lower": lambda: pkcompiler.lower(MODEL, MASKS).state_dict(),
    "compact": lambda: pkcompiler.compact(MODEL, EMPTIED, X).module.state_dict(),
    "export": exported,
    "import_masks": lambda: pkcompiler.import_masks({"a": MASKS["b.weight"] * 2.0}, zeros=True),
    "channel_groups": lambda: pkcompiler.channel_groups(GRAPH),
    "groups": grouped,
    "data": lambda: [pkcompiler.data.load_data("digits(per_class = 2)").x, pkcompiler.data.subset(DATA).x],
    "polynomials": lambda: str(pkcompiler.polynomials(RELU[:2], X)),
    "closed_forms": lambda: str(pkcompiler.closed_forms(RELU, X, variances="he")),
}


EXPECTED: dict[str, Any] = {}


def expected(entry: str) -> Any:
    if entry not in EXPECTED:
        EXPECTED[entry] = ENTRIES[entry]()
    return EXPECTED[entry]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_same_bits_in_every_context(entry: str, context: str) -> None:
    there = expected(entry)
    with CONTEXTS[context]():
        found = ENTRIES[entry]()
    assert same(there, found)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("entry", ON_A_MODEL)
def test_a_model_is_changed_alike_in_every_context(entry: str, context: str) -> None:
    there, model = ON_A_MODEL[entry](net()), net()
    with CONTEXTS[context]():
        found = ON_A_MODEL[entry](model)
    assert same(there, found)


@pytest.mark.parametrize("context", ONE_BY_ONE)
@pytest.mark.parametrize("entry", ["certify", "grasp", "path_kernel", "snip float32", "channel_groups"])
def test_the_same_bits_in_each_other_context(entry: str, context: str) -> None:
    there = expected(entry)
    with ONE_BY_ONE[context]():
        found = ENTRIES[entry]()
    assert same(there, found)


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("alike", [same, close])
def test_numbers_that_differ_are_seen(name: str, alike: Callable[[Any, Any], bool]) -> None:
    one = {"a": torch.ones(2), "b": [1.0, {"c": torch.zeros(1)}]}
    other = {"a": torch.ones(2), "b": [1.0, {"c": torch.zeros(1)}]}
    assert alike(one, other)
    assert not alike(one, {**other, name: 2 * torch.ones(2) if name == "a" else [1.0, {"c": torch.ones(1)}]})


# inference tensors ------------------------------------------------------------------------------------------------------


def held_in_inference_mode() -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    with torch.inference_mode():
        model, masks = net(), {n: m.clone() for n, m in MASKS.items()}
        return model, X.clone(), masks


def test_what_was_made_in_inference_mode_is_as_good() -> None:
    model, x, masks = held_in_inference_mode()
    data = (x, Y)
    assert next(model.parameters()).is_inference()
    assert x.is_inference()
    for found, there in (
        (pkcompiler.certify(model, x), pkcompiler.certify(MODEL, X)),
        (pkcompiler.path_functional(model, x, masks=masks), pkcompiler.path_functional(MODEL, X, masks=MASKS)),
        (pkcompiler.path_functional(model, {"x": x}), pkcompiler.path_functional(MODEL, {"x": X})),
        (pkcompiler.score(model, x, "snip", data=data), pkcompiler.score(MODEL, X, "snip", data=DATA)),
        (pkcompiler.score(model, x, "snip", data=data, dtype=torch.float32), expected("snip float32")),
        (pkcompiler.prune(model, x, "synflow", density=0.3, rounds=3).masks, expected("prune")),
        (pkcompiler.ntk(model, data, masks).kernel, pkcompiler.ntk(MODEL, DATA, MASKS).kernel),
        (pkcompiler.dynamics(model, data, lr=0.01, steps=3, verify=True), expected("dynamics")),
        (pkcompiler.path_kernel(model, x, masks).dense(), pkcompiler.path_kernel(MODEL, X, MASKS).dense()),
        (pkcompiler.lift(model, x), expected("lift")),
    ):
        assert same(there, found)


def test_a_lowered_copy_of_what_was_made_in_inference_mode_trains() -> None:
    model, x, masks = held_in_inference_mode()
    lowered = pkcompiler.lower(model, masks)
    assert not any(t.is_inference() for t in lowered.state_dict().values())
    lowered(x.clone()).sum().backward()


@pytest.mark.parametrize("entry", ON_A_MODEL)
def test_a_model_of_inference_tensors_cannot_be_pruned_in_place(entry: str) -> None:
    model, _, _ = held_in_inference_mode()
    with pytest.raises(PkcError) as caught:
        ON_A_MODEL[entry](model)
    assert [d.code for d in caught.value.diagnostics] == ["PKC474"]


# the decorators ---------------------------------------------------------------------------------------------------------

UNTORCHED = {"parse_graph", "path_op", "parse_data"}
"""Public functions that compute with no tensors."""

PACKAGES = (pkcompiler, pkcompiler.data, pkcompiler.rescaling, pkcompiler.structure, pkcompiler.symbolic, pkcompiler.training)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_function_sets_its_own_modes(package: Any) -> None:
    functions = {n: getattr(package, n) for n in package.__all__ if inspect.isroutine(getattr(package, n))}
    assert functions
    assert {n for n, f in functions.items() if not hasattr(f, MARK)} <= UNTORCHED


def test_every_public_function_is_tried_in_every_context() -> None:
    functions = {n for n in pkcompiler.__all__ if inspect.isroutine(getattr(pkcompiler, n))} - UNTORCHED
    tried = {n.partition(" ")[0] for n in (*ENTRIES, *ON_A_MODEL)}
    assert functions - tried == {"load", "load_schedule", "score"}  # of files; of cycles; under the names of its passes


def modes() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_default_dtype(),
        torch.get_default_device().type,
        torch.backends.mha.get_fastpath_enabled(),
    )


OWN = (True, False, False, False, torch.float32, "cpu", False)


@pytest.mark.parametrize("context", [*CONTEXTS, *ONE_BY_ONE])
def test_modes_are_as_they_were_afterwards(context: str) -> None:
    with {**CONTEXTS, **ONE_BY_ONE}[context]():
        before = modes()
        with pytest.raises(ZeroDivisionError), own_modes():
            assert modes() == OWN
            torch.set_default_dtype(torch.float64)  # as a model's file may do
            torch.set_grad_enabled(False)
            raise ZeroDivisionError
        assert modes() == before


def test_a_generator_is_in_its_own_modes_and_its_reader_in_his() -> None:
    @in_own_modes
    def numbers() -> Iterator[tuple[Any, ...]]:
        for _ in range(2):
            yield modes()

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        theirs = modes()
        for found in numbers():
            assert found == OWN
            assert modes() == theirs


def test_a_loss_of_the_users_is_in_the_same_modes_too() -> None:
    seen = []

    def loss(output: Tensor, target: Tensor | None) -> Tensor:
        seen.append(modes())
        return output.square().mean()

    with torch.autocast("cpu", torch.bfloat16):
        pkcompiler.score(MODEL, X, "snip", data=DATA, loss=loss)
    assert set(seen) == {OWN}


# the command line -------------------------------------------------------------------------------------------------------

FILE = """
import torch
from torch import nn
{header}

def model():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

def example_inputs():
    return torch.ones(1, 4)
"""


def opened(folder: Path, name: str, header: str) -> Opened:
    file = folder / f"{name}.py"
    file.write_text(FILE.format(header=header))
    return open_model(str(file))


def test_a_models_file_may_leave_modes_behind(tmp_path: Path) -> None:
    """``pkc`` runs it in its own process, and whatever comes next is as without."""
    found = []
    for name, header in (("plain", ""), ("modes", "torch.set_grad_enabled(False)")):
        model = opened(tmp_path, name, header)
        run = job(model, plan_of("synflow", target=("density", 0.5))).run
        found.append([certificate(model), [state.masks for state in run.rounds()]])
    assert found[0][0].tested == 4
    assert same(found[0], found[1])
    assert modes()[0]


def test_a_factory_is_called_again_in_its_files_default_dtype(tmp_path: Path) -> None:
    model = opened(tmp_path, "double", "torch.set_default_dtype(torch.float64)")
    assert model.initialise is not None
    again = model.initialise(model.seed)
    assert torch.get_default_dtype() == torch.float32
    assert same(dict(model.module.state_dict()), dict(again.state_dict()))
    assert {p.dtype for p in again.parameters()} == {torch.float64}
