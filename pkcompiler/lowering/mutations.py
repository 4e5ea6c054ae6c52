"""What a forward changes beside what it returns: a graph writes buffers as the forward does, all else is refused by name."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pkcompiler.diagnostics import Diagnostic, raise_all
from pkcompiler.frontend.copies import PLAIN
from pkcompiler.lowering.call import fetch, store

KEEP_CLASS = "keep its class: pkcompiler.apply_masks(model, masks)"
FILL_FIRST = "if it is a constant that the first call fills, call the model once before: model(x)"
OF_TORCH = frozenset(vars(nn.Module())) - {"training"}
"""What every module has. Of its tables those of parameters, buffers and modules are looked at by their entries."""

OF_FX = "_tensor_constant"
"""How the names begin that a trace gives to tensors which it finds, on the module that it traces."""

VIEWS = ("detach", "view", "reshape", "t", "transpose", "permute", "squeeze", "unsqueeze", "flatten", "narrow", "select", "expand")
"""Methods whose result is the memory of what they are called on."""


_NONE = (type(None), repr(None))
"""The mark of an attribute that is not filled yet."""


@dataclass(frozen=True, slots=True)
class State:
    """Marks of all that the modules of a model hold, by module and attribute; ``seen``: what the marks are of, kept alive."""

    marks: Mapping[tuple[str, str], object]
    seen: Mapping[int, tuple[object, object]]


def state_of(model: nn.Module) -> State:
    """The state now, to be compared with the one after a run of the forward."""
    seen: dict[int, tuple[object, object]] = {}
    marks = {(path, name): mark(value, seen) for path, module in model.named_modules() for name, value in _attributes(module)}
    return State(marks, seen)


def refuse_changes(model: nn.Module, before: State) -> None:
    """Raise ``PKC279`` for every attribute that a run of the forward has changed, but for the values of buffers."""
    raise_all(_changes(model, before.marks, state_of(model).marks))


def _changes(
    model: nn.Module, before: Mapping[tuple[str, str], object], after: Mapping[tuple[str, str], object]
) -> Iterator[Diagnostic]:
    for place in {**before, **after}:
        if before.get(place) == after.get(place):
            continue
        path, name = place
        owner = f"module {path!r}" if path else type(model).__name__
        note = KEEP_CLASS
        value = vars(dict(model.named_modules()).get(path, model)).get(name)
        if isinstance(value, Tensor | fx.Proxy | int | float):
            note = f"make it a buffer, which a graph keeps: self.register_buffer({name!r}, ...); or {KEEP_CLASS}"
        filled = (FILL_FIRST,) if before.get(place, _NONE) == _NONE else ()
        message = f"the forward changes {name!r} of {owner}, which a lowered graph would not"
        yield Diagnostic("PKC279", message, notes=(note, *filled))


def _attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    """What is compared: attributes, and which parameters, buffers and modules there are; not what a norm's hook computes."""
    hooks = module._forward_pre_hooks.values()
    computed = {hook.name for hook in hooks if isinstance(hook, WeightNorm | SpectralNorm)}
    for name, value in vars(module).items():
        if name not in OF_TORCH | computed and not name.startswith(OF_FX):
            yield name, value
    yield from ((name, id(value)) for table in (module._parameters, module._modules) for name, value in table.items())
    yield from ((name, value is None) for name, value in module._buffers.items())


def mark(value: object, seen: dict[int, tuple[object, object]]) -> object:
    """Equal for what has not changed: plain values by their text, tensors by identity and version, the rest by what it holds."""
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    if id(value) not in seen:
        seen[id(value)] = value, "within itself"
        seen[id(value)] = value, _mark_anew(value, seen)
    return seen[id(value)][1]


def _mark_anew(value: object, seen: dict[int, tuple[object, object]]) -> object:
    match value:
        case Tensor():
            return id(value), 0 if value.is_inference() else value._version
        case torch.Generator():
            return value.get_state().numpy().tobytes()
        case dict():
            return tuple((mark(k, seen), mark(v, seen)) for k, v in value.items())
        case list() | tuple() | deque():
            return type(value), tuple(mark(v, seen) for v in value)
        case set() | frozenset():
            return frozenset(mark(v, seen) for v in value)
        case nn.Module() | type() | fx.Proxy() | fx.Graph() | fx.Node():
            return id(value)
    held = getattr(value, "__dict__", None)
    return (type(value), tuple((name, mark(v, seen)) for name, v in held.items())) if held else id(value)


# buffers ------------------------------------------------------------------------------------------------------------------


def store_buffers(graph: fx.Graph, values: Mapping[str, fx.Node]) -> None:
    """Write each buffer at the end of a graph, by its name there. What was read of it before stays as it was read."""
    (output,) = graph.find_nodes(op="output")
    for name, value in values.items():
        reads = [node for node in graph.nodes if node.op == "get_attr" and node.target == name]
        kept = value
        if reads:
            with graph.inserting_after(reads[0]):
                copy = graph.call_method("clone", (reads[0],))
            kept = copy if value in reads else value
            for read in reads:
                read.replace_all_uses_with(copy, delete_user_cb=partial(operator.is_not, copy))
        with graph.inserting_before(output):
            graph.call_function(store, (graph.create_node("get_attr", name), kept, name))


def stored_by_export(graph: fx.Graph) -> dict[str, fx.Node]:
    """The values of buffers that an exported graph copies into them last, by name; the copies are taken out."""
    values: dict[str, fx.Node] = {}
    for node in reversed(list(graph.nodes)[:-1]):
        if node.target is not torch.ops.aten.copy_.default or node.users or node.args[0].target in values:
            break
        values[node.args[0].target] = node.args[1]
        graph.erase_node(node)
    return values


def written(graph: fx.Graph, source: nn.Module) -> Iterator[str]:
    """The names of parameters, buffers and constants into whose memory a graph writes. ``source``: whose members it names."""
    for node in graph.nodes:
        for operand in _written_by(node, source):
            origin = _origin(operand)
            if origin.op == "get_attr":
                yield str(origin.target)


def _written_by(node: fx.Node, source: nn.Module) -> Iterator[fx.Node]:
    """The operands that a node writes to: the first of an operation in place, those that a graph within the graph writes to."""
    operands = [a for a in node.args if isinstance(a, fx.Node)]
    if node.target is not store and operands and _writes(node):
        yield operands[0]
    inner = [a for a in operands if a.op == "get_attr" and isinstance(fetch(source, str(a.target)), fx.GraphModule)]
    for graph in (fetch(source, str(a.target)).graph for a in inner):
        given = operands[operands.index(inner[0]) + 1 :]
        places = [origin for n in graph.nodes for o in _written_by(n, source) if (origin := _origin(o)).op == "placeholder"]
        yield from (a for a, p in zip(given, graph.find_nodes(op="placeholder"), strict=False) if p in places)


def _origin(node: fx.Node) -> fx.Node:
    """Whose memory a value is."""
    while _is_view(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _writes(node: fx.Node) -> bool:
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return node.op in ("call_method", "call_function") and (in_place or name in ("setitem", "__setitem__", "__iadd__", "iadd"))


def _is_view(node: fx.Node) -> bool:
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target.is_view or node.target is torch.ops.aten.detach.default
    if node.target is getattr:
        return node.args[1] in ("data", "T", "mT")
    return node.target is operator.getitem or (node.op == "call_method" and node.target in VIEWS)
