"""Where a model cuts its own gradients: paths go through, and training does not."""

from __future__ import annotations

from traceback import extract_stack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pkcompiler import usercode
from pkcompiler.frontend.export import Call, evaluating

CUTS = (Tensor.detach, Tensor.detach_, torch.detach, Tensor.data.__get__)  # type: ignore[attr-defined]


def gradient_stops(model: nn.Module, call: Call) -> tuple[str, ...]:
    """The places of a run at the example where a gradient to a parameter is cut, each once: ``.detach() at model.py:12``.

    Cuts are ``detach`` and ``.data`` of what depends on a parameter, and what is computed of it under ``torch.no_grad``.
    """
    seen = _Cuts()
    try:
        with evaluating(model), torch.enable_grad(), seen:
            call.run(model, call.flat)
    except Exception:  # a model that runs without gradients alone, which was run before: nothing is known of its cuts
        return ()
    return tuple(dict.fromkeys(seen.places))


class _Cuts(TorchFunctionMode):
    """Notes what cuts gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in CUTS and isinstance(args[0], Tensor) and args[0].requires_grad:
            self._note(".data" if func is CUTS[-1] else ".detach()")
        elif not torch.is_grad_enabled() and _computes(result, (args, kwargs)):
            self._note("torch.no_grad()")
        return result

    def _note(self, what: str) -> None:
        frames = [(frame.filename, frame.lineno) for frame in extract_stack() if frame.lineno]
        own = usercode.own_lines(frames)
        self.places.append(f"{what} at {own[-1][0].name}:{own[-1][1]}" if own else what)


def _computes(result: Any, given: Any) -> bool:
    """Whether a floating tensor was computed from one that requires grad, and requires none."""
    floating = isinstance(result, Tensor) and result.is_floating_point() and not result.requires_grad
    return floating and any(isinstance(t, Tensor) and t.requires_grad for t in pytree.tree_leaves(given))
