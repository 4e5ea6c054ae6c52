"""The data of a schedule or of ``--data``: ``digits(per_class = 10, batch = 128)`` -> samples, with indices and hash."""

from __future__ import annotations

import re
from pathlib import Path

from pkcompiler.data.named import read
from pkcompiler.data.subset import PER_CLASS, LoadedData, Quota, balanced, whole
from pkcompiler.diagnostics import Diagnostic, PkcError, fail, raise_all
from pkcompiler.lang.ast import DataSpec
from pkcompiler.modes import in_own_modes
from pkcompiler.usercode import nearest

OPTIONS = ("per_class", "count", "batch")
SPEC_TEXT = re.compile(r"\s*(?P<source>[^()]+?)\s*(?:\((?P<options>[^()]*)\))?\s*")
OPTION_TEXT = re.compile(r"\s*(?P<key>\w+)\s*=\s*(?P<value>[0-9]+)\s*")


@in_own_modes
def load_data(spec: DataSpec | str, seed: int = 0) -> LoadedData:
    """A class-balanced subset of the source that ``spec`` names, drawn with ``seed`` (10 of each class without an option). Samples
    whose targets are floats, no class labels, are all taken.

    Options: ``per_class = N`` or ``count = N``, and ``batch = N``, which is carried through. Raises ``PkcError``: PKC660 to
    PKC662 for the source, PKC663 to PKC666 for its samples, PKC667 for the options.
    """
    if isinstance(spec, str):
        spec = parse_data(spec)
    quota, batch = _options(spec)
    found, name = read(spec.source), _plain_name(spec.source)
    drawn = {"per_class", "count"} & {key for key, _ in spec.options}
    if isinstance(found, tuple) and len(found) == 2 and not drawn and found[1].is_floating_point():
        return whole(found, name, batch)
    return balanced(found, quota, seed, name, batch)


def parse_data(text: str) -> DataSpec:
    """``digits``, ``data.npz``, ``digits(count = 50, batch = 10)`` as a :class:`DataSpec`. Raises PKC667."""
    match = SPEC_TEXT.fullmatch(text)
    if match is None:
        raise _malformed(text)
    given = [part for part in (match["options"] or "").split(",") if part.strip()]
    options = [OPTION_TEXT.fullmatch(part) for part in given]
    if None in options:
        raise _malformed(text)
    return DataSpec(match["source"].strip("\"'"), tuple((option["key"], int(option["value"])) for option in options if option))


def _malformed(text: str) -> PkcError:
    return fail("PKC667", f"'{text}' is not a data set", "expected SOURCE or SOURCE(per_class = N, batch = N)", "try --data digits")


def _options(spec: DataSpec) -> tuple[Quota, int | None]:
    raise_all(
        Diagnostic("PKC667", problem, spec.span, notes=(note,))
        for key, value in spec.options
        for problem, note in _problems(spec, key, value)
    )
    given = {key: int(value) for key, value in spec.options}
    if "per_class" in given and "count" in given:
        raise fail("PKC667", f"'{spec.source}' is given both per_class and count", "leave out one of them", span=spec.span)
    if len(given) < len(spec.options):
        raise fail("PKC667", f"an option of '{spec.source}' is given twice", "leave out one of them", span=spec.span)
    per_class = given.get("per_class", None if "count" in given else PER_CLASS)
    quota = Quota(per_class, given.get("count"), by_default=not {"per_class", "count"} & given.keys())
    return quota, given.get("batch")


def _problems(spec: DataSpec, key: str, value: float | int | str) -> list[tuple[str, str]]:
    if key not in OPTIONS:
        return [(f"the data set '{spec.source}' has no option '{key}'", nearest(key, OPTIONS))]
    if isinstance(value, str) or value != int(value) or value < 1:
        return [(f"{key} = {value} of '{spec.source}' is not a positive whole number", f"try {key} = 10")]
    return []


def _plain_name(source: str) -> str:
    """The source without the folders of an absolute path."""
    place, colon, name = source.partition(":")
    return Path(place).name + colon + name if Path(place).is_absolute() else source
