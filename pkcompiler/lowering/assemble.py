"""A trainable copy of a model with its masks as graph nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import Diagnostic, fail, raise_all
from pkcompiler.frontend.copies import copied_unseen
from pkcompiler.frontend.export import normalise_inputs
from pkcompiler.frontend.faithful import faithful_copy
from pkcompiler.frontend.pruned import unpruned
from pkcompiler.lowering.apply import applied_masks, forget_masks
from pkcompiler.lowering.as_recorded import Recorded
from pkcompiler.lowering.beside import beside, refuse_parted
from pkcompiler.lowering.buffers import called, one_memory, written
from pkcompiler.lowering.call import fetch
from pkcompiler.lowering.exported import export_modes
from pkcompiler.lowering.keep import keep
from pkcompiler.lowering.masks import Masks, canonical_names, check_masks, mask_faults, of_all_names, storage_key
from pkcompiler.lowering.modules import Lowered, ModePair
from pkcompiler.lowering.mutations import KEEP_CLASS
from pkcompiler.lowering.outside import refuse_unrepeatable
from pkcompiler.lowering.refuse import unkept
from pkcompiler.lowering.trace import NotTraceable, Trace, attribute_names, same_program, trace_modes
from pkcompiler.lowering.weave import weave
from pkcompiler.lowering.zero_rows import undefined_faults, zero_rows
from pkcompiler.modes import in_own_modes, keeping_default_device


@checked
@in_own_modes
def lower(model: nn.Module, masks: Masks, example_inputs: Any = None) -> Lowered | ModePair:
    """A copy of ``model`` that trains with ``masks``: every use of a masked parameter reads ``torch.where(mask, weight, 0)``.

    The copy shares nothing with ``model``. Its outputs equal the masked model's to the bit on CPU, its parameter names and
    ``state_dict`` keys equal the dense model's (masks are non-persistent buffers). Masks that ``model`` has already, by
    :func:`apply_masks` or ``torch.nn.utils.prune``, are taken over. Stored pruned weights are zero now, after
    ``load_state_dict``, and under any optimizer, since their gradients are zero whatever flows back. Where classes have copying
    code of their own, the copy is compared with ``model`` at the example; without one, only its attributes are, and other numbers
    and texts are a warning.

    Symbolic tracing gives a :class:`Lowered` (an ``fx.GraphModule``), or a :class:`ModePair` where the two modes compute
    differently (``F.dropout(training=self.training)``). A model that cannot be traced is exported in both modes, also a
    :class:`ModePair`; that takes ``example_inputs``. The mode of such a pair is that of the root.

    :param masks: parameter name (either name of a tied one) to bool tensor of its shape, True = kept; or what holds them, such as
        :class:`pkcompiler.Pruned`.
    :param example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs; dimension 0 is the batch. Default:
        those that a :class:`pkcompiler.Pruned` was made with. What the example leaves out stays at its default in every call.
    :raises PkcError: masks that do not fit (PKC470-474), hooks and methods that would be lost (PKC270-271), names that the
        result has itself (PKC274), a default device that forward sets (PKC248), a model that needs ``example_inputs`` (PKC272) or
        cannot be recorded (PKC273), state that a graph cannot keep (PKC279), also of classes and global names as far as it shows in
        two recordings, or, with ``example_inputs``, in three calls in each mode.
    """
    with keeping_default_device("forward"):
        return assembled(recording(model, masks, example_inputs))


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A copy of a model and the graphs of its two modes; ``evaluation`` None: the training graph serves both.

    ``masks``: by canonical name; ``fills``: what is read where a mask drops, if not 0; ``batch``: the only one that an exported
    graph takes; ``call``: the call that exported graphs repeat, None for traced ones.
    """

    root: nn.Module
    masks: Mapping[str, Tensor]
    fills: Mapping[str, Tensor]
    evaluation: Trace | None
    training: Trace
    batch: int | None = None
    call: Recorded | None = None

    @property
    def traces(self) -> list[Trace]:
        """Each graph once."""
        return [trace for trace in (self.evaluation, self.training) if trace is not None]


def recording(given: nn.Module, masks: Masks, example_inputs: Any, *, export: bool = False) -> Recording:
    """What :func:`lower` makes its result of; raises as it does. ``export``: without a symbolic trace."""
    example = getattr(masks, "inputs", None) if example_inputs is None else example_inputs
    model, held = unpruned(given, example)
    raise_all([*unkept(model), *mask_faults(model, masks)])
    checked = check_masks(model, masks)
    for name, mask in (*held.items(), *applied_masks(given).items()):
        checked[name] = checked.get(name, mask).to(mask.device) & mask
    root = copied_unseen(model) if example is None else faithful_copy(model, example)
    forget_masks(root)
    fills = zero_rows(root, checked)
    raise_all(undefined_faults(root, checked, masks, fills))
    args, kwargs = ((), {}) if example is None else normalise_inputs(example)
    if example is not None:
        refuse_unrepeatable(root, args, kwargs)
    try:
        if export:
            raise NotTraceable("it is to be exported")
        evaluation, training = trace_modes(root, args, kwargs)
        if example is not None:
            beside(root, (evaluation, training), (args, kwargs))
    except NotTraceable as reason:
        if example is None:
            raise fail(
                "PKC272",
                f"{type(model).__name__} cannot be traced symbolically ({reason}), recording it takes an example",
                "pass the third argument: lower(model, masks, example_inputs)",
            ) from reason
        evaluation, training, batch = export_modes(root, args, kwargs)
        refuse_parted(root, (evaluation, training), (args, kwargs))
        return Recording(root, checked, fills, evaluation, training, batch, Recorded.of(root, args, kwargs))
    return Recording(root, checked, fills, None if same_program(evaluation, training) else evaluation, training)


