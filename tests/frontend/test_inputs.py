"""Example inputs and weights: what is read, drawn, copied and refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.inputs import Inputs, InputSpec, as_inputs, example_inputs, guess_input, parse_input
from pkcompiler.frontend.load_weights import load_weights, non_finite
from pkcompiler.frontend.spec import LoadedModel


def loaded(module: nn.Module, **names: object) -> LoadedModel:
    python = ModuleType("net")
    vars(python).update(names)
    return LoadedModel(module, "net", "net.py", None, python, "")


def codes(error: pytest.ExceptionInfo[PkcError]) -> list[str]:
    assert all(diagnostic.notes and diagnostic.notes[-1] for diagnostic in error.value.diagnostics)
    return [diagnostic.code for diagnostic in error.value.diagnostics]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1x3x32x32", InputSpec(None, torch.float32, (1, 3, 32, 32))),
        ("4", InputSpec(None, torch.float32, (4,))),
        ("int64:1x128", InputSpec(None, torch.int64, (1, 128))),
        ("mask=bool:1x16", InputSpec("mask", torch.bool, (1, 16))),
        ("x=2x3", InputSpec("x", torch.float32, (2, 3))),
        ("bfloat16:1x1", InputSpec(None, torch.bfloat16, (1, 1))),
    ],
)
def test_specs_read_and_print(text: str, spec: InputSpec) -> None:
    assert parse_input(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize("text", ["", "x", "1x", "x3", "1,3", "1x0x2", "float23:1x3", "a b=1x3", "1x-3", "x=", "int64:", "1X3"])
def test_malformed_specs(text: str) -> None:
    with pytest.raises(PkcError) as caught:
        parse_input(text)
    assert codes(caught) == ["PKC250"]


def test_random_inputs_follow_the_seed() -> None:
    specs = ["2x500", "n=float64:1x3"]
    first, again, other = (example_inputs(loaded(nn.Identity()), specs, seed) for seed in (1, 1, 2))
    assert torch.equal(first.args[0], again.args[0]) and torch.equal(first.kwargs["n"], again.kwargs["n"])
    assert not torch.equal(first.args[0], other.args[0])
    assert first.kwargs["n"].dtype == torch.float64
    assert abs(first.args[0].mean()) < 0.15 and abs(first.args[0].std() - 1) < 0.1


def test_integers_stay_below_the_first_embedding() -> None:
    network = nn.Sequential(nn.Embedding(5, 3), nn.Embedding(900, 2))
    (drawn,) = example_inputs(loaded(network), ["int64:4x500"]).args
    assert drawn.unique().tolist() == [0, 1, 2, 3, 4]
    (flags,) = example_inputs(loaded(network), ["bool:100"]).args
    assert flags.unique().tolist() == [False, True]


def test_specs_come_before_the_files_own_function() -> None:
    model = loaded(nn.Identity(), example_inputs=lambda: torch.ones(1, 7))
    assert example_inputs(model).args[0].shape == (1, 7)
    assert example_inputs(model, ["2x3"]).args[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("value", "args", "kwargs"),
    [
        (torch.ones(1), 1, []),
        ((torch.ones(1), torch.ones(2)), 2, []),
        ([torch.ones(1)], 1, []),
        ({"x": torch.ones(1), "m": torch.ones(1)}, 0, ["x", "m"]),
        (Inputs((torch.ones(1),), {"m": torch.ones(1)}), 1, ["m"]),
    ],
)
def test_what_a_function_may_return(value: object, args: int, kwargs: list[str]) -> None:
    read = as_inputs(value)
    assert (len(read.args), list(read.kwargs)) == (args, kwargs)


@pytest.mark.parametrize("value", [None, 3, (), {}, (torch.ones(1), 2), {"x": [1]}, "x"])
def test_what_it_may_not(value: object) -> None:
    with pytest.raises(PkcError) as caught:
        example_inputs(loaded(nn.Identity(), example_inputs=lambda: value))
    assert codes(caught) == ["PKC252"]


def test_the_files_function_is_seeded() -> None:
    model = loaded(nn.Identity(), example_inputs=lambda: torch.randn(1, 9))
    assert torch.equal(example_inputs(model, seed=5).args[0], example_inputs(model, seed=5).args[0])
    assert not torch.equal(example_inputs(model, seed=5).args[0], example_inputs(model, seed=6).args[0])


@pytest.mark.parametrize(
    ("module", "guess", "call"),
    [
        (nn.Conv2d(3, 4, 3), "1x3x32x32", "torch.randn(1, 3, 32, 32)"),
        (nn.Sequential(nn.ReLU(), nn.Linear(7, 2)), "1x7", "torch.randn(1, 7)"),
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), "int64:1x16", "torch.zeros(1, 16, dtype=torch.int64)"),
        (nn.Conv1d(2, 4, 3), "1x2x64", "torch.randn(1, 2, 64)"),
        (nn.Conv3d(1, 4, 3), "1x1x16x16x16", "torch.randn(1, 1, 16, 16, 16)"),
    ],
)
def test_no_input_gives_the_line_to_paste(module: nn.Module, guess: str, call: str) -> None:
    with pytest.raises(PkcError) as caught:
        example_inputs(loaded(module))
    assert codes(caught) == ["PKC251"]
    paste, flag = caught.value.diagnostics[0].notes
    assert paste.endswith(f"def example_inputs(): return {call}")
    assert flag.endswith(f"--input {guess}")
    module(torch.zeros(guess_input(module).shape, dtype=guess_input(module).dtype))


def test_an_input_given_twice_is_refused() -> None:
    with pytest.raises(PkcError) as caught:
        example_inputs(loaded(nn.Identity()), ["x=1x2", "x=1x3"])
    assert codes(caught) == ["PKC250"]


def test_no_guess_still_gives_a_line() -> None:
    with pytest.raises(PkcError) as caught:
        example_inputs(loaded(nn.ReLU()))
    assert codes(caught) == ["PKC251"]


# Weights


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def save(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_weights_are_copied_and_hashed(tmp_path: Path, suffix: str) -> None:
    from hashlib import sha256

    path = save(network(1).state_dict(), tmp_path / f"w{suffix}")
    target = network(2)
    assert not same(target, network(1))
    assert load_weights(target, path) == sha256(path.read_bytes()).hexdigest()
    assert same(target, network(1))


def test_every_difference_is_reported_and_nothing_is_changed(tmp_path: Path) -> None:
    state = network(1).state_dict()
    del state["0.weight"], state["1.running_var"]
    state |= {"2.weight": torch.ones(5, 4), "0.bias": torch.ones(1), "9.weight": torch.ones(1), "8.bias": torch.ones(1)}
    target = network(2)
    with pytest.raises(PkcError) as caught:
        load_weights(target, save(state, tmp_path / "w.pt"))
    assert codes(caught) == ["PKC643", "PKC644", "PKC645"]
    lacks, extra, shapes = (diagnostic.message for diagnostic in caught.value.diagnostics)
    assert "0.weight" in lacks and "1.running_var" in lacks
    assert "9.weight" in extra and "8.bias" in extra
    assert "2.weight is 5x4, the model's is 2x4" in shapes and "0.bias is 1, the model's is 4" in shapes
    assert same(target, network(2))


def test_one_name_of_a_tied_parameter_is_enough(tmp_path: Path) -> None:
    target = Tied()
    load_weights(target, save({"embed.weight": torch.ones(4, 3)}, tmp_path / "w.safetensors"))
    assert target.head.weight.eq(1).all()


def run(note: str, folder: Path) -> None:
    """Run the line that a note gives, as its reader would."""
    import subprocess
    import sys

    command = note.partition('python -c "')[2].removesuffix('"')
    assert command
    subprocess.run([sys.executable, "-c", command], check=True, cwd=folder)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_prefix_is_explained_with_a_line_that_works(tmp_path: Path, prefix: str, suffix: str) -> None:
    state = {prefix + name: tensor for name, tensor in network(1).state_dict().items()}
    path = save(state, tmp_path / f"w{suffix}")
    target = network(2)
    with pytest.raises(PkcError) as caught:
        load_weights(target, path)
    assert codes(caught) == ["PKC642"]
    run(caught.value.diagnostics[0].notes[-1], tmp_path)
    load_weights(target, tmp_path / f"w-plain{suffix}")
    assert same(target, network(1))


def test_a_prefix_that_the_model_has_too_is_not_blamed(tmp_path: Path) -> None:
    target = nn.Linear(2, 2)
    target.model = nn.Linear(2, 2)
    with pytest.raises(PkcError) as caught:
        load_weights(target, save({"model.weight": torch.ones(2, 2)}, tmp_path / "w.pt"))
    assert codes(caught) == ["PKC643"]


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_wrapped_checkpoint_is_explained_with_a_line_that_works(tmp_path: Path, key: str) -> None:
    torch.save({"epoch": 3, key: network(1).state_dict()}, tmp_path / "w.pt")
    target = network(2)
    with pytest.raises(PkcError) as caught:
        load_weights(target, tmp_path / "w.pt")
    assert codes(caught) == ["PKC642"]
    run(caught.value.diagnostics[0].notes[-1], tmp_path)
    load_weights(target, tmp_path / "w-plain.pt")
    assert same(target, network(1))


def test_pickled_objects_are_refused_and_never_run(tmp_path: Path) -> None:
    torch.save(network(1), tmp_path / "model.pt")
    (tmp_path / "evil.pt").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    for name in ("model.pt", "evil.pt"):
        with pytest.raises(PkcError) as caught:
            load_weights(network(2), tmp_path / name)
        assert codes(caught) == ["PKC641"]
    assert not (tmp_path / "ran").exists()


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "torn.safetensors").write_bytes(b"abc")
    (tmp_path / "torn.pt").write_bytes(b"")
    (tmp_path / "list.pt").touch()
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    torch.save({"a": torch.ones(1), "b": 3}, tmp_path / "odd.pt")
    expected = {"torn.safetensors": "PKC640", "torn.pt": "PKC640", "absent.pt": "PKC640", "w.npz": "PKC640"}
    for name, code in (expected | {"list.pt": "PKC642", "odd.pt": "PKC642"}).items():
        with pytest.raises(PkcError) as caught:
            load_weights(network(2), tmp_path / name)
        assert codes(caught) == [code], name


def test_differences_are_listed_in_order_and_briefly(tmp_path: Path) -> None:
    state = {f"layers.{i}.weight": torch.ones(1) for i in (10, 2, 9, 1, 3, 11)}
    with pytest.raises(PkcError) as caught:
        load_weights(network(2), save(state, tmp_path / "w.safetensors"))
    lacks, extra = (diagnostic.message for diagnostic in caught.value.diagnostics)
    first = "layers.1.weight; layers.2.weight; layers.3.weight; layers.9.weight"
    assert extra == f"'{tmp_path / 'w.safetensors'}' holds 6 tensors that the model does not have: {first} and 2 more"
    assert lacks.partition("tensors: ")[2].startswith("0.weight; 0.bias; 1.weight; 1.bias and ")


def test_of_an_artifact_its_weights_are_named(tmp_path: Path) -> None:
    for name in ("masks.safetensors", "weights.safetensors"):
        save(network(1).state_dict(), tmp_path / name)
    with pytest.raises(PkcError) as caught:
        load_weights(network(2), tmp_path)
    assert codes(caught) == ["PKC640"]
    assert caught.value.diagnostics[0].notes == (f"give the file in it: --weights {tmp_path / 'weights.safetensors'}",)


def test_non_finite_values_are_named() -> None:
    target = network(1)
    assert non_finite(target) == ()
    with torch.no_grad():
        target[0].weight[1, 2] = float("nan")
        target[2].bias[0] = float("inf")
        target[1].running_var[3] = -float("inf")
    target.register_buffer("causal", torch.full((2, 2), -float("inf")))
    assert non_finite(target) == (("0.weight", "parameter"), ("2.bias", "parameter"), ("1.running_var", "buffer"))
