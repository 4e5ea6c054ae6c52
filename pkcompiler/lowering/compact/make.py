"""A smaller network with the function of a masked one: what is left of every tensor, cut out; the graph made to run over it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import fail
from pkcompiler.frontend.capture import capture
from pkcompiler.frontend.copies import copied
from pkcompiler.frontend.export import normalise_inputs
from pkcompiler.lowering.assemble import Recording, assembled, recording
from pkcompiler.lowering.batch import batch_of
from pkcompiler.lowering.compact.cuts import Cut
from pkcompiler.lowering.compact.follow import Follow, Unfit
from pkcompiler.lowering.compact.result import Compact, Report
from pkcompiler.lowering.compact.rules import left_of
from pkcompiler.lowering.compact.shrink import is_known, shrunk
from pkcompiler.lowering.masks import Masks, canonical_names, masks_of, storage_key
from pkcompiler.lowering.trace import Trace
from pkcompiler.modes import in_own_modes, keeping_default_device
from pkcompiler.structure.kept import Streams, kept_units

CLOSE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Of the largest output: how far the compact network may be from the masked one. Sums of other lengths round otherwise."""

FAULT = "this is a fault of pkcompiler's: lower(model, masks) keeps all shapes"


@checked
@in_own_modes
def compact(model: nn.Module, masks: Masks, example_inputs: Any = None, *, streams: Streams = "union") -> Compact:
    """The function of ``model`` under ``masks`` in a smaller network: units that are 0, or that nothing reads, leave every tensor.

    What is left is exact: the same outputs in both modes, the same gradients and BatchNorm statistics of what is kept. Units that
    only a bias or a BatchNorm shift feeds stay. The result is checked at the example, and at twice its batch.

    :param masks: parameter name to bool tensor of its shape, True = kept; or what holds them, such as :class:`pkcompiler.Pruned`.
    :param example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs; dimension 0 is the batch. Default:
        those that a :class:`pkcompiler.Pruned` was made with.
    :param streams: ``union``: what is added has the units of all that is added; ``indexed``: each branch its own, put in place
        where they meet.
    :raises PkcError: as :func:`pkcompiler.lower` does; PKC280 where the graph cannot be made to run over smaller tensors
    """
    with keeping_default_device("forward"):
        return _compact(model, masks, example_inputs, streams)


def _compact(model: nn.Module, masks: Masks, example_inputs: Any, streams: Streams) -> Compact:
    example = getattr(masks, "inputs", None) if example_inputs is None else example_inputs
    if example is None:
        raise fail("PKC272", "what is left of a network is found at an example", "compact(model, masks, example_inputs)")
    found = recording(model, masks, example)
    if found.call is None and _has_opaque(found):
        found = recording(model, masks, example, export=True)
    captured = capture(found.root, example)
    slots = {slot.name for slot in captured.graph.slots}
    given = {n: m for n, m in found.masks.items() if n in slots}
    kept = kept_units(captured.graph, captured.tensors, given, captured.watched, streams=streams, whole=frozenset(_whole(found)))
    cuts = _by_every_name(found.root, kept.axes)
    args, kwargs = normalise_inputs(example)
    root = _masked(found)
    small = copied(found.root)
    shrunk(small, cuts)
    put_back: dict[str, int] = {}
    for trace in found.traces:
        put_back |= _followed(trace, root, small, cuts, (args, kwargs))
    left = {n: cuts[n].take(m) if n in cuts else m for n, m in found.masks.items()}
    left = {n: m for n, m in left.items() if not bool(m.all())}
    fills = {n: cuts[n].take(f) if n in cuts else f for n, f in found.fills.items() if n in left}
    module = assembled(Recording(small, left, fills, found.evaluation, found.training, found.batch, found.call))
    flops = _checked(root, module, args, kwargs, captured.batched and found.batch is None)
    report = Report((_count(root), _count(small)), flops, tuple(kept.reasons), tuple(put_back.items()))
    return Compact(module, left, report, cuts, dict(masks_of(masks)))


def _has_opaque(found: Recording) -> bool:
    """Whether a traced graph calls a module of torch, with tensors of its own, that has no smaller one."""
    called = {str(n.target) for trace in found.traces for n in trace.graph.nodes if n.op == "call_module"}
    modules = [found.root.get_submodule(path) for path in called]
    return any(not is_known(m) and any(True for _ in m.parameters()) for m in modules)


def _whole(found: Recording) -> Iterator[str]:
    """Parameters and buffers that stay as they are: those of modules whose own code computes with them, and what is written to."""
    canonical = {**canonical_names(found.root), **{n: n for n, _ in found.root.named_buffers()}}
    for trace in found.traces:
        for node in trace.graph.nodes:
            if node.op == "call_module" and not is_known(module := found.root.get_submodule(str(node.target))):
                for name, _ in (*module.named_parameters(), *module.named_buffers()):
                    yield canonical.get(f"{node.target}.{name}", f"{node.target}.{name}")
        yield from trace.buffers.written
        yield from trace.buffers.origins


