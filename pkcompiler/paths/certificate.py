"""The certificates of docs/theory.md, section 1: the path sum is the model's output, its gradients are the model's gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import Diagnostic, PkcError, first_few, raise_all
from pkcompiler.frontend.capture import Capture, captured_for_caller
from pkcompiler.frontend.export import Program, evaluating, example_batch
from pkcompiler.frontend.lift.classify import is_floating, op_name
from pkcompiler.frontend.lift.gate import region_function, region_nodes, value_and_slope_at_zero
from pkcompiler.frontend.lift.lifted import Lifted, Record
from pkcompiler.frontend.load_weights import non_finite, not_finite
from pkcompiler.frontend.observed import ProgramRun, run_inputs
from pkcompiler.ir.graphs import maps_of
from pkcompiler.ir.maps import Frozen, Gate, Normalise
from pkcompiler.ir.walk import reached
from pkcompiler.modes import in_own_modes
from pkcompiler.ops.gates import FACTORIES, FROZEN_LIST, PASS_THROUGH, is_pointwise
from pkcompiler.paths.autograd import DerivativeRun, certificate_three, derivatives, rows_by_frequency, trainable
from pkcompiler.paths.record import inverse_deviation, observe, slopes
from pkcompiler.paths.scaled import times_power
from pkcompiler.paths.semiring import Settings
from pkcompiler.paths.sweep import Sweep

TOLERANCE = 1e-9
STEP = 1e-5
"""Relative step of a central difference, and the digits that it gives in float64."""
KINKS = 0.25
"""The part of a gate's values that may lie at its kinks."""
SIGNED = Settings(edge="theta", gates="data", pools="data", norms="data", products="pairs", constants="on")


@dataclass(frozen=True, slots=True)
class Certificate:
    """The three certificates of a lift, at the inputs given, in float64.

    ``max_relative_error``: largest |path sum - output| over the largest |output|. ``max_gradient_error``: the same for the
    derivatives of a random combination of outputs, over every parameter (each against its own largest derivative), between the
    paths and the program with its recorded factors detached. ``max_autograd_error``: the same between plain autograd of the
    program and of the model itself. ``batched``, ``recorded``: see :class:`~pkcompiler.frontend.export.Program`. ``frozen``:
    operations recorded as constants, and in ``frozen_at`` what each is and where it is called. ``refused``: claims of the lift
    that the closed lists do not allow. ``stopped``: parameters whose derivative in the model is another than that of its function;
    ``hooked``: those with a gradient hook of the user's; ``by_frequency``: those of an ``Embedding(scale_grad_by_freq=True)``;
    ``untested``: those whose derivative is 0 on both sides, so that nothing was compared. ``tested``: how many were.
    """

    max_relative_error: float
    max_gradient_error: float
    max_autograd_error: float
    frozen: tuple[str, ...]
    observed_only: tuple[str, ...]
    refused: tuple[str, ...]
    parameters: int
    worst_parameter: str
    batched: bool
    recorded: bool = False
    stopped: tuple[str, ...] = ()
    hooked: tuple[str, ...] = ()
    by_frequency: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    tested: int = 0
    frozen_at: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """All errors below 1e-9, nothing refused, no hook of the user's, and not empty."""
        return self.proven and not self.stops_gradients and not self.empty

    @property
    def proven(self) -> bool:
        """(1) and (2): the path graph computes the program and its derivatives."""
        return not self.refused and self.max_relative_error < TOLERANCE and self.max_gradient_error < TOLERANCE

    @property
    def stops_gradients(self) -> bool:
        """(3) fails: the model's own derivatives are not those of its function."""
        return bool(self.stopped or self.hooked) or not self.max_autograd_error < TOLERANCE

    @property
    def empty(self) -> bool:
        """The model has parameters, and the derivative by none of them was compared."""
        return bool(self.untested) and not self.tested


@checked
@in_own_modes
def certify(model: nn.Module, example_inputs: Any, *, output: str | int | None = None) -> Certificate:
    """Check a model's lift against the model, at ``example_inputs``, in float64 (the model is not changed)."""
    return certify_capture(captured_for_caller(model, example_inputs, dtype=torch.float64, output=output))


