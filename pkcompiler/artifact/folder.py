"""The folders of a run: what lies there and whose it is. Only what bears our token, and only our own names, is ever removed.

While a run is at work in ``<out>.partial``, its file ``lock`` holds the token. The finished folder is renamed to ``<out>``; an
older artifact waits in it, as ``older``, until that is done.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pkcompiler.artifact.manifest import FORMAT, KNOWN, MANIFEST, README, README_BEGINS
from pkcompiler.diagnostics import PkcError, fail, typed_or_called
from pkcompiler.files import barred, bears, elsewhere, is_temporary, read_object, reason, sha256_of

RECIPE, STATE, COMMAND, COLLAPSE = "recipe.json", "state.safetensors", "command", "collapse"
LOCK, OLDER, PARTIAL = "lock", "older", ".partial"
RESERVED = (PARTIAL, ".replaced")
"""What no artifact may end in: the second is what an older version called an artifact that it was replacing."""
TOKEN = "pkc prune works in this folder\n"
RUN = frozenset({RECIPE, STATE, COMMAND, COLLAPSE})
UNTIDIED = RUN | {LOCK, OLDER}
"""What an artifact may still hold for a moment after its run, or after one that was killed then."""
ARTIFACT = frozenset({MANIFEST, *KNOWN})


def place_of(out: Path) -> Path:
    """Where an artifact is really written: where ``out`` leads, if it is a symbolic link."""
    return Path(os.path.realpath(out)) if os.path.islink(out) else out


def partial_of(out: Path) -> Path:
    """``runs/a.partial`` of ``runs/a``."""
    place = place_of(out)
    return place.with_name(place.name + PARTIAL)


def refuse_name(out: Path) -> None:
    """Raise ``PKC620`` for what is no name, and ``PKC621`` for one that no new folder can have."""
    if "\0" in str(out):
        raise fail("PKC620", f"cannot write '{out}': a name cannot hold the character NUL", elsewhere("give a plain name"))
    if place_of(out).name in ("", ".."):
        raise fail("PKC621", f"'{out}' is there already, and a run makes a folder of its own", elsewhere("name a new one in it"))
    refuse_ending(out)


def refuse_ending(out: Path) -> None:
    """Raise ``PKC621`` for the name of an unfinished run, or of what is replaced."""
    if (ending := next((e for e in RESERVED if place_of(out).name.endswith(e)), None)) is not None:
        own = out.with_name(out.name.removesuffix(ending) or "DIR")
        remedy = typed_or_called(f"give another name: -o {own}", f"give another name: '{own}'")
        what = f"the unfinished run of '{own}'" if ending == PARTIAL else f"an artifact '{own}' that is being replaced"
        raise fail("PKC621", f"'{out}' is what {what} is called", remedy)


def is_vacant(folder: Path) -> bool:
    """Whether there is nothing, or an empty folder."""
    return not os.path.lexists(folder) or (_is_folder(folder) and not any(folder.iterdir()))


def stranger(folder: Path, own: Collection[str]) -> str | None:
    """The first entry of a folder that is no file of these names; None where there is none.

    Half-written files and an older artifact that waits are our own, too.
    """
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        known = entry.name in own or entry.name == LOCK or is_temporary(entry.name)
        if known and entry.is_file(follow_symlinks=False):
            continue
        older = entry.name == OLDER and entry.is_dir(follow_symlinks=False)
        if not older or stranger(Path(entry.path), ARTIFACT | RUN) is not None:
            return entry.name
    return None


def check_partial(partial: Path) -> None:
    """Raise ``PKC621`` unless the folder is an unfinished run's, or free to become one."""
    if is_vacant(partial):
        return
    remedy = elsewhere("move it away, or give another folder")
    if not _is_folder(partial):
        raise fail("PKC621", f"'{partial}' is no unfinished run: it is a {_kind(partial)}", remedy)
    if name := stranger(partial, ARTIFACT | RUN):
        raise fail("PKC621", f"'{partial}' is no unfinished run: it holds '{name}'", remedy)
    if (fault := barred(partial / LOCK)) is not None:
        raise fail("PKC621", fault, remedy)
    if not bears(partial / LOCK, TOKEN) and not _only_empty_lock(partial):
        raise fail("PKC621", f"'{partial}' is no unfinished run: no run has made it", remedy)


def occupant(out: Path) -> PkcError | None:
    """``PKC621`` where something else than an artifact, and what belongs to it, lies at ``out``; None where it may be replaced."""
    place, remedy = place_of(out), elsewhere("give another folder")
    if is_vacant(place):
        return None
    if not _is_folder(place) or not _says_format(place):
        return fail("PKC621", f"'{out}' exists and is no artifact; it is left as it is", remedy)
    if name := _foreign(place):
        return fail("PKC621", f"'{out}' holds '{name}', which no run has written; it is left as it is", f"move it, or {remedy}")
    return None


