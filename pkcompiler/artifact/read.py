"""The artifact: a folder with masks, the weights that were scored, and what they were made from. ``load`` reads one back.

Nothing that an artifact names is imported or run: reading it takes its printed graph, its tensors and its manifest alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.arguments import checked, methods_checked
from pkcompiler.artifact.contents import WORDS, check_contents, kind_of, read_report, read_tensors, read_text, stored_graph
from pkcompiler.artifact.folder import UNTIDIED
from pkcompiler.artifact.manifest import CONSTANTS, MASKS, REPORT, SCHEDULE, WEIGHTS, anew, check_files, read_manifest
from pkcompiler.diagnostics import Diagnostic, fail, raise_all
from pkcompiler.files import reason
from pkcompiler.frontend.copies import copied_unseen
from pkcompiler.frontend.faithful import faithful_copy
from pkcompiler.ir.graphs import maps_of
from pkcompiler.ir.maps import Gate
from pkcompiler.ir.types import PathGraph
from pkcompiler.lowering.compact.make import compact
from pkcompiler.lowering.compact.result import Compact
from pkcompiler.modes import in_own_modes, methods_in_own_modes
from pkcompiler.structure.kept import Streams

__all__ = ["Artifact", "load"]

GAIN_ONE = frozenset({"relu", "gelu", "silu", "mish", "hardswish", "relu6", "hardtanh", "tanh", "softplus", "abs"})
"""Kinds of gates whose gain is 1 whatever their arguments are (those of hardtanh move its ends)."""


@methods_checked
@methods_in_own_modes
@dataclass(frozen=True, eq=False)
class Artifact:
    """What a folder holds. ``masks``: bool tensors by parameter name. ``weights``: the state that was scored, unmasked, under the
    names and dtypes of the dense model's ``state_dict``. ``constants``: tensors of the graph that no ``state_dict`` holds.
    ``extra``: files that the manifest does not name.
    """

    path: Path
    manifest: Mapping[str, Any]
    masks: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]
    extra: tuple[str, ...]
    _graph: PathGraph

    def __repr__(self) -> str:
        return f"Artifact({str(self.path)!r}: {self.kept:,} of {self.total:,} kept, density {self.kept / self.total:.4g})"

    @property
    def graph(self) -> PathGraph:
        """The path graph that was scored, as :func:`load` parsed it.

        Raises ``PKC614`` where a graph of format version 1, whose gates say no gain, has gates of other gains than 1.
        """
        if self.manifest["format_version"] == 1:
            self._check_gains(self._graph)
        return self._graph

    def _check_gains(self, graph: PathGraph) -> None:
        unknown = [map.kind for map in maps_of(graph, Gate).values() if map.kind not in GAIN_ONE]
        if unknown:
            kinds = ", ".join(sorted(set(unknown)))
            raise fail(
                "PKC614",
                f"the path graph of '{self.path}' (format version 1) does not say the gains of its gates ({kinds})",
                "its masks and weights are read as ever: load(...).lower(model)",
                f"analyse the model under its masks, or make the artifact anew: {anew()}",
            )

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensor of every stored slot of the graph, in the slot's dtype. Raises ``PKC628`` where one is missing."""
        found = {**self.weights, **self.constants}
        stored = [s for s in self.graph.slots if s.role != "computed"]
        raise_all(
            Diagnostic("PKC628", f"the artifact '{self.path}' has no tensor for the slot '{s.name}'", notes=("make it anew",))
            for s in stored
            if s.name not in found or tuple(found[s.name].shape) != tuple(s.type.shape)
        )
        return {s.name: found[s.name].to(WORDS[s.type.dtype]) for s in stored}

    @property
    def schedule(self) -> str:
        """The resolved schedule, with the text of every pass."""
        return self.text(SCHEDULE)

    @cached_property
    def report(self) -> dict[str, Any]:
        """The analysis under the masks, as ``Report.to_json`` gave it."""
        return read_report(self.text(REPORT), self.path, self.manifest)

    @property
    def kept(self) -> int:
        """The number of entries that the masks keep, as the manifest says."""
        return int(self.manifest["kept"])

    @property
    def by_position(self) -> int:
        """How many of the kept had score 0 in the last round, and were chosen by position among equals."""
        return int(self.manifest.get("by_position", 0))

    @property
    def total(self) -> int:
        """N: the entries that count."""
        return int(self.manifest["total"])

    def text(self, name: str) -> str:
        """The text of one of the files. Raises ``PKC628`` where it is none."""
        return read_text(self.path, name)

    def lower(self, model: nn.Module, example_inputs: Any = None, *, weights: bool = True) -> nn.Module:
        """A trainable masked copy of ``model``, which is not changed (see :func:`pkcompiler.lower`).

        ``weights``: start from the weights that were scored (False: from those of ``model``). Raises ``PKC629`` where the model is
        another one, and what :func:`pkcompiler.lower` raises.
        """
        from pkcompiler.lowering import lower

        if weights:
            twin = copied_unseen(model) if example_inputs is None else faithful_copy(model, example_inputs)
            return lower(self.restore(twin), self, example_inputs)
        return lower(model, self, example_inputs)

    def compact(self, model: nn.Module, example_inputs: Any, *, streams: Streams = "union", weights: bool = True) -> Compact:
        """The masked ``model``, which is not changed, as a smaller network (see :func:`pkcompiler.compact`).

        ``weights``: start from the weights that were scored (False: from those of ``model``). Raises ``PKC629`` where the model is
        another one, and what :func:`pkcompiler.compact` raises.
        """
        twin = self.restore(faithful_copy(model, example_inputs)) if weights else model
        return compact(twin, self, example_inputs, streams=streams)

    def apply(self, model: nn.Module, *, weights: bool = True) -> nn.Module:
        """Load the weights that were scored into ``model`` (unless ``weights`` is False) and keep its pruned ones at zero.

        In place, through its training; see :func:`pkcompiler.apply_masks`. Raises ``PKC629`` where the model is another one.
        """
        from pkcompiler.lowering import apply_masks

        return apply_masks(self.restore(model) if weights else model, self)

    def restore(self, model: nn.Module) -> nn.Module:
        """Load the weights that were scored into ``model``, unmasked; returns it. Raises ``PKC629`` where it is another one."""
        expected = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
        wrong = [n for n, t in self.weights.items() if n not in expected or _kind(expected[n]) != _kind(t)]
        wrong += [n for n in expected if n not in self.weights]
        if wrong:
            made = self.manifest["model"]
            raise fail(
                "PKC629",
                f"the model is not the one that was pruned: {len(wrong)} tensors differ in name, shape or kind of numbers, "
                f"such as '{wrong[0]}'",
                f"build the same {made.get('class', 'model')}" + (f": {made['spec']}" if made.get("spec") else ""),
            )
        model.load_state_dict(dict(self.weights), strict=True)
        return model