@in_own_modes
def certify_capture(captured: Capture) -> Certificate:
    """The certificates of an existing capture; its tensors must be float64."""
    program, lifted, flat = captured.program, captured.lifted, captured.call.flat
    with torch.no_grad(), evaluating(captured.module):
        truth = captured.call.run(captured.module, flat)
    raise_all(incomparable(captured.module, truth))
    observed, _ = observe(program, lifted, flat, program.tensors, SIGNED)
    cotangent = torch.randn(truth.shape, dtype=truth.dtype, generator=torch.Generator().manual_seed(0)).to(truth.device)
    autograd = certificate_three(captured, cotangent)
    value, grads = path_gradients(captured, observed, cotangent)
    reference = reference_gradients(program, lifted, program.tensors, flat, cotangent)
    frozen = tuple(name for name, r in lifted.records.items() if r.kind not in ("gate", "window", "factor"))
    errors = gradient_errors(grads, reference, lifted)
    return Certificate(
        relative(value, truth),
        max(errors.values(), default=0.0),
        autograd.worst,
        frozen,
        lifted.observed_only,
        tuple(refused_claims(program, lifted, flat)),
        len(grads),
        max(errors, key=lambda n: errors[n], default=""),
        program.batched,
        program.recorded,
        tuple(name for name, error in autograd.errors.items() if not error < TOLERANCE),
        captured.hooked,
        rows_by_frequency(program),
        autograd.untested,
        len(autograd.errors),
        tuple(place_of(lifted, name) for name in frozen),
    )


def place_of(lifted: Lifted, name: str) -> str:
    """What a recorded operation is, and where the user's code calls it: ``softmax in attention at model.py:12``."""
    op = next((op for op in lifted.graph.ops if op.name == name), None)
    if op is None:
        return name
    what = op.map.what if isinstance(op.map, Frozen) else lifted.records[name].kind
    module = f" in {op.origin.module}" if op.origin.module else ""
    return f"{what}{module} at {op.origin.source}" if op.origin.source else f"{what}{module or f' ({name})'}"


def incomparable(module: nn.Module, truth: Tensor) -> list[Diagnostic]:
    """``PKC405`` per parameter or buffer that is not finite; else ``PKC503`` where the output is not: nothing to compare."""
    found = [not_finite(name, role) for name, role in non_finite(module)]
    if found or truth.isfinite().all():
        return found
    message = "the model's own output is not finite at these inputs, so there is nothing to compare the path sum with"
    notes = ("a logarithm or a root of negative numbers, a division by 0 or an overflow does that",)
    last = "certify it at inputs that it is made for, in Python: pkcompiler.certify(model, x)"
    return [Diagnostic("PKC503", message, notes=(*notes, last))]


def require(certificate: Certificate, name: str) -> None:
    """Raise ``PKC503`` when the certificate does not hold."""
    if not certificate.holds:
        raise PkcError(_failure(certificate, name))


def _failure(certificate: Certificate, name: str) -> Diagnostic:
    if not certificate.proven:
        return Diagnostic(
            "PKC503",
            f"the lift of '{name}' is not certified: output error {certificate.max_relative_error:.1e}, gradient error "
            f"{certificate.max_gradient_error:.1e} (worst: {certificate.worst_parameter or '-'})",
            notes=(
                *certificate.refused,
                "the path graph does not compute this model: please report it with the output of `pkc ir`",
            ),
        )
    if certificate.stops_gradients:
        named = first_few(list(dict.fromkeys((*certificate.stopped, *certificate.hooked))))
        return Diagnostic(
            "PKC503",
            f"the lift of '{name}' computes its output, but the model's own gradients are not the derivatives of that output: "
            f"{named} (error {certificate.max_autograd_error:.1e})",
            notes=tuple(_causes(certificate)),
        )
    return Diagnostic(
        "PKC503",
        f"the lift of '{name}' is not certified: its derivatives by all {len(certificate.untested)} parameters are 0",
        notes=("certify it at weights and inputs where its output depends on its parameters",),
    )


def _causes(certificate: Certificate) -> Iterator[str]:
    """What makes gradients other ones than derivatives, and what to do."""
    divided = [name for name in certificate.by_frequency if name in certificate.stopped]
    if divided:
        names = first_few(divided)
        yield f"{names}: Embedding(scale_grad_by_freq=True) divides a row's gradient by its count, so it rightly differs"
        yield "for the analysis, build the embedding without it"
    if certificate.hooked:
        yield f"{first_few(certificate.hooked)}: a hook may change the gradient; for the analysis, remove it (handle.remove())"
    if set(certificate.stopped) - {*divided, *certificate.hooked}:
        yield "paths go through a .detach(), a torch.no_grad(), a hook and an autograd.Function with a backward of its own"
        yield "for the analysis, leave that out of forward"


