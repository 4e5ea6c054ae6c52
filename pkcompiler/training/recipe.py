"""What two runs must have in common for one to go on with the other's checkpoint, under the names by which a user knows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pkcompiler.training.run_state import Stateful, Trained

PLAIN = (type(None), bool, int, float, str)
RUNNING = {"base_lrs", "last_epoch", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter"}
"""What learning-rate schedulers change as they run, or have from the optimizer; so is most that begins with an underscore."""
PARTS = {"_milestones"}


def recipe_of(schedule: str, trained: Trained, epochs: int, dtype: torch.dtype, loader: object) -> dict[str, Any]:
    """The schedule's text, sizes, classes and settings, before anything has run; plain values.

    Not the values of data and weights, which the checkpoint brings or nothing knows.
    """
    return {
        "schedule": schedule,
        "epochs": epochs,
        "dtype": str(dtype),
        "generators": len(trained.generators),
        **dict(_of_loader(loader)),
        **dict(_of_optimizer(trained.optimizer)),
        "others": sorted(trained.others),
        **{name: type(other).__name__ for name, other in trained.others.items()},
        **dict(_of_schedulers(trained.others)),
        "parameters": {n: list(p.shape) for n, p in trained.model.named_parameters()},
        "buffers": {n: list(b.shape) for n, b in trained.model.named_buffers()},
    }


def length_of(sized: object) -> int | None:
    """How many batches (or samples) there are, where that is told."""
    try:
        return len(sized)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def _of_loader(loader: object) -> Iterator[tuple[str, Any]]:
    if loader is None:
        return
    sampler = getattr(loader, "sampler", None)
    yield "len(loader)", length_of(loader)
    yield "loader.batch_size", _plain(getattr(loader, "batch_size", None))
    yield "len(loader.dataset)", length_of(getattr(loader, "dataset", None))
    yield "loader.sampler", None if sampler is None else type(sampler).__name__


def _of_optimizer(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    yield "optimizer", type(optimizer).__name__
    for i, group in enumerate(optimizer.param_groups):
        place = f"optimizer.param_groups[{i}]"
        yield f"len({place}['params'])", len(group["params"])
        for key, value in group.items():
            if key != "params" and not (key == "lr" and "initial_lr" in group):
                yield f"{place}['{'lr' if key == 'initial_lr' else key}']", _plain(value)


def _of_schedulers(others: Mapping[str, Stateful]) -> Iterator[tuple[str, Any]]:
    for name, other in others.items():
        if isinstance(other, LRScheduler):
            for key, value in _settings(other.state_dict()).items():
                yield f"{name}.{key}", value


def _settings(state: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries of a scheduler's state that do not change as it runs."""
    return {str(key): _plain(value) for key, value in state.items() if is_setting(str(key)) or key == "_schedulers"}


def is_setting(name: str) -> bool:
    """Whether an entry of a scheduler's state stays as it is while it runs."""
    return name not in RUNNING and (not name.startswith("_") or name in PARTS)


def _plain(value: Any) -> Any:
    """A value that is read back equal; of anything else its class."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return _settings(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, PLAIN) else type(value).__name__
