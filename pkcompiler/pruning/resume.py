"""Work that survives its process: a folder ``<out>.partial`` with the recipe and the last state, renamed when it is whole.

What is on disk at any moment is one of: no recipe (nothing was done), a recipe and perhaps a state (the run goes on behind it),
or a manifest (the run is complete, and only the renaming is missing).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.pruning.files import UNFINISHED, json_text, read_object, unwritable, write_whole
from pkcompiler.pruning.manifest import KNOWN, MANIFEST, MASKS, check_files, read_manifest
from pkcompiler.pruning.recipe import differences, recipe_hash
from pkcompiler.pruning.rounds import Round

RECIPE, STATE, LOCK = "recipe.json", "state.safetensors", "lock"
COMMAND, COLLAPSE = "command", "collapse"
BEGUN, LEFT = "begun ", "left "
"""Before the names of the masks of a round's ground."""
SAID = ("stopped", "missed", "uncertain", "arbitrary")
"""What a state says in words."""
OWN = frozenset({RECIPE, STATE, LOCK, COMMAND, COLLAPSE, MANIFEST, *KNOWN})
CHECKPOINT_EVERY = 1.0  # seconds

Found = Literal["new", "resumed", "complete"]


@dataclass(slots=True)
class Work:
    """The folder of a run. ``found``: what lay there. ``after``: the state to go on from; ``spent``: seconds of earlier runs."""

    out: Path
    recipe: Mapping[str, Any]
    found: Found = "new"
    after: Round | None = None
    spent: float = 0.0
    _next: float = 0.0
    _lock: list[IO[str]] = field(default_factory=list)

    @property
    def partial(self) -> Path:
        return partial_of(self.out)

    def checkpoint(self, state: Round, seconds: float, *, now: bool = False) -> None:
        """Write the state after a round; at most every second unless ``now``."""
        moment = time.monotonic()
        if not now and moment < self._next:
            return
        write_state(self.partial / STATE, state, self.spent + seconds, recipe_hash(self.recipe))
        self._next = time.monotonic() + CHECKPOINT_EVERY

    def finish(self) -> None:
        """The folder holds a manifest: remove what only the run needed, and give it its name (replacing an older artifact)."""
        for name in (RECIPE, STATE, LOCK, COMMAND, COLLAPSE):
            (self.partial / name).unlink(missing_ok=True)
        self.release()
        older = replaced_of(self.out)
        if self.out.is_dir() and not any(self.out.iterdir()):
            self.out.rmdir()
        if self.out.exists():
            shutil.rmtree(older, ignore_errors=True)
            os.replace(self.out, older)
        os.replace(self.partial, self.out)
        shutil.rmtree(older, ignore_errors=True)

    def keep_masks(self, state: Round) -> Path:
        """The masks of a run that will not be whole, as a file that others can read."""
        path = self.partial / MASKS
        write_whole(path, tensor_bytes({n: m.contiguous() for n, m in state.masks.items()}))
        return path

    def collapsed(self, message: str) -> None:
        """Remember that the run ended in layer collapse, so that another one can say so."""
        write_whole(self.partial / COLLAPSE, (message + "\n").encode())

    @property
    def collapse(self) -> str:
        """What an earlier run of this recipe ended in; '' where it was only interrupted."""
        return _line_of(self.partial / COLLAPSE)

    def discard(self) -> None:
        """Nothing was done: leave nothing behind."""
        self.release()
        shutil.rmtree(self.partial, ignore_errors=True)

    def release(self) -> None:
        """Let another process work here."""
        while self._lock:
            self._lock.pop().close()


def partial_of(out: Path) -> Path:
    """``runs/a.partial`` of ``runs/a``."""
    return out.with_name(f"{out.name}.partial")


def replaced_of(out: Path) -> Path:
    """Where an older artifact waits until the new one has its name."""
    return out.with_name(f"{out.name}.replaced")


def unfinished(out: Path) -> tuple[str, str] | None:
    """Of an unfinished run of ``out``: the command that goes on with it and the collapse that it ended in ('' where not known).

    None where there is no such run.
    """
    partial = partial_of(out)
    if not (partial / RECIPE).is_file():
        return None
    return _line_of(partial / COMMAND), _line_of(partial / COLLAPSE)