def require_movable(out: Path) -> None:
    """Raise ``PKC620`` where an artifact may not be moved away, so that no run can replace it."""
    if not os.access(place_of(out), os.W_OK):
        raise immovable(out, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "replaced")


def immovable(out: Path, error: OSError, what: str) -> PkcError:
    """``PKC620`` of what lies at ``out``, and cannot be ``read`` or ``replaced``."""
    return fail("PKC620", f"'{out}' cannot be {what}: {reason(error)}", elsewhere("change its permissions, or give another folder"))


def _foreign(place: Path) -> str | None:
    """What is not ours in an artifact: the first :func:`stranger`, or a README.txt that somebody has written into.

    Its text is ours where it has the hash in the manifest; under a manifest that cannot be read, where it begins as ours do.
    """
    if name := stranger(place, ARTIFACT | RUN):
        return name
    if not os.path.lexists(place / README):
        return None
    files = (read_object(place / MANIFEST) or {}).get("files")
    written = files.get(README) if isinstance(files, dict) else None
    ours = (
        (place / README).read_bytes().startswith(README_BEGINS.encode())
        if written is None
        else sha256_of(place / README) == written
    )
    return None if ours else README


def rename_into_place(partial: Path, out: Path, *, replace: bool = True) -> None:
    """Give a finished folder its name; an older artifact there is replaced. What lies there is looked at once more.

    Raises ``PKC621`` where something else has come there meanwhile, or anything at all without ``replace``; then nothing has
    changed. Raises OSError.
    """
    place, older = place_of(out), partial / OLDER
    _require_replaceable(out, partial, replace)
    if is_vacant(place):
        with suppress(FileNotFoundError):
            place.rmdir()
    else:
        try:
            os.rename(place, older)
        except PermissionError as error:
            note = f"the result is whole, in '{partial}': change the permissions, and the same command ends the run"
            raise fail("PKC620", f"'{out}' cannot be replaced: {reason(error)}", note) from None
        if _foreign(older):  # it came between the look and the renaming
            os.rename(older, place)
            _require_replaceable(out, partial, replace)
    os.rename(partial, place)
    tidy(place)


def _require_replaceable(out: Path, partial: Path, replace: bool) -> None:
    if not replace and not is_vacant(place_of(out)):
        raise fail("PKC621", f"'{out}' exists already", "give a new folder")
    if error := occupant(out):
        (found,) = error.diagnostics
        note = f"the result is whole, in '{partial}': move what is in the way, and the same command ends the run"
        raise fail("PKC621", found.message, note)


def tidy(place: Path) -> None:
    """Remove from an artifact what only its run needed. It is no fault where something cannot be removed."""
    if not bears(place / LOCK, TOKEN):
        return
    if _is_folder(place / OLDER):
        remove(place / OLDER)
    _unlink(place, RUN)
    _unlink(place, {LOCK})


def remove(folder: Path) -> None:
    """Remove the files of our names from a folder, and the folder if nothing else is in it. The token goes last."""
    if _is_folder(folder / OLDER):
        remove(folder / OLDER)
    with suppress(OSError):
        _unlink(folder, {entry.name for entry in os.scandir(folder) if is_temporary(entry.name)})
    _unlink(folder, ARTIFACT | RUN)
    _unlink(folder, {LOCK})
    with suppress(OSError):
        folder.rmdir()


def begin_anew(partial: Path, out: Path) -> None:
    """Remove all of an unfinished run but its token; an artifact that waits there gets its name back. Raises OSError."""
    if _is_folder(partial / OLDER):
        if is_vacant(place_of(out)):
            os.rename(partial / OLDER, place_of(out))
        else:
            remove(partial / OLDER)
    for entry in list(os.scandir(partial)):
        if entry.name in ARTIFACT | RUN or is_temporary(entry.name):
            os.unlink(entry.path)


def _unlink(folder: Path, names: Collection[str]) -> None:
    for name in sorted(names):
        with suppress(OSError):
            os.unlink(folder / name)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _kind(path: Path) -> str:
    return "symbolic link" if os.path.islink(path) else "file"


def _only_empty_lock(folder: Path) -> bool:
    names = os.listdir(folder)
    return names == [LOCK] and not os.path.getsize(folder / LOCK)


def _says_format(folder: Path) -> bool:
    """Whether the manifest, damaged or not, names our format."""
    manifest = folder / MANIFEST
    if os.path.islink(manifest) or not manifest.is_file():
        return False
    return FORMAT.encode() in manifest.read_bytes()
