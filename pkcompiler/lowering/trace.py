"""The symbolic trace of both modes, refused wherever it would record something other than what the module does."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pkcompiler.lowering.call import call_with

SCALARS = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Trace:
    """A graph and the module whose attributes its targets name."""

    graph: fx.Graph
    source: nn.Module


class NotTraceable(Exception):
    """Why the symbolic trace does not stand for the module."""


class BufferProxy(fx.Proxy):
    """A buffer read at run time, whose shape is known now."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, buffer: Tensor) -> None:
        super().__init__(node, tracer)
        self.shape, self.ndim = buffer.shape, buffer.ndim
        self.size, self.dim, self.numel = buffer.size, buffer.dim, buffer.numel

    def __len__(self) -> int:
        return len(self.shape) and self.shape[0]


class MaskTracer(fx.Tracer):
    """Buffers are read at run time, not folded at trace time; shapes of parameters and buffers are numbers."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=(call_with,), param_shapes_constant=True)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, nn.Module):
            return self.create_node("get_attr", self.path_of_module(a), (), {})
        return super().create_arg(a)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        buffers = self.root.named_buffers() if isinstance(attr_val, Tensor) else ()
        name = next((name for name, buffer in buffers if buffer is attr_val), None)
        if name is None:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy(
                "get_attr", name, (), {}, proxy_factory_fn=lambda node: BufferProxy(node, self, attr_val)
            )
        return parameter_proxy_cache[name]


def trace_modes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Trace, Trace]:
    """The traces in evaluation and in training mode, of scratch copies that share the tensors of ``model``.

    :param args, kwargs: example inputs; arguments not given are fixed to their defaults where these are no tensors.
    :raises NotTraceable: with the reason.
    """
    fixed = _fixed_arguments(model, args, kwargs)
    return _trace(model, False, fixed), _trace(model, True, fixed)


def same_program(a: Trace, b: Trace) -> bool:
    """Whether two traces compute the same: equal code over equal constants."""
    if a.graph.python_code("self").src != b.graph.python_code("self").src:
        return False
    return all(
        torch.equal(value, fetch(b.source, name))
        for name in attribute_names(a.graph)
        if isinstance(value := fetch(a.source, name), Tensor)
    )


def attribute_names(graph: fx.Graph) -> list[str]:
    """The targets of all ``get_attr`` and ``call_module`` nodes, each once, in order."""
    return list(dict.fromkeys(str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")))


def fetch(module: nn.Module, name: str) -> Any:
    """The attribute with the dotted ``name``."""
    value: Any = module
    for atom in name.split("."):
        value = getattr(value, atom)
    return value


def scratch_copy(model: nn.Module) -> nn.Module:
    """A copy that shares parameters and buffers, so that running its code leaves the attributes of ``model`` alone."""
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def _trace(model: nn.Module, training: bool, fixed: dict[str, Any]) -> Trace:
    source = scratch_copy(model).train(training)
    tracer = MaskTracer()
    before = _random_state()
    try:
        graph = tracer.trace(source, fixed)
    except Exception as error:
        raise NotTraceable(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
    if _random_state() != before:
        raise NotTraceable("the forward draws random numbers that are no operation on an input")
    for name in attribute_names(graph):
        value = fetch(source, name)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.requires_grad:
            raise NotTraceable("the forward computes with parameters outside of any operation on an input")
    _restore_placeholder_names(graph, fixed)
    return Trace(graph, source)


def _fixed_arguments(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(model.forward)
    given = signature.bind_partial(*args, **kwargs).arguments
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


def _restore_placeholder_names(graph: fx.Graph, fixed: Mapping[str, Any]) -> None:
    """fx numbers the placeholders of fixed arguments (``mask_1``); the caller knows them by their own names."""
    for node in graph.nodes:
        name = str(node.target).rpartition("_")[0]
        if node.op == "placeholder" and name in fixed:
            node.target = name


def _random_state() -> tuple[object, ...]:
    return random.getstate(), torch.get_rng_state().numpy().tobytes()