def _line_of(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip()
    return ""


def begin(out: Path, recipe: Mapping[str, Any], *, force: bool = False, fresh: bool = False) -> Work:
    """Look at what lies at ``out`` and beside it, and make the folder to work in.

    ``force``: replace an artifact, and an unfinished run of another recipe. ``fresh``: drop an unfinished run. Raises ``PKC620``
    (cannot write), ``PKC621`` (something else is there), ``PKC622`` (made by another recipe), ``PKC623`` (at work).
    """
    work = Work(out, recipe)
    try:
        if _complete(out, recipe, force):
            work.found = "complete"
            return work
        _open(work, force, fresh)
    except OSError as error:
        work.release()
        raise unwritable(work.partial, error) from None
    except PkcError:
        work.release()
        raise
    return work


def _complete(out: Path, recipe: Mapping[str, Any], force: bool) -> bool:
    """Whether the artifact at ``out`` is the one that is wanted; False where there is none, or it is to be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / MANIFEST).is_file():
        raise fail("PKC621", f"'{out}' exists and is no artifact; it is left as it is", "give another folder: -o DIR")
    if force:
        return False
    manifest = read_manifest(out)
    _same(manifest["recipe"], recipe, f"'{out}' was made by another recipe", "pkc prune ... --force replaces it, -o DIR keeps both")
    check_files(out, manifest)
    if (replaced_of(out) / MANIFEST).is_file():
        shutil.rmtree(replaced_of(out))
    return True


def _open(work: Work, force: bool, fresh: bool) -> None:
    partial = work.partial
    if partial.exists():
        strange = [p.name for p in partial.iterdir() if p.name.removesuffix(UNFINISHED) not in OWN] if partial.is_dir() else [""]
        if strange:
            raise fail("PKC621", f"'{partial}' is no unfinished run: it holds '{strange[0]}'", "give another folder: -o DIR")
    partial.mkdir(parents=True, exist_ok=True)
    work._lock.append(locked(partial / LOCK))
    if _whole(partial, work):
        return
    before = read_object(partial / RECIPE)
    if before is not None and not (fresh or force):
        remedy = f"--fresh starts '{work.out}' anew, -o DIR keeps both"
        _same(before, work.recipe, f"'{partial}' is an unfinished run of another recipe", remedy)
    if before is not None and not fresh and recipe_hash(before) == recipe_hash(work.recipe):
        _go_on(work)
        return
    for path in partial.iterdir():
        if path.name != LOCK:
            path.unlink()
    write_whole(partial / RECIPE, json_text(work.recipe))


def _whole(partial: Path, work: Work) -> bool:
    """Whether the unfinished folder is an artifact of this recipe, of which only the renaming is missing (which is done here)."""
    if not (partial / MANIFEST).is_file():
        return False
    manifest = read_manifest(partial)
    if manifest["recipe_sha256"] != recipe_hash(work.recipe):
        return False
    check_files(partial, manifest)
    work.finish()
    work.found = "complete"
    return True


def _go_on(work: Work) -> None:
    state = read_state(work.partial / STATE, recipe_hash(work.recipe))
    if state is not None:
        work.after, work.spent = state
        work.found = "resumed"


def _same(before: Mapping[str, Any], now: Mapping[str, Any], message: str, remedy: str) -> None:
    if recipe_hash(before) != recipe_hash(now):
        lines = differences(before, now)
        raise fail("PKC622", f"{message}: {lines[0]}", *lines[1:], remedy)


def locked(path: Path) -> IO[str]:
    """An open file that no other process can lock; the lock goes with the process. Raises ``PKC623``."""
    stream = path.open("w")
    try:
        import fcntl
    except ImportError:
        return stream
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        message = f"another process is at work in '{path.parent}'"
        raise fail("PKC623", message, "wait for it, or give another folder: -o DIR") from None
    return stream


def write_state(path: Path, state: Round, seconds: float, recipe: str) -> None:
    """A state as one file: the masks packed to bits, the rest as text beside them."""
    masks = {**state.masks, **_named(BEGUN, state.begun), **_named(LEFT, state.left)}
    packed = {n: torch.from_numpy(np.packbits(m.numpy().reshape(-1))) for n, m in masks.items()}
    facts = {
        name: repr(getattr(state, name)) for name in ("stage", "round", "rounds", "density", "kept", "total", "log10_mass", "start")
    }
    facts |= {name: getattr(state, name) for name in SAID} | {"by_position": str(state.by_position)}
    shapes = {f"shape {n}": "x".join(map(str, m.shape)) for n, m in masks.items()}
    write_whole(path, tensor_bytes(packed, {**facts, **shapes, "seconds": repr(seconds), "recipe": recipe}), durable=False)


def read_state(path: Path, recipe: str) -> tuple[Round, float] | None:
    """The state and its seconds; None where there is none that can be used."""
    if not path.is_file():
        return None
    with suppress(SafetensorError, OSError, KeyError, ValueError), safe_open(path, "pt") as found:
        facts = found.metadata() or {}
        if facts["recipe"] != recipe:
            return None
        kinds: dict[str, dict[str, Tensor]] = {"": {}, BEGUN: {}, LEFT: {}}
        for key in found.keys():  # noqa: SIM118
            kind = next((k for k in (BEGUN, LEFT) if key.startswith(k)), "")
            kinds[kind][key.removeprefix(kind)] = _unpacked(found.get_tensor(key), facts[f"shape {key}"])
        mass = None if facts["log10_mass"] == "None" else float(facts["log10_mass"])
        stage, round_, rounds, kept, total = (int(facts[name]) for name in ("stage", "round", "rounds", "kept", "total"))
        start = None if facts["start"] == "None" else float(facts["start"])
        state = Round(stage, round_, rounds, float(facts["density"]), kept, total, kinds[""], mass, start)
        said = {name: facts[name] for name in SAID}
        state = replace(state, begun=kinds[BEGUN], left=kinds[LEFT], by_position=int(facts["by_position"]), **said)
        return state, float(facts["seconds"])
    return None


def _named(kind: str, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {kind + n: m for n, m in masks.items()}


def _unpacked(bits: Tensor, shape: str) -> Tensor:
    sizes = [int(size) for size in shape.split("x") if size]
    count = int(np.prod(sizes, dtype=np.int64))
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).reshape(sizes)
