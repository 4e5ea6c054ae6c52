"""What a functional reads from outside: input weights, data, masks."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from pkcompiler.diagnostics import Diagnostic, fail, first_few, raise_all
from pkcompiler.frontend.capture import Capture
from pkcompiler.frontend.export import Call
from pkcompiler.frontend.inputs import no_values, not_plain, plainly, with_values
from pkcompiler.frontend.load_weights import not_finite, odd_entries
from pkcompiler.ir.maps import Batch, Embed, Reindex
from pkcompiler.ir.types import PathGraph, Value
from pkcompiler.ir.walk import marked
from pkcompiler.paths.scaled import numbers
from pkcompiler.paths.semiring import Settings

REACH = {torch.float64: 150, torch.float32: 30}
"""The powers of ten that the edges of one parameter may have, and may lie apart: half of the range, in float32 almost all of it."""

INPUTS = ("ones", "data", "data^2", "mean(data)", "mean(data^2)")


def check_masks(graph: PathGraph, masks: Mapping[str, Tensor] | None) -> None:
    """Masks name parameters, have their shapes, and are boolean; everything that is not is reported at once (``PKC401``)."""
    check_mask_shapes({s.name: s.type.shape for s in graph.parameters}, masks)


def plain_masks(graph: PathGraph, masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Masks that fit (:func:`check_masks`) as boolean tensors on the CPU, without a history."""
    check_masks(graph, masks)
    return {name: mask.detach().bool().cpu() for name, mask in (masks or {}).items()}


def check_mask_shapes(known: Mapping[str, tuple[Any, ...]], masks: Mapping[str, Tensor] | None) -> None:
    """The same from the parameters' shapes by name, where there is no graph. Raises ``PKC401``."""
    found = []
    for name, mask in (masks or {}).items():
        if name not in known:
            notes = (f"these are: {first_few(difflib.get_close_matches(name, known, 4) or list(known))}",) if known else ()
            message = f"a mask is given for '{name}', which names no floating parameter that the model computes with"
            found.append(Diagnostic("PKC401", message, notes=notes))
        elif why := not_plain(mask):
            remedy = "use a boolean mask with values" if mask.is_meta else f"use a plain one: masks['{name}']{plainly(mask)} != 0"
            found.append(Diagnostic("PKC401", f"the mask of '{name}' {why}", notes=(remedy,)))
        elif tuple(mask.shape) != known[name]:
            found.append(Diagnostic("PKC401", f"the mask of '{name}' has shape {tuple(mask.shape)}, the parameter {known[name]}"))
        elif mask.is_complex() or not bool(((mask == 0) | (mask == 1)).all()):
            found.append(
                Diagnostic("PKC401", f"the mask of '{name}' holds other values than 0 and 1", notes=("use a boolean mask",))
            )
    raise_all(found)


def check_finite(graph: PathGraph, tensors: Mapping[str, Tensor]) -> None:
    """Parameters and stored tensors hold neither NaN nor infinite values; those that do are named at once (``PKC405``)."""
    stored = [s for s in graph.slots if s.role != "computed" and s.name in tensors]
    raise_all(
        not_finite(s.name, s.role)
        for s, odd in zip(stored, numbers(odd_entries(s.name, tensors[s.name], s.role).any() for s in stored), strict=True)
        if odd
    )


def check_tensors(graph: PathGraph, tensors: Any) -> None:
    """Raise ``PKC211`` where tensors by name do not fit the slots of a graph that they are given for."""
    note = "give the tensors that the graph was lifted with, {name: tensor}, or the model with its inputs"
    if not isinstance(tensors, Mapping):
        raise fail("PKC211", f"a graph is given with a {type(tensors).__name__}, not with its tensors by name", note)
    given = [(slot, tensors[slot.name]) for slot in graph.slots if slot.name in tensors]
    raise_all(
        Diagnostic("PKC211", f"the tensor given for '{s.name}' is {_what(t)}, the graph's has shape {s.type.shape}", notes=(note,))
        for s, t in given
        if not isinstance(t, Tensor) or tuple(t.shape) != s.type.shape
    )


