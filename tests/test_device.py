"""Every public function, pass and analysis on a device that is not there: no two devices meet, the bits are those of the CPU."""

from __future__ import annotations

import copy
import inspect
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import pkcompiler
import pkcompiler.structure
import pkcompiler.training.visit
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.library import analysis_names, library_names
from tests.device import DEVICE, elsewhere
from tests.device_worlds import BUILD, World, X, Y, world
from tests.same_bits import close, same


@pytest.fixture(scope="module", autouse=True)
def captured_once() -> Iterator[None]:
    """One capture of each model in each place; the functions do not change the models that they are given."""
    kept: dict[Any, tuple[Any, Any, Any]] = {}

    def shared(model: Any, x: Any, **more: Any) -> Any:
        key = id(model), id(x), str(sorted(more.items()))
        if key not in kept:
            kept[key] = model, x, capture(model, x, **more)
        return kept[key][2]

    for name in pkcompiler.__all__:
        getattr(pkcompiler, name)
    homes = [m for name, m in sys.modules.items() if name.startswith("pkcompiler.") and getattr(m, "capture", None) is capture]
    with pytest.MonkeyPatch.context() as patch:
        for home in homes:
            patch.setattr(home, "capture", shared)
        yield


# what runs there ---------------------------------------------------------------------------------------------------------


def scored(name: str) -> Callable[[World], Any]:
    return lambda w: pkcompiler.score(w.model, w.x, name, data=w.data, masks=w.masks)


def pruned(name: str) -> Callable[[World], Any]:
    rounds = None if "phew" in name else 2
    return lambda w: pkcompiler.prune(w.model, w.x, name, density=0.4, rounds=rounds, data=w.data).masks


def analysed(name: str) -> Callable[[World], Any]:
    return lambda w: pkcompiler.run_analysis(w.model, w.x, name, data=w.data, masks=w.masks, verify=True)


def of_path_kernel(w: World) -> list[Any]:
    kernel = pkcompiler.path_kernel(w.model, w.x, w.masks)
    ones = torch.ones(kernel.size, dtype=torch.float64)
    return [
        kernel.dense() if kernel.size < 100 else 0,
        kernel.eigenvalues(3),
        kernel.traces_by_output(),
        kernel.frobenius(samples=2),
        kernel.density(n=5, probes=2),
        kernel.matvec(ones),
        kernel.matmat(w.put(ones[:, None])),
        kernel.flatten(kernel.split(ones)),
        torch.from_numpy(kernel.linear_operator() @ ones.numpy()),
        kernel.restricted("*weight").trace(),
    ]


def of_ntk(w: World) -> list[Any]:
    kernel = pkcompiler.ntk(w.model, w.data, w.masks)
    free = pkcompiler.ntk(w.model, w.data, memory=4_000)
    found = [kernel.kernel, kernel.bound(), kernel.frozen().kernel, kernel.difference(), kernel.alignment(), free.eigenvalues(2)]
    return [
        *found,
        kernel.jacobian.vectorised,
        free.jacobian.vectorised,
        len(free.jacobian._modes),
    ]  # no error fell back on slow ways


def recorded(w: World) -> list[Any]:
    kernel = pkcompiler.LossPathKernel(w.model, w.data, samples=[0, 1])
    kernel.record(w.fresh(), 0.1)
    kernel.close(w.fresh())
    trained = pkcompiler.LossPathKernel(w.model, w.data, 0.1, 2, masks=w.masks)
    own = pkcompiler.LossPathKernel(w.model, w.data, 0.1, 1, loss=F.cross_entropy)
    return [kernel.kernel, kernel.losses(), kernel.drops(), kernel.explained(), trained.kernel, own.kernel]


def predicted(w: World) -> list[Any]:
    def moments(value: float) -> Tensor:
        return w.put(torch.full(tuple(w.x.shape[1:]), value))

    given = {"mean": moments(0.5), "second_moment": moments(1.5), "draws": 3}
    return [
        pkcompiler.predict_trace(w.model, w.x, masks=w.masks, draws=3),
        pkcompiler.predict_trace(w.model, w.x, method="monte carlo", initialise=lambda seed: BUILD[w.kind](), **given),
    ]


