"""What an analysis is evaluated on: a captured model with data, or a graph with its tensors alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import fail, typed_or_called
from pkcompiler.frontend.capture import Capture
from pkcompiler.frontend.export import bind_call
from pkcompiler.frontend.inputs import Inputs
from pkcompiler.ir.maps import Batch
from pkcompiler.ir.types import PathGraph
from pkcompiler.lang.ast import Analysis
from pkcompiler.lang.plan import no_data
from pkcompiler.paths.functional import static_batch
from pkcompiler.paths.sources import check_finite, check_masks
from pkcompiler.scoring.evidence import as_pair
from pkcompiler.scoring.losses import Loss
from pkcompiler.scoring.workspace import Workspace, sample_inputs


@dataclass(frozen=True, slots=True, eq=False)
class Bare:
    """A graph and its tensors in the place of a capture: what sweeps and rounds without data read of one."""

    graph: PathGraph
    tensors: Mapping[str, Tensor]

    @property
    def watched(self) -> frozenset[str]:
        """None: nothing is recorded."""
        return frozenset()

    @property
    def frozen(self) -> frozenset[str]:
        """None: every parameter counts as one that trains."""
        return frozenset()

    @property
    def batched(self) -> bool:
        """False: the graph runs at ``static_batch``."""
        return False

    @property
    def static_batch(self) -> int:
        """The number of rows that the graph's inputs have baked in, else 1."""
        return static_batch(self.graph)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """``captured``: None where there is no model. ``data``: a pair (x, y) or None. ``batch``: samples to a forward pass.

    ``initialise``: seed to a fresh model, where there is a factory. ``verify``: train beside predicted dynamics.
    """

    graph: PathGraph
    tensors: Mapping[str, Tensor]
    captured: Capture | None
    masks: Mapping[str, Tensor]
    data: Any
    loss: Loss | None
    batch: int | None
    seed: int
    dtype: torch.dtype
    initialise: Callable[[int], nn.Module] | None = None
    verify: bool = False

    @property
    def capture(self) -> Capture:
        """The capture, or what stands for it."""
        return self.captured or cast(Capture, Bare(self.graph, self.tensors))

    def workspace(self) -> Workspace:
        """What expressions are evaluated with, at the masks."""
        samples, target = (None, None) if self.data is None else sample_inputs(self.capture, self.data)
        names = frozenset(s.name for s in self.graph.parameters)
        return Workspace(
            self.capture, self.dtype, self.masks, names, samples, target, self.loss, self.batch, initialise=self.initialise
        )

    def model(self) -> tuple[nn.Module, Inputs]:
        """The model and its example inputs. Raises ``PKC551`` where another output than its own first one is analysed."""
        assert self.captured is not None
        call = self.captured.call
        inputs = Inputs(*call.arguments(call.flat))
        if bind_call(self.captured.module, inputs, dtype=call.dtype).output != call.output:
            leave = typed_or_called("leave --output out, or ", "")
            note = f"{leave}wrap the model so that it returns this output alone"
            raise fail("PKC551", f"kernels on data are those of the first output, and '{call.output_name}' is analysed", note)
        return self.captured.module, inputs

    @property
    def several(self) -> bool:
        """Whether a sample is several inputs."""
        return self.data is not None and not isinstance(self.data[0], Tensor)

    def moments(self) -> dict[str, Tensor]:
        """Mean and second moment of every entry of the samples, as ``predict_trace`` takes them; none without floating data."""
        x = None if self.data is None else self.data[0]
        if x is None or not x.is_floating_point():
            return {}
        return {"mean": x.double().mean(0), "second_moment": x.double().square().mean(0)}

    @property
    def outputs(self) -> int:
        """Output entries of one sample."""
        graph = self.graph
        (shape,) = (op.result.type.shape for op in graph.ops if op.name == graph.outputs[0])
        return math.prod(d.factor if isinstance(d, Batch) else d for d in shape)


def source_of(
    analysis: Analysis,
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    captured: Capture | None,
    *,
    data: Any = None,
    masks: Mapping[str, Tensor] | None = None,
    loss: Loss | None = None,
    batch: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    initialise: Callable[[int], nn.Module] | None = None,
    verify: bool = False,
) -> Source:
    """Everything that an analysis is evaluated with, checked: ``PKC550`` (a model is needed), ``PKC502`` (data are),
    ``PKC405`` (tensors that are not finite), ``PKC401`` (masks)."""
    if captured is None and analysis.needs_model:
        what = "reads data" if analysis.needs_data else "runs the model"
        again = typed_or_called(f"pkc analyze MODEL --with {analysis.name}", f"run_analysis(model, x, {analysis.name!r})")
        note = f"analyse the model itself: {again}"
        raise fail("PKC550", f"the analysis '{analysis.name}' {what}, and here is only a graph with its tensors", note)
    if data is None and analysis.needs_data:
        raise no_data(f"the analysis '{analysis.name}'")
    check_finite(graph, tensors)
    check_masks(graph, masks)
    kept = {n: m.detach().cpu().bool() for n, m in (masks or {}).items()}
    pair = as_pair(data, seed) if analysis.needs_data else None
    return Source(graph, tensors, captured, kept, pair, loss, batch, seed, dtype, initialise, verify)
