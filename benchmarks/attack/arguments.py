"""Attacks on the command line: argument vectors, model specs, ``--input`` strings and manifests, each drawn from a seed.

    python -m benchmarks.attack.arguments                  # 20,000 vectors
    python -m benchmarks.attack.arguments --count 500 --seed 3

Every command and option is drawn, as click lists them, with values that fit, values mutated, and odd ones. Commands run in this
process, on a folder of small files, up to where a model would be traced (``reached``). A vector ends well where it is done,
reached, diagnosed (exit code 1 with a code) or a usage error (2). Anything else is a fault: a traceback, a refusal that leaves
something on disk, a refusal without a code, control characters in what is said, and code that ran although no argument names it
(pickles, what an artifact names). Exits with 1 where there is one, and prints it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import click

from benchmarks.attack.folder import contents, furnish, restore
from benchmarks.attack.tally import Tally
from pkcompiler.cli import COMMANDS, main

GOOD = ("done", "reached", "diagnosed", "usage")
FAULTS = ("traceback", "silent", "left", "ran", "escape")
CONTROLS = "\x1b\x9b\x07\x9d"
CODE = re.compile(r'error\[PKC\d{3}\]|"code": "PKC\d{3}"')

ODD = (
    *(
        "",
        " ",
        "-",
        "--",
        "---",
        "-1",
        "0",
        "1e9999",
        "nan",
        "inf",
        "9" * 40,
        "-" + "9" * 40,
        "1.5",
        "\u00e9",
        "\u202e",
        "x" * 5000,
    ),
    *(
        "\x1b[31mred",
        "\n",
        "a=b=c",
        "=",
        "%",
        "100%",
        "0x10",
        "~",
        "..",
        "/",
        "//",
        "/proc/none/x",
        "/dev/null",
        "*",
        "[",
        "((",
    ),
    *("None", "true", "'", '"', "\\", "$(touch RAN)", "`touch RAN`", "; touch RAN", "{}", "[]", "@bias", "!!python/x", "\udc80"),
)
VALUES: dict[str, Sequence[str]] = {
    "model": (
        "model.py",
        "model.py:model",
        "model.py:built",
        "model.py:tokens",
        "model.py:nothing",
        "art",
        "evil",
        "model:model",
        "./model.py",
    ),
    "args": ("width=3", "width=x", "wn=false", "wn=True", "act=gelu", "depth=2", "width=None"),
    "inputs": ("1x4", "int64:1x2", "input=1x4", "2x4", "bool:1x4", "1x5"),
    "output": ("0", "1", "output", "-1"),
    "seed": ("0", "1", "7"),
    "weights": ("w.safetensors", "w.pt", "evil.pt", "torn.pt", "art", "art/weights.safetensors", "other.pt"),
    "plugins": ("ops.py", "model.py", "missing.py"),
    "gates": ("erf", "relu", "aten.cumprod.default"),
    "data": ("d.npz", "d.npz(per_class = 1)", "d.npz(count = 2, batch = 1)", "evil.npz", "model.py:tokens", "nan.npz", "digits"),
    "loss": ("model.py:loss", "model.py", "model.py:built"),
    "pass_": ("synflow", "magnitude", "snip", "sinflow", "mine.pkc", "two.pkc"),
    "schedule": ("two.pkc", "mine.pkc", "missing.pkc"),
    "with_": ("path-kernel", "ntk", "dynamics", "ntk,dynamics", "collapse", "mine.pkc"),
    "sparsity": ("98%", "0.5", "50"),
    "density": ("10%", "0.1", "10"),
    "compression": ("50x", "2", "0.5x"),
    "flops": ("50%",),
    "size": ("4KB", "10", "4MB"),
    "structure": ("2:4", "channel", "block(2, 2)", "unstructured", "block(2)"),
    "curve": ("exponential", "rho^(k/n)", "linear", "k/0"),
    "include": ("bias", "*", "norm", "0.weight"),
    "exclude": ("0.weight", "bias", "[0", "conv*"),
    "device": ("cpu", "cuda:77", "meta", "mps", "cpu:3"),
    "out": ("out", "out/deep/er", "art", "model.py", "."),
    "json_file": ("-", "out.json", "nowhere/out.json"),
    "html": ("page.html", "nowhere/page.html", "page.pdf"),
    "plot": ("plots", "model.py"),
    "latex": ("-", "forms.tex", "nowhere/forms.tex"),
    "file": ("two.pkc", "mine.pkc", "study.pkc", "model.py", "missing.pkc", "."),
    "artifact": ("art", "evil", "model.py", "missing"),
    "word": ("synflow", "rounds", "PKC105", "theta", "path-kernel", "PKC999"),
}
"""What fits an option or argument, or nearly, by its name in click; options of other names get what their type says, and ODD."""


REACHED = 130
"""The exit code of a command that is interrupted, as every one is where it would begin to compute."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``kind``: of GOOD or FAULTS; ``said``: on stdout and stderr, or the traceback."""

    kind: str
    vector: tuple[str, ...]
    said: str


