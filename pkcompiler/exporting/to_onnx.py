"""``onnx``: the evaluation program as an ONNX file, compared with the model in onnxruntime."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pkcompiler.diagnostics import fail
from pkcompiler.exporting.baked import Baked, fold_computed
from pkcompiler.exporting.compared import Given, compare
from pkcompiler.exporting.content import Content, as_target, unchecked
from pkcompiler.exporting.recorded import Recording, record
from pkcompiler.frontend.export import quiet_tracing
from pkcompiler.userstreams import lent
from pkcompiler.version import __version__

NEEDED = ("onnx", "onnxscript", "onnxruntime")
BATCH = "batch"
"""The name of dimension 0 where its size is free."""
LARGEST = 2**31 - 2**20
"""Bytes of weights that one ONNX file holds."""


def need() -> None:
    """Raise ``PKC652`` where a package of the extra is not installed."""
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise fail("PKC652", f"an ONNX file needs {', '.join(missing)}, which is not installed", "pip install 'pkcompiler[export]'")


def to_onnx(baked: Baked, check: bool) -> Content:
    """The bytes of the file. Raises ``PKC650`` for what cannot be written as ONNX, ``PKC651`` for another function."""
    need()
    fold_computed(baked.model)
    _refuse_large(baked)
    found = record(baked.model, *baked.given)
    data = _serialised(found)
    worst = _checked(data, baked, found) if check else None
    return Content({"": data}, found.inputs, found.outputs, found.batch, worst)


def _refuse_large(baked: Baked) -> None:
    size = sum(t.numel() * t.element_size() for t in (*baked.model.parameters(), *baked.model.buffers()))
    if size > LARGEST:
        note = f"compact the network first, or write it with {as_target('pt2')}"
        raise fail("PKC650", f"the weights are {size:,} bytes, and one ONNX file holds 2 GB", note)


def _serialised(found: Recording) -> bytes:
    try:
        with _quiet():
            program = torch.onnx.export(found.program, dynamo=True, verbose=False, optimize=True)
            assert program is not None
            proto = program.model_proto
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        raise fail(
            "PKC650", f"torch cannot write the model as ONNX: {reason}", f"write it with {as_target('pt2')}, which torch runs"
        ) from error
    _tidy(proto, found)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, what torch's exporter prints and logs is lost."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with quiet_tracing(), lent():
            yield
    finally:
        logging.disable(before)


def _tidy(proto: Any, found: Recording) -> None:
    """The names of inputs, outputs and the batch; nothing of the machine that it was written on."""
    proto.producer_name, proto.producer_version = "pkcompiler", __version__
    symbols = {d.dim_param for value in proto.graph.input[:1] for d in value.type.tensor_type.shape.dim[:1] if d.dim_param}
    for holder in (proto, proto.graph, *proto.functions, *_parts(proto.graph)):
        del holder.metadata_props[:]
        holder.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: BATCH if word[0] in symbols else word[0], dim.dim_param)
    _name(proto.graph, found.inputs, found.outputs)
    for held in (proto.graph.initializer, proto.graph.value_info):
        held.sort(key=lambda value: value.name)


def _parts(graph: Any) -> Iterator[Any]:
    """All that a graph holds that has a text about itself, in graphs within it too."""
    yield from (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                yield from _parts(inner)


def _name(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Call inputs and outputs so, in their order. What already has such a name gets another, an input that is an output a copy."""
    ends = (*zip(graph.input, inputs, strict=True), *zip(graph.output, outputs, strict=True))
    own = {value.name for value, _ in ends}
    used = {name for node in graph.node for name in (*node.input, *node.output)} | {held.name for held in graph.initializer}
    renamed = {name: f"{name}_value" for name in {*inputs, *outputs} & used - own}
    made = {name for node in graph.node for name in node.output}
    copied = [(value, name) for value, name in ends[len(inputs) :] if value.name not in made or value.name in renamed]
    renamed |= {value.name: name for value, name in reversed(ends) if (value, name) not in copied}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value, name in copied:
        graph.node.add(op_type="Identity", input=[renamed.get(value.name, value.name)], output=[name])
    for value, name in ends:
        value.name = name
    for held in (*graph.value_info, *graph.initializer):
        held.name = renamed.get(held.name, held.name)


def _checked(data: bytes, baked: Baked, found: Recording) -> float:
    """The largest difference between onnxruntime on the file and the model. Raises ``PKC651``."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(data)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().splitlines()[0].rpartition(" : ")[2]
        note = f"export model.float(), or a model of other operators; for another runtime: {unchecked()}"
        raise fail("PKC650", f"onnxruntime cannot run the ONNX file on a CPU: {reason}", note) from error

    def call(inputs: Given) -> list[Tensor]:
        flat = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        given = {name: leaf.detach().cpu().numpy() for name, leaf in zip(found.inputs, flat, strict=True)}
        read = {value.name for value in session.get_inputs()}
        return [torch.from_numpy(value) for value in session.run(None, {n: v for n, v in given.items() if n in read})]

    what = "the ONNX file in onnxruntime"
    return compare(baked.model, lambda calls: [*map(call, calls)], baked.given, free=found.batch is None, what=what)
