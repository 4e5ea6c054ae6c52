"""Public functions take what their signatures say: anything else is an error that names the argument."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pkcompiler
from pkcompiler.arguments import CHECKED, fits, words
from pkcompiler.diagnostics import PkcError

FUNCTIONS = {n: f for n in pkcompiler.__all__ if inspect.isfunction(f := getattr(pkcompiler, n))}
FUNCTIONS["LossPathKernel"] = pkcompiler.LossPathKernel.__init__
X = torch.ones(2, 4)
DATA = (torch.ones(2, 4), torch.tensor([0, 1]))


class Odd:
    """Of no type that anything takes."""

    def __repr__(self) -> str:
        return "odd"


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def refusal(call: Callable[[], object]) -> PkcError:
    with pytest.raises(PkcError) as caught:
        call()
    assert all(d.notes and d.message.count("\n") == 0 for d in caught.value.diagnostics)
    return caught.value


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_of_every_public_function_is_checked(name: str) -> None:
    function = FUNCTIONS[name]
    assert getattr(function, CHECKED, False)
    kinds = {n: k for n, k in get_type_hints(function).items() if n != "return" and not fits(Odd(), k)}
    parameters = [p for n, p in inspect.signature(function).parameters.items() if n != "self"]
    several = [p for p in parameters if p.kind is p.VAR_POSITIONAL]
    named = {p.name: Odd() for p in parameters if p not in several}
    receiver = [object()] if name == "LossPathKernel" else []
    error = refusal(lambda: function(*receiver, *(Odd() for _ in several), **named))
    assert len(error.diagnostics) == len(kinds)
    for argument, diagnostic in zip(kinds, error.diagnostics, strict=True):
        assert diagnostic.code in ("PKC211", "PKC207", "PKC401")
        assert argument in diagnostic.message or diagnostic.code == "PKC207"


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        (lambda: pkcompiler.prune(mlp(), X, "magnitude", density=0.5, rounds=2.5), "PKC211", "rounds = 2.5 is a float"),
        (lambda: pkcompiler.prune(mlp(), X, "magnitude", density="3"), "PKC211", "density = '3' is a str"),
        (lambda: pkcompiler.prune(mlp(), X, "magnitude", density=math.nan), "PKC211", "density = nan"),
        (lambda: pkcompiler.prune(mlp(), X, "magnitude", density=0.5, seed=True), "PKC211", "seed = True is a bool"),
        (lambda: pkcompiler.prune(mlp(), X, "magnitude", density=0.5, masks=[]), "PKC401", "masks are a list"),
        (lambda: pkcompiler.analyze(mlp(), X, {"0.weight": np.ones((3, 4))}), "PKC401", "a ndarray for '0.weight'"),
        (lambda: pkcompiler.analyze(mlp(), X, {0: torch.ones(3, 4)}), "PKC401", "named by 0, a int"),
        (lambda: pkcompiler.analyze(nn.Linear, X), "PKC207", "not the class Linear"),
        (lambda: pkcompiler.path_kernel(pkcompiler.lift(mlp(), X), X), "PKC207", "not a PathGraph"),
        (lambda: pkcompiler.channel_groups(mlp()), "PKC211", "is a torch.nn.Sequential"),
        (lambda: pkcompiler.explicit(pkcompiler.lift(mlp(), X), X), "PKC211", "a graph is given with a Tensor"),
        (lambda: pkcompiler.explicit(pkcompiler.lift(mlp(), X), {"0.weight": torch.ones(1)}), "PKC211", "of shape (1,)"),
        (lambda: pkcompiler.score(mlp(), X, "synflow", dtype=torch.int64), "PKC501", "not torch.int64"),
        (lambda: pkcompiler.ntk(mlp(), X, dtype=None), "PKC211", "dtype is None"),
        (lambda: pkcompiler.path_functional(mlp(), X, output=torch.ones(3)), "PKC501", "of shape (3,)"),
        (lambda: pkcompiler.prune(mlp(), X, "magnitude", density=0.5, seed=10**30), "PKC211", "seed = 10000"),
        (lambda: pkcompiler.predict_trace(mlp(), X, second_moment=10**30), "PKC211", "second_moment = 1000"),
        (lambda: pkcompiler.rescale(mlp(), X, tolerance=-1.0), "PKC540", "tolerance = -1"),
        (lambda: pkcompiler.rescale(mlp(), X, steps=-1), "PKC540", "steps = -1"),
        (lambda: pkcompiler.lower(mlp(), {}, (X, X)), "PKC203", "too many positional arguments"),
        (lambda: pkcompiler.lower(mlp(), {"0.weight": torch.ones(3, 4, dtype=torch.bool, device="meta")}), "PKC472", "meta device"),
        (lambda: pkcompiler.ntk(mlp(), (*DATA, X)), "PKC505", "data holds 3 parts"),
        (lambda: pkcompiler.predict_trace(mlp(), X, initialise=lambda seed: 1 / 0), "PKC243", "ZeroDivisionError"),
        (lambda: pkcompiler.score(mlp(), X, "snip", data=DATA, loss=lambda o, t: 1 / 0), "PKC243", "ZeroDivisionError"),
    ],
)
def test_what_is_said(call: Callable[[], object], code: str, said: str) -> None:
    error = refusal(call)
    assert (error.diagnostics[0].code, said in error.diagnostics[0].message) == (code, True), str(error)


def test_numbers_of_numpy_are_numbers() -> None:
    found = pkcompiler.prune(mlp(), X, "magnitude", density=np.float64(0.5), rounds=np.int64(2))
    assert sum(int(m.sum()) for m in found.masks.values()) == 9


@pytest.mark.parametrize(
    ("value", "kind", "whether"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (math.inf, float, True),
        (math.nan, float, False),
        (1.0, int, False),
        (None, int | None, True),
        ({"a": torch.ones(1)}, dict[str, Tensor], True),
        ({"a": 1}, dict[str, Tensor], False),
        ("ab", list[str], False),
        (["a"], list[str], True),
        (("a", 1), tuple[str, int], True),
        (("a", "b"), tuple[str, int], False),
        (("a",), tuple[str, int], False),
        ((1, 2, 3), tuple[int, ...], True),
        (len, Callable[[int], int], True),
        (3, Any, True),
    ],
)
def test_what_fits(value: object, kind: Any, whether: bool) -> None:
    assert fits(value, kind) is whether


def test_types_in_words() -> None:
    assert words(int | None) == "a whole number or None"
    assert words(dict[str, Tensor]) == "a dict of torch.Tensors by name"
    assert words(nn.Module) == "a torch.nn.Module"
    assert words(tuple[str, int]) == "a tuple (a text, a whole number)"


def of_numpy() -> dict[str, Callable[[Any, Any], object]]:
    """What takes a whole number, by name: from n = 3 and a real number 0.5, of any library."""
    regression = (X, torch.ones(2, 2))
    return {
        "predict_trace": lambda n, r: pkcompiler.predict_trace(mlp(), X, seed=n, draws=n, second_moment=r).trace.value,
        "rescale": lambda n, r: pkcompiler.rescale(mlp(), X, seed=n, steps=n, tolerance=r).history,
        "ntk": lambda n, r: pkcompiler.run_analysis(mlp(), X, "ntk", data=DATA, seed=n).rows[0].value,
        "eigenvalues": lambda n, r: pkcompiler.path_kernel(mlp(), X).eigenvalues(n),
        "frobenius": lambda n, r: pkcompiler.path_kernel(mlp(), X).frobenius(samples=n, seed=n).value,
        "density": lambda n, r: pkcompiler.path_kernel(mlp(), X).density(n, probes=n, seed=n).nodes,
        "ntk eigenvalues": lambda n, r: pkcompiler.ntk(mlp(), regression).eigenvalues(n),
        "dynamics": lambda n, r: pkcompiler.dynamics(mlp(), regression, lr=r, steps=n).predicted_steps,
        "trajectory": lambda n, r: pkcompiler.LossPathKernel(mlp(), DATA, r, n).kernel,
        "prune": lambda n, r: pkcompiler.prune(mlp(), X, "random", density=r, seed=n, rounds=n).masks["0.weight"],
    }


@pytest.mark.parametrize("name", of_numpy())
def test_numbers_of_other_libraries_are_those_of_python(name: str) -> None:
    call = of_numpy()[name]
    expected = call(3, 0.5)
    for n, r in ((np.int64(3), np.float32(0.5)), (np.uint8(3), Fraction(1, 2)), (3.0, np.float64(0.5))):
        found = call(n, r)
        assert torch.equal(found, expected) if isinstance(found, Tensor) else found == expected


def test_a_step_of_a_trajectory_has_a_size_of_numpy() -> None:
    kernels = []
    for lr in (0.5, np.float32(0.5)):
        model = mlp()
        trajectory = pkcompiler.LossPathKernel(model, DATA)
        trajectory.record(model, lr)
        kernels.append(trajectory.kernel)
    assert torch.equal(*kernels)


def test_variances_are_numbers_of_any_library_and_fractions_exact() -> None:
    third, half = ({"*.weight": v, "*.bias": np.int64(1)} for v in (Fraction(1, 3), np.float32(0.5)))
    assert moments(third) == moments({"*.weight": Fraction(1, 3), "*.bias": 1}) != moments({"*.weight": 1 / 3, "*.bias": 1})
    assert moments(half) == moments({"*.weight": 0.5, "*.bias": 1})


def moments(variances: dict[str, Any]) -> str:
    return str(pkcompiler.closed_forms(mlp(), X, variances=variances))


def test_a_fraction_that_no_float_holds_is_out_of_range() -> None:
    assert refusal(lambda: pkcompiler.prune(mlp(), X, "magnitude", density=Fraction(10**400))).diagnostics[0].code == "PKC404"


def test_flags_of_numpy_are_flags() -> None:
    found = pkcompiler.prune(mlp(), X, "magnitude", density=0.5, progress=np.bool_(False))
    assert found.kept == 9
    scales = pkcompiler.rescale(mlp(), X, powers_of_two=np.True_).scales.values()
    assert all(bool((s.log2() == s.log2().round()).all()) for s in scales)
    refusal(lambda: pkcompiler.prune(mlp(), X, "magnitude", density=0.5, seed=np.True_))


def test_a_float_that_is_a_whole_number_is_one() -> None:
    assert pkcompiler.ntk(mlp(), DATA, memory=1e9).fits
    assert pkcompiler.explicit(mlp(), X, limit=1e4).names


@pytest.mark.parametrize(
    ("value", "said"),
    [(2**70, "is more than 64 bits hold"), (math.nan, "is no number"), (math.inf, "is a float")],
)
def test_a_number_that_does_not_fit_is_told_why(value: float, said: str) -> None:
    error = refusal(lambda: pkcompiler.prune(mlp(), X, "magnitude", density=0.5, seed=value))
    assert said in error.diagnostics[0].message


def test_a_pass_a_schedule_and_an_analysis_are_files(tmp_path: Path) -> None:
    rule, analysis, schedule = tmp_path / "mine", tmp_path / "figures.pkc", tmp_path / "gradual.pkc"
    rule.write_text("pass mine { score = abs(theta) }")
    analysis.write_text('analysis mine { report "norm" = paths(edge = abs(theta)) }')
    schedule.write_text("schedule s { prune magnitude { density = 50% } }")
    assert pkcompiler.prune(mlp(), X, rule, density=0.5).kept == 9
    assert pkcompiler.prune(mlp(), X, schedule=schedule).kept == 9
    assert torch.equal(pkcompiler.score(mlp(), X, rule)["0.weight"], pkcompiler.score(mlp(), X, "magnitude")["0.weight"])
    assert pkcompiler.run_analysis(mlp(), X, analysis) is not None
    with pytest.raises(PkcError, match="synflow"):
        pkcompiler.score(mlp(), X, Path("synflow"))  # a file, not the pass of the library