# what is drawn --------------------------------------------------------------------------------------------------------------


def mutated(text: str, random: Random) -> str:
    """A character dropped, doubled, exchanged or inserted, once or a few times."""
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(text) + 1)
        piece = random.choice(("", text[at : at + 1] * 2, random.choice("x:=/.-_%0 9()'\"\né[{"), random.choice(ODD)[:20]))
        text = text[:at] + piece + text[at + random.choice((0, 1)) :]
    return text


def value_of(parameter: click.Parameter, random: Random) -> str:
    """What fits, what nearly fits, or what is odd."""
    kind = parameter.type
    fitting = VALUES.get(parameter.name or "") or (
        list(kind.choices) if isinstance(kind, click.Choice) else ["1", "10", "model.py"]
    )
    good = str(random.choice(list(fitting)))
    chance = random.random()
    if chance < 0.55:
        return good
    return mutated(good, random) if chance < 0.8 else random.choice(ODD)


def vector(random: Random) -> tuple[str, ...]:
    """A command with some of its arguments and options; now and then one too many, one too few, or a word of another command."""
    name = random.choice(list(COMMANDS))
    command = main.get_command(click.Context(main), name)
    assert command is not None
    given = [mutated(name, random)] if random.random() < 0.02 else [name]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            count = random.choice((1, 2)) if parameter.nargs == -1 else parameter.nargs
            given += [value_of(parameter, random) for _ in range(count)] if random.random() < 0.97 else []
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in ("help", "jobs")]
    for option in random.sample(options, min(len(options), random.choice((0, 1, 1, 2, 3, 5)))):
        flag = random.choice(option.opts)
        given += [flag] if option.is_flag else [flag, value_of(option, random)]
    if random.random() < 0.05:
        given.insert(random.randrange(len(given) + 1), random.choice(ODD))
    return tuple(given)


def spec(random: Random) -> tuple[str, ...]:
    """A model spec."""
    return "ir", mutated(random.choice(VALUES["model"]), random)


def example(random: Random) -> tuple[str, ...]:
    """An ``--input``."""
    sizes = "x".join(str(random.choice((0, 1, 2, 4, 5, 10**20))) for _ in range(random.choice((1, 2, 2, 4, 70))))
    text = (
        random.choice(("", "", "input=", "x=", "1=")) + random.choice(("", "", "int64:", "float16:", "complex64:", "int:")) + sizes
    )
    return "ir", "model.py", "--input", mutated(text, random) if random.random() < 0.5 else text


def manifest(random: Random) -> tuple[str, ...]:
    """A command on an artifact whose manifest is changed: see :func:`tamper`."""
    return random.choice((("show", "art"), ("analyze", "art"), ("compare", "art", "art"), ("show", "art", "--json", "-")))


def tamper(folder: Path, random: Random) -> None:
    """One entry of the manifest of ``art`` replaced, dropped or doubled; or its text mutated."""
    file = folder / "art/manifest.json"
    text = file.read_text(encoding="utf-8")
    if random.random() < 0.3:
        file.write_bytes(mutated(text, random).encode("utf-8", "surrogatepass"))
        return
    found = json.loads(text)
    at, key = found, random.choice(list(found))
    while isinstance(at[key], dict) and at[key] and random.random() < 0.7:
        at, key = at[key], random.choice(list(at[key]))
    if random.random() < 0.3:
        del at[key]
    else:
        at[key] = random.choice((None, True, -1, 1.5, 10**30, "", "x", "\x1b[31m", "../art", [], [[]], {}, {"a": 1}, "canary.py"))
    file.write_text(json.dumps(found), encoding="utf-8")


KINDS: dict[str, tuple[Callable[[Random], tuple[str, ...]], int]] = {
    "vectors": (vector, 12),
    "specs": (spec, 3),
    "inputs": (example, 3),
    "manifests": (manifest, 2),
}
"""What is drawn, and how many in 20."""


# what comes of it -----------------------------------------------------------------------------------------------------------


