"""The path maps: everything that an operator can do to paths. A closed set; every interpretation is one ``match`` over it.

Notation: x is the (first) input, t the edge transform of the functional (docs/theory.md, section 2), q the power of fixed factors.
Slot names are strings; a :data:`Fixed` is a factor that no parameter enters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as Lit


@dataclass(frozen=True, slots=True, order=True)
class Batch:
    """A dimension of ``factor`` times the batch size (printed ``B``, ``4*B``)."""

    factor: int = 1


Dim = int | Batch


@dataclass(frozen=True, slots=True)
class Literal:
    """A number written in the model."""

    value: float


@dataclass(frozen=True, slots=True)
class Named:
    """The tensor of a slot."""

    slot: str


@dataclass(frozen=True, slots=True)
class InvSqrt:
    """``1 / sqrt(slot + eps)``: the fixed factor of a BatchNorm in evaluation mode."""

    slot: str
    eps: float


Fixed = Literal | Named | InvSqrt
Attr = int | float | str | bool | None | Batch | Named | tuple["Attr", ...]


@dataclass(frozen=True, slots=True)
class Dense:
    """y = x W^T + b over the last dimension; W [out, in]. ``transposed``: W is stored [in, out] (GPT-2's Conv1D)."""

    weight: str
    bias: str | None = None
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution in ``len(stride)`` spatial dimensions; ``transposed`` with ``output_padding``. Layouts are torch's."""

    weight: str
    bias: str | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """y = weight * factor * (x - center) + bias, all reshaped to ``shape`` and broadcast against x.

    BatchNorm in evaluation mode: weight gamma, bias beta, factor 1/sqrt(var + eps), center mean, shape (C, 1, 1). A layer
    scale: weight alone. ``bias`` alone is an added parameter. ``weight`` and ``bias`` are parameter slots.
    """

    weight: str | None
    bias: str | None
    shape: tuple[int, ...]
    factor: Fixed | None = None
    center: Fixed | None = None


@dataclass(frozen=True, slots=True)
class Embed:
    """Rows of ``weight`` [rows, dim] chosen by an integer input; without data every row is a source."""

    weight: str
    padding_idx: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """No input. A parameter that enters as a value (source of value 1), or a constant source (literal, buffer, constant).

    ``factor``: a constant that only multiplies (a fixed matrix in a :class:`Product`): kept when constant sources are off.
    """

    value: Fixed
    factor: bool = False


@dataclass(frozen=True, slots=True)
class Constant:
    """y = factor * x, the factor fixed (raised to the power q of the functional), broadcast against x."""

    factor: Fixed


@dataclass(frozen=True, slots=True)
class Reindex:
    """A 0/1 linear map. ``fn`` is one of :data:`REINDEX`, ``args`` its named attributes in order."""

    fn: str
    args: tuple[tuple[str, Attr], ...] = ()


@dataclass(frozen=True, slots=True)
class Resample:
    """A fixed separable linear map along the last ``len(dims)`` dimensions, one matrix each, entries raised to the power q.

    ``kind``: ``average`` (kernel, stride, padding, ceil_mode, include_pad), ``adaptive_average`` (size), ``nearest``,
    ``nearest_exact``, ``linear``, ``cubic`` (size, align_corners, scale).
    """

    kind: Lit["average", "adaptive_average", "nearest", "nearest_exact", "linear", "cubic"]
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    ceil_mode: bool = False
    include_pad: bool = True
    align_corners: bool = False
    scale: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """An elementwise nonlinearity phi of one tensor, or a whole pointwise subgraph of one tensor (``kind`` composite).

    ``zero`` = phi(0); ``piecewise``: phi is piecewise linear (slopes locally constant); ``bounded``: phi stays between two numbers.
    ``gain``: the supremum of abs(slope), slope = (phi(z) - phi(0)) / z, a fixed factor of every path that crosses (docs/theory.md,
    section 1); ``gain_exact``: not only to 1e-9, and not only over abs(z) <= 1. ``body`` is phi as text in ``x``.
    """

    kind: str
    body: str = ""
    zero: float = 0.0
    piecewise: bool = False
    bounded: bool = False
    gain: float = 1.0
    gain_exact: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """Maximum over a sliding window (max-pool), or over whole ``dims`` (amax) when ``kernel`` is empty."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    ceil_mode: bool = False
    dims: tuple[int, ...] = ()
    keepdim: bool = False


@dataclass(frozen=True, slots=True)
class Normalise:
    """Centre (unless rms), divide by the observed deviation, then gain and bias.

    ``kind``: ``layer`` and ``rms`` over the last ``len(shape)`` dimensions (gain and bias have that shape); ``group``: over each
    of ``groups`` groups of channels and all positions (gain and bias per channel); ``shape`` is then (channels,). ``centre``: the
    centring alone, over the last ``len(shape)`` dimensions, of a normalisation that divides by a frozen factor of its own.
    """

    kind: Lit["layer", "rms", "group", "centre"]
    shape: tuple[int, ...]
    weight: str | None
    bias: str | None
    eps: float
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Softmax:
    """Frozen at the data; without data uniform over the allowed positions of ``dim``.

    ``allowed``: None (all), ``causal`` (last two dimensions, key <= query), or a boolean constant slot (broadcast, True = allowed).
    """

    dim: int
    allowed: Lit["causal"] | Named | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """A product of two activations: elementwise with broadcasting (``mul``), batched matrix product (``matmul``), or a
    convolution by a computed kernel (``conv``). Which factor modulates the other is a fact of the graph
    (:func:`pkcompiler.ir.graphs.modulators`). ``norm``: the second factor normalises the first,
    1 over a norm of it."""

    kind: Lit["mul", "matmul", "conv"]
    conv: Conv | None = None
    norm: bool = False


@dataclass(frozen=True, slots=True)
class Merge:
    """A signed sum of its inputs, with broadcasting; ``signs`` are +1 or -1, one per input."""

    signs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Frozen:
    """What depends on data otherwise than through paths: a recorded factor at x, 1 without data.

    ``kind``: ``norm`` (a deviation or norm in a denominator; the ``norms`` argument of a functional decides),
    ``factor`` (log, reciprocal, a data-dependent mask ...). ``as_source``: it is added instead of multiplied (a constant source).
    """

    kind: Lit["norm", "factor"]
    what: str
    as_source: bool = False


PathMap = (
    Dense
    | Conv
    | Scale
    | Embed
    | Source
    | Constant
    | Reindex
    | Resample
    | Gate
    | Window
    | Normalise
    | Softmax
    | Product
    | Merge
    | Frozen
)

REINDEX: dict[str, tuple[str, ...]] = {
    "reshape": ("shape",),
    "permute": ("dims",),
    "expand": ("shape",),
    "slice": ("dim", "start", "end", "step"),
    "select": ("dim", "index"),
    "cat": ("dim",),
    "pad": ("pad", "mode"),
    "roll": ("shifts", "dims"),
    "flip": ("dims",),
    "index": ("dim", "index"),
    "sum": ("dims", "keepdim"),
    "repeat": ("repeats",),
    "unfold": ("dim", "size", "step"),
    "diagonal": ("offset", "dim1", "dim2"),
    "cumsum": ("dim",),
}
"""The closed list of reindexings and their attribute names. ``index``: rows of ``dim`` chosen by a constant integer slot (1-d)."""
