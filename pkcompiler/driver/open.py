"""Open: spec, inputs, weights, plugins -> a model with its inputs, its loss and its device, ready to be traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pkcompiler import usercode
from pkcompiler.diagnostics import fail, typed_or_called
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.frontend.inputs import Inputs, example_inputs
from pkcompiler.frontend.load_weights import load_weights
from pkcompiler.frontend.spec import LoadedModel, load_model, rebuilt
from pkcompiler.ir.types import PathGraph
from pkcompiler.modes import in_own_modes
from pkcompiler.scoring.losses import Loss
from pkcompiler.scoring.total_loss import load_loss

Say = Callable[[str], None]
"""Takes one line for the reader of stderr."""


def quiet(message: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A model that a spec names, ready to be traced. ``weights_sha256``: of the file given; ``plugins``: name to sha256."""

    module: nn.Module
    inputs: Inputs
    loaded: LoadedModel
    output: str | int | None
    seed: int
    args: Mapping[str, object]
    gates: tuple[str, ...]
    plugins: Mapping[str, str]
    weights_sha256: str | None
    say: Say

    @property
    def name(self) -> str:
        """The stem of the file or module."""
        return self.loaded.name

    @cached_property
    def captured(self) -> Capture:
        """Traced and lifted in the model's own precision."""
        return self.capture(None)

    @property
    def graph(self) -> PathGraph:
        """The path graph."""
        return self.captured.graph

    @property
    def initialise(self) -> Callable[[int], nn.Module] | None:
        """Seed to a fresh model by the factory; None where there is none, or where the weights are given."""
        if self.loaded.built or self.weights_sha256 is not None:
            return None
        return lambda seed: rebuilt(self.loaded, self.args, seed)

    def capture(self, dtype: torch.dtype | None, inputs: Any = None) -> Capture:
        """Trace and lift in another precision, or at other inputs; says which output was chosen and what a static batch means."""
        chosen = self.inputs if inputs is None else inputs
        found = capture(self.module, chosen, dtype=dtype, output=self.output, gates=self.gates, name=self.name)
        if self.output is None and found.call.output_name != "output":
            self.say(f"several outputs: '{found.call.output_name}' is analysed; --output NAME chooses another")
        for text in found.remarks:
            self.say(text)
        return found

    def describe(self) -> dict[str, Any]:
        """The manifest's entry ``model``."""
        return {
            "class": type(self.module).__name__,
            "spec": self.loaded.spec,
            "factory": self.loaded.factory,
            "built": self.loaded.built,
            "args": {key: repr(value) for key, value in self.args.items()},
            "sha256": self.loaded.sha256,
            "seed": self.seed,
            "weights_sha256": self.weights_sha256,
            "output": None if self.output is None else str(self.output),
            "gates": list(self.gates),
            "plugins": dict(self.plugins),
        }


@in_own_modes
def open_model(
    spec: str,
    *,
    args: Sequence[str] = (),
    inputs: Sequence[str] = (),
    output: str | int | None = None,
    seed: int = 0,
    weights: str | None = None,
    plugins: Sequence[str] = (),
    gates: Sequence[str] = (),
    say: Say = quiet,
) -> Opened:
    """A model from the words of a command line: plugins are imported first, then the model is built, fed and weighted.

    Raises what :mod:`~pkcompiler.frontend.spec`, ``inputs`` and ``weights`` raise, all with the user's own words.
    """
    registered = {Path(plugin).name: import_plugin(plugin) for plugin in plugins}
    arguments = usercode.parse_arguments(args)
    loaded = load_model(spec, arguments, seed)
    fed = example_inputs(loaded, inputs, seed)
    digest = None if weights is None else load_weights(loaded.module, weights)
    if weights is None:
        say(f"no --weights given: the network is a random initialisation (seed {seed})")
    return Opened(loaded.module, fed, loaded, output, seed, arguments, tuple(gates), registered, digest, say)


def import_plugin(file: str) -> str:
    """Import a file with ``@path_op`` entries; returns the sha256 of its source."""
    python = usercode.import_spec(usercode.parse_spec(file, "plugin"))
    return usercode.source_hash(usercode.source_of(python))


def objective_of(opened: Opened, spec: str | None) -> tuple[Loss | None, str | None]:
    """The loss that ``spec`` names, else ``loss`` of the model's file, else None (cross-entropy); and the hash of its source."""
    if spec is not None:
        return load_loss(spec)
    found = getattr(opened.loaded.python, "loss", None)
    if not callable(found):
        return None, None
    return load_loss(found, opened.loaded.source), opened.loaded.sha256


def captured_on(opened: Opened, where: torch.device, dtype: torch.dtype) -> Capture:
    """The model, moved to a device, traced and lifted at its inputs there."""
    opened.module.to(where)
    args, kwargs = tuple(t.to(where) for t in opened.inputs.args), {n: t.to(where) for n, t in opened.inputs.kwargs.items()}
    return opened.capture(dtype, Inputs(args, kwargs))


def find_device(name: str, dtype: torch.dtype = torch.float64) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:1`` ... Raises ``PKC411`` where it is not there, or holds no numbers of this precision."""
    try:
        found = torch.device(name)
        torch.ones(1, device=found, dtype=dtype).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise fail(
            "PKC411",
            f"the device '{name}' cannot be used: {first}",
            typed_or_called("leave it out, or --device cpu", 'leave it out, or give device="cpu"'),
        ) from None
    return found
