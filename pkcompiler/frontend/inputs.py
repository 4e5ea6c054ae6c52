"""Example inputs: ``--input 1x3x32x32`` or the file's ``example_inputs()`` -> positional and keyword tensors, batch first."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pkcompiler import usercode
from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.frontend.spec import LoadedModel, set_seed

INPUT_SPEC = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?:(?P<dtype>[a-z0-9]+):)?(?P<shape>[0-9]+(?:x[0-9]+)*)")
DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}

NUMBERS, DIMENSIONS, DIGITS = 10**9, 64, 19
"""The most numbers of an example input (4 GB in float32) and its most dimensions (torch's own limit); digits that no size has."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One ``--input``: the keyword it is for (None: positional), its dtype and shape, batch first."""

    name: str | None
    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        prefix = "" if self.dtype == torch.float32 else f"{str(self.dtype).removeprefix('torch.')}:"
        return (f"{self.name}=" if self.name else "") + prefix + "x".join(map(str, self.shape))

    @property
    def call(self) -> str:
        """Python that makes one: ``torch.randn(1, 3, 32, 32)``."""
        size = ", ".join(map(str, self.shape))
        return f"torch.randn({size})" if self.dtype.is_floating_point else f"torch.zeros({size}, dtype=torch.int64)"


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What the model is called with: ``module(*args, **kwargs)``."""

    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Tensor] = field(default_factory=dict)


def parse_input(text: str) -> InputSpec:
    """``1x3x32x32``, ``int64:1x128``, ``mask=bool:1x16``; the dtype defaults to float32. Raises ``PKC250``."""
    match = INPUT_SPEC.fullmatch(text.strip())
    if match is None:
        raise fail("PKC250", f"'{text}' is not an input", "expected [NAME=][DTYPE:]SHAPE, batch first", "try --input 1x3x32x32")
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        raise fail("PKC250", f"'{dtype}' is not a dtype for inputs", usercode.nearest(dtype, list(DTYPES)))
    sizes = match["shape"].split("x")
    shape = tuple(int(size[:DIGITS]) for size in sizes)
    if len(shape) > DIMENSIONS or any(len(size) >= DIGITS for size in sizes) or math.prod(shape) > NUMBERS:
        most = f"{DIMENSIONS} sizes and {NUMBERS:,} numbers at most"
        raise fail("PKC250", f"the input '{text[:40]}' is too large: an input has {most}", "try --input 1x3x32x32")
    if 0 in shape:
        fixed = "x".join(str(size or 1) for size in shape)
        raise fail("PKC250", f"the input '{text}' is empty: a size is 0", f"try --input {text.replace(match['shape'], fixed)}")
    return InputSpec(match["name"], DTYPES[dtype], shape)


def example_inputs(loaded: LoadedModel, specs: Sequence[str] = (), seed: int = 0) -> Inputs:
    """Random tensors for ``specs`` where there are any, else what the file's ``example_inputs()`` returns.

    Floats are standard normal; integers uniform below the number of rows of the model's first embedding (below 2 without one).
    The same seed gives the same tensors. Raises ``PKC250`` (malformed spec), ``PKC251`` (no input, with the line to paste),
    ``PKC252`` (``example_inputs()`` returns something else than tensors).
    """
    if specs:
        return _random_inputs([parse_input(text) for text in specs], loaded.module, seed)
    function = getattr(loaded.python, "example_inputs", None)
    if function is None:
        raise _no_input(loaded)
    folder = loaded.source.parent if loaded.source else None
    if not callable(function):
        return as_inputs(function, "example_inputs")
    set_seed(seed)
    return as_inputs(usercode.call(function, {}, loaded.source, folder or Path.cwd(), "example_inputs"), "example_inputs()")


def as_inputs(value: object, label: str = "example_inputs") -> Inputs:
    """A tensor, a tuple or list of tensors, or a dict of tensors as :class:`Inputs`; ``label`` names it in ``PKC252``."""
    if isinstance(value, Inputs):
        return value
    if isinstance(value, Tensor):
        return Inputs(args=(value,))
    parts = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, tuple | list) else None
    if not parts:
        raise _not_inputs(label, f"is {'empty' if parts is not None else _kind(value)}")
    wrong = [f"[{key!r}] is {_kind(part)}" for key, part in parts.items() if not isinstance(part, Tensor)]
    if wrong:
        raise _not_inputs(label, ", ".join(wrong))
    if isinstance(value, Mapping):
        return Inputs(kwargs={str(key): part for key, part in parts.items()})
    return Inputs(args=tuple(parts.values()))


def not_plain(tensor: Tensor) -> str:
    """Why a tensor is no plain table of numbers, '' where it is: on the meta device, nested, quantised, or sparse."""
    if tensor.is_meta:
        return "is on the meta device and holds no values"
    if tensor.is_nested:
        return "is nested: its rows are tensors of their own"
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype})"
    return "" if tensor.layout == torch.strided else f"is sparse ({tensor.layout})"


def plainly(tensor: Tensor) -> str:
    """How a tensor that is :func:`not_plain`, and has values, is written as one that is."""
    return ".to_padded_tensor(0)" if tensor.is_nested else ".dequantize()" if tensor.is_quantized else ".to_dense()"


def no_values(tensor: Tensor) -> str:
    """Why nothing can be computed from a tensor, '' where it can: :func:`not_plain`, or of no sample at all."""
    if why := not_plain(tensor):
        return why
    return f"has shape {tuple(tensor.shape)}, and no sample" if tensor.dim() and not len(tensor) else ""


def with_values(tensor: Tensor, otherwise: str) -> str:
    """What to give instead of a tensor with :func:`no_values`; ``otherwise`` of one without samples."""
    if tensor.is_meta:
        return f"give a tensor that holds values, e.g. torch.zeros({tuple(tensor.shape)}, dtype={tensor.dtype})"
    return f"give a plain tensor: x{plainly(tensor)}" if not_plain(tensor) else otherwise


def guess_input(module: nn.Module) -> InputSpec | None:
    """A likely input, from the first layer that says something of its shape."""
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            return InputSpec(None, torch.int64, (1, 16))
        if isinstance(layer, nn.Linear):
            return InputSpec(None, torch.float32, (1, layer.in_features))
        if isinstance(layer, nn.modules.conv._ConvNd):
            space = {1: (64,), 2: (32, 32), 3: (16, 16, 16)}[len(layer.kernel_size)]
            return InputSpec(None, torch.float32, (1, layer.in_channels, *space))
    return None


def _random_inputs(specs: Sequence[InputSpec], module: nn.Module, seed: int) -> Inputs:
    named = [spec.name for spec in specs if spec.name]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise fail("PKC250", f"the input '{twice[0]}' is given twice", f"give --input {twice[0]}=... once")
    generator = torch.Generator().manual_seed(seed)
    rows = next((layer.num_embeddings for layer in module.modules() if isinstance(layer, nn.Embedding)), 2)
    tensors = [_random(spec, rows, generator) for spec in specs]
    return Inputs(
        args=tuple(tensor for spec, tensor in zip(specs, tensors, strict=True) if spec.name is None),
        kwargs={spec.name: tensor for spec, tensor in zip(specs, tensors, strict=True) if spec.name is not None},
    )


def _random(spec: InputSpec, rows: int, generator: torch.Generator) -> Tensor:
    if spec.dtype.is_floating_point:
        return torch.randn(spec.shape, generator=generator).to(spec.dtype)
    top = 2 if spec.dtype == torch.bool else min(rows, torch.iinfo(spec.dtype).max + 1)
    return torch.randint(0, top, spec.shape, generator=generator).to(spec.dtype)


def _no_input(loaded: LoadedModel) -> PkcError:
    guess = guess_input(loaded.module)
    shown = guess or InputSpec(None, torch.float32, (1, 3, 32, 32))
    certainty = "a guess from its first layer" if guess else "put your own shape"
    return fail(
        "PKC251",
        f"{loaded.spec} does not say what its input is",
        f"paste into the file ({certainty}): def example_inputs(): return {shown.call}",
        f"or try --input {shown}",
    )


def _not_inputs(label: str, problem: str) -> PkcError:
    return fail("PKC252", f"{label} must hold tensors: it {problem}", "return a tensor, a tuple of tensors or a dict of tensors")


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