@in_own_modes
def lower_exported(model: nn.Module, example_inputs: Any) -> ModePair:
    """A copy as ``torch.export`` records both modes, also where a symbolic trace would do; nothing is masked.

    :raises PkcError: as :func:`lower`.
    """
    with keeping_default_device("forward"):
        found = assembled(recording(model, {}, example_inputs, export=True))
    assert isinstance(found, ModePair)
    return found


def assembled(found: Recording) -> Lowered | ModePair:
    """The result over the copy, which it takes over."""
    root, masks, traces = found.root, found.masks, found.traces
    canonical = canonical_names(root)
    raise_all([*_write_faults(root, traces, {name for name, first in canonical.items() if first in masks}), *_alias_faults(traces)])
    for trace in traces:
        _adopt_constants(root, trace)
    mask_names = {name: _register(root, name, "mask", mask) for name, mask in masks.items()}
    fill_names = {name: _register(root, name, "fill", fill) for name, fill in found.fills.items()}
    for trace in traces:
        weave(trace.graph, root, canonical, mask_names, fill_names)
    lowered: Lowered | ModePair
    if found.evaluation is None:
        lowered = Lowered(root, found.training.graph, mask_names)
    else:
        lowered = ModePair(root, found.evaluation.graph, found.training.graph, mask_names, found.batch, found.call)
    keep(lowered, of_all_names(lowered, masks), anew=False, called=False)
    return lowered


def _write_faults(root: nn.Module, traces: Iterable[Trace], masked: set[str]) -> Iterator[Diagnostic]:
    """PKC279 for masked parameters, and for tensors that are no members of the model, into which a graph writes."""
    members = dict([*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False)])
    for name in dict.fromkeys(name for trace in traces for name in written(trace.graph, trace.source)):
        if name in masked:
            yield Diagnostic("PKC279", f"the forward writes to the masked parameter {name!r}", notes=(KEEP_CLASS,))
        elif name not in members:
            note = "register the tensor as a buffer, or " + KEEP_CLASS
            yield Diagnostic("PKC279", f"the forward writes to {name!r}, which is neither parameter nor buffer", notes=(note,))


def _alias_faults(traces: Sequence[Trace]) -> Iterator[Diagnostic]:
    """PKC279 for buffers that are one tensor after a call, where a graph writes to one of them in place: the other has it, too."""
    written_to = {name for trace in traces for name in trace.buffers.written}
    within = tuple(f"{path}." for trace in traces for path in called(trace.graph))
    for one, other in sorted(sorted(pair) for pair in one_memory([trace.buffers for trace in traces])):
        if any(name in written_to or name.startswith(within) for name in (one, other)):
            message = f"the forward makes one tensor of the buffers {one!r} and {other!r}, and writes to it in place"
            yield Diagnostic(
                "PKC279", message, notes=(f"assign a copy where it assigns one to the other, with .clone(); or {KEEP_CLASS}",)
            )


def _register(root: nn.Module, name: str, what: str, tensor: Tensor) -> str:
    """A buffer beside the parameter ``name``, outside of the keys: its full name."""
    owner, _, leaf = name.rpartition(".")
    module = root.get_submodule(owner)
    free = _free(module, f"{leaf}_{what}")
    beside = getattr(module, leaf)
    device = tensor.device if beside.is_meta else beside.device
    module.register_buffer(free, tensor.to(device, copy=True), persistent=False)
    return f"{owner}.{free}" if owner else free


def _adopt_constants(root: nn.Module, trace: Trace) -> None:
    """Tensors and modules that recording made, and tensors that are plain attributes: members of ``root`` outside its keys."""
    tensors = dict([*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False)])
    members = tensors.keys() | dict(root.named_modules(remove_duplicate=False)).keys()
    owners = {storage_key(tensor): name for name, tensor in reversed(tensors.items())}
    renamed = {
        name: _adopt(root, name, fetch(trace.source, name), owners) for name in attribute_names(trace.graph) if name not in members
    }
    for node in trace.graph.nodes:
        if node.op in ("get_attr", "call_module"):
            node.target = renamed.get(str(node.target), node.target)


def _adopt(root: nn.Module, name: str, value: Any, owners: Mapping[object, str]) -> str:
    """The name in ``root`` of what the trace calls ``name``; a parameter or buffer taken past the module keeps its own."""
    if isinstance(value, Tensor) and storage_key(value) in owners:
        return owners[storage_key(value)]
    free = _free(root, "constant_" + name.replace(".", "_").strip("_"))
    if isinstance(value, Tensor):
        root.register_buffer(free, value.detach().clone(), persistent=False)
    elif isinstance(value, fx.GraphModule):
        root.add_module(free, value)
    else:
        raise fail(
            "PKC273", f"the recorded graph holds a {type(value).__name__}", "keep the class: pkcompiler.apply_masks(model, masks)"
        )
    return free


def _free(module: nn.Module, name: str) -> str:
    while hasattr(module, name):
        name += "_"
    return name