def _kind(tensor: Tensor) -> tuple[torch.Size, str]:
    """What a tensor and one that is loaded into it have in common."""
    return tensor.shape, kind_of(tensor.dtype)


@checked
@in_own_modes
def load(path: str | Path) -> Artifact:
    """Read the artifact in a folder; every file is checked against its hash, and what they hold against each other.

    Raises PkcError: ``PKC624`` no artifact, ``PKC625`` written by a newer version, ``PKC626`` files missing or damaged (all of
    them named), ``PKC627`` and ``PKC628`` contents that do not fit together.
    """
    folder = Path(path)
    try:
        manifest = read_manifest(folder)
        extra = check_files(folder, manifest)
        masks, weights = read_tensors(folder, MASKS), read_tensors(folder, WEIGHTS)
        constants = read_tensors(folder, CONSTANTS) if CONSTANTS in manifest["files"] else {}
    except OSError as error:
        raise fail("PKC624", f"'{folder}' cannot be read: {reason(error)}", "give a folder that can be read") from None
    graph = stored_graph(folder, manifest["format_version"])
    check_contents(folder, manifest, masks, weights, constants, graph)
    found = Artifact(folder, manifest, masks, weights, constants, tuple(n for n in extra if n not in UNTIDIED), graph)
    _ = found.report, found.schedule  # read now, so that what is wrong with them is said now
    return found
