"""The symbolic trace of both modes, refused wherever it would record something other than what the module does."""

from __future__ import annotations

import copy
import inspect
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.frontend.copies import same_values
from pkcompiler.lowering.as_recorded import advice
from pkcompiler.lowering.buffers import Buffers, called, is_read, store_buffers, written
from pkcompiler.lowering.call import call_with, check_fixed, check_given, fetch, in_place, store
from pkcompiler.lowering.mutations import OF_TORCH, refuse_changes, state_of
from pkcompiler.lowering.outside import refuse_outside
from pkcompiler.lowering.proxies import Member, Value

SCALARS = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Trace:
    """A graph and the module whose attributes its targets name."""

    graph: fx.Graph
    source: nn.Module
    buffers: Buffers


class NotTraceable(Exception):
    """Why the symbolic trace does not stand for the module."""


class MaskTracer(fx.Tracer):
    """Buffers are read at run time, not folded at trace time; shapes of parameters and buffers are numbers."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=(call_with, check_fixed, check_given, in_place, store))
        self.context = _context()

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        """One more node. Raises ``ValueError`` where the forward has done what no node records."""
        if kind.startswith("call_") and _context() != self.context:
            raise ValueError("the forward switches gradients or autocast, which no node records")
        if kind == "call_module":
            self._refuse_replaced(str(args[0]))
        return super().create_node(kind, *args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A node's value, as an operation gives it."""
        return Value(node, self)

    def _refuse_replaced(self, path: str) -> None:
        """A module that is called as a whole has its own buffers, as its class reads these."""
        for name, buffer in self.root.get_submodule(path).named_buffers():
            if isinstance(buffer, fx.Proxy) and not is_read(buffer.node, f"{path}.{name}"):
                raise ValueError(f"the forward calls {path!r} after it has assigned its buffer {name!r}")

    def create_arg(self, a: Any) -> Any:
        """An argument of a node; a module is read from the root."""
        if isinstance(a, nn.Module):
            return self.create_node("get_attr", self.path_of_module(a), (), {})
        return super().create_arg(a)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """An attribute of a module; a parameter or buffer is a node that reads it at run time, one for each tensor."""
        members = (*self.root.named_parameters(), *self.root.named_buffers()) if isinstance(attr_val, Tensor) else ()
        name = next((name for name, member in members if member is attr_val), None)
        if name is None:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy(
                "get_attr", name, (), {}, proxy_factory_fn=lambda node: Member(node, self, attr_val)
            )
        return parameter_proxy_cache[name]


def trace_modes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Trace, Trace]:
    """The traces in evaluation and in training mode, of scratch copies that share the tensors of ``model``.

    :param args, kwargs: example inputs; arguments not given are fixed to their defaults where these are no tensors.
    :raises NotTraceable: with the reason.
    """
    fixed = fixed_arguments(model, args, kwargs)
    return _trace_repeatable(model, False, fixed), _trace_repeatable(model, True, fixed)


def same_program(a: Trace, b: Trace) -> bool:
    """Whether two traces compute the same: equal code over equal constants."""
    if a.graph.python_code("self").src != b.graph.python_code("self").src:
        return False
    return all(
        same_values(value, fetch(b.source, name))
        for name in attribute_names(a.graph)
        if isinstance(value := fetch(a.source, name), Tensor)
    )


