"""``path_kernel``: the Path Kernel of a model, or of a graph with its tensors (docs/theory.md, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import fail
from pkcompiler.frontend.capture import captured_for_caller
from pkcompiler.ir.types import PathGraph
from pkcompiler.kernel.composed import ComposedKernel
from pkcompiler.kernel.gram import PathKernel
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.semiring import Settings, settings
from pkcompiler.paths.sources import check_finite, check_masks, check_range, device_of


@checked
@in_own_modes
def path_kernel(
    model: nn.Module,
    example_inputs: Any,
    masks: Mapping[str, Tensor] | None = None,
    *,
    pools: str = "sum",
    products: str = "pairs",
    constants: str = "on",
    dtype: torch.dtype = torch.float64,
) -> PathKernel:
    """The Path Kernel of a model in evaluation mode, without data.

    ``masks``: boolean tensors by parameter name; rows and columns of what they drop are zero. Raises ``PKC2xx`` where the model
    cannot be lifted, ``PKC401`` for masks that do not fit, ``PKC501`` for settings that do not exist.
    """
    chosen = settings(edge="theta^2", pools=pools, products=products, constants=constants, dtype=dtype)
    captured = captured_for_caller(model, example_inputs, dtype=dtype)
    return kernel_of(captured.graph, captured.tensors, chosen, masks)


@in_own_modes
def kernel_of(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    chosen: Settings,
    masks: Mapping[str, Tensor] | None = None,
    *,
    input: Mapping[str, Tensor] | None = None,
    output: Any = "ones",
    wanted: Sequence[str] | None = None,
) -> PathKernel:
    """The Path Kernel of a path graph and its slots' tensors; no model is needed.

    ``chosen``: edge ``theta^2``, gates open (``PKC520`` otherwise). ``input``: weights of the sources by input name, as
    ``Sweep.run`` takes them, ones by default. ``output``: ``"ones"``, the position of one entry in the flattened output, or a
    tensor of weights >= 0 in its shape: paths to entry k count with that weight. ``wanted``: names of the parameters to restrict
    G to. It is computed where the parameters lie.
    """
    if chosen.edge != "theta^2" or chosen.reads_data:
        given = f"edge = {chosen.edge}, gates = {chosen.gates}, pools = {chosen.pools}, norms = {chosen.norms}"
        raise fail("PKC520", f"the Path Kernel has no data: {given}", 'use settings(edge="theta^2", pools="sum", constants="on")')
    check_masks(graph, masks)
    check_finite(graph, tensors)
    check_range(graph, tensors, chosen)
    kind = ComposedKernel if graph.computed else PathKernel
    place: dict[str, Any] = {"masks": masks or {}, "device": device_of(graph, tensors)}
    return kind(graph, tensors, chosen, **place, input=input, output=output, wanted=wanted)
