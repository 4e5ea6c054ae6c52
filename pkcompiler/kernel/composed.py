"""The Path Kernel of a network with computed weights u = h(theta) (docs/theory.md, section 3), written in u.

    G = D^T (diag(dR_2/dU) + diag(u) H diag(u)) D,     U = u^2, H = Hessian of R_2 in U, D = du/dtheta

One product is one forward and one backward derivative of h around a product of the kernel in u.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pkcompiler.ir.types import PathGraph
from pkcompiler.ir.uses import slots_read
from pkcompiler.kernel.gram import PathKernel, Vector
from pkcompiler.kernel.hessian_diagonal import MOST, PROBES, too_many
from pkcompiler.kernel.operator import measured
from pkcompiler.kernel.probes import signs, stream
from pkcompiler.measured import Measured
from pkcompiler.paths.computed import Made
from pkcompiler.paths.scaled import numbers
from pkcompiler.paths.semiring import EDGES

LARGEST = 2**28
"""Entries of du/dtheta up to which the trace takes every one of them."""


def in_weights(graph: PathGraph) -> PathGraph:
    """The graph with its computed weights as parameters, without the parameters that nothing else reads."""
    read = slots_read(graph.ops)
    slots = (replace(s, role="parameter", of=(), formula="") if s.role == "computed" else s for s in graph.slots)
    return replace(graph, slots=tuple(s for s in slots if s.name in read))


class ComposedKernel(PathKernel):
    """G as a linear operator on the stored parameters, where some weights are computed from them."""

    @cached_property
    def weights(self) -> PathKernel:
        """The Path Kernel in u: computed weights and parameters that are weights themselves."""
        graph = in_weights(self.graph)
        computed = {made.slot.name for made in self._made}
        stored = {s.name for s in graph.parameters} - computed
        made = {n: t.detach() for n, t in self._weights(self.theta).items() if n in computed}
        masks = {n: m for n, m in self._given.items() if n in stored}
        wanted = [s.name for s in graph.parameters if s.name in computed or s.name in self.names]
        given: dict[str, Any] = {"masks": masks, "device": self.device, "input": self._input, "output": self._output}
        return PathKernel(graph, {**self._tensors, **made}, self.settings, **given, wanted=wanted)

    @cached_property
    def _made(self) -> tuple[Made, ...]:
        return tuple(Made(slot) for slot in self.graph.computed)

    @cached_property
    def _roots(self) -> dict[str, Tensor]:
        """theta * mask of every parameter, and the fixed slots that weights are computed from."""
        found = {n: self._cast(t) if t.is_floating_point() else t.to(self.device) for n, t in self._tensors.items()}
        return found | {n: found[n] * self._cast(m) for n, m in self._given.items()}

    def _weights(self, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights by name as a function of the parameters."""
        given = {**self._roots, **theta}
        plain = {n: t for n, t in theta.items() if n in self._read}
        return plain | {made.slot.name: made.value(given) for made in self._made}

    @cached_property
    def _read(self) -> frozenset[str]:
        """The slots that operations read."""
        return slots_read(self.graph.ops)

    @property
    def exponent(self) -> int:
        """That of the kernel written in the computed weights u: every number is times ``2**exponent``."""
        return self.weights.exponent

    def value(self) -> Measured:
        """R_2, the squared path L2 norm."""
        return self.weights.value()

    def tau(self) -> dict[str, Tensor]:
        """dR_2/dw by parameter. Under h it is that of its entry of u where u_j = theta_j times a factor, else 1/2 theta dR_2/dtheta
        over w."""
        sizes = {s.name: self._tensors[s.name] for s in self.graph.parameters}
        edges = {n: self._roots[n].square().requires_grad_(n in self.names) for n in sizes}
        by_weight = self.weights.tau()
        plain = {n: self._cast(t) if t.is_floating_point() else t.to(self.device) for n, t in self._tensors.items()}
        with torch.enable_grad():
            parts = [(by_weight[n] * e).sum() for n, e in edges.items() if n in by_weight]
            parts += [(by_weight[m.slot.name] * m.edge(edges, plain, EDGES["theta^2"])).sum() for m in self._made]
            leaves = [edges[n] for n in self.names]
            found = torch.autograd.grad(torch.stack(parts).sum(), leaves, allow_unused=True, materialize_grads=True)
        return dict(zip(self.names, found, strict=True))

    def matvec(self, u: Vector) -> Any:
        """G u in the form of ``u``: a flat tensor [size], or a dict by name (a missing name is 0)."""
        parts = self.split(u) if isinstance(u, Tensor) else self._named(u)
        out = self._pulled(self.weights.matvec(self._pushed(parts)))
        return self.flatten(out) if isinstance(u, Tensor) else out

    @cached_property
    def _derivative(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """theta, the weights, a vector z over them, and D^T z as a function of z, whose own derivative is D."""
        with torch.enable_grad():
            theta = {n: t.clone().requires_grad_() for n, t in self.theta.items()}
            weights = {n: t for n, t in self._weights(theta).items() if n in self.weights.theta and t.requires_grad}
            z = {n: torch.zeros_like(t, requires_grad=True) for n, t in weights.items()}
            found = _pulled_back(theta, weights, z, create_graph=True)
        return theta, weights, z, found

    def _pushed(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """D times a direction of the kept parameters."""
        _, _, z, pulled = self._derivative
        live = {n: pulled[n] for n in parts if pulled[n].requires_grad}
        return _pulled_back(z, live, {n: self._kept(n, parts[n]) for n in live})

    def _pulled(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """D^T times a vector over the weights, 0 where a mask drops."""
        theta, weights, _, _ = self._derivative
        return {n: self._kept(n, t) for n, t in _pulled_back(theta, weights, parts).items()}

    def diagonal(self) -> dict[str, Tensor]:
        """G_ii by parameter, 0 where a mask drops. Raises ``PKC521`` where paths may cross too many entries twice."""
        out = self._first()
        for name, second in self._second_entries().items():
            out[name] = out[name] + second
        return out

    def trace(self) -> Measured:
        """Tr Pi = Tr G over kept parameters: sum of dR_2/dU_j |grad u_j|^2, and what paths add that cross entries of one parameter
        twice, which is estimated."""
        note, errors = "", [0.0]
        entries = sum(self.weights.theta[made.slot.name].numel() for made in self._made) * self.size
        if entries <= LARGEST:
            total = float(self._sum(t.sum() for t in self._first().values()))
        else:
            total, error = self._probed(self.names, lambda pushed: {n: t * self.weights.tau()[n] for n, t in pushed.items()})
            errors.append(error)
            note = f"the weights are computed from too many parameters; the mean of {PROBES} probes"
        if self._twice:
            more, error = self._probed(self._twice, self._curved)
            total, note = (
                total + more,
                f"a path can cross entries of one parameter twice; their part is the mean of {PROBES} probes",
            )
            errors.append(error)
        error = sum(e * e for e in errors) ** 0.5
        return measured(self, total, error=error if len(errors) > 1 else None, note=note)

    def traces_by_output(self) -> Tensor:
        """h_k, the part of Tr G on paths to output k: [*output shape], at ``exponent``, one kernel for each output."""
        sweep, edges, sources = self.prepared()
        with torch.no_grad():
            shape = sweep.run(edges, sources).tensor.shape
        found = []
        for k in range(shape.numel()):
            trace = self._with(k, self.names).trace()
            found.append(trace.mantissa * 2.0 ** (trace.exponent - self.exponent))
        return torch.tensor(found, dtype=self.dtype, device=self.device).reshape(shape)

    def _curved(self, pushed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """diag(u) H diag(u) times a vector over the weights."""
        u = self.weights.theta
        second = self.weights.hessian.product({n: u[n] * t for n, t in pushed.items()})
        return {n: u[n] * h for n, h in second.items()}

    def _probed(self, names: Sequence[str], times: Any) -> tuple[float, float]:
        """The mean over random signs z of z^T D^T A D z and its standard error (Hutchinson 1990); ``times``: A."""
        generator = stream(0)
        draws = []
        for _ in range(PROBES):
            pushed = self._pushed({n: signs(self.theta[n], generator) for n in names})
            draws.append(self._sum((pushed[n] * t).sum() for n, t in times(pushed).items()))
        values = torch.tensor(numbers(draws), dtype=torch.float64)
        return float(values.mean()), float(values.std() / PROBES**0.5)

    def _sum(self, parts: Iterable[Tensor]) -> Tensor:
        return sum(parts, torch.zeros((), dtype=self.dtype, device=self.device))

    def _first(self) -> dict[str, Tensor]:
        """sum over j of dR_2/dU_j (du_j/dtheta_i)^2 by parameter."""
        tau = self.weights.tau()
        out = {n: self._kept(n, tau[n]) if n in tau else torch.zeros_like(t) for n, t in self.theta.items()}
        for made in self._made:
            with torch.enable_grad():
                own = {n: self.theta[n].clone().requires_grad_() for n in made.slot.of if n in self.theta}
                value = made.value({**self._roots, **own}).reshape(-1)
            if not value.requires_grad:
                continue
            weights = tau[made.slot.name].reshape(-1)
            units = torch.eye(len(value), dtype=self.dtype, device=self.device)
            for unit, weight in zip(units.split(256), weights.split(256), strict=True):
                rows = torch.autograd.grad(
                    value, list(own.values()), unit, retain_graph=True, allow_unused=True, is_grads_batched=True
                )
                for n, part in zip(own, rows, strict=True):
                    if part is not None:
                        out[n] = out[n] + self._kept(n, torch.tensordot(weight, part.square(), 1))
        return out

    def _second_entries(self) -> dict[str, Tensor]:
        """The diagonal of D^T diag(u) H diag(u) D of the parameters that a path can cross twice."""
        names = self._twice
        count = sum(self.theta[n].numel() for n in names)
        if count > MOST:
            raise too_many(count)
        out = {}
        for name in names:
            found = []
            for unit in torch.eye(self.theta[name].numel(), dtype=self.dtype, device=self.device):
                pushed = self._pushed({name: unit.reshape(self.theta[name].shape)})
                found.append(self._sum((pushed[n] * t).sum() for n, t in self._curved(pushed).items()))
            out[name] = torch.stack(found).reshape(self.theta[name].shape)
        return out


def _pulled_back(
    leaves: Mapping[str, Tensor], outputs: Mapping[str, Tensor], vectors: Mapping[str, Tensor], create_graph: bool = False
) -> dict[str, Tensor]:
    """The derivative of the outputs by the leaves, transposed, times vectors over the outputs."""
    if not outputs:
        return {n: torch.zeros_like(t) for n, t in leaves.items()}
    found = torch.autograd.grad(
        list(outputs.values()),
        list(leaves.values()),
        [vectors[n] for n in outputs],
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(leaves, found, strict=True))
