"""What masks were made from: the weights that were scored, the model's description, the data, the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.data import LoadedData
from pkcompiler.data.named import is_pair
from pkcompiler.data.subset import whole
from pkcompiler.diagnostics import Diagnostic, raise_all
from pkcompiler.frontend.export import normalise_inputs
from pkcompiler.ir.text import print_graph
from pkcompiler.ir.types import PathGraph
from pkcompiler.pruning.recipe import state_hash, versions


@dataclass(frozen=True, slots=True, eq=False)
class Provenance:
    """``state``: a copy of the dense model's ``state_dict``. ``model``, ``inputs``, ``data``: entries of the manifest."""

    state: Mapping[str, Tensor]
    model: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any] | None
    recipe: Mapping[str, Any]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the ``state_dict`` on the CPU, tied tensors under each of their names.

    Raises ``PKC630`` for entries that are no tensors, which no artifact could give back.
    """
    state = model.state_dict()
    raise_all(
        Diagnostic("PKC630", f"the state_dict entry '{n}' is a {type(t).__name__}", notes=("remove its get_extra_state",))
        for n, t in state.items()
        if not isinstance(t, Tensor)
    )
    return {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in state.items()}


def origin_of(
    model: nn.Module, example_inputs: Any, graph: PathGraph, *, schedule: str, dtype: torch.dtype, device: str, data: Any, loss: Any
) -> Provenance | None:
    """The provenance of masks that were made from Python: of the model only its class is known. None: see :func:`state_of`."""
    if not all(isinstance(t, Tensor) for t in model.state_dict().values()):
        return None
    state, inputs = state_of(model), describe_inputs(example_inputs)
    used = data if isinstance(data, LoadedData) else whole(data) if is_pair(data) else None
    named = None if loss is None else getattr(loss, "__qualname__", type(loss).__name__)
    recipe = make_recipe(
        state,
        graph=print_graph(graph),
        schedule=schedule,
        inputs=inputs,
        dtype=dtype,
        device=device,
        data=used,
        batch=used.batch if used else None,
        loss=named,
    )
    return Provenance(state, {"class": type(model).__name__, "seed": None}, inputs, describe_data(used), recipe)


def describe_inputs(example_inputs: Any) -> list[dict[str, Any]]:
    """Name (None: positional), dtype and shape of every tensor that the model is called with."""
    args, kwargs = normalise_inputs(example_inputs)
    named = [(None, value) for value in args] + list(kwargs.items())
    return [
        {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
        for name, value in named
        if isinstance(value, Tensor)
    ]


def describe_data(data: LoadedData | None) -> dict[str, Any] | None:
    """Name, hash, positions in the source, classes and batch size of the samples."""
    if data is None:
        return None
    return {
        "name": data.name,
        "sha256": data.sha256,
        "indices": list(data.indices),
        "classes": list(data.classes),
        "batch": data.batch,
    }


def make_recipe(
    state: Mapping[str, Tensor],
    *,
    graph: str,
    schedule: str,
    inputs: Sequence[Mapping[str, Any]],
    dtype: torch.dtype,
    device: str = "cpu",
    data: LoadedData | None = None,
    batch: int | None = None,
    loss: str | None = None,
    model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the masks are a function of. ``graph``: printed; ``loss``: its source's hash; ``model``: more entries."""
    shapes = [f"{i['name'] or ''}{i['dtype']}:{'x'.join(map(str, i['shape']))}" for i in inputs]
    own = {"weights": state_hash(state), "graph": sha256(graph.encode()).hexdigest(), "inputs": ", ".join(shapes)}
    return {
        "model": {**own, **(model or {})},
        "schedule": schedule,
        "data": data.sha256 if data else None,
        "loss": loss,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
