"""How the fixed maps of the IR (reindexings, resampling, convolutions, windows) act on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pkcompiler.ir.maps import Batch, Conv, Named, Reindex, Resample, Window
from pkcompiler.ir.weights import Joining, groups, side


def concrete(shape: Sequence[Any], batch: int) -> tuple[int, ...]:
    """A shape with the batch size filled in."""
    return tuple(d.factor * batch if isinstance(d, Batch) else d for d in shape)


def apply_reindex(map: Reindex, inputs: Sequence[Tensor], batch: int, slots: Mapping[str, Tensor]) -> Tensor:
    """A reindexing of real tensors (linear, entries 0 and 1)."""
    args: dict[str, Any] = dict(map.args)
    x = inputs[0]
    match map.fn:
        case "reshape":
            return x.reshape(concrete(args["shape"], batch))
        case "permute":
            return x.permute(args["dims"])
        case "expand":
            return x.expand(concrete(args["shape"], batch))
        case "slice":
            return x[(slice(None),) * args["dim"] + (slice(args["start"], args["end"], args["step"]),)]
        case "select":
            return x.select(args["dim"], args["index"])
        case "cat":
            return torch.cat(list(inputs), args["dim"])
        case "pad":
            return F.pad(x, list(args["pad"]), args["mode"])
        case "roll":
            return torch.roll(x, args["shifts"], args["dims"])
        case "flip":
            return torch.flip(x, args["dims"])
        case "index":
            index: Named = args["index"]
            return torch.index_select(x, args["dim"], slots[index.slot].to(x.device))
        case "sum":
            return x.sum(args["dims"], args["keepdim"])
        case "repeat":
            return x.repeat(concrete(args["repeats"], batch))
        case "unfold":
            return x.unfold(args["dim"], args["size"], args["step"])
        case "diagonal":
            return x.diagonal(args["offset"], args["dim1"], args["dim2"])
        case "cumsum":
            return x.cumsum(args["dim"])
    raise AssertionError(f"unverified reindexing {map.fn}")


def convolve(map: Conv, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution itself, 1 to 3 spatial dimensions, transposed or not."""
    rank = len(map.stride)
    if map.transposed:
        function: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        return function(x, weight, bias, map.stride, map.padding, map.output_padding, map.groups, map.dilation)
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return function(x, weight, bias, map.stride, map.padding, map.dilation, map.groups)


def resample_matrix(map: Resample, axis: int, length: int) -> Tensor:
    """The matrix [out, in] (float64) of one axis of a resampling: what torch's own operator does to unit vectors."""
    unit = torch.eye(length, dtype=torch.float64).reshape(1, length, length, 1)
    size = (map.size[axis], 1)
    match map.kind:
        case "average":
            args = ((v[axis], w) for v, w in ((map.kernel, 1), (map.stride, 1), (map.padding, 0)))
            kernel, stride, padding = args
            out = F.avg_pool2d(unit, kernel, stride, padding, map.ceil_mode, map.include_pad)
        case "adaptive_average":
            out = F.adaptive_avg_pool2d(unit, size)
        case "nearest" | "nearest_exact" | "linear" | "cubic":
            out = _interpolate(map, axis, unit, size)
    return out.reshape(length, -1).T.contiguous()


def _interpolate(map: Resample, axis: int, unit: Tensor, size: tuple[int, int]) -> Tensor:
    mode = {"nearest": "nearest", "nearest_exact": "nearest-exact", "linear": "bilinear", "cubic": "bicubic"}[map.kind]
    corners = map.align_corners if mode.startswith("bi") else None
    if not map.scale:
        return F.interpolate(unit, size=size, mode=mode, align_corners=corners)
    return F.interpolate(unit, scale_factor=(map.scale[axis], 1.0), mode=mode, align_corners=corners)