def attribute_names(graph: fx.Graph) -> list[str]:
    """The targets of all ``get_attr`` and ``call_module`` nodes, each once, in order."""
    return list(dict.fromkeys(str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")))


def scratch_copy(model: nn.Module) -> nn.Module:
    """A copy that shares parameters and buffers, so that running its code leaves the attributes of ``model`` alone."""
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def _trace_repeatable(model: nn.Module, training: bool, fixed: dict[str, Any]) -> Trace:
    """A trace that is the same the second time: ``PKC279`` where state outside of the model makes it another."""
    first = _trace(model, training, fixed)
    held = {name: fetch(first.source, name) for name in attribute_names(first.graph)}
    constants = {n: v.detach().clone() for n, v in held.items() if isinstance(v, Tensor) and not isinstance(v, nn.Parameter)}
    second = _trace(model, training, fixed)
    same = first.graph.python_code("self").src == second.graph.python_code("self").src
    if not same or not all(same_values(value, fetch(second.source, name)) for name, value in constants.items()):
        refuse_outside(model, lambda: _trace(model, training, fixed))
    return first


def _trace(model: nn.Module, training: bool, fixed: dict[str, Any]) -> Trace:
    source = scratch_copy(model).train(training)
    tracer, places = MaskTracer(), _Places(source)
    before, random_before = state_of(source), _random_state()
    try:
        graph = tracer.trace(source, fixed)
    except PkcError:
        raise
    except Exception as error:
        raise NotTraceable(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
    finally:
        values = places.taken_back()
    refuse_changes(source, before)
    if _random_state() != random_before:
        raise NotTraceable("the forward draws random numbers that are no operation on an input")
    for name in attribute_names(graph):
        value = fetch(source, name)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.requires_grad:
            raise NotTraceable("the forward computes with parameters outside of any operation on an input")
    members = dict([*source.named_parameters(remove_duplicate=False), *source.named_buffers(remove_duplicate=False)])
    if any(name not in members for name in written(graph, source)):
        raise NotTraceable("the forward writes to a tensor that is neither input nor buffer")
    buffers = store_buffers(graph, source, values)
    within = next((n for n in buffers.origins for path in called(graph) if n.startswith(f"{path}.")), None)
    if within is not None:
        raise NotTraceable(f"the forward assigns the buffer {within!r} of a module that it calls")
    _check_fixed(graph, fixed, inspect.signature(source.forward))
    if any(given.graph is not graph for node in graph.nodes for given in node.all_input_nodes):
        raise NotTraceable("the forward goes on with what an earlier call computed and kept outside of the model")
    return Trace(graph, source, buffers)


class _Places:
    """The buffers of a model that is traced, as they were before: a trace may put proxies in their place, or write to them."""

    def __init__(self, model: nn.Module) -> None:
        self.places = [(p, m, n, b) for p, m in model.named_modules() for n, b in m._buffers.items() if b is not None]
        self.before = {id(b): (b._version, b.detach().clone()) for *_, b in self.places}
        attributes = [value for m in model.modules() for name, value in vars(m).items() if name not in OF_TORCH]
        held = Counter([id(b) for *_, b in self.places] + list(map(id, tree_leaves(attributes))))
        self.elsewhere = {id(b): name for name, b in model.named_buffers() if held[id(b)] > 1}

    def taken_back(self) -> dict[str, fx.Node]:
        """Put them back; the nodes of the proxies that were in their places, by the buffers' names.

        :raises NotTraceable: where anything else was there, or was written.
        """
        values, odd = {}, False
        for path, module, name, buffer in self.places:
            now: object = module._buffers.get(name)
            module._buffers[name] = buffer
            version, content = self.before[id(buffer)]
            if isinstance(now, fx.Proxy):
                values[f"{path}.{name}" if path else name] = now.node
                odd |= id(buffer) in self.elsewhere and not is_read(now.node, self.elsewhere[id(buffer)])
            odd |= not isinstance(now, fx.Proxy) and now is not buffer
            if buffer._version != version or not same_values(buffer, content):
                buffer.copy_(content)
                odd = True
        if odd:
            raise NotTraceable("the forward writes to a buffer outside of any operation on an input")
        return values


def fixed_arguments(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a forward that are no tensors, at what is given or at their defaults. Raises :class:`NotTraceable`."""
    signature = inspect.signature(model.forward)
    try:
        given = signature.bind_partial(*args, **kwargs).arguments
    except TypeError as error:
        note = f"forward takes {', '.join(signature.parameters)}"
        raise fail("PKC203", f"the model cannot be called with the example inputs: {error}", note) from error
    fixed = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise NotTraceable(f"forward takes {parameter}")
        value = given.get(name, parameter.default)
        if value is inspect.Parameter.empty or isinstance(value, Tensor):
            continue
        if not isinstance(value, SCALARS):
            raise NotTraceable(f"argument {name!r} of forward is a {type(value).__name__}")
        fixed[name] = value
    return fixed


def _check_fixed(graph: fx.Graph, fixed: Mapping[str, Any], signature: inspect.Signature) -> None:
    """Placeholders of fixed arguments get their own names back (fx numbers them), and checks in place of fx's assertions.

    What else may be left out in a call was a tensor.
    """
    for node in graph.find_nodes(op="placeholder"):
        name = str(node.target).rpartition("_")[0]
        if name not in fixed:
            continue
        node.target = name
        for asserted in (*(n for user in node.users for n in user.users), *node.users):
            graph.erase_node(asserted)
    places = graph.find_nodes(op="placeholder")
    for node in reversed(places):
        name = str(node.target)
        with graph.inserting_after(places[-1]):
            if name in fixed:
                graph.call_function(check_fixed, (node, fixed[name], name, advice(signature, name)))
            elif node.args:
                graph.call_function(check_given, (node, name))


def _context() -> tuple[object, ...]:
    """What changes the operations that a forward asks for, and is no operation."""
    return torch.is_grad_enabled(), *((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda"))


def _random_state() -> tuple[object, ...]:
    return random.getstate(), torch.get_rng_state().numpy().tobytes()