def _what(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def check_range(graph: PathGraph, tensors: Mapping[str, Tensor], chosen: Settings) -> None:
    """The edges t(theta) of each parameter fit one floating-point range, beside what they are multiplied by; those that do not are
    named at once (``PKC508``): the largest entry, and in float64 also the smallest of squares beside it."""
    reach = REACH[chosen.dtype]
    names = [s.name for s in graph.parameters if chosen.transform.power and tensors[s.name].numel()]
    tops = numbers(tensors[n].abs().max() for n in names)
    squares = chosen.dtype == torch.float64 and chosen.transform.power == 2
    lows = numbers(_smallest(tensors[n]) for n in names) if squares else tops
    found = []
    for name, low, top in zip(names, lows, tops, strict=True):
        if top == 0 or not math.isfinite(top):
            continue
        logs = [chosen.transform.power * math.log10(size) for size in (low, top)]
        if abs(logs[1]) > reach or logs[1] - logs[0] > reach:
            found.append(_out_of_range(name, low, top, chosen))
    raise_all(found)


def _smallest(tensor: Tensor) -> Tensor:
    """The smallest absolute entry that is not 0 (0 where all are)."""
    sizes = tensor.detach().abs()
    return sizes.where(sizes > 0, sizes.max()).min()


def _out_of_range(name: str, low: float, top: float, chosen: Settings) -> Diagnostic:
    dtype = str(chosen.dtype).removeprefix("torch.")
    span = f"from {low:.3g} to {top:.3g}" if low != top else f"of {top:.3g}" + (" at most" if top < 1 else "")
    what = f"path sums with edge = {chosen.edge} are not computed beyond 1e{REACH[chosen.dtype]} in {dtype}"
    note = "rescale it (the weights of a unit times c, those that read it by 1/c), or set its tiny entries to 0"
    return Diagnostic("PKC508", f"parameter '{name}' holds entries {span}: {what}", notes=(note,))


def require_stored(graph: PathGraph, what: str) -> None:
    """``PKC509`` where a weight is computed from parameters: ``what`` is known for stored weights alone."""
    raise_all(
        Diagnostic(
            "PKC509",
            f"the weight '{s.name}' is computed from {', '.join(repr(n) for n in s.of)}, and {what} of stored weights alone",
            notes=("fold it in: torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')",),
        )
        for s in graph.computed
    )


def device_of(graph: PathGraph, tensors: Mapping[str, Tensor]) -> torch.device:
    """Where a graph's parameters lie (a constant of no dimension may stay on the CPU); without parameters, its first tensor."""
    named = (*(s.name for s in graph.parameters), *tensors)
    return next((tensors[name].device for name in named), torch.device("cpu"))


def data_inputs(captured: Capture, data: Any) -> list[Any]:
    """The model's flat inputs at the samples of data = (x, y), or x alone. Raises ``PKC505`` when they do not fit."""
    return flat_samples(captured.call, data)


def samples_of(data: Any) -> Any:
    """x of data = (x, y), or x alone: a tensor, or a tuple of positional or a dict of keyword inputs where there are several.

    Raises ``PKC505`` for data of more than two parts.
    """
    if isinstance(data, tuple | list) and len(data) > 2:
        raise fail("PKC505", f"data holds {len(data)} parts", "expected a pair (x, y); several inputs are one part: ((x, z), y)")
    return data[0] if isinstance(data, tuple | list) and data else data


def flat_samples(call: Call, data: Any) -> list[Any]:
    """The flat inputs of a model that need not be captured, at samples.

    x is a tensor, which stands for the first floating input (or else the first integer one) while the other tensors of the example
    are repeated to the number of samples; or it has the structure of the example inputs and stands for all of them.
    Raises ``PKC505`` for samples that do not fit.
    """
    x, flat = samples_of(data), list(call.flat)
    require_samples(x)
    given = {data_position(flat): x} if isinstance(x, Tensor) else dict(enumerate(_inputs(call, x)))
    for i, value in given.items():
        _check_sample(flat, i, value)
    lengths = {i: len(value) for i, value in given.items() if is_batched(flat[i])}
    if len(set(lengths.values())) > 1:
        several = ", ".join(f"{n:,} in input {i}" for i, n in lengths.items())
        raise fail(
            "PKC505", f"the inputs of the data have different numbers of samples: {several}", "give each sample once in each"
        )
    n = next(iter(lengths.values()))
    out = [t[:1].expand(n, *t.shape[1:]) if is_batched(t) else t for t in flat]
    for i, value in given.items():
        out[i] = value.to(flat[i].device, flat[i].dtype) if isinstance(value, Tensor) else value
    return out


def require_samples(x: Any) -> None:
    """Raise ``PKC505`` where x of the data holds no values, or no sample, and ``PKC666`` where samples are not finite."""
    for t in (t for t in pytree.tree_leaves(x) if isinstance(t, Tensor)):
        if why := no_values(t):
            note = with_values(t, "dimension 0 runs over the samples: give one or more")
            raise fail("PKC505", f"x of the data {why}", note)
        refuse_infinite(t, "x of the data")


def refuse_infinite(samples: Tensor, what: str) -> None:
    """Raise ``PKC666`` where samples [n, ...] hold a NaN or an infinity, and say which."""
    bad = (~samples.isfinite()).reshape(len(samples) if samples.dim() else 1, -1).any(1)
    if found := bad.nonzero().reshape(-1).tolist():
        shown = first_few([str(i) for i in found])
        many = "1 sample" if len(found) == 1 else f"{len(found)} samples"
        raise fail("PKC666", f"{what} holds a NaN or an infinity in {many}: {shown}", "leave these samples out")


def check_targets(target: Any, count: int) -> None:
    """Raise ``PKC663`` for targets that are not one per sample, ``PKC666`` for those that are not finite; None is none."""
    if target is None:
        return
    note = "give (x, y), y a tensor with one target per sample: its dimension 0 runs over the samples"
    if not isinstance(target, Tensor):
        raise fail("PKC663", f"y of the data is a {type(target).__name__}", note)
    if not target.dim() or len(target) != count:
        raise fail("PKC663", f"y of the data has shape {tuple(target.shape)}, and x {count} samples", note)
    if why := no_values(target):
        raise fail("PKC663", f"y of the data {why}", with_values(target, note))
    refuse_infinite(target, "y of the data")


def _inputs(call: Call, x: Any) -> list[Any]:
    """The flat inputs of x that has the structure of the example inputs. Raises ``PKC505``."""
    if not isinstance(x, tuple | list | Mapping):
        raise fail("PKC505", f"data holds a {type(x).__name__}", "expected (x, y): a tensor, or inputs as the example's are")
    args, kwargs = pytree.tree_unflatten(call.flat, call.spec)
    mine = (), {name: x[name] for name in kwargs} if isinstance(x, Mapping) and x.keys() == kwargs.keys() else x
    leaves, spec = pytree.tree_flatten(mine if isinstance(x, Mapping) else (tuple(x), {}))
    if spec != call.spec:
        raise fail(
            "PKC505",
            f"x of the data is {_structure(x)}, the model is called with {_structure(args) if args else _structure(kwargs)}",
            "give x with the structure of the example inputs: data=((x, z), y), or data=({'x': x, 'z': z}, y)",
        )
    return leaves


def _structure(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return f"a dict of {', '.join(map(repr, inputs))}"
    return f"a tuple of {len(inputs)} ({', '.join(type(v).__name__ for v in inputs)})"


def _check_sample(flat: Sequence[Any], i: int, value: Any) -> None:
    """An input of the data is as that of the example but for the number of samples. Raises ``PKC505``."""
    like = flat[i]
    if not isinstance(like, Tensor):
        if value != like:
            raise fail("PKC505", f"input {i} of the data is {value!r}, and the model was traced with {like!r}", "give the same")
        return
    if not isinstance(value, Tensor):
        raise fail("PKC505", f"input {i} of the data is a {type(value).__name__}", "expected a tensor, a sample in each row")
    if not like.is_floating_point() and not like.is_complex() and value.is_floating_point():
        kinds = f"{str(value.dtype).removeprefix('torch.')}, the example input {str(like.dtype).removeprefix('torch.')}"
        raise fail("PKC505", f"samples are of dtype {kinds}", "give whole numbers, such as token numbers: x.long()")
    if value.is_complex() and not like.is_complex():
        raise fail("PKC505", "samples are complex, and the example input is real", "stack real and imaginary part as channels")
    if value.dim() != like.dim() or tuple(value.shape[1:]) != tuple(like.shape[1:]):
        which = "" if data_position(flat) == i else f" of input {i}"
        raise fail(
            "PKC505",
            f"samples{which} have shape {tuple(value.shape[1:])}, the example input {tuple(like.shape[1:])}",
            "give data of the shape that the model was traced with",
        )


def is_batched(value: Any) -> bool:
    """Whether a flat input has a dimension 0, which runs over the samples."""
    return isinstance(value, Tensor) and value.dim() > 0


def first_sample(x: Any) -> Any:
    """The first sample of inputs, as example inputs."""
    return pytree.tree_map(lambda t: t[:1] if is_batched(t) else t, x)


def data_position(flat: Sequence[Any]) -> int:
    """The input that data stands for: the first floating tensor, else the first tensor. Raises ``PKC505`` where there is none."""
    floating = [i for i, t in enumerate(flat) if isinstance(t, Tensor) and t.is_floating_point()]
    tensors = [i for i, t in enumerate(flat) if isinstance(t, Tensor)]
    if not tensors:
        raise fail("PKC505", "the model has no tensor input")
    return (floating or tensors)[0]


def input_sources(
    captured: Capture, samples: Sequence[Any] | None, input: str | Tensor, batch: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The source weights of every input of the graph (see ``Sweep.run``).

    A tensor [1 or batch, ...] weighs the input that data stands for; the other inputs are ones. Raises ``PKC501`` for an
    unknown ``input``, ``PKC505`` for weights of an input that lies on no path.
    """
    if isinstance(input, Tensor):
        return _given_sources(captured, input, batch, dtype)
    if input not in INPUTS:
        raise fail("PKC501", f"path_functional has no input = {input!r}", f"expected one of {', '.join(map(repr, INPUTS))}")
    flat = None if samples is None else dict(zip(captured.program.inputs, samples, strict=True))
    placeholders = dict(captured.lifted.inputs)
    out = {}
    for value in captured.graph.inputs:
        given = None if flat is None or input == "ones" else flat[placeholders[value.name]]
        out[value.name] = source_weights(value, given, rows_of(captured.graph, value), input, batch, dtype)
    return out


def _given_sources(captured: Capture, weights: Tensor, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
    ones = unit_sources(captured.graph, batch, dtype)
    placeholder = captured.program.inputs[data_position(captured.call.flat)]
    name = next((n for n, p in captured.lifted.inputs if p == placeholder), None)
    if name is None:
        raise fail("PKC505", "the model's first input lies on no path, so it cannot be weighted")
    return {**ones, name: weights.to(dtype).expand(ones[name].shape)}


def source_weights(value: Value, given: Tensor | None, rows: int | None, input: str, batch: int, dtype: torch.dtype) -> Tensor:
    """Ones, the data, their squares, or means over the samples; an integer input weighs the rows of its table."""
    shape = [d.factor * batch if isinstance(d, Batch) else d for d in value.type.shape]
    if given is None:
        return torch.ones(shape if rows is None else [*shape, rows], dtype=dtype)
    if rows is not None:
        if not input.startswith("mean"):
            return given
        mean = F.one_hot(given, rows).to(dtype).mean(0, keepdim=True)
        return mean.expand(batch, *mean.shape[1:])
    x = given.to(dtype)
    x = x.square() if "^2" in input else x
    return x.mean(0, keepdim=True).expand(batch, *x.shape[1:]) if input.startswith("mean") else x


def unit_sources(graph: PathGraph, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every source with weight 1: ones for a floating input, every row for an integer one."""
    return {v.name: source_weights(v, None, rows_of(graph, v), "ones", batch, dtype) for v in graph.inputs}


def rows_of(graph: PathGraph, value: Value) -> int | None:
    """The rows of the table behind an integer input; None for a floating one."""
    return None if value.type.dtype.startswith(("f", "bf")) else table_rows(graph, value)


def table_rows(graph: PathGraph, value: Value) -> int:
    """The number of rows of the table that an integer input reads. Raises ``PKC505`` where it reads none."""
    rows = marked(graph, lambda given: given.name == value.name, lambda op, read: isinstance(op.map, Reindex) and read[0])
    for op in graph.ops:
        if isinstance(op.map, Embed) and op.inputs[0] in rows:
            return int(graph.slot(op.map.weight).type.shape[0])  # type: ignore[arg-type]
    raise fail("PKC505", f"the integer input '{value.name}' reads no table of embeddings")
