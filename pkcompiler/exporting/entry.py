"""``export``: a model and its masks as a file that works without pkcompiler."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import fail, typed_or_called
from pkcompiler.exporting.baked import Baked, bake
from pkcompiler.exporting.content import Content
from pkcompiler.exporting.to_onnx import need, to_onnx
from pkcompiler.exporting.to_pt2 import to_pt2
from pkcompiler.exporting.to_source import to_source
from pkcompiler.exporting.to_weights import to_safetensors, to_torch_prune
from pkcompiler.files import deliver, hidden
from pkcompiler.lowering.compact.result import Compact
from pkcompiler.lowering.masks import Masks
from pkcompiler.modes import in_own_modes, keeping_default_device

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "source": ".py", "safetensors": ".safetensors", "torch-prune": ".pt"}
"""Each target, and what the names of its files end with."""
CALLED = ("onnx", "pt2", "source")
"""The targets that take an example."""
BESIDE = {"source": ".safetensors"}
"""What is written beside the file."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What :func:`export` has written. ``files``: their sizes in bytes, by path.

    ``inputs``, ``outputs``: the names in the file, where it has some. ``batch``: the only batch that it takes; None for any (and
    for files of weights). ``difference``: the largest from the model, in parts of the largest entry of an output; None: unchecked.
    """

    to: str
    files: Mapping[Path, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int | None
    difference: float | None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        return {
            "to": self.to,
            "files": {path.as_posix(): size for path, size in self.files.items()},
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "batch": self.batch,
            "difference": self.difference,
        }


@checked
@in_own_modes
def export(
    module: nn.Module | Compact,
    path: str | Path,
    *,
    to: str = "onnx",
    example_inputs: Any = None,
    masks: Masks | None = None,
    check: bool = True,
    force: bool = False,
) -> Exported:
    """Write a model as a file that works without pkcompiler, with zeros in the place of pruned weights and no masks.

    ``onnx``: an ONNX file (extra ``export``); ``pt2``: what ``torch.export.load`` reads; ``source``: a Python module that needs
    torch and safetensors alone, and its weights beside it; ``safetensors``: the ``state_dict``, dense; ``torch-prune``: the
    ``state_dict`` that ``torch.nn.utils.prune`` makes, ``weight_orig`` and ``weight_mask`` (the one file that holds masks).

    The first three are the model in evaluation mode (``source`` trains, too), with inputs named as in ``forward`` and a batch of
    any size where the model can be recorded so; weights that are computed (``weight_norm``) are written as what they come to.

    :param module: any module; also one with masks on it (:func:`apply_masks`, ``torch.nn.utils.prune``), a lowered network, or what
        :func:`compact` gives.
    :param example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs; dimension 0 is the batch.
    :param masks: parameter name to bool tensor, True = kept, or what holds them; besides those that the module has.
    :param check: compare the file with the model, at the example and at random inputs, before it is written.
    :param force: replace a file that is there.
    :raises PkcError: PKC650 a model that cannot be written so, PKC651 a file that computes something else, PKC652 a package is
        missing, PKC653 no text, PKC654 the target, PKC655 the path; PKC272 no example; masks as in :func:`lower`.
    """
    path = Path(path)
    prepare(path, to, force=force)
    if to in CALLED and example_inputs is None:
        example_inputs = getattr(masks, "inputs", None)
        if example_inputs is None:
            raise fail("PKC272", f"to = '{to}' records the model, which takes an example", "give example_inputs = x")
    with keeping_default_device("forward"):
        baked = bake(module.module if isinstance(module, Compact) else module, masks, example_inputs)
        found = _content(baked, path, to, check)
    note = typed_or_called("name a file elsewhere: -o FILE", "give a path that can be written")
    written = {}
    for suffix, data in sorted(found.files.items(), reverse=True):  # what is named last is there last
        file = path.with_suffix(suffix) if suffix else path
        deliver(file, data, "PKC655", note)
        written[file] = len(data)
    return Exported(to, written, found.inputs, found.outputs, found.batch, found.difference)


def _content(baked: Baked, path: Path, to: str, check: bool) -> Content:
    makers: dict[str, Callable[[], Content]] = {
        "onnx": lambda: to_onnx(baked, check),
        "pt2": lambda: to_pt2(baked, check),
        "source": lambda: to_source(baked, check, path.stem),
        "safetensors": lambda: to_safetensors(baked),
        "torch-prune": lambda: to_torch_prune(baked),
    }
    return makers[to]()


def prepare(path: Path, to: str, *, force: bool) -> None:
    """Raise ``PKC654`` for an unknown target, ``PKC652`` where its package is missing, ``PKC655`` where the file cannot be."""
    if to not in SUFFIXES:
        close = get_close_matches(to, SUFFIXES, 1)
        note = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(SUFFIXES)}"
        raise fail("PKC654", f"'{to}' is no target of an export", note)
    if to == "onnx":
        need()
    suffix = SUFFIXES[to]
    if path.suffix != suffix:
        wanted = path.with_suffix(suffix) if path.name else path / f"model{suffix}"
        raise fail("PKC655", f"'{path}' is no {suffix} file, which '{to}' writes", f"give one: {wanted}")
    if to == "source" and not path.stem.isidentifier():
        raise fail("PKC655", f"'{path.name}' is no name of a Python module", "give a name of letters, digits and '_': network.py")
    for file in (path, *([path.with_suffix(BESIDE[to])] if to in BESIDE else [])):
        _refuse(file, force)


def _refuse(file: Path, force: bool) -> None:
    note = typed_or_called("give a file that can be written: -o FILE", "give a path that can be written")
    if (why := hidden(file)) is not None:
        raise fail("PKC655", f"'{file}' cannot be written: {why}", note)
    if not os.path.isdir(file.parent):
        raise fail("PKC655", f"there is no folder '{file.parent}' for '{file.name}'", f"make it: mkdir -p '{file.parent}'")
    if os.path.isdir(file):
        raise fail("PKC655", f"'{file}' is a folder", note)
    if os.path.lexists(file) and not force:
        again = typed_or_called("replace it with --force, or give another name: -o FILE", "replace it with force=True")
        raise fail("PKC655", f"'{file}' exists already", again)
