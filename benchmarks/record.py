"""The same numbers before and after a change of the code: everything that the package says of real models, as hashes in one file.

    python -m benchmarks.record before.json          (in the old checkout)
    python -m benchmarks.record after.json           (in the new one)
    python -m benchmarks.record --compare before.json after.json

Recorded are the printed graph, the report, the path count, masks and scores of every pass of the library, every analysis, closed
forms, the leading spectrum and the rescaled weights of the examples and of the models of the tests; and ``pkc explain`` of every
word. One thread, seeded, on the CPU: the same code on the same machine gives the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pkcompiler as pkc

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
TIMES = ("seconds", "date", "created", "elapsed")
LARGE = 30_000
"""Parameters above which a model is scored by a few passes alone, and no kernel is made of it."""
FEW = ("magnitude", "px", "random", "synflow", "synflow-l2")


def digest(value: Any) -> str:
    """The hash of tensors, of plain data without its times, or of text."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()[:16]


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in TIMES:
                found.update(str(key).encode())
                _feed(found, part)
    elif isinstance(value, list | tuple):
        for part in value:
            _feed(found, part)
    else:
        found.update(repr(value).encode())


def models() -> Iterator[tuple[str, nn.Module, tuple[Any, ...]]]:
    """The examples and the models of the tests: name, module, inputs."""
    from models.zoo import MODELS

    from pkcompiler.frontend.spec import load_model

    for name in ("digits_mlp", "mnist_cnn", "resnet20", "vit_tiny", "gpt_tiny", "vgg16_bn"):
        loaded = load_model(str(ROOT / "examples" / f"{name}.py"), {}, 0)
        given = loaded.python.example_inputs()  # type: ignore[attr-defined]
        yield name, loaded.module.eval(), given if isinstance(given, tuple) else (given,)
    for name, build in MODELS.items():
        module, inputs = build()
        yield f"zoo.{name}", module, inputs


def passes() -> list[str]:
    """The passes of the library."""
    return sorted(file.stem for file in (ROOT / "passes" / "prune").glob("*.pkc"))


def entries(module: nn.Module, inputs: tuple[Any, ...]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is recorded of one model: a name, and what computes it. Every entry starts from the same state of torch's generator."""
    small = sum(p.numel() for p in module.parameters()) <= LARGE
    yield "graph", lambda: str(pkc.lift(module, inputs))
    yield "report", lambda: pkc.analyze(module, inputs).to_json()
    yield "count", lambda: str(pkc.path_functional(module, inputs, edge="1").value)
    yield "functional", lambda: str(pkc.path_functional(module, inputs, edge="theta^2").value)
    data = _data(module, inputs) if small else None
    for name in passes() if small else FEW:
        yield f"pass.{name}", lambda name=name: _pruned(module, inputs, name, data)
    if small:
        yield "closed", lambda: str(pkc.closed_forms(module, inputs))
        yield "spectrum", lambda: [repr(v) for v in pkc.path_kernel(module, inputs).eigenvalues(5)]
        yield "predicted", lambda: repr(pkc.predict_trace(module, inputs))
        yield "rescaled", lambda: dict(pkc.rescale(module, inputs).model.state_dict())
        yield "groups", lambda: repr(pkc.channel_groups(pkc.lift(module, inputs)))
        for file in sorted((ROOT / "passes" / "analyze").glob("*.pkc")):
            yield f"analysis.{file.stem}", lambda file=file: pkc.run_analysis(module, inputs, file.stem, data=data).to_json()


def _data(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
    """Eight samples like the example, with labels; None for what is no classifier of one floating input."""
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
        return None
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(8, *inputs[0].shape[1:], generator=generator).to(inputs[0].dtype)
    with torch.no_grad():
        out = module(x)
    return (x, torch.randint(0, out.shape[1], (8,), generator=generator)) if isinstance(out, Tensor) and out.ndim == 2 else None


def _pruned(module: nn.Module, inputs: tuple[Any, ...], name: str, data: tuple[Tensor, Tensor] | None) -> list[Any]:
    """The scores, and the masks of three rounds to a fifth."""
    given = {} if data is None else {"data": data}
    scores = pkc.score(module, inputs, name, seed=3, **given)
    pruned = pkc.prune(module, inputs, name, density=0.2, rounds=3, seed=3, **given)
    return [dict(scores), pruned.masks]


def explained() -> Iterator[tuple[str, str]]:
    """What ``pkc explain`` says of every word, pass and code."""
    from pkcompiler.lang.words import WORDS

    for name in sorted({word.name for word in WORDS}) + passes():
        done = subprocess.run([sys.executable, "-m", "pkcompiler", "explain", name], capture_output=True, text=True, check=False)
        yield f"explain.{name}", digest(done.stdout + done.stderr)


def record(only: str, file: Path) -> None:
    """Every entry and its hash, written after each model; an error that the package raises is recorded as its codes."""
    torch.set_num_threads(1)
    found = dict(explained()) if only in "explain" else {}
    for name, module, inputs in models():
        for what, compute in entries(module, inputs):
            key = f"{name}/{what}"
            if only in key:
                print(key, file=sys.stderr)
                found[key] = _of(compute)
        file.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _of(compute: Callable[[], Any]) -> str:
    torch.manual_seed(0)
    try:
        return digest(compute())
    except pkc.PkcError as error:
        return " ".join(d.code for d in error.diagnostics) + " " + digest([d.message for d in error.diagnostics])


def main() -> int:
    """0, or 1 where two records differ."""
    parser = argparse.ArgumentParser(description="Record everything that the package says of real models, or compare two records.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--compare", action="store_true", help="two files: say where they differ")
    parser.add_argument("--only", default="", help="entries whose name holds this")
    given = parser.parse_args()
    if not given.compare:
        record(given.only, given.files[0])
        return 0
    before, after = (json.loads(file.read_text(encoding="utf-8")) for file in given.files)
    differ = [key for key in before | after if before.get(key) != after.get(key)]
    print(f"{len(before | after)} entries, {len(differ)} differ", *differ, sep="\n")
    return int(bool(differ))


if __name__ == "__main__":
    raise SystemExit(main())