def relative(value: Tensor, truth: Tensor) -> float:
    """Largest absolute difference over the largest absolute entry of the truth."""
    if truth.numel() == 0:
        return 0.0
    return float((value - truth).abs().max() / truth.abs().max().clamp(min=1e-300))


def path_gradients(captured: Capture, observed: Mapping[str, Tensor], cotangent: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The right-hand side of (1) and the derivative of its inner product with ``cotangent``, by the signed sweep."""
    graph = captured.graph
    flat = dict(zip(captured.program.inputs, captured.call.flat, strict=True))
    placeholders = dict(captured.lifted.inputs)
    sources = {v.name: flat[placeholders[v.name]] for v in graph.inputs}
    batch = example_batch(captured.call.flat) if captured.batched else 1
    sweep = Sweep(graph, captured.tensors, SIGNED, observed=observed, batch=batch)
    edges = {name: edge.requires_grad_() for name, edge in sweep.edges().items()}
    with torch.enable_grad():
        result = sweep.run(edges, sources)
        value = times_power(result.tensor, result.exponent)
        return value.detach(), derivatives((value * cotangent).sum(), edges)


class _Reference(DerivativeRun):
    """The program itself, with every recorded factor detached: the left-hand side of (2). Knows nothing of path maps."""

    def __init__(self, program: Program, claims: Mapping[str, tuple[Record, Any]]) -> None:
        super().__init__(program)
        self.claims = claims

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name not in self.claims:
            return value
        record, map = self.claims[n.name]
        source: Any = self.env[next(i for i in self.env if i.name == record.source)] if record.source else None
        match record.kind:
            case "gate":
                return source * slopes(source.detach(), value.detach(), map.zero, record.slope) + map.zero
            case "normalise":
                return _normalised(map, source, self.fetch(n))
            case "softmax" | "frozen":
                return value.detach()
        return value

    def fetch(self, n: fx.Node) -> tuple[Any, Any]:
        """Gain and bias of a normalisation, by the names of its schema."""
        target: Any = n.target
        names = [a.name for a in target._schema.arguments]
        bound = dict(zip(names, n.args, strict=False)) | dict(n.kwargs)
        gain, bias = bound.get("weight"), bound.get("bias")
        return (self.env[gain] if isinstance(gain, fx.Node) else None, self.env[bias] if isinstance(bias, fx.Node) else None)


def _normalised(map: Normalise, x: Tensor, parameters: tuple[Any, Any]) -> Tensor:
    """x centred, times the detached inverse deviation, times gain, plus bias."""
    inverse = inverse_deviation(map, x.detach())
    if map.kind == "group":
        grouped = x.reshape(x.shape[0], map.groups, -1)
        y = ((grouped - grouped.mean(-1, keepdim=True)) * inverse).reshape(x.shape)
        shape = (-1, *([1] * (x.dim() - 2)))
    else:
        axes = list(range(-len(map.shape), 0))
        y = (x if map.kind == "rms" else x - x.mean(axes, keepdim=True)) * inverse
        shape = map.shape
    gain, bias = parameters
    y = y if gain is None else y * gain.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def reference_gradients(
    program: Program, lifted: Lifted, tensors: Mapping[str, Tensor], flat: Any, cotangent: Tensor
) -> dict[str, Tensor]:
    """Autograd of the program with the recorded factors detached."""
    maps = {op.name: op.map for op in lifted.graph.ops}
    claims = {r.node: (r, maps[name]) for name, r in lifted.records.items() if r.kind not in ("window", "factor")}
    leaves = trainable({n: tensors[n] for n in sorted(set(program.parameters.values()))})
    with torch.enable_grad():
        run = _Reference(program, claims)
        run.garbage_collect_values = False
        (output,) = run.run(*run_inputs(program, flat, {**tensors, **leaves}))
        return derivatives((output * cotangent).sum(), leaves)


def gradient_errors(grads: Mapping[str, Tensor], truth: Mapping[str, Tensor], lifted: Lifted) -> dict[str, float]:
    """Per parameter: the largest difference over the parameter's largest derivative (at least 1e-6 of the largest of all)."""
    top = max((float(t.abs().max()) for t in truth.values() if t.numel()), default=0.0)
    floor = max(top * 1e-6, 1e-300)
    errors = {}
    for name, reference in truth.items():
        got = grads.get(name, torch.zeros_like(reference))
        scale = max(float(reference.abs().max()) if reference.numel() else 0.0, floor)
        errors[name] = float((got - reference).abs().max()) / scale if reference.numel() else 0.0
    return errors


def refused_claims(program: Program, lifted: Lifted, flat: Any) -> list[str]:
    """Claims that do not hold: a gate that is no pointwise function of one tensor, or whose phi(0) or phi'(0) is another; a
    recorded factor that is not on the closed lists."""
    nodes = {n.name: n for n in program.module.graph.nodes}
    values = _values(program, flat)
    gates = maps_of(lifted.graph, Gate)
    found = []
    for name, record in lifted.records.items():
        node = nodes[record.node]
        if record.kind == "gate" and not _is_gate(node, nodes[record.source], program, values):
            found.append(f"'{name}' is claimed to be a gate, but is no parameter-free pointwise function of one tensor")
        elif record.kind == "gate" and not _is_at_zero(node, nodes[record.source], values, (gates[name].zero, record.slope)):
            found.append(f"'{name}' does not have the value or the slope at 0 that its gate claims")
        elif record.kind == "gate" and not _derives(node, nodes[record.source], values):
            found.append(f"'{name}' has a backward pass of its own, which does not give the derivative of its values")
        if record.kind in ("frozen", "softmax", "normalise") and not _may_freeze(node, program):
            found.append(f"'{name}' ({op_name(node)}) is recorded as a constant, but is not on the list of operators that may be")
    return found


def _values(program: Program, flat: Any) -> dict[str, Tensor]:
    """Every tensor that the program computes, by node."""
    run = ProgramRun(program)
    run.garbage_collect_values = False
    with torch.no_grad():
        run.run(*run_inputs(program, flat))
    return {n.name: v for n, v in run.env.items() if isinstance(v, Tensor) and v.numel()}


def _is_at_zero(node: fx.Node, root: fx.Node, values: Mapping[str, Tensor], claimed: tuple[float, float]) -> bool:
    found = value_and_slope_at_zero(region_function(node, root, values))
    return all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for a, b in zip(found, claimed, strict=True))