def _reached(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@contextmanager
def _quiet() -> Iterator[tuple[BytesIO, BytesIO]]:
    out, err = BytesIO(), BytesIO()
    streams = [TextIOWrapper(b, encoding="utf-8", errors="backslashreplace", write_through=True) for b in (out, err)]
    stdin = mock.patch("sys.stdin", TextIOWrapper(BytesIO()))
    with stdin, redirect_stdout(streams[0]), redirect_stderr(streams[1]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield out, err


@contextmanager
def stopped_short() -> Iterator[None]:
    """Inside, no model is traced, no closed form is made, and no study runs."""
    with ExitStack() as stack:
        for place in (
            "pkcompiler.driver.open.capture",
            "pkcompiler.driver.study.run.run_study",
            "pkcompiler.symbolic.closed_forms",
        ):
            stack.enter_context(mock.patch(place, _reached))
        yield


def _run(arguments: Sequence[str]) -> int:
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def outcome(folder: Path, arguments: tuple[str, ...], before: dict[str, bytes | None]) -> Outcome:
    """What a vector comes to, in the folder, whose contents were ``before``."""
    with _quiet() as (out, err):
        try:
            code = _run(arguments)
        except BaseException:
            return Outcome("traceback", arguments, traceback.format_exc())
        said = (out.getvalue() + err.getvalue()).decode("utf-8", "replace")
    if (folder / "RAN").exists():
        return Outcome("ran", arguments, said)
    if any(c in CONTROLS for c in said):
        return Outcome("escape", arguments, said)
    if code in (0, REACHED):
        return Outcome("reached" if code else "done", arguments, said)
    if contents(folder) != before:
        return Outcome("left", arguments, said)
    if code == 2:
        return Outcome("usage", arguments, said)
    return Outcome("diagnosed" if code == 1 and CODE.search(said) else "silent", arguments, said)


def attack(folder: Path, count: int, random: Random) -> Iterator[tuple[str, Outcome]]:
    """``count`` vectors, each with what it is. The folder is empty, and the working directory is changed to it meanwhile."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        furnish(folder)
        before = contents(folder)
        names, weights = list(KINDS), [share for _, share in KINDS.values()]
        with stopped_short():
            for name in random.choices(names, weights, k=count):
                arguments = KINDS[name][0](random)
                held = before
                if name == "manifests":
                    tamper(folder, random)
                    held = contents(folder)
                yield name, outcome(folder, arguments, held)
                restore(folder, before)
    finally:
        os.chdir(here)


ENDS = {
    **dict.fromkeys(("done", "reached"), "right"),
    **dict.fromkeys(("diagnosed", "usage"), "refused"),
    "traceback": "tracebacks",
    "left": "lost",
    **dict.fromkeys(("silent", "ran", "escape"), "silent"),
}
"""What an outcome counts as beside those of the other attacks."""


def attacks(count: int, seed: int) -> Iterator[Tally]:
    """200 vectors for each of ``count``, by what was drawn."""
    tallies = {name: Tally(f"arguments: {name}") for name in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for name, seen in attack(Path(folder).resolve(), 200 * count, Random(seed)):
            tallies[name].tried += 1
            tallies[name].add(ENDS[seen.kind], f"pkc {' '.join(repr(a)[:80] for a in seen.vector)}")
    yield from tallies.values()


def table(found: Counter[tuple[str, str]]) -> str:
    """Counts by what was drawn and what came of it."""
    kinds = [k for k in (*GOOD, *FAULTS) if k in GOOD or any(n[1] == k for n in found)]
    lines = ["".join([f"{'':<12}", *(f"{k:>11}" for k in kinds)])]
    lines += ["".join([f"{name:<12}", *(f"{found[name, k]:>11,}" for k in kinds)]) for name in KINDS]
    return "\n".join([*lines, "".join([f"{'all':<12}", *(f"{sum(found[n, k] for n in KINDS):>11,}" for k in kinds)])])


def run(count: int = 20_000, seed: int = 0) -> int:
    """Attack, print the faults and the table; the number of faults."""
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, seen in attack(Path(folder).resolve(), count, Random(seed)):
            found[name, seen.kind] += 1
            if seen.kind in FAULTS:
                print(f"{seen.kind}: pkc {' '.join(repr(a)[:80] for a in seen.vector)}\n{seen.said[-3000:]}\n", file=sys.stderr)
    print(table(found))
    return sum(n for (_, kind), n in found.items() if kind in FAULTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    sys.exit(1 if run(chosen.count, chosen.seed) else 0)