def _by_every_name(root: nn.Module, axes: Mapping[str, tuple[Tensor | None, ...]]) -> dict[str, Cut]:
    """The cut of every parameter and buffer by every of its names."""
    first = {storage_key(t): axes[n] for n, t in _members(root) if n in axes}
    return {name: Cut.of(tensor.shape, first.get(storage_key(tensor), (None,) * tensor.dim())) for name, tensor in _members(root)}


def _members(root: nn.Module) -> list[tuple[str, Tensor]]:
    return [*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False)]


def _masked(found: Recording) -> nn.Module:
    """A copy with masked weights, in evaluation mode."""
    root = copied(found.root).eval()
    with torch.no_grad():
        for name, mask in found.masks.items():
            weight = root.get_parameter(name)
            fill = found.fills.get(name, torch.zeros((), dtype=weight.dtype, device=weight.device))
            weight.copy_(torch.where(mask.to(weight.device), weight, fill.to(weight)))
    return root


def _followed(trace: Trace, root: nn.Module, small: nn.Module, cuts: Mapping[str, Cut], call: Any) -> dict[str, int]:
    """Rewrite a graph for the smaller tree; where zeros are put back, and how many."""
    before = small.training
    follow = Follow(trace.graph, root, small.eval(), cuts=cuts, held=trace.source, rule=left_of)
    buffers = [(b, b.clone()) for network in (root, small) for b in network.buffers()]
    try:
        follow.run(iter(_inputs_of(trace, *call)))
    except Unfit as reason:
        raise fail(
            "PKC280", f"the graph cannot run over what the masks have left: {reason}", "lower(model, masks) keeps all shapes"
        ) from reason
    finally:
        small.train(before)
        for buffer, value in buffers:  # a graph of training mode writes to them
            buffer.copy_(value)
    for node in reversed(list(trace.graph.nodes)):
        if not node.users and (node.op == "get_attr" or (node.op, node.target) == ("call_method", "size")):
            trace.graph.erase_node(node)
    return follow.put_back


def _inputs_of(trace: Trace, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The value of every placeholder, in order: the graph's own start, run alone."""
    start = fx.Graph()
    start._codegen = copy.copy(trace.graph._codegen)
    if hasattr(start._codegen, "pytree_info"):
        start._codegen.pytree_info = start._codegen.pytree_info._replace(out_spec=None)
    made: dict[fx.Node, fx.Node] = {}
    places = [start.node_copy(node, made.__getitem__) for node in trace.graph.find_nodes(op="placeholder")]
    start.output(tuple(places))
    return list(fx.GraphModule(nn.Module(), start)(*args, **kwargs))


def _checked(root: nn.Module, module: nn.Module, args: Any, kwargs: Any, batched: bool) -> tuple[int, int]:
    """Multiply-adds of the masked and of the compact network for one sample. Both are run at the example, and where the batch is
    free at twice its batch, and must agree."""
    before = module.training
    module.eval()
    batch = batch_of((args, kwargs)) or 1
    calls = [(args, kwargs)]
    if batched:
        calls.append(pytree.tree_map(lambda t: torch.cat([t, t]) if isinstance(t, Tensor) and t.dim() else t, (args, kwargs)))
    for call in calls:
        (one, dense), (other, left) = (_run(network, *call) for network in (root, module))
        for a, b in zip(one, other, strict=True):
            _refuse_other(a, b)
        counts = dense // (2 * batch), left // (2 * batch)
        batch *= 2
    module.train(before)
    return counts


def _run(network: nn.Module, args: Any, kwargs: Any) -> tuple[list[Tensor], int]:
    """The floating outputs, and how many floating point operations torch counts."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = pytree.tree_leaves(network(*args, **kwargs))
    return [t for t in outputs if isinstance(t, Tensor) and t.is_floating_point()], counter.get_total_flops()


def _refuse_other(one: Tensor, other: Tensor) -> None:
    """Raise ``PKC280`` where an output is not the masked network's."""
    if one.shape != other.shape:
        raise fail(
            "PKC280", f"the compact network gives {tuple(other.shape)} at the example, the masked one {tuple(one.shape)}", FAULT
        )
    proper = one.nan_to_num() if torch.equal(one.isnan(), other.isnan()) else one
    most = float(proper.abs().max()) if one.numel() else 0.0
    off = float((proper - other.nan_to_num()).abs().max()) if one.numel() else 0.0
    if not off <= CLOSE.get(one.dtype, 1e-2) * most:
        raise fail(
            "PKC280",
            f"the compact network is {off / most if most else off:.2g} of the largest output off the masked one at the example",
            FAULT,
        )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
