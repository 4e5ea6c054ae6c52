"""``ntk``: the neural tangent kernel of a model on data, and what its paths make of it (docs/theory.md, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pkcompiler.arguments import checked, methods_checked
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.measured import Measured
from pkcompiler.modes import in_own_modes, methods_in_own_modes
from pkcompiler.paths.sources import first_sample
from pkcompiler.tangent.bound import trace_bound
from pkcompiler.tangent.frozen import frozen_map, is_piecewise
from pkcompiler.tangent.function import ModelAtData, at_data, inputs_of
from pkcompiler.tangent.jacobian import MEMORY, Jacobian
from pkcompiler.tangent.regression import targets
from pkcompiler.tangent.tangent import TangentKernel


@checked
@in_own_modes
def ntk(
    model: nn.Module,
    data: Any,
    masks: Mapping[str, Tensor] | None = None,
    *,
    example_inputs: Any = None,
    dtype: torch.dtype = torch.float64,
    memory: int = MEMORY,
) -> NTK:
    """The neural tangent kernel Theta = J J^T of a copy of ``model`` in evaluation mode (Jacot, Gabriel & Hongler 2018).

    ``data``: (x, y) or x alone; x [n, ...], floating or integer, stands for the model's first input, a tuple or dict of such for
    all of them: ``((x, z), y)``. ``masks``: boolean tensors by parameter name; J is the derivative at theta * mask, by kept
    entries. Only parameters that require grad count. ``example_inputs``: where the model takes more than x. ``memory``: bytes for
    the matrix and the pieces of J. Nothing is computed before it is asked for. Raises ``PKC203``-``PKC204`` where the model cannot
    be called, ``PKC401``, ``PKC505``, ``PKC526`` and
    ``PKC527`` for masks, data and targets that do not fit.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> ntk(model, torch.tensor([[1.0, 0.0], [1.0, 1.0]])).kernel
    tensor([[1., 1.],
            [1., 2.]], dtype=torch.float64)
    """
    found = at_data(model, data, masks, example_inputs=example_inputs, dtype=dtype)
    y = targets(found, data)
    device = next(iter(found.theta.values())).device
    x = pytree.tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, inputs_of(data))
    return NTK(found, (x,), y, masks=dict(masks or {}), example_inputs=example_inputs, dtype=dtype, memory=int(memory))


@methods_checked
@methods_in_own_modes
class NTK(TangentKernel):
    """The NTK by ``torch.func``; see :class:`TangentKernel` for its figures."""

    def __init__(
        self,
        found: ModelAtData,
        data: tuple[Any],
        y: Tensor | None,
        *,
        masks: dict[str, Tensor],
        example_inputs: Any,
        dtype: torch.dtype,
        memory: int,
    ) -> None:
        super().__init__(Jacobian(found.map(), memory), found.n, found.outputs, y, found.masks)
        self.network, self._data, self._masks, self._example = found, data, masks, example_inputs
        self._dtype, self._memory = dtype, memory
        self._captured: Capture | None = None
        self._frozen: FrozenKernel | None = None

    def captured(self) -> Capture:
        """The path graph behind ``frozen()`` and ``bound()``, lifted at the first use. Raises ``PKC2xx`` where that fails."""
        if self._captured is None:
            example = first_sample(self._data[0]) if self._example is None else self._example
            self._captured = capture(self.network.module, example, dtype=self._dtype)
        return self._captured

    def frozen(self) -> FrozenKernel:
        """J_v Pi J_v^T: the same kernel with every gate's recorded slope held constant. Where every gate is piecewise linear it
        is the NTK; ``difference()`` says how far from it it is otherwise."""
        if self._frozen is None:
            self._frozen = FrozenKernel(self)
        return self._frozen

    def difference(self) -> Measured:
        """||frozen - NTK||_F / ||NTK||_F; of the traces, where the matrices do not fit into memory."""
        other = self.frozen()
        if self.fits:
            norm = float(torch.linalg.matrix_norm(self.kernel))
            apart = float(torch.linalg.matrix_norm(other.kernel - self.kernel))
            return Measured(apart / norm if norm else apart, note="relative, in the Frobenius norm")
        own, frozen = float(self.trace()), float(other.trace())
        return Measured(abs(frozen - own) / own if own else abs(frozen), note="relative, of the traces: the matrices do not fit")

    def bound(self) -> Measured:
        """sum over n, k of g_k(x_n) h_k, an upper bound of the trace of ``frozen()``; of the NTK's own trace where every gate is
        piecewise linear, which the note says."""
        return trace_bound(self.captured(), self._data, self._masks, set(self.network.theta), self._dtype)


@methods_checked
@methods_in_own_modes
class FrozenKernel(TangentKernel):
    """The frozen-gate kernel J_v Pi J_v^T beside an :class:`NTK`; see :class:`TangentKernel` for its figures.

    ``is_ntk``: whether every gate is piecewise linear and nothing is frozen, so that the two are equal.
    """

    def __init__(self, beside: NTK) -> None:
        captured, found = beside.captured(), beside.network
        wanted = set(found.theta)
        map = frozen_map(captured, beside._data, beside._masks, wanted, beside._dtype, beside._memory)
        super().__init__(Jacobian(map, beside._memory), found.n, found.outputs, beside.y, found.masks)
        self.network = found
        self.is_ntk = is_piecewise(captured)
