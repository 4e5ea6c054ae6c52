"""Attacks on artifacts: every file flipped and cut, and contents changed under right hashes. What is read is right or refused.

A refusal is a ``PKC62x`` (or the code of what a printed graph breaks). Anything else that is raised is a traceback, and an artifact
that is read although its bytes were changed is silent.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from hashlib import sha256
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from benchmarks.attack.tally import Tally
from pkcompiler.cli import main

Change = Callable[[Path, Random], str]
"""Changes a copy of an artifact, hashes not included; returns what it has done."""
Json = dict[str, Any]

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    "",
    "x",
    "\x1b]0;owned\x07\x1b[31m",
    "\x9b2J",
    "y" * 5000,
    [],
    [[]],
    {},
    {"a": 1},
)
DTYPES = ("F32", "F64", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "C64", "NONE", "")
MANIFEST, GRAPH, SCHEDULE, WEIGHTS = "manifest.json", "graph.pkir", "schedule.pkc", "weights.safetensors"


def digest(data: object) -> str:
    return sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal(folder: Path) -> None:
    """Give the manifest the right hashes of everything as it is now, where it still has places for them."""
    manifest = json.loads((folder / MANIFEST).read_text())
    if not isinstance(manifest, dict):
        return
    files, recipe = manifest.get("files"), manifest.get("recipe")
    for name in files if isinstance(files, dict) else ():
        if len(name) < 200 and "\0" not in name and (folder / name).is_file():
            files[name] = sha256((folder / name).read_bytes()).hexdigest()
    if isinstance(recipe, dict):
        follow(recipe, folder)
    if isinstance(recipe, dict) and isinstance(manifest.get("recipe_sha256"), str):
        manifest["recipe_sha256"] = digest(recipe)
    if isinstance(manifest.get("sha256"), str):
        manifest["sha256"] = digest({key: value for key, value in manifest.items() if key != "sha256"})
    (folder / MANIFEST).write_text(json.dumps(manifest))


def follow(recipe: Json, folder: Path) -> None:
    """The recipe names the graph, the schedule and the weights as they are now."""
    made = recipe.get("model")
    named = ((made, "graph", GRAPH, of_graph), (recipe, "schedule", SCHEDULE, of_schedule), (made, "weights", WEIGHTS, of_weights))
    for holder, key, name, found in named:
        if isinstance(holder, dict) and isinstance(holder.get(key), str) and (folder / name).is_file():
            with suppress(Exception):
                holder[key] = found(folder)


def of_graph(folder: Path) -> str:
    return sha256((folder / GRAPH).read_bytes()).hexdigest()


def of_schedule(folder: Path) -> str:
    return (folder / SCHEDULE).read_bytes().decode()


def of_weights(folder: Path) -> str:
    state = load((folder / WEIGHTS).read_bytes())
    parts = [f"{name} torch.{t.dtype} {t.shape}\n".encode() + t.tobytes() for name, t in sorted(state.items())]
    return sha256(b"".join(parts)).hexdigest()


# one change each -----------------------------------------------------------------------------------------------------------


def places(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested lists and objects."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield (*place, key)
        yield from places(value, (*place, key))


def in_json(name: str) -> Change:
    """One entry of a JSON file gets another value, or goes."""

    def change(folder: Path, random: Random) -> str:
        data = json.loads((folder / name).read_text())
        place = random.choice(list(places(data)))
        holder = data
        for key in place[:-1]:
            holder = holder[key]
        value = random.choice(ODD)
        if random.random() < 0.2:
            del holder[place[-1]]
        elif random.random() < 0.2 and isinstance(holder, dict):
            holder[random.choice(("z" * 5000, "../x", "\x1b[2J", ""))] = holder.pop(place[-1])
        else:
            holder[place[-1]] = value
        (folder / name).write_text(json.dumps(data))
        return f"{name}: {'.'.join(map(str, place))[:50]}"

    return change


def twice(folder: Path, random: Random) -> str:
    """A key stands twice."""
    name = random.choice((MANIFEST, "report.json"))
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace("{", '{"format": "x", "name": 1, "format": "y", "name": 2, ', 1))
    return f"{name}: a key twice"


def header(folder: Path, random: Random) -> str:
    """One entry of the header of a safetensors file: type of element, shape, place, or a name twice."""
    name = random.choice(("masks.safetensors", "weights.safetensors"))
    content = (folder / name).read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    key = random.choice([k for k in entries if k != "__metadata__"])
    what = random.choice(("dtype", "shape", "data_offsets", "name", "twice"))
    if what == "dtype":
        entries[key]["dtype"] = random.choice(DTYPES)
    elif what == "shape":
        entries[key]["shape"] = random.choice(
            ([], [0], [-1], [2**62], [0, 2**62], [1, *entries[key]["shape"]], entries[key]["shape"][::-1], "x")
        )
    elif what == "data_offsets":
        entries[key]["data_offsets"] = random.choice(([0, 0], [0, 2**60], [5, 1], [], [-1, 3]))
    elif what == "name":
        entries[random.choice(("n" * 5000, "", "\x1b[2J", "other"))] = entries.pop(key)
    text = json.dumps(entries)
    if what == "twice":
        text = text[:-1] + f", {json.dumps(key)}: {json.dumps(entries[key])}" + "}"
    (folder / name).write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + body)
    return f"{name}: {what} of {key}"


def values(folder: Path, random: Random) -> str:
    """The numbers of a mask or a weight, or its type of element."""
    name = random.choice(("masks.safetensors", "weights.safetensors"))
    tensors = load((folder / name).read_bytes())
    key = random.choice(sorted(tensors))
    tensor = tensors[key].copy()
    what = random.choice(("one", "nan", "type", "gone", "new"))
    if what == "one" and tensor.size:
        flat = tensor.reshape(-1)
        flat[random.randrange(flat.size)] = not flat[0] if tensor.dtype == bool else 7.5
    elif what == "nan" and tensor.dtype != bool:
        tensor = np.full_like(tensor, random.choice((np.nan, np.inf)))
    elif what == "type":
        tensor = tensor.astype(random.choice((np.float64, np.float16, np.int64, np.uint8, bool)))
    tensors[key] = tensor
    if what == "gone":
        del tensors[key]
    if what == "new":
        tensors["more.weight"] = tensor
    (folder / name).write_bytes(save(tensors))
    return f"{name}: {what} of {key}"


def texts(folder: Path, random: Random) -> str:
    """The schedule, the graph, the report: other text, no text, escapes."""
    name = random.choice(("schedule.pkc", "graph.pkir", "report.json", "README.txt"))
    content = (folder / name).read_bytes()
    at = random.randrange(len(content))
    new = random.choice(
        (b"", b"\x1b]0;owned\x07", b"\xff\xfe", b"\0", b"{" * 5000, b"9" * 5000, content[:at], content[at:], content + content)
    )
    (folder / name).write_bytes(new if random.random() < 0.5 else content[:at] + new[:5000] + content[at + 1 :])
    return f"{name}: text at {at}"


def kinds(folder: Path, random: Random) -> str:
    """A file is a link, a folder, a pipe, or not to be read."""
    name = random.choice([p.name for p in sorted(folder.iterdir())])
    path, what = folder / name, random.choice(("link", "loop", "folder", "pipe", "gone"))
    content = path.read_bytes()
    path.unlink()
    if what == "link":
        (folder.parent / "elsewhere").write_bytes(content)
        path.symlink_to(folder.parent / "elsewhere")
    elif what == "loop":
        path.symlink_to(name)
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    return f"{name}: {what}"


def flip(name: str, at: int) -> Change:
    """One bit of a byte."""

    def change(folder: Path, random: Random) -> str:
        content = bytearray((folder / name).read_bytes())
        content[at] ^= 1 << random.randrange(8)
        (folder / name).write_bytes(bytes(content))
        return f"{name}: byte {at} flipped"

    return change


def cut(name: str, at: int) -> Change:
    """All from a byte on."""

    def change(folder: Path, random: Random) -> str:
        (folder / name).write_bytes((folder / name).read_bytes()[:at])
        return f"{name}: cut at {at}"

    return change


COMMANDS = ("show", "analyze", "compare")
TAMPERED: tuple[Change, ...] = (
    in_json(MANIFEST),
    in_json(MANIFEST),
    in_json("report.json"),
    twice,
    header,
    header,
    values,
    values,
    texts,
)


# what comes of it ----------------------------------------------------------------------------------------------------------


def outcome(folder: Path, command: str = "show") -> tuple[str, str]:
    """``read``, ``refused``, ``escape`` or ``traceback``, and what was said, of a command on an artifact in this process."""
    out, err = StringIO(), TextIOWrapper(BytesIO(), encoding="utf-8", write_through=True)
    arguments = [command, str(folder)] + ([str(folder)] if command == "compare" else [])
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(arguments)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"
    said = out.getvalue() + err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if any(c in said for c in "\x1b\x9b\x07\x9d"):
        return "escape", said
    if code == 0:
        return "read", said
    return ("refused" if code == 1 and "error[PKC" in said else "traceback"), said


def attacked(
    artifact: Path, work: Path, change: Change, random: Random, *, sealed: bool, command: str = "show"
) -> tuple[str, str, str]:
    """Change a copy of an artifact (``sealed``: hashes too), and look what a command says. Kind, change, and what was said."""
    folder = work / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(artifact, folder)
    done = change(folder, random)
    if sealed and (folder / MANIFEST).is_file() and "twice" not in done:
        seal(folder)
    if sealed and "twice" in done and not done.startswith(MANIFEST):
        seal(folder)
    kind, said = outcome(folder, command)
    return kind, done, said


def damages(artifact: Path, each: int, random: Random) -> Iterator[Change]:
    """``each`` flips or cuts of every file."""
    for path in sorted(artifact.iterdir()):
        size = path.stat().st_size
        for i in range(each):
            at = random.randrange(size)
            yield flip(path.name, at) if i % 2 else cut(path.name, at)


def attacks(artifact: Path, work: Path, count: int, seed: int) -> Iterator[Tally]:
    """``count`` flips and cuts of every file, twice as many changes under right hashes, and files that are no files."""
    random = Random(seed)
    damaged, tampered, odd = (
        Tally("artifact: a file flipped or cut"),
        Tally("artifact: changed under right hashes"),
        Tally("artifact: no files"),
    )
    for change in damages(artifact, count, random):
        _count(damaged, attacked(artifact, work, change, random, sealed=False), silent=True)
    yield damaged
    for i in range(2 * count):
        change, command = random.choice(TAMPERED), COMMANDS[i % len(COMMANDS)]
        _count(tampered, attacked(artifact, work, change, random, sealed=True, command=command), silent=False)
    yield tampered
    for _ in range(count // 4 or 1):
        _count(odd, attacked(artifact, work, kinds, random, sealed=False), silent=True)
    yield odd


def _count(tally: Tally, found: tuple[str, str, str], *, silent: bool) -> None:
    """``silent``: whether reading what was changed is a fault (under right hashes it may be as good an artifact as any)."""
    kind, done, said = found
    tally.tried += 1
    fault = "silent" if silent else "right"
    tally.add({"read": fault, "refused": "refused", "escape": "silent"}.get(kind, "tracebacks"), f"{done}: {said[-300:]}")