def saved(w: World) -> list[Any]:
    found = pkcompiler.prune(w.model, w.x, "synflow", density=0.4, rounds=2)
    with tempfile.TemporaryDirectory() as folder:
        artifact = pkcompiler.load(found.save(Path(folder) / "out"))
        lowered, applied = artifact.lower(w.fresh()), artifact.apply(w.fresh())
        return [found.report, artifact.masks, lowered(w.x), applied(w.x), lowered.state_dict(), applied.state_dict()]


def trained(w: World) -> list[Any]:
    text = """schedule rewinding {
      prune snip { density = 60% at = start }
      prune magnitude { density = 30% rounds = 2 at = end rewind = epoch(1) }
    }"""
    model, (x, y) = w.fresh(), (w.put(w.data[0]), w.put(w.data[1]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = pkcompiler.load_schedule(text)
    for cycle in schedule.cycles(model, optimizer, w.x[:1], epochs=2, data=w.data):
        for _ in cycle:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            cycle.step()
            cycle.epoch_end()
    return [cycle.masks, model.state_dict()]


def exported(w: World) -> Tensor:
    """What the file of a model on the device computes on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.pt2"
        pkcompiler.export(w.model, file, to="pt2", example_inputs=w.x, masks=w.masks)
        return torch.export.load(file).module()(w.x.cpu())


def moved(w: World) -> list[Any]:
    """A network that is masked on the CPU and moved, then trained by a step."""
    masks = {n: m.cpu() for n, m in w.masks.items()}
    net = w.put(pkcompiler.lower(BUILD[w.kind](), masks, X[w.kind] if w.kind == "attention" else None)).train()
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    F.cross_entropy(net(w.x), w.put(Y)).backward()
    optimizer.step()
    parameters = dict(net.named_parameters())
    assert all(not parameters[n].detach().cpu()[~m].any() for n, m in masks.items())
    return [net.state_dict(), copy.deepcopy(net).cpu().state_dict()]


def weighed(w: World) -> list[Any]:
    """Losses of the user's: a mean by class weights, and a sum with a number of Python's."""
    mean = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    losses = mean, lambda output, y: (F.cross_entropy(output, y, reduction="sum"), float(len(y)))
    return [pkcompiler.score(w.model, w.x, name, data=w.data, loss=loss).tensors for loss in losses for name in ("snip", "fisher")]


def grouped(w: World) -> list[Any]:
    found = pkcompiler.structure.coupling(pkcompiler.lift(w.model, w.x))
    scores = {n: p.detach().abs() for n, p in w.model.named_parameters()}
    of_groups = pkcompiler.structure.group_scores(found, scores, masks=w.masks)
    kept = pkcompiler.structure.select_groups(found, scores, lambda masks: sum(int(m.sum()) for m in masks.values()) <= 60)
    return [found.groups, of_groups, pkcompiler.structure.removal_order(found, of_groups), kept]


SHAPED = """schedule shaped {
  prune magnitude { density = 50% structure = channel }
  prune snip { density = 40% structure = block(2, 2) rounds = 2 }
  prune synflow { density = 30% swap = 10% regrow = abs(grad(loss, theta)) }
}"""

ENTRIES: dict[str, tuple[str, Callable[[World], Any]]] = {
    **{f"score {name}": ("attention", scored(name)) for name in library_names() if name != "synflow-l2-dist-squared-mean"},
    "score synflow-l2-dist-squared-mean": ("mlp", scored("synflow-l2-dist-squared-mean")),
    **{f"prune {name}": ("cnn", pruned(name)) for name in library_names()},
    **{f"run_analysis {name}": ("cnn", analysed(name)) for name in analysis_names()},
    "run_analysis generalisation of tokens": ("attention", analysed("generalisation")),
    "lift": ("attention", lambda w: pkcompiler.lift(w.model, w.x)),
    "certify": ("cnn", lambda w: pkcompiler.certify(w.model, w.x)),
    "certify tokens": ("attention", lambda w: pkcompiler.certify(w.model, w.x)),
    "path_functional": (
        "cnn",
        lambda w: pkcompiler.path_functional(
            w.model, w.x, gates="data", input="data^2", data=w.data, masks=w.masks, output=torch.ones(3)
        ),
    ),
    "path_functional of tokens": ("attention", lambda w: pkcompiler.path_functional(w.model, w.x, edge="1", masks=w.masks)),
    "analyze": ("cnn", lambda w: pkcompiler.analyze(w.model, w.x, w.masks)),
    "path_kernel": ("mlp", of_path_kernel),
    "path_kernel of tokens": ("attention", lambda w: pkcompiler.path_kernel(w.model, w.x, w.masks).diagonal()),
    "explicit": ("mlp", lambda w: (lambda e: [e.kernel, e.gram])(pkcompiler.explicit(w.model, w.x, w.masks))),
    "ntk": ("mlp", of_ntk),
    "ntk of tokens": ("attention", lambda w: (lambda k: [k.kernel, k.frozen().kernel])(pkcompiler.ntk(w.model, w.data, w.masks))),
    "dynamics": ("mlp", lambda w: pkcompiler.dynamics(w.model, w.data, lr=0.01, steps=3, verify=True)),
    "LossPathKernel": ("mlp", recorded),
    "predict_trace": ("mlp", predicted),
    "rescale": ("cnn", lambda w: (lambda r: [r.state_dict, r.objective])(pkcompiler.rescale(w.model, w.x, masks=w.masks))),
    "rescale by powers of two": ("mlp", lambda w: pkcompiler.rescale(w.model, w.x, powers_of_two=True).state_dict),
    **{
        f"{name} normed": ("normed", of)
        for name, of in {"score synflow-l2": scored("synflow-l2"), "score grasp": scored("grasp")}.items()
    },
    "certify normed": ("normed", lambda w: pkcompiler.certify(w.model, w.x)),
    "path_kernel normed": (
        "normed",
        lambda w: (lambda k: [k.dense(), k.diagonal(), k.trace()])(pkcompiler.path_kernel(w.model, w.x)),
    ),
    "certify gated": ("gated", lambda w: pkcompiler.certify(w.model, w.x)),
    "score gated": (
        "gated",
        lambda w: [pkcompiler.score(w.model, w.x, p, data=w.data).tensors for p in ("px", "synflow-value", "fisher")],
    ),
    "ntk gated": ("gated", lambda w: (lambda k: [k.kernel, k.frozen().kernel, k.bound()])(pkcompiler.ntk(w.model, w.data))),
    "score weighed": ("mlp", weighed),
    "lower moved": ("cnn", moved),
    "lower exported and moved": ("attention", moved),
    "lower": ("cnn", lambda w: (lambda net: [net(w.x), net.state_dict()])(pkcompiler.lower(w.model, w.masks))),
    "lower exported": ("attention", lambda w: pkcompiler.lower(w.model, w.masks, w.x)(w.x)),
    "compact": ("cnn", lambda w: (lambda net: [net(w.x), net.state_dict()])(pkcompiler.compact(w.model, w.masks, w.x).module)),
    "apply_masks": ("cnn", lambda w: pkcompiler.apply_masks(w.fresh(), w.masks)(w.x)),
    "remove_masks": ("cnn", lambda w: pkcompiler.remove_masks(pkcompiler.apply_masks(w.fresh(), w.masks))(w.x)),
    "export": ("cnn", exported),
    "import_masks": ("cnn", lambda w: pkcompiler.import_masks(pkcompiler.apply_masks(w.fresh(), w.masks))),
    "prune shaped": ("mlp", lambda w: pkcompiler.prune(w.model, w.x, schedule=SHAPED, data=w.data, masks=w.masks).masks),
    "load": ("cnn", saved),
    "load_schedule": ("mlp", trained),
    "channel_groups": ("cnn", lambda w: pkcompiler.channel_groups(pkcompiler.lift(w.model, w.x))),
    "groups": ("cnn", grouped),
    "polynomials": ("mlp", lambda w: str(pkcompiler.polynomials(w.model[:1], w.x).r2)),
    "closed_forms": ("cnn", lambda w: str(pkcompiler.closed_forms(w.model, w.x, variances="he"))),
}


EXPECTED: dict[str, Any] = {}


def expected(entry: str) -> Any:
    if entry not in EXPECTED:
        kind, of = ENTRIES[entry]
        EXPECTED[entry] = of(world(kind, "here"))
    return EXPECTED[entry]


@pytest.fixture(autouse=True)
def one_attention() -> Iterator[None]:
    """torch chooses its kernel by the kind of the device."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.mark.filterwarnings("ignore:.*has score 0. position alone")
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_same_bits_there(entry: str) -> None:
    kind, of = ENTRIES[entry]
    there = expected(entry)
    with elsewhere():
        assert same(there, of(world(kind, "there")))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:.*has score 0. position alone")
@pytest.mark.parametrize("entry", ENTRIES)
def test_nearly_the_same_on_a_cuda_device(entry: str) -> None:
    kind, of = ENTRIES[entry]
    with torch.backends.cudnn.flags(allow_tf32=False):
        assert close(expected(entry), of(world(kind, "there", torch.device("cuda", 0))))


ALL_THERE = (
    "score snip",
    "score prospr",
    "score synflow",
    "score phew",
    "score node-path-balance",
    "prune force",
    "prune shaped",
    "run_analysis generalisation",
    "path_functional",
    "analyze",
    "certify",
    "score gated",
    "score weighed",
    "predict_trace",
    "path_kernel",
    "explicit",
    "ntk",
    "dynamics",
    "LossPathKernel",
    "rescale",
    "lower",
    "compact",
    "apply_masks",
    "groups",
)


@pytest.mark.parametrize("entry", ALL_THERE)
def test_the_same_bits_where_data_and_masks_are_there_too(entry: str) -> None:
    kind, of = ENTRIES[entry]
    there = expected(entry)
    with elsewhere():
        assert same(there, of(world(kind, "all there")))


def test_every_public_function_is_tried_there() -> None:
    functions = {n for n in pkcompiler.__all__ if inspect.isroutine(getattr(pkcompiler, n))}
    tried = {n.partition(" ")[0] for n in ENTRIES}
    assert functions - tried == {"parse_graph", "path_op"}  # they take no tensors
    for function in ("score", "prune"):
        assert set(library_names()) <= {n.partition(" ")[2] for n in ENTRIES if n.startswith(function)}
    assert set(analysis_names()) <= {n.partition(" ")[2] for n in ENTRIES if n.startswith("run_analysis")}


def test_what_comes_back_lies_where_the_model_is_and_masks_on_the_cpu() -> None:
    with elsewhere():
        w = world("mlp", "all there")
        found = pkcompiler.prune(w.model, w.x, "synflow", density=0.4, masks=w.masks)
        assert {m.device.type for m in found.masks.values()} == {"cpu"}
        assert found.origin is not None and found.origin.recipe["device"] == DEVICE.type  # masks are a function of it
        scores = pkcompiler.score(w.model, w.x, "snip", data=w.data, masks=w.masks)
        functional = pkcompiler.path_functional(w.model, w.x, output="each")
        kernel = pkcompiler.ntk(w.model, w.data)
        spectrum = pkcompiler.path_kernel(w.model, w.x).eigenpairs(2)
        lowered = pkcompiler.lower(w.model, found.masks)
        there = [*scores.values(), *functional.grad.values(), functional.mantissa, kernel.kernel, kernel.eigenvalues(2)]
        assert {t.device for t in (*there, spectrum.vectors, *lowered.state_dict().values())} == {DEVICE}
