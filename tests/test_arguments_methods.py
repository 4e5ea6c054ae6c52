"""Public functions, methods and constructors take what their signatures say: for any other type each raises a coded error, or
does its work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pkcompiler
from pkcompiler.artifact.manifest import GRAPH
from pkcompiler.diagnostics import PkcError
from pkcompiler.symbolic.closed import ClosedForm
from pkcompiler.tangent.ntk import FrozenKernel
from pkcompiler.training.cycle import Cycle
from pkcompiler.training.cycles import Cycles

WRONG = [None, "text", 3, -1, 2.5, True, [1], {}, {"a": 1}, torch.ones(3), torch.ones(5, 5), int, object()]
SCHEDULE = "schedule s { prune magnitude { at = epochs(1) density = 50% } }"
X = torch.ones(2, 4)
DATA = (X, torch.tensor([0, 1]))
CLASSES = {n: k for n in pkcompiler.__all__ if inspect.isclass(k := getattr(pkcompiler, n))}
RETURNED = {
    "FrozenKernel.eigenvalues": FrozenKernel.eigenvalues,
    "FrozenKernel.matvec": FrozenKernel.matvec,
    "ClosedForm.partial": ClosedForm.partial,
    "ClosedForm.subs": ClosedForm.subs,
    "ClosedForm.value": ClosedForm.value,
    "Cycles.follow": Cycles.follow,
    "Cycle.batches": Cycle.batches,
}
"""Methods of what public methods give, whose classes have no public name."""
ENTERED = ("__init__", "__call__", "__getitem__", "__contains__")
"""Methods that are called by another name than their own."""


@cache
def callables() -> dict[str, Callable[..., Any]]:
    """Every public function, and every method of every public class that takes something, by name."""
    found: dict[str, Callable[..., Any]] = {n: f for n in pkcompiler.__all__ if inspect.isfunction(f := getattr(pkcompiler, n))}
    for name, kind in CLASSES.items():
        for method in dir(kind):
            member = getattr(kind, method)
            if inspect.isfunction(member) and (method in ENTERED or not method.startswith("_")):
                found[f"{name}.{method}"] = member
    return {n: f for n, f in (found | RETURNED).items() if len(inspect.signature(f).parameters) > ("." in n)}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pkcompiler.prune(mlp(), X, "magnitude", density=0.5).save(tmp_path_factory.mktemp("artifacts") / "a")


WEIGHTS = [n for n, _ in mlp().named_parameters()]
EMPTIED = {"0.weight": torch.tensor([[False], [True], [True]]).expand(3, 4), "0.bias": torch.tensor([False, True, True])}


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


@cache
def subject(name: str, folder: Path) -> Any:
    """An object of a public class that nothing changes."""
    made: dict[str, Callable[[], Any]] = {
        "NTK": lambda: pkcompiler.ntk(mlp(), DATA),
        "FrozenKernel": lambda: pkcompiler.ntk(mlp(), DATA).frozen(),
        "AnalysisReport": lambda: pkcompiler.run_analysis(mlp(), X, "collapse"),
        "Artifact": lambda: pkcompiler.load(folder),
        "Certificate": lambda: pkcompiler.certify(mlp(), X),
        "ClosedForms": lambda: pkcompiler.closed_forms(mlp(), X),
        "ClosedForm": lambda: pkcompiler.closed_forms(mlp(), X).r2,
        "Compact": lambda: pkcompiler.compact(mlp(), EMPTIED, X),
        "Diagnostic": lambda: pkcompiler.Diagnostic("PKC211", "wrong"),
        "Dynamics": lambda: pkcompiler.dynamics(mlp(), DATA, lr=0.1, steps=1),
        "ExplicitKernel": lambda: pkcompiler.explicit(mlp(), X),
        "Exported": lambda: pkcompiler.export(mlp(), folder.parent / "mlp.safetensors", to="safetensors", force=True),
        "Functional": lambda: pkcompiler.path_functional(mlp(), X),
        "PathGraph": lambda: pkcompiler.lift(mlp(), X),
        "PathKernel": lambda: pkcompiler.path_kernel(mlp(), X),
        "Polynomials": lambda: pkcompiler.polynomials(mlp(), X),
        "Prediction": lambda: pkcompiler.predict_trace(mlp(), X),
        "Pruned": lambda: pkcompiler.prune(mlp(), X, "magnitude", density=0.5),
        "Report": lambda: pkcompiler.analyze(mlp(), X),
        "Rescaled": lambda: pkcompiler.rescale(mlp(), X),
        "Scores": lambda: pkcompiler.score(mlp(), X, "magnitude"),
        "TrainingSchedule": lambda: pkcompiler.load_schedule(SCHEDULE),
    }
    return made[name]()


def receiver(name: str, folder: Path) -> Any:
    """What a method is called on: made anew where the method changes it."""
    if name in ("Cycles", "Cycle"):
        model = mlp()
        run = subject("TrainingSchedule", folder).cycles(model, optimizer(model), X, epochs=2, steps_per_epoch=1)
        if name == "Cycles":
            return run
        cycle = next(run)
        next(cycle)
        return cycle
    if name == "LossPathKernel":
        made = pkcompiler.LossPathKernel(mlp(), DATA)
        made.record(mlp(), 0.1)
        return made
    return subject(name, folder)


def arguments(name: str, folder: Path) -> dict[str, Any]:
    """Arguments that a callable takes, made anew: what it needs by the names of its parameters, or what is said here."""
    kind, _, method = name.rpartition(".")
    if method == "__init__" and (constructed := constructor(kind, folder)) is not None:
        return constructed
    model = mlp()
    known: dict[str, Any] = {
        "model": model,
        "module": model,
        "optimizer": optimizer(model),
        "average": mlp(),
        "example_inputs": X,
        "inputs": X,
        "data": DATA,
        "masks": {"0.weight": torch.ones(3, 4, dtype=torch.bool)},
        "graph": subject("PathGraph", folder),
        "pass_": "magnitude",
        "analysis": "collapse",
        "path": folder,
        "path_or_text": SCHEDULE,
        "text": str(subject("PathGraph", folder)),
        "lr": 0.1,
        "steps": 1,
        "epochs": 2,
        "steps_per_epoch": 1,
        "u": torch.ones(subject("PathKernel", folder).size),
        "parts": {n: t.clone() for n, t in subject("PathKernel", folder).theta.items()},
        "names": "*",
        "loader": [X],
        "key": "0.weight",
        "name": "0.weight",
        "label": subject("AnalysisReport", folder).rows[0].label,
    }
    sigmas = {"sigma_0": 1, "sigma_2": 1}
    special: dict[str, dict[str, Any]] = {
        "prune": {"pass_": "magnitude", "density": 0.5},
        "closed_forms": {"example_inputs": X},
        "polynomials": {"example_inputs": X},
        "remove_masks": {"module": pkcompiler.apply_masks(mlp(), known["masks"])},
        "TrainingSchedule.cycles": {"example_inputs": X, "steps_per_epoch": 1},
        "explicit": {"graph": model},
        "NTK.matvec": {"u": torch.ones(4)},
        "FrozenKernel.matvec": {"u": torch.ones(4)},
        "PathKernel.matmat": {"u": known["u"][:, None]},
        "LossPathKernel.record": {"lr": 0.1},
        "compact": {"example_inputs": X},
        "Compact.expand": {"state": subject("Compact", folder).module.state_dict()},
        "Compact.expand_masks": {"masks": {"0.bias": torch.ones(2, dtype=torch.bool)}},
        "Compact.expand_optimizer": {"state": optimizer(mlp()).state_dict(), "names": WEIGHTS},
        "Compact.shrink_optimizer": {"state": optimizer(mlp()).state_dict(), "names": WEIGHTS},
        "Compact.shrink": {"state": model.state_dict()},
        "Compact.shrink_masks": {"masks": EMPTIED},
        "Artifact.text": {"name": GRAPH},
        "export": {"path": "mlp.safetensors", "to": "safetensors", "force": True},
        "import_masks": {"module_or_state": {"weight": torch.eye(2)}, "zeros": True},
        "Pruned.save": {"path": folder.parent / f"saved-{len(list(folder.parent.iterdir()))}"},
        "path_op": {"names": ("mine.none.default",)},
        "ClosedForm.partial": {"keep": ("n1",), "given": sigmas},
        "ClosedForm.value": {"more": sigmas},
        "ClosedForm.subs": {"more": sigmas},
    }
    needed = [n for n, p in parameters(name).items() if p.default is p.empty]
    given = special.get(name, {})
    return {n: given[n] if n in given else known[n] for n in dict.fromkeys((*needed, *given))}


def constructor(kind: str, folder: Path) -> dict[str, Any] | None:
    """The arguments of a constructor: the fields of an object that there is."""
    if kind == "LossPathKernel":
        return None
    if kind == "PkcError":
        return {"diagnostics": (subject("Diagnostic", folder),)}
    made = subject(kind, folder)
    if kind == "NTK":
        found, x = made.network, made._data
        return {"found": found, "data": x, "y": made.y, "masks": {}, "example_inputs": None, "dtype": torch.float64, "memory": 1000}
    if kind == "PathKernel":
        return {"graph": made.graph, "tensors": made._tensors, "chosen": made.settings, "masks": {}, "device": made.device}
    return {n: getattr(made, n) for n in parameters(f"{kind}.__init__")}


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return {n: p for n, p in inspect.signature(callables()[name]).parameters.items() if n != "self"}


def call(name: str, given: dict[str, Any], folder: Path) -> None:
    """Call with arguments by name; what takes any number of them gets a tuple, or a dict."""
    kind, _, method = name.rpartition(".")
    function = callables()[name]
    on = [] if not kind else [CLASSES[kind].__new__(CLASSES[kind])] if method == "__init__" else [receiver(kind, folder)]
    of = parameters(name)
    several = next((given[n] for n, p in of.items() if p.kind is p.VAR_POSITIONAL and n in given), ())
    more = next((given[n] for n, p in of.items() if p.kind is p.VAR_KEYWORD and n in given), {})
    named = {n: v for n, v in given.items() if of[n].kind not in (of[n].VAR_POSITIONAL, of[n].VAR_KEYWORD)}
    with torch.random.fork_rng():
        function(*on, *several, **named, **more)


def wrong_calls(name: str, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every parameter in turn with every value that may be wrong."""
    for parameter, of in parameters(name).items():
        for wrong in WRONG:
            value = (wrong,) if of.kind is of.VAR_POSITIONAL else {"sigma_0": wrong} if of.kind is of.VAR_KEYWORD else wrong
            yield f"{parameter} = {wrong!r}", {**arguments(name, folder), parameter: value}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(callables()))
def test_a_wrong_type_is_a_code_or_does_no_harm(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call(name, arguments(name, folder), folder)
    looks_up = name in ("Scores.__getitem__", "AnalysisReport.__getitem__", "PathGraph.slot")
    others = []
    for shown, given in wrong_calls(name, folder):
        try:
            call(name, given, folder)
        except PkcError as error:
            assert all(d.notes for d in error.diagnostics), str(error)
        except Exception as error:
            if not (looks_up and isinstance(error, KeyError)):
                others.append(f"{shown}: {type(error).__name__}: {error}"[:200])
    assert not others, "\n".join(others)
    call(name, arguments(name, folder), folder)