def apply_matrices(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """One matrix [out, in] along each of the last dimensions of x."""
    for i, matrix in enumerate(matrices):
        dim = x.dim() - len(matrices) + i
        x = torch.matmul(x.movedim(dim, -1), matrix.T).movedim(-1, dim)
    return x


def window_max(map: Window, x: Tensor) -> Tensor:
    """The maximum of every window; its gradient goes to the first winner."""
    if not map.kernel:
        return _merge_dims(map, x).max(-1).values.reshape(_reduced(map, x))
    function: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(map.kernel) - 1]
    return function(x, map.kernel, map.stride, map.padding, map.dilation, map.ceil_mode)


def window_winners(map: Window, x: Tensor) -> Tensor:
    """The position of every window's winner, flat over the reduced (or spatial) dimensions of x."""
    if not map.kernel:
        return _merge_dims(map, x).max(-1).indices
    function: Callable[..., Any] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(map.kernel) - 1]
    indices: Tensor = function(x, map.kernel, map.stride, map.padding, map.dilation, map.ceil_mode, True)[1]
    return indices


def window_gather(map: Window, x: Tensor, winners: Tensor) -> Tensor:
    """The entries of x at recorded winners."""
    if not map.kernel:
        return _merge_dims(map, x).gather(-1, winners.unsqueeze(-1)).reshape(_reduced(map, x))
    rank = len(map.kernel)
    flat = x.flatten(-rank)
    return flat.gather(-1, winners.flatten(-rank)).reshape(winners.shape)


def window_sum(map: Window, x: Tensor) -> Tensor:
    """The sum of every window."""
    if not map.kernel:
        return x.sum(map.dims, map.keepdim)
    rank = len(map.kernel)
    if any(d != 1 for d in map.dilation):
        return _dilated_sum(map, x)
    if rank == 3:
        return F.avg_pool3d(x, map.kernel, map.stride, map.padding, map.ceil_mode, True, divisor_override=1)
    if rank == 2:
        return F.avg_pool2d(x, map.kernel, map.stride, map.padding, map.ceil_mode, True, divisor_override=1)
    wide = F.avg_pool2d(
        x.unsqueeze(-1), (*map.kernel, 1), (*map.stride, 1), (*map.padding, 0), map.ceil_mode, True, divisor_override=1
    )
    return wide.squeeze(-1)


def _dilated_sum(map: Window, x: Tensor) -> Tensor:
    """A depthwise convolution by ones, the right border padded as far as a partial window of ``ceil_mode`` reaches."""
    rank = len(map.kernel)
    out = window_max(map, x.detach()).shape[-rank:]
    pads: list[int] = []
    for i in reversed(range(rank)):
        reach = (out[i] - 1) * map.stride[i] + map.dilation[i] * (map.kernel[i] - 1) + 1
        pads += [map.padding[i], max(0, reach - x.shape[x.dim() - rank + i] - map.padding[i])]
    channels = x.shape[1]
    ones = x.new_ones((channels, 1, *map.kernel))
    conv = Conv("", None, map.stride, (0,) * rank, map.dilation, channels)
    wide = convolve(conv, F.pad(x, pads), ones, None)
    for i, n in enumerate(out):
        wide = wide.narrow(wide.dim() - rank + i, 0, n)
    return wide


def _merge_dims(map: Window, x: Tensor) -> Tensor:
    kept = [d for d in range(x.dim()) if d not in map.dims]
    return x.permute(*kept, *map.dims).flatten(len(kept))


def _reduced(map: Window, x: Tensor) -> tuple[int, ...]:
    if map.keepdim:
        return tuple(1 if d in map.dims else n for d, n in enumerate(x.shape))
    return tuple(n for d, n in enumerate(x.shape) if d not in map.dims)


def by_unit(map: Joining, weight: Tensor) -> Tensor:
    """A weight as [units, entries of each]."""
    if not side(map).turned:
        return weight.flatten(1)
    inputs, units = weight.shape[:2]
    grouped = weight.reshape(groups(map), inputs // groups(map), units, *weight.shape[2:])
    return grouped.transpose(1, 2).flatten(0, 1).flatten(1)
