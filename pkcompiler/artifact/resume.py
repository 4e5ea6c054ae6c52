"""Work that survives its process: a folder ``<out>.partial`` with the recipe and the last state, renamed when it is whole.

What is on disk at any moment is one of: no recipe (nothing was done), a recipe and perhaps a state (the run goes on behind it),
or a manifest (the run is complete, and only the renaming is missing).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from pkcompiler.artifact import folder
from pkcompiler.artifact.folder import COLLAPSE, COMMAND, LOCK, RECIPE, STATE, partial_of, place_of
from pkcompiler.artifact.manifest import MANIFEST, MASKS, check_files, read_manifest
from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.files import json_text, locked, read_object, sweep, unwritable, write_whole
from pkcompiler.pruning.recipe import differences, recipe_hash
from pkcompiler.pruning.state import Round

BEGUN, LEFT = "begun ", "left "
"""Before the names of the masks of a round's ground."""
SAID = ("stopped", "missed", "uncertain", "arbitrary")
"""What a state says in words."""
CHECKPOINT_EVERY = 1.0  # seconds
LINE = 2000
"""Characters of a command or of a collapse that are shown."""
ATTEMPTS = 10
"""How often a folder may vanish, renamed by the process that has just ended its run, before that is an error."""

Found = Literal["new", "resumed", "complete"]