def _derives(node: fx.Node, root: fx.Node, values: Mapping[str, Tensor]) -> bool:
    """Whether autograd differentiates a gate with operators that are not torch's own, by central differences at what it met.

    Autograd of the model and of the program are the same for those. At kinks differences are no derivatives: a quarter may be off.
    """
    if all(getattr(n.target, "namespace", "aten") == "aten" for n in region_nodes(node, root)):
        return True
    phi = region_function(node, root, values)
    with torch.enable_grad():
        z = values[root.name].detach().flatten().requires_grad_()
        (slope,) = torch.autograd.grad(phi(z).sum(), z)
    with torch.no_grad():
        step = STEP * (1 + z.abs())
        found = (phi(z + step) - phi(z - step)) / (2 * step)
    return float(((slope - found).abs() > STEP * (1 + found.abs())).double().mean()) <= KINKS


def _is_entrywise(node: fx.Node, root: fx.Node, values: Mapping[str, Tensor]) -> bool:
    """Whether an operator that the user declared a gate acts on each entry alone, tried at the values that it met."""
    phi, z = region_function(node, root, values), values[root.name].flatten()
    try:
        whole = phi(z)
        return torch.equal(phi(z.flip(0)).flip(0), whole) and torch.equal(phi(z[:1]), whole[:1])
    except (LookupError, RuntimeError):
        return False


def _is_gate(node: fx.Node, root: fx.Node, program: Program, values: Mapping[str, Tensor]) -> bool:
    def ends(here: fx.Node) -> bool:
        return here is root or op_name(here) in FACTORIES

    for here in reached([node], lambda n: () if ends(n) else n.all_input_nodes):
        if ends(here):
            continue
        if here.op == "placeholder" and (here.name in program.parameters or here.name in program.inputs):
            return False
        pointwise = is_pointwise(here.target) or op_name(here) in PASS_THROUGH
        pointwise = pointwise or (root in here.all_input_nodes and _is_entrywise(here, root, values))
        if here.op == "call_function" and not pointwise and here.all_input_nodes:
            return False
    return True


NORMALISATIONS = frozenset(
    ["aten.layer_norm.default", "aten.group_norm.default", "aten.rms_norm.default", "aten.instance_norm.default"]
)


def _may_freeze(node: fx.Node, program: Program) -> bool:
    """A normalisation, a softmax, a singular function, an integer or boolean tensor, or what is computed from those and buffers."""

    def further(here: fx.Node) -> Iterable[fx.Node]:
        return here.all_input_nodes if is_floating(here) and op_name(here) not in FROZEN_LIST | NORMALISATIONS else ()

    moves = {*program.parameters, *program.inputs}
    return not any(n.name in moves and is_floating(n) for n in reached([node], further))
