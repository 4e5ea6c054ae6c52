"""``nn.Module`` to a flat ATen graph: ``torch.export``, decomposed except for the operators that mean something to paths."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch._functorch.config as functorch
from torch import Tensor, fx, nn
from torch._subclasses import meta_utils
from torch.export.graph_signature import ExportGraphSignature, OutputKind, TokenArgument
from torch.utils import _pytree as pytree

from pkcompiler.diagnostics import PkcError, fail, typed_or_called
from pkcompiler.frontend.decomposed import decompose
from pkcompiler.frontend.inputs import no_values, with_values
from pkcompiler.frontend.plain import drop_tokens, make_plain
from pkcompiler.frontend.precision import computing_in, defaults, state_of
from pkcompiler.frontend.uncallable import uncallable
from pkcompiler.modes import keeping_default_device, usable
from pkcompiler.ops.quotients import ZeroRows
from pkcompiler.userstreams import kept, silenced

PREFIX = "model."


@dataclass(frozen=True, slots=True)
class Program:
    """An exported model: a flat ``fx`` graph whose placeholders are parameters, buffers, constants and inputs.

    ``parameters`` and ``buffers`` map placeholder names to the model's own names (one per storage), ``tensors`` those names to
    the model's live tensors, ``lifted`` placeholder names to tensors that the trace created. ``inputs`` are the names of the
    input placeholders in order; ``batched`` says whether dimension 0 of the inputs is free; ``recorded``, that the model branches
    on its data, so that the program is what it did at the example (the same branches are asserted wherever torch can).
    ``dtype``: the precision of everything in it (None: the model's own).
    """

    module: fx.GraphModule
    parameters: Mapping[str, str]
    buffers: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    lifted: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    batched: bool
    output: str
    recorded: bool = False
    dtype: torch.dtype | None = None


class _Entry(nn.Module):
    """The model behind flat positional tensors and a single tensor output."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model = model
        self._call = call

    def forward(self, *flat: Any) -> Tensor:
        with kept():
            return self._call.trace(self.model, flat)


@dataclass(frozen=True, slots=True)
class Call:
    """How the model is called: the flat inputs, how they unflatten, and which flat output is analysed (and its name).

    ``copies``: a model that takes so many samples and no other number is given one sample so often, and the first one's output is
    its output. ``copied``: which of the flat inputs have a sample in each row.
    ``dtype``: the precision that every run is in (None: the model's own). ``computed``: whether the model computes weights from
    parameters, so that a run at masked ones may divide 0 by 0.
    """

    flat: tuple[Any, ...]
    spec: pytree.TreeSpec
    output: int
    output_name: str
    copies: int = 1
    copied: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    computed: bool = False

    def arguments(self, flat: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments from flat inputs; one sample as often as the model takes it."""
        copied = self.copied if self._is_one(flat) else ()
        given = [repeat_batch([t], self.copies)[0] if i in copied else t for i, t in enumerate(flat)]
        args, kwargs = pytree.tree_unflatten(given, self.spec)
        return tuple(args), dict(kwargs)

    def run(self, model: nn.Module, flat: Sequence[Any], weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The analysed output of ``model`` at other flat inputs of the same structure, with ``weights`` in place of its own."""
        return self._analysed(self.outputs(model, flat, weights), flat)

    def trace(self, model: nn.Module, flat: Sequence[Any]) -> Tensor:
        """The same on the inputs themselves, which a model may write into (and a trace then records)."""
        return self._analysed(self._outputs(model, flat, None), flat)

    def outputs(self, model: nn.Module, flat: Sequence[Any], weights: Mapping[str, Tensor] | None = None) -> list[Any]:
        """All flat outputs of such a run. The model is given copies of its inputs."""
        return self._outputs(model, fresh(flat), weights)

    def _outputs(self, model: nn.Module, flat: Sequence[Any], weights: Mapping[str, Tensor] | None) -> list[Any]:
        args, kwargs = self.arguments(flat)
        with computing_in(self.dtype, model):
            if weights is None:
                return pytree.tree_leaves(model(*args, **kwargs))
            with ZeroRows() if self.computed else contextlib.nullcontext():
                return pytree.tree_leaves(torch.func.functional_call(model, dict(weights), args, kwargs, tie_weights=True))

    def _analysed(self, outputs: Sequence[Any], flat: Sequence[Any]) -> Tensor:
        result: Tensor = outputs[self.output]
        return result[: result.shape[0] // self.copies] if self._is_one(flat) else result

    def _is_one(self, flat: Sequence[Any]) -> bool:
        return self.copies > 1 and all(flat[i].shape[0] == 1 for i in self.copied)


def example_batch(flat: Sequence[Any]) -> int:
    """Dimension 0 of the first tensor input."""
    return next((int(t.shape[0]) for t in flat if isinstance(t, Tensor) and t.dim()), 1)


def fresh(flat: Sequence[Any]) -> list[Any]:
    """The flat inputs as copies, for a model may change what it is given (``x -= 0.5``); one tensor given twice stays one."""
    copies = {id(value): value.clone() for value in flat if isinstance(value, Tensor)}
    return [copies.get(id(value), value) for value in flat]


def normalise_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A tensor, a tuple or list of positional inputs, or a dict of keyword inputs, as ``(args, kwargs)``."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if hasattr(example_inputs, "args") and hasattr(example_inputs, "kwargs"):
        return tuple(example_inputs.args), dict(example_inputs.kwargs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    raise fail(
        "PKC203",
        f"example inputs are a {type(example_inputs).__name__}",
        "expected a tensor, a tuple of tensors, or a dict of keyword inputs",
    )


def bind_call(model: nn.Module, example_inputs: Any, output: str | int | None = None, dtype: torch.dtype | None = None) -> Call:
    """Run the model once and choose the output to analyse (by name or index; default: the first floating one).

    Raises ``PKC203`` when the model cannot be called with these inputs and ``PKC204`` when the output does not exist.
    """
    args, kwargs = normalise_inputs(example_inputs)
    _require_values((args, kwargs))
    flat, spec = pytree.tree_flatten(usable((args, kwargs)))
    args, kwargs = pytree.tree_unflatten(fresh(flat), spec)
    try:
        with evaluating(model), torch.no_grad(), computing_in(dtype, model):
            result = model(*args, **kwargs)
    except (PkcError, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit() in forward, too
        raise uncallable(model, (args, kwargs), error) from error
    names = _output_names(result)
    leaves = pytree.tree_leaves(result)
    index = _choose_output(leaves, names, output)
    return Call(tuple(flat), spec, index, names[index], dtype=dtype)


def _require_values(inputs: Any) -> None:
    """Raise ``PKC203`` for example inputs that hold no values, or no sample."""
    for tensor in pytree.tree_leaves(inputs):
        if isinstance(tensor, Tensor) and (why := no_values(tensor)):
            note = with_values(tensor, "dimension 0 is the batch: give one sample or more, e.g. x[:1]")
            raise fail("PKC203", f"an example input {why}", note)


def _output_names(result: Any) -> list[str]:
    paths, _ = pytree.tree_flatten_with_path(result)
    return [".".join(_key(step) for step in path) or "output" for path, _ in paths]


def _key(step: Any) -> str:
    """One step into a nested output: ``0`` of a tuple, ``aux`` of a dict or of a dataclass."""
    return str(next(value for name in ("key", "idx", "name") if (value := getattr(step, name, None)) is not None))


def _choose_output(leaves: list[Any], names: list[str], output: str | int | None) -> int:
    floating = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not floating:
        raise fail("PKC204", "the model returns no floating-point tensor", "path analysis needs one floating output")
    index = _chosen(floating, names, output)
    if not leaves[index].numel():
        shape = tuple(leaves[index].shape)
        raise fail("PKC204", f"the output '{names[index]}' has shape {shape}, and no entry", "give its layer one output or more")
    return index


def _chosen(floating: list[int], names: list[str], output: str | int | None) -> int:
    """The position of the output that a name or an index means, among those that are floating."""
    known = ", ".join(f"{i} ({names[i]})" for i in floating)
    if output is None:
        return floating[0]
    wanted = str(output)
    named = [i for i in floating if wanted == names[i]] or [i for i in floating if wanted == names[i].rpartition(".")[2]]
    if len(named) == 1:
        return named[0]
    if not named and wanted in map(str, floating):
        return int(wanted)
    raise fail(
        "PKC204",
        f"the model has no floating output '{output}'",
        f"outputs: {known}",
        typed_or_called(f"try --output {floating[0]}", f"try output={floating[0]}"),
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every module's own mode afterwards, and the buffers that it wrote into as they were.

    So are embeddings that limit the norms of their rows when these are read.

    Raises ``PKC248`` where forward sets the default device.
    """
    modes = {m: m.training for m in model.modules()}
    limited = [m.weight for m in modes if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm is not None]
    written = [(t, t._version, t.detach().clone()) for t in (*model.buffers(), *limited) if not t.is_inference()]
    model.eval()
    try:
        with keeping_default_device("forward"), kept():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, version, value in written:
                if buffer._version != version:
                    buffer.copy_(value)


def repeat_batch(flat: Sequence[Any], size: int) -> tuple[Any, ...]:
    """The inputs with the first sample repeated ``size`` times along dimension 0 (scalars and non-tensors as they are)."""
    return tuple(t[:1].expand(size, *t.shape[1:]).contiguous() if isinstance(t, Tensor) and t.dim() else t for t in flat)


def export_program(model: nn.Module, call: Call, *, free: bool = True) -> Program:
    """Export ``model`` in evaluation mode with a free batch dimension.

    Where that fails, or without ``free``, with the example's batch (``Program.batched``); where the model branches on its data,
    one execution at the example (``Program.recorded``).

    Raises ``PKC205`` when ``torch.export`` cannot trace the model at all.
    """
    entry = _Entry(model, call)
    with evaluating(model), quiet_tracing(), defaults(call.dtype, state_of(model)):
        entry.eval()
        exported, batched, recorded = _try_export(entry, call, free)
        views_to_reshapes(exported.graph)
        module, signature = exported.graph_module, exported.graph_signature
        if not make_plain(module):
            module, signature = decompose(exported)
    names = _canonical_names(model)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    parameters = {p: names[t.removeprefix(PREFIX)] for p, t in signature.inputs_to_parameters.items()}
    buffers = {p: names[t.removeprefix(PREFIX)] for p, t in signature.inputs_to_buffers.items()}
    lifted = {p: exported.constants[t] for p, t in signature.inputs_to_lifted_tensor_constants.items()}
    inputs = tuple(str(name) for name in signature.user_inputs)
    drop_tokens(module, signature)
    _keep_output(module, signature)
    return Program(module, parameters, buffers, tensors, lifted, inputs, batched, call.output_name, recorded, call.dtype)


def views_to_reshapes(graph: fx.Graph) -> None:
    """A view holds for the strides that export saw, where ``contiguous()`` left no trace: other kernels give other ones."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default


def _keep_output(module: fx.GraphModule, signature: ExportGraphSignature) -> None:
    """Drop what export lists before the user's output: the new values of buffers and inputs that the model writes into."""
    node = module.graph.output_node()
    outputs = node.args[0]
    assert isinstance(outputs, tuple | list)
    kinds = [spec.kind for spec in signature.output_specs if not isinstance(spec.arg, TokenArgument)]
    node.args = ((outputs[kinds.index(OutputKind.USER_OUTPUT)],),)
    module.graph.eliminate_dead_code()
    module.recompile()


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer to its one canonical name (the first of ``named_parameters()``)."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    everything = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in everything:
        names[name] = first.setdefault(id(tensor), name)
    return names


def _try_export(entry: _Entry, call: Call, free: bool) -> tuple[Any, bool, bool]:
    """The exported program, whether its batch is free, and whether it is one recorded execution: the first way that works."""
    if free and (exported := _with_free_batch(entry, call)) is not None:
        return exported, True, False
    try:
        return torch.export.export(entry, tuple(fresh(call.flat)), strict=False), False, False
    except Exception as error:
        return _record(entry, call, error), False, True


def _with_free_batch(entry: _Entry, call: Call) -> Any:
    """The exported program where its batch is free, else None."""
    dims = tuple({0: torch.export.Dim.AUTO} if isinstance(t, Tensor) and t.dim() else None for t in call.flat)
    try:
        exported = torch.export.export(entry, repeat_batch(call.flat, 2), dynamic_shapes=(dims,), strict=False)
    except Exception as error:
        logging.getLogger(__name__).debug("no free batch: %s", error)
        return None
    return exported if _batch_is_free(exported) else None


def _record(entry: _Entry, call: Call, why: Exception) -> Any:
    """Export one execution at the example: branches on data go the way that its values take."""
    try:
        with _real_parameters(), functorch.patch(fake_tensor_propagate_real_tensors=True):
            return torch.export.export(entry, tuple(fresh(call.flat)), strict=False)
    except Exception as error:
        reason = (str(why).strip() or str(error) or type(error).__name__).splitlines()[0]
        raise fail(
            "PKC205",
            f"torch.export cannot trace the model: {reason}",
            "neither with a free batch, nor with the example's, nor as a single execution at the example",
            "compute with torch's own operators throughout (no .numpy(), no .item()), or analyse the part of the model before that",
        ) from error


@contextmanager
def _real_parameters() -> Iterator[None]:
    """Inside, torch traces the real values of parameters too: it copies those of plain tensors only, the others stay undefined."""
    copy, clone = meta_utils._safe_copy, meta_utils._safe_clone
    with (
        mock.patch.object(meta_utils, "_safe_copy", lambda to, source: copy(to, _plain_tensor(source))),
        mock.patch.object(meta_utils, "_safe_clone", lambda source: clone(_plain_tensor(source))),
    ):
        yield


def _plain_tensor(tensor: Any) -> Any:
    return tensor.detach().as_subclass(Tensor) if isinstance(tensor, nn.Parameter) else tensor


def _batch_is_free(exported: Any) -> bool:
    users = set(exported.graph_signature.user_inputs)
    nodes = [n for n in exported.graph.nodes if n.op == "placeholder" and n.name in users]
    shapes = [n.meta["val"].shape for n in nodes if isinstance(n.meta.get("val"), Tensor) and n.meta["val"].dim()]
    free = {symbol for symbol, interval in exported.range_constraints.items() if interval.lower != interval.upper}
    return all(isinstance(shape[0], torch.SymInt) and shape[0].node.expr in free for shape in shapes)


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Silence the warnings, log lines and printed graphs of tracing: what matters is reported as diagnostics."""
    named = [name for name in logging.root.manager.loggerDict if name == "torch" or name.startswith("torch.")]
    loggers = [logging.getLogger(name) for name in named]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings(), silenced():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