@dataclass(slots=True)
class Work:
    """The folder of a run. ``found``: what lay there. ``after``: the state to go on from; ``spent``: seconds of earlier runs.
    ``partial``: where the run works.

    Its methods raise ``PKC620`` where nothing can be written; what was there before is there then.
    """

    out: Path
    recipe: Mapping[str, Any]
    found: Found = "new"
    after: Round | None = None
    spent: float = 0.0
    partial: Path = field(init=False)
    _next: float = 0.0
    _lock: list[IO[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.partial = partial_of(self.out)  # once: what comes to lie at ``out`` meanwhile moves no run

    def checkpoint(self, state: Round, seconds: float, *, now: bool = False) -> None:
        """Write the state after a round; at most every second unless ``now``."""
        moment = time.monotonic()
        if not now and moment < self._next:
            return
        with self.writing():
            write_state(self.partial / STATE, state, self.spent + seconds, recipe_hash(self.recipe))
        self._next = time.monotonic() + CHECKPOINT_EVERY

    def finish(self) -> None:
        """The folder holds a manifest: give it its name (replacing an older artifact), and keep only what belongs to it.

        Raises ``PKC621`` where something else has come to lie there meanwhile; the folder stays, and the same command ends it.
        """
        with self.writing():
            folder.rename_into_place(self.partial, self.out)
        self.release()

    def keep_masks(self, state: Round) -> Path:
        """The masks of a run that will not be whole, as a file that others can read."""
        path = self.partial / MASKS
        with self.writing():
            write_whole(path, tensor_bytes({n: m.contiguous() for n, m in state.masks.items()}))
        return path

    def typed(self, command: str) -> None:
        """Remember the command, for who finds the run unfinished."""
        with self.writing():
            write_whole(self.partial / COMMAND, command + "\n")

    def collapsed(self, message: str) -> None:
        """Remember that the run ended in layer collapse, so that another one can say so."""
        with self.writing():
            write_whole(self.partial / COLLAPSE, message + "\n")

    @property
    def collapse(self) -> str:
        """What an earlier run of this recipe ended in; '' where it was only interrupted."""
        return _line_of(self.partial / COLLAPSE)

    def forget(self) -> None:
        """The state is none of this run: begin anew, and write over it."""
        self.found, self.after, self.spent = "new", None, 0.0

    def discard(self) -> None:
        """Nothing was done: leave nothing behind."""
        folder.remove(self.partial)
        self.release()

    def release(self) -> None:
        """Let another process work here."""
        while self._lock:
            self._lock.pop().close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns an ``OSError`` inside into ``PKC620``."""
        try:
            yield
        except OSError as error:
            raise unwritable(self.partial, error) from None


def unfinished(out: Path) -> tuple[str, str] | None:
    """Of an unfinished run of ``out``: the command that goes on with it and the collapse that it ended in ('' where not known).

    None where there is no such run.
    """
    partial = partial_of(out)
    if not os.path.isfile(partial / RECIPE):
        return None
    return _line_of(partial / COMMAND), _line_of(partial / COLLAPSE)


def _line_of(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8").strip()
        return text if len(text) <= LINE else f"{text[:LINE]}..."
    return ""


def begin(out: Path, recipe: Mapping[str, Any], *, force: bool = False, fresh: bool = False) -> Work:
    """Look at what lies at ``out`` and beside it, and make the folder to work in.

    ``force``: replace an artifact, and an unfinished run of another recipe. ``fresh``: drop an unfinished run. Raises ``PKC620``
    (cannot write), ``PKC621`` (something else is there), ``PKC622`` (made by another recipe), ``PKC623`` (at work).
    """
    folder.refuse_name(out)
    work = Work(out, recipe)
    for attempt in range(ATTEMPTS):
        try:
            if not _complete(out, recipe, force):
                _open(work, force, fresh)
            else:
                work.found = "complete"
            return work
        except FileNotFoundError as error:
            work.release()
            if attempt == ATTEMPTS - 1:
                raise unwritable(work.partial, error) from None
        except OSError as error:
            work.release()
            raise unwritable(work.partial, error) from None
        except PkcError:
            work.release()
            raise
    raise AssertionError("the last attempt returns or raises")


def _complete(out: Path, recipe: Mapping[str, Any], force: bool) -> bool:
    """Whether the artifact at ``out`` is the one that is wanted; False where there is none, or it is to be replaced."""
    try:
        return _is_wanted(out, recipe, force)
    except PermissionError as error:
        raise folder.immovable(out, error, "read") from None


def _is_wanted(out: Path, recipe: Mapping[str, Any], force: bool) -> bool:
    place = place_of(out)
    if folder.is_vacant(place):
        return False
    if force and (error := folder.occupant(out)):
        raise error
    if force:
        folder.require_movable(out)
        return False
    if not (place / MANIFEST).is_file():
        raise fail("PKC621", f"'{out}' exists and is no artifact; it is left as it is", "give another folder: -o DIR")
    manifest = read_manifest(out)
    _same(manifest["recipe"], recipe, f"'{out}' was made by another recipe", "pkc prune ... --force replaces it, -o DIR keeps both")
    check_files(out, manifest)
    folder.tidy(place)
    return True


def _open(work: Work, force: bool, fresh: bool) -> None:
    partial = work.partial
    folder.check_partial(partial)
    new = folder.is_vacant(partial)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        work._lock.append(locked(partial / LOCK, folder.TOKEN))
        if _complete(work.out, work.recipe, force):  # by a process that has ended since
            work.found = "complete"
            work.discard() if new else work.release()
        elif not _whole(partial, work):
            _begin_or_go_on(work, force, fresh)
    except OSError:
        if new and work._lock:
            work.discard()
        raise


def _begin_or_go_on(work: Work, force: bool, fresh: bool) -> None:
    partial = work.partial
    before = _recipe_before(partial)
    if before is not None and not (fresh or force):
        remedy = f"--fresh starts '{work.out}' anew, -o DIR keeps both"
        _same(before, work.recipe, f"'{partial}' is an unfinished run of another recipe", remedy)
    ours = before is None or recipe_hash(before) == recipe_hash(work.recipe)
    if ours and not fresh:
        _go_on(work)
    if (ours and not fresh and before is not None) or work.after is not None:
        write_whole(partial / RECIPE, json_text(work.recipe))
        return
    folder.begin_anew(partial, work.out)
    write_whole(partial / RECIPE, json_text(work.recipe))


def _recipe_before(partial: Path) -> dict[str, Any] | None:
    """Of what is unfinished there; also of what only lacks its renaming."""
    before = read_object(partial / RECIPE)
    made = read_object(partial / MANIFEST) if before is None else None
    recipe = made.get("recipe") if made else None
    return recipe if isinstance(recipe, dict) else before


def _whole(partial: Path, work: Work) -> bool:
    """Whether the unfinished folder is an artifact of this recipe, of which only the renaming is missing (which is done here)."""
    if not (partial / MANIFEST).is_file():
        return False
    try:
        manifest = read_manifest(partial)
        check_files(partial, manifest)
    except PkcError:
        return False  # damaged: what made it is done again, from its last state
    if manifest["recipe_sha256"] != recipe_hash(work.recipe):
        return False
    work.finish()
    work.found = "complete"
    return True


def _go_on(work: Work) -> None:
    sweep(work.partial)
    state = read_state(work.partial / STATE, recipe_hash(work.recipe))
    if state is not None:
        work.after, work.spent = state
        work.found = "resumed"


def _same(before: Mapping[str, Any], now: Mapping[str, Any], message: str, remedy: str) -> None:
    if recipe_hash(before) != recipe_hash(now):
        lines = differences(before, now)
        raise fail("PKC622", f"{message}: {lines[0]}", *lines[1:], remedy)


def write_state(path: Path, state: Round, seconds: float, recipe: str) -> None:
    """A state as one file: the masks packed to bits, the rest as text beside them."""
    masks = {**state.masks, **_named(BEGUN, state.begun), **_named(LEFT, state.left)}
    packed = {n: torch.from_numpy(np.packbits(m.numpy().reshape(-1))) for n, m in masks.items()}
    facts = {
        name: repr(getattr(state, name)) for name in ("stage", "round", "rounds", "density", "kept", "total", "log10_mass", "start")
    }
    facts |= {name: getattr(state, name) for name in SAID} | {"by_position": str(state.by_position)}
    shapes = {f"shape {n}": "x".join(map(str, m.shape)) for n, m in masks.items()}
    facts |= {**shapes, "seconds": repr(seconds), "recipe": recipe}
    write_whole(path, tensor_bytes(packed, {**facts, "sha256": state_digest(packed, facts)}), durable=False)


def read_state(path: Path, recipe: str) -> tuple[Round, float] | None:
    """The state and its seconds; None where there is none that can be used."""
    if not path.is_file():
        return None
    with suppress(SafetensorError, OSError, LookupError, ValueError, TypeError, ArithmeticError), safe_open(path, "pt") as found:
        facts = found.metadata() or {}
        packed = {key: found.get_tensor(key) for key in found.keys()}  # noqa: SIM118
        if facts["recipe"] != recipe or facts.pop("sha256") != state_digest(packed, facts):
            return None
        kinds: dict[str, dict[str, Tensor]] = {"": {}, BEGUN: {}, LEFT: {}}
        for key, bits in packed.items():
            kind = next((k for k in (BEGUN, LEFT) if key.startswith(k)), "")
            kinds[kind][key.removeprefix(kind)] = _unpacked(bits, facts[f"shape {key}"])
        mass = None if facts["log10_mass"] == "None" else float(facts["log10_mass"])
        stage, round_, rounds, kept, total = (int(facts[name]) for name in ("stage", "round", "rounds", "kept", "total"))
        start = None if facts["start"] == "None" else float(facts["start"])
        state = Round(stage, round_, rounds, float(facts["density"]), kept, total, kinds[""], mass, start)
        said = {name: facts[name] for name in SAID}
        state = replace(state, begun=kinds[BEGUN], left=kinds[LEFT], by_position=int(facts["by_position"]), **said)
        seconds = float(facts["seconds"])
        return (state, seconds) if 0 <= seconds < math.inf else None
    return None


def state_digest(packed: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """Of all that a state's file holds: what a power failure has left of it is told from what was written."""
    parts = [f"{key} {value}\n".encode() for key, value in sorted(facts.items())]
    parts += [f"{name}\n".encode() + bits.numpy().tobytes() for name, bits in sorted(packed.items())]
    return sha256(b"".join(parts)).hexdigest()


def _named(kind: str, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {kind + n: m for n, m in masks.items()}


def _unpacked(bits: Tensor, shape: str) -> Tensor:
    sizes = [int(size) for size in shape.split("x") if size]
    count = math.prod(sizes)
    if min(sizes, default=0) < 0 or -(-count // 8) != bits.numel():
        raise ValueError(f"{bits.numel()} bytes are no mask of {shape}")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).reshape(sizes)
